package detector

import (
	"cmp"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// window is a stretch of raw rows, kept while the cells that they touch are reduced.
// Every slice is sorted by event time.
type window struct {
	gpu    map[feature.GPUKey][]feature.GPUSample
	gpus   map[string][]int // GPU indices by node, sorted
	host   map[string][]feature.HostSample
	fabric map[string][]feature.FabricSample
	flows  map[string][]feature.Flow
	comm   map[string][]feature.Collective
}

func newWindow(s feature.Samples) *window {
	w := &window{
		gpu: map[feature.GPUKey][]feature.GPUSample{}, gpus: map[string][]int{},
		host: map[string][]feature.HostSample{}, fabric: map[string][]feature.FabricSample{},
		flows: map[string][]feature.Flow{}, comm: map[string][]feature.Collective{},
	}
	for _, r := range s.GPU {
		k := feature.GPUKey{Node: r.Node, GPU: r.GPU}
		if _, ok := w.gpu[k]; !ok {
			w.gpus[r.Node] = append(w.gpus[r.Node], r.GPU)
		}
		w.gpu[k] = append(w.gpu[k], r)
	}
	for _, g := range w.gpus {
		slices.Sort(g)
	}
	group(w.host, s.Host, func(r feature.HostSample) string { return r.Node })
	group(w.fabric, s.Fabric, func(r feature.FabricSample) string { return r.Node })
	group(w.flows, s.Flows, func(r feature.Flow) string { return r.Node })
	group(w.comm, s.Collectives, func(r feature.Collective) string { return r.Node })
	for _, rows := range w.gpu {
		byTime(rows, func(r feature.GPUSample) int64 { return r.TsMs })
	}
	for _, rows := range w.host {
		byTime(rows, func(r feature.HostSample) int64 { return r.TsMs })
	}
	for _, rows := range w.fabric {
		byTime(rows, func(r feature.FabricSample) int64 { return r.TsMs })
	}
	for _, rows := range w.flows {
		byTime(rows, func(r feature.Flow) int64 { return r.TsMs })
	}
	for _, rows := range w.comm {
		byTime(rows, func(r feature.Collective) int64 { return r.TsMs })
	}
	return w
}

func group[R any](dst map[string][]R, rows []R, node func(R) string) {
	for _, r := range rows {
		dst[node(r)] = append(dst[node(r)], r)
	}
}

func byTime[R any](rows []R, ts func(R) int64) {
	slices.SortStableFunc(rows, func(a, b R) int { return cmp.Compare(ts(a), ts(b)) })
}

// visible cuts rows with from <= ts < to that were available by availMs. The rows are
// shared with the window where nothing had to be left out.
func visible[R any](rows []R, from, to, availMs int64, at func(R) (tsMs, availableMs int64)) []R {
	lo := sort.Search(len(rows), func(i int) bool { ts, _ := at(rows[i]); return ts >= from })
	hi := sort.Search(len(rows), func(i int) bool { ts, _ := at(rows[i]); return ts >= to })
	cut := rows[lo:hi:hi]
	for i := range cut {
		if _, a := at(cut[i]); a > availMs {
			kept := slices.Clone(cut[:i])
			for _, r := range cut[i+1:] {
				if _, a := at(r); a <= availMs {
					kept = append(kept, r)
				}
			}
			return kept
		}
	}
	return cut
}

// cells is what reducing one dirty minute of a node gave.
type cells struct {
	node   string
	minute int64
	gpu    []feature.GPUCell
	host   []feature.NodeCell // none or one
	comm   []feature.CommCell
	flows  []feature.FlowCell
}

// reduce makes the cells of one node and minute from what was available by availMs.
func (w *window) reduce(node string, minute, availMs int64) cells {
	from, to := minute-feature.WindowMs, minute+feature.MinuteMs
	out := cells{node: node, minute: minute}
	for _, g := range w.gpus[node] {
		rows := visible(w.gpu[feature.GPUKey{Node: node, GPU: g}], from, to, availMs, func(r feature.GPUSample) (int64, int64) { return r.TsMs, r.AvailableMs })
		if n := len(rows); n == 0 || rows[n-1].TsMs < minute {
			continue
		}
		if c, ok := feature.ReduceGPU(rows, minute); ok {
			c.Single()
			out.gpu = append(out.gpu, c)
		}
	}
	host := visible(w.host[node], from, to, availMs, func(r feature.HostSample) (int64, int64) { return r.TsMs, r.AvailableMs })
	fabric := visible(w.fabric[node], from, to, availMs, func(r feature.FabricSample) (int64, int64) { return r.TsMs, r.AvailableMs })
	if last(host, func(r feature.HostSample) int64 { return r.TsMs }) >= minute || last(fabric, func(r feature.FabricSample) int64 { return r.TsMs }) >= minute {
		if c, ok := feature.ReduceNode(node, host, fabric, minute); ok {
			out.host = append(out.host, c)
		}
	}
	comm := visible(w.comm[node], minute, to, availMs, func(r feature.Collective) (int64, int64) { return r.TsMs, r.AvailableMs })
	if len(comm) > 0 {
		out.comm = feature.ReduceComm(comm, minute)
	}
	flows := visible(w.flows[node], minute, to, availMs, func(r feature.Flow) (int64, int64) { return r.TsMs, r.AvailableMs })
	if len(flows) > 0 {
		out.flows = feature.ReduceFlows(flows, minute)
	}
	return out
}

// last returns the latest time of sorted rows, or a time before all others.
func last[R any](rows []R, ts func(R) int64) int64 {
	if len(rows) == 0 {
		return -1 << 62
	}
	return ts(rows[len(rows)-1])
}
