package detector

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/internal/store"
)

func compareNodeMinute(a, b nodeMinute) int {
	return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.minute, b.minute))
}

func unlisted(node string) feature.Node {
	return feature.Node{Node: node, GPUCount: -1, FabricGbps: math.NaN(), TDPW: math.NaN()}
}

// loadFacts reads what the provider and the job layer stated. Each fact carries the
// moment from which it holds; evidence hides what lies ahead of the judged minute.
func (d *Detector) loadFacts(ctx context.Context) error {
	all := store.AsOf{Cluster: d.cfg.Cluster}
	inventory, err := d.store.InventoryRows(ctx, all)
	if err != nil {
		return err
	}
	devices, err := d.store.DeviceRows(ctx, all)
	if err != nil {
		return err
	}
	d.placeNodes(inventory, devices)
	d.partition(devices)
	if err = d.loadCheckpoints(ctx); err != nil {
		return err
	}
	if d.cutMs != 0 {
		all.EndedFromMs = d.cutMs - dayMs // a fleet of years has ended far more than it runs
	}
	processes, err := d.store.ProcessRows(ctx, all)
	if err != nil {
		return err
	}
	d.st.processes = d.st.processes[:0]
	for _, r := range processes {
		if d.isBefore(r.EndMs) {
			continue
		}
		d.st.see(r.Node)
		d.st.processes = append(d.st.processes, feature.Process{
			Node: r.Node, GPUs: r.GPUs, PID: int(r.PID), StartMs: r.StartMs, EndMs: r.EndMs, AvailableMs: r.AvailableMs,
			Exe: r.Exe, Launcher: r.Launcher, JobSource: r.JobSource, JobID: r.JobID, User: r.User, Project: r.Project,
			WorldSize: r.WorldSize, Rank: r.Rank,
		})
	}
	slices.SortStableFunc(d.st.processes, func(a, b feature.Process) int {
		return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID))
	})
	allocations, err := d.store.AllocationRows(ctx, all)
	if err != nil {
		return err
	}
	d.st.allocations = d.st.allocations[:0]
	for _, r := range allocations {
		if d.isBefore(r.EndMs) {
			continue
		}
		d.st.see(r.Node)
		d.st.allocations = append(d.st.allocations, feature.Allocation{
			Account: r.Account, Node: r.Node, GPUs: r.GPUs, StartMs: r.StartMs, EndMs: r.EndMs, AvailableMs: r.AvailableMs,
		})
	}
	slices.SortStableFunc(d.st.allocations, func(a, b feature.Allocation) int {
		return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Account, b.Account), slices.Compare(a.GPUs, b.GPUs))
	})
	orders, err := d.store.OrderRows(ctx, all)
	if err != nil {
		return err
	}
	d.st.orders = d.st.orders[:0]
	for _, r := range orders {
		d.st.orders = append(d.st.orders, feature.Order{
			Order: r.Order, Account: r.Account, GPUModel: r.GPUModel, DeclaredUse: r.DeclaredUse, AmendedMs: r.AmendedMs,
			StartMs: r.StartMs, EndMs: r.EndMs, GPUCount: r.GPUCount, FabricGbps: r.FabricGbps,
		})
	}
	slices.SortStableFunc(d.st.orders, func(a, b feature.Order) int {
		return cmp.Or(cmp.Compare(a.AmendedMs, b.AmendedMs), cmp.Compare(a.Order, b.Order))
	})
	losses, err := d.store.Losses(ctx, all)
	if err != nil {
		return err
	}
	d.st.losses = d.st.losses[:0]
	for i := range losses {
		r := &losses[i]
		d.st.losses = append(d.st.losses, feature.Loss{Node: r.Node, FromMs: r.FromMs, ToMs: r.ToMs, Reason: r.Reason, Batches: int64(r.Batches), Ticks: int64(r.Ticks), KnownMs: r.KnownMs})
	}
	slices.SortStableFunc(d.st.losses, func(a, b feature.Loss) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.FromMs, b.FromMs), cmp.Compare(a.ToMs, b.ToMs), cmp.Compare(a.Reason, b.Reason))
	})
	return nil
}

