package feature

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// Samples is raw telemetry and the provider's facts, in any order. NaN means "not
// measured", an AvailableMs of 0 "known from its event time on".
type Samples struct {
	Nodes       []Node
	GPU         []GPUSample
	Host        []HostSample
	Fabric      []FabricSample
	Flows       []Flow
	Collectives []Collective
	Processes   []Process
	Allocations []Allocation
	Orders      []Order
}

// BuildEvidence reduces samples to what is known at endMs about the period from startMs
// on: rows that happened or became available later are left out, ends that lie later are
// hidden (0), and cells of minutes before that of startMs are not made, though rows
// before it serve as predecessors. samples is only read.
//
// A node that has rows but no entry in Nodes is added with Listed false.
func BuildEvidence(samples Samples, startMs, endMs int64) *Evidence {
	ev := &Evidence{
		StartMs: startMs, EndMs: endMs,
		Nodes: map[string]Node{}, GPU: map[GPUKey][]GPUCell{}, Host: map[string][]NodeCell{},
	}
	for _, n := range samples.Nodes {
		ev.Nodes[n.Node] = n
	}
	from := MinuteOf(startMs)
	visible := func(tsMs, availMs int64) bool { return tsMs < endMs && availMs <= endMs }
	buildGPU(ev, samples.GPU, from, visible)
	buildHost(ev, samples.Host, samples.Fabric, from, visible)
	buildTraffic(ev, samples.Collectives, samples.Flows, from, visible)
	buildFacts(ev, samples)
	return ev
}

func (ev *Evidence) touch(node string) {
	if _, ok := ev.Nodes[node]; !ok {
		ev.Nodes[node] = Node{Node: node, FabricGbps: math.NaN(), TDPW: math.NaN()}
	}
}

// minutesOf calls f for each minute from from on that holds a row, with the window of
// rows around it. ts gives the sorted times.
func minutesOf(n int, from int64, ts func(i int) int64, f func(minuteMs int64, lo, hi int)) {
	lo := 0
	for i := sort.Search(n, func(i int) bool { return ts(i) >= from }); i < n; {
		m := MinuteOf(ts(i))
		for ts(lo) < m-WindowMs {
			lo++
		}
		j := i + 1
		for j < n && ts(j) < m+MinuteMs {
			j++
		}
		f(m, lo, j)
		i = j
	}
}

func buildGPU(ev *Evidence, samples []GPUSample, from int64, visible func(int64, int64) bool) {
	byGPU := map[GPUKey][]GPUSample{}
	for i := range samples {
		if r := &samples[i]; visible(r.TsMs, r.AvailableMs) {
			k := GPUKey{r.Node, r.GPU}
			byGPU[k] = append(byGPU[k], *r)
		}
	}
	for k, rows := range byGPU { // each key on its own: the order reaches no output
		ev.touch(k.Node)
		slices.SortStableFunc(rows, func(a, b GPUSample) int { return cmp.Compare(a.TsMs, b.TsMs) })
		var cells []GPUCell
		minutesOf(len(rows), from, func(i int) int64 { return rows[i].TsMs }, func(m int64, lo, hi int) {
			if c, ok := ReduceGPU(rows[lo:hi], m); ok {
				cells = append(cells, c)
			}
		})
		if len(cells) > 0 {
			ev.GPU[k] = cells
		}
	}
}

func buildHost(ev *Evidence, host []HostSample, fabric []FabricSample, from int64, visible func(int64, int64) bool) {
	hosts, ports := map[string][]HostSample{}, map[string][]FabricSample{}
	minutes := map[string][]int64{}
	for _, r := range host {
		if visible(r.TsMs, r.AvailableMs) {
			hosts[r.Node] = append(hosts[r.Node], r)
			minutes[r.Node] = append(minutes[r.Node], r.TsMs)
		}
	}
	for _, r := range fabric {
		if visible(r.TsMs, r.AvailableMs) {
			ports[r.Node] = append(ports[r.Node], r)
			minutes[r.Node] = append(minutes[r.Node], r.TsMs)
		}
	}
	for node, all := range minutes { // each key on its own: the order reaches no output
		ev.touch(node)
		slices.Sort(all)
		h, p := hosts[node], ports[node]
		slices.SortStableFunc(h, func(a, b HostSample) int { return cmp.Compare(a.TsMs, b.TsMs) })
		slices.SortStableFunc(p, func(a, b FabricSample) int { return cmp.Compare(a.TsMs, b.TsMs) })
		var cells []NodeCell
		minutesOf(len(all), from, func(i int) int64 { return all[i] }, func(m int64, _, _ int) {
			plo := sort.Search(len(p), func(i int) bool { return p[i].TsMs >= m-WindowMs })
			phi := sort.Search(len(p), func(i int) bool { return p[i].TsMs >= m+MinuteMs })
			if c, ok := ReduceNode(node, h, p[plo:phi], m); ok {
				cells = append(cells, c)
			}
		})
		if len(cells) > 0 {
			ev.Host[node] = cells
		}
	}
}

func buildTraffic(ev *Evidence, collectives []Collective, flows []Flow, from int64, visible func(int64, int64) bool) {
	comm, flow := map[int64][]Collective{}, map[int64][]Flow{}
	for _, r := range collectives {
		if r.TsMs >= from && visible(r.TsMs, r.AvailableMs) {
			m := MinuteOf(r.TsMs)
			comm[m] = append(comm[m], r)
			ev.touch(r.Node)
		}
	}
	for _, r := range flows {
		if r.TsMs >= from && visible(r.TsMs, r.AvailableMs) {
			m := MinuteOf(r.TsMs)
			flow[m] = append(flow[m], r)
			ev.touch(r.Node)
		}
	}
	for _, m := range sortedKeys(comm) {
		ev.Comm = append(ev.Comm, ReduceComm(comm[m], m)...)
	}
	for _, m := range sortedKeys(flow) {
		ev.Flows = append(ev.Flows, ReduceFlows(flow[m], m)...)
	}
}

func sortedKeys[V any](m map[int64]V) []int64 {
	keys := make([]int64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func buildFacts(ev *Evidence, samples Samples) {
	end := ev.EndMs
	for _, p := range samples.Processes {
		if p.StartMs >= end {
			continue
		}
		if p.EndMs > end {
			p.EndMs = 0
		}
		ev.touch(p.Node)
		ev.Processes = append(ev.Processes, p)
	}
	slices.SortStableFunc(ev.Processes, func(a, b Process) int {
		return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID))
	})
	for _, a := range samples.Allocations {
		if a.StartMs >= end {
			continue
		}
		if a.EndMs > end {
			a.EndMs = 0
		}
		ev.touch(a.Node)
		ev.Allocations = append(ev.Allocations, a)
	}
	slices.SortStableFunc(ev.Allocations, func(a, b Allocation) int {
		return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Account, b.Account),
			slices.Compare(a.GPUs, b.GPUs))
	})
	for _, o := range samples.Orders {
		if o.AmendedMs <= end {
			ev.Orders = append(ev.Orders, o)
		}
	}
	slices.SortStableFunc(ev.Orders, func(a, b Order) int {
		return cmp.Or(cmp.Compare(a.AmendedMs, b.AmendedMs), cmp.Compare(a.Order, b.Order))
	})
}