// placeNodes says what each node is: what the inventory states, and where it says nothing what
// the node's own driver and ports say.
func (d *Detector) placeNodes(inventory []store.InventoryRow, devices []store.DeviceRow) {
	nodes := map[string]feature.Node{}
	for name := range d.st.nodes {
		nodes[name] = unlisted(name)
	}
	stated := map[string]float64{} // watts of the board
	for _, r := range inventory {
		stated[r.Node] = r.TDPW
		nodes[r.Node] = feature.Node{
			Node: r.Node, Site: r.Site, GPUModel: r.GPUModel, Vantage: r.Vantage, GPUCount: r.GPUCount, FabricGbps: r.FabricGbps, Listed: true,
		}
	}
	type seen struct {
		models map[string]int
		count  int
		limitW float64 // the highest of its GPUs
	}
	told := map[string]*seen{}
	for i := range devices {
		r := &devices[i]
		if told[r.Node] == nil {
			told[r.Node] = &seen{models: map[string]int{}}
		}
		s := told[r.Node]
		s.count++
		if r.Model != "" {
			s.models[r.Model]++
		}
		if r.PowerLimitW > s.limitW {
			s.limitW = r.PowerLimitW
		}
	}
	for name, s := range told {
		n, ok := nodes[name]
		if !ok {
			n = unlisted(name)
		}
		n.SeenCount = s.count
		for _, model := range slices.Sorted(maps.Keys(s.models)) { // the most frequent, of equals the first
			if s.models[model] > s.models[n.SeenModel] {
				n.SeenModel = model
			}
		}
		if n.GPUModel == "" {
			n.GPUModel = n.SeenModel
		}
		if n.GPUCount < 0 {
			n.GPUCount = n.SeenCount
		}
		if s.limitW > 0 && !(stated[name] > 0) && n.GPUModel == n.SeenModel { // NaN is not stated
			stated[name] = s.limitW
		}
		nodes[name] = n
	}
	d.ratesMissing = false
	for name, n := range nodes {
		n.TDPW = boardW(stated[name], n.GPUModel)
		if math.IsNaN(n.FabricGbps) {
			if rate, ok := d.rates[name]; ok {
				n.FabricGbps = rate
			}
			d.ratesMissing = true
		}
		nodes[name] = n
	}
	d.st.nodes = nodes
}

// boardW is a node's board power: as the inventory states it, else as the part's data
// sheet does; NaN where neither is known.
func boardW(stated float64, gpuModel string) float64 {
	if stated > 0 {
		return stated
	}
	if a, known := flops.Lookup(gpuModel); known && a.Share == 1 && a.TDPW > 0 {
		return a.TDPW
	}
	return math.NaN()
}

// loadWindow reads the raw rows that the batches' minutes from nearMs on, and the cells which
// they can change, rest on. Late rows make stretches of their own, so that one late row does
// not read the whole past.
func (d *Detector) loadWindow(ctx context.Context, batches []store.BatchRow, nearMs, availableToMs int64) (*window, error) {
	minutes := map[int64]bool{}
	for _, b := range batches {
		for _, m := range b.Minutes {
			if _, last := feature.DirtyMinutes(m * feature.MinuteMs); last >= nearMs {
				minutes[m*feature.MinuteMs] = true
			}
		}
	}
	sorted := make([]int64, 0, len(minutes))
	for m := range minutes {
		sorted = append(sorted, m)
	}
	slices.Sort(sorted)
	var s feature.Samples
	for i := 0; i < len(sorted); {
		j := i + 1
		for j < len(sorted) && sorted[j]-sorted[j-1] <= 3*feature.WindowMs {
			j++
		}
		_, last := feature.DirtyMinutes(sorted[j-1])
		q := store.RowQuery{
			Cluster: d.cfg.Cluster, FromMs: sorted[i] - feature.WindowMs, ToMs: last + feature.MinuteMs, AvailableToMs: availableToMs,
		}
		if err := d.loadRows(ctx, q, &s); err != nil {
			return nil, err
		}
		i = j
	}
	return newWindow(s), nil
}

// What is read at once of rows that come long after their time.
const (
	farSpanMs = 60 * feature.MinuteMs
	farNodes  = 32
)

// reduceFar makes cells of minutes that lie far back, some nodes and an hour at a time: an agent
// that was cut off for days brings millions of rows, and memory must hold few of them.
// asOf says by when what makes a cell was available, availMs at the latest.
func (d *Detector) reduceFar(ctx context.Context, keys []nodeMinute, availMs int64, asOf func(nodeMinute) int64, take func(cells)) error {
	span := func(k nodeMinute) int64 { return feature.MinuteOf(k.minute) / farSpanMs }
	slices.SortFunc(keys, func(a, b nodeMinute) int { return cmp.Or(cmp.Compare(span(a), span(b)), compareNodeMinute(a, b)) })
	for len(keys) > 0 {
		var nodes []string
		from, to, n := keys[0].minute, keys[0].minute, 0
		for ; n < len(keys) && span(keys[n]) == span(keys[0]); n++ {
			if k := keys[n]; len(nodes) == 0 || nodes[len(nodes)-1] != k.node {
				if len(nodes) == farNodes {
					break
				}
				nodes = append(nodes, k.node)
			}
			from, to = min(from, keys[n].minute), max(to, keys[n].minute)
		}
		q := store.RowQuery{Cluster: d.cfg.Cluster, Nodes: nodes, FromMs: from - feature.WindowMs, ToMs: to + feature.MinuteMs, AvailableToMs: availMs}
		var s feature.Samples
		if err := d.putOnce(ctx, "read late rows", func(ctx context.Context) error {
			s = feature.Samples{}
			return d.loadRows(ctx, q, &s)
		}); err != nil {
			return err
		}
		w := newWindow(s)
		for _, k := range keys[:n] {
			take(w.reduce(k.node, k.minute, asOf(k)))
		}
		keys = keys[n:]
	}
	return nil
}

// loadRows appends the raw rows of a stretch.
func (d *Detector) loadRows(ctx context.Context, q store.RowQuery, s *feature.Samples) error {
	gpu, err := d.store.GPURows(ctx, q)
	if err != nil {
		return err
	}
	at, err := signalOrder()
	if err != nil {
		return err
	}
	for i := range gpu {
		r := &gpu[i]
		x := feature.GPUSample{Node: r.Node, GPU: r.GPU, TsMs: r.TsMs, AvailableMs: r.AvailableMs, EnergyJ: r.EnergyJ, MMACycles: r.MMACycles}
		for k := range x.Value {
			x.Value[k] = r.Values[at[k]]
		}
		s.GPU = append(s.GPU, x)
	}
	host, err := d.store.HostRows(ctx, q)
	if err != nil {
		return err
	}
	for _, r := range host {
		s.Host = append(s.Host, feature.HostSample(r))
	}
	fabric, err := d.store.FabricRows(ctx, q)
	if err != nil {
		return err
	}
	for _, r := range fabric {
		s.Fabric = append(s.Fabric, feature.FabricSample(r))
	}
	flows, err := d.store.FlowRows(ctx, q)
	if err != nil {
		return err
	}
	for _, r := range flows {
		s.Flows = append(s.Flows, feature.Flow(r))
	}
	comm, err := d.store.CollectiveRows(ctx, q)
	if err != nil {
		return err
	}
	for _, r := range comm {
		s.Collectives = append(s.Collectives, feature.Collective{
			Node: r.Node, PID: int(r.PID), GPU: r.GPU, Comm: r.Comm, Op: r.Op, NRanks: r.NRanks, Rank: r.Rank,
			TsMs: r.TsMs, AvailableMs: r.AvailableMs, Calls: r.Calls, Bytes: r.Bytes,
		})
	}
	return nil
}

// signalOrder maps each signal to its place in the store's measures.
func signalOrder() (at [feature.NumSignals]int, err error) {
	for s, name := range feature.SignalNames {
		at[s] = slices.Index(store.GPUMeasures, name)
		if at[s] < 0 {
			return at, fmt.Errorf("read gpu rows: the store has no measure %q", name)
		}
	}
	return at, nil
}
