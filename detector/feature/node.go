package feature

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// ReduceNode makes the cell of one host in one minute. host is sorted by TsMs and fabric
// by TsMs, both lying in [minuteMs - WindowMs, minuteMs + MinuteMs); rows outside are
// ignored. It returns false where no row lies in the minute.
//
// A quantity that was not measured is NaN, with a CoverMs of 0.
func ReduceNode(node string, host []HostSample, fabric []FabricSample, minuteMs int64) (NodeCell, bool) {
	nan := math.NaN()
	c := NodeCell{
		Node: node, MinuteMs: minuteMs, AvailableMs: math.MinInt64,
		PowerW: nan, CPUFrac: nan, StorageTxBps: nan, StorageRxBps: nan,
		FabricTxBytes: nan, FabricRxBytes: nan, EthernetTxBytes: nan, EthernetRxBytes: nan,
	}
	host, okHost := reduceHost(&c, host)
	fabric, okFabric := reduceFabric(&c, fabric)
	if okHost || okFabric {
		c.rhythmOfHost(host, fabric)
	}
	return c, okHost || okFabric
}

// reduceHost returns the rows that the cell rests on.
func reduceHost(c *NodeCell, rows []HostSample) ([]HostSample, bool) {
	lo := sort.Search(len(rows), func(i int) bool { return rows[i].TsMs >= c.MinuteMs-WindowMs })
	hi := sort.Search(len(rows), func(i int) bool { return rows[i].TsMs >= c.MinuteMs+MinuteMs })
	rows = dedupHost(rows[lo:hi])
	first := sort.Search(len(rows), func(i int) bool { return rows[i].TsMs >= c.MinuteMs })
	if first == len(rows) {
		return nil, false
	}
	for _, r := range rows[first:] {
		c.AvailableMs = max(c.AvailableMs, r.AvailableMs)
	}
	reduce := func(value func(*HostSample) float64) (mean, sd float64, coverMs int64) {
		rs, avail := series(nil, len(rows), first, c.MinuteMs, func(i int) (int64, float64, int64) {
			return rows[i].TsMs, value(&rows[i]), rows[i].AvailableMs
		})
		c.AvailableMs = max(c.AvailableMs, avail)
		if mean, sd, coverMs = moments(rs); coverMs == 0 {
			mean = math.NaN()
		}
		return mean, sd, coverMs
	}
	c.PowerW, c.PowerSD, c.PowerCoverMs = reduce(func(r *HostSample) float64 { return r.PowerW })
	c.CPUFrac, _, c.CPUCoverMs = reduce(func(r *HostSample) float64 { return r.CPUFrac })
	var txMs, rxMs int64
	c.StorageTxBps, _, txMs = reduce(func(r *HostSample) float64 { return r.StorageTxBps })
	c.StorageRxBps, _, rxMs = reduce(func(r *HostSample) float64 { return r.StorageRxBps })
	c.StorageCoverMs = max(txMs, rxMs)
	return rows, true
}

func dedupHost(rows []HostSample) []HostSample {
	dup := false
	for i := 1; i < len(rows) && !dup; i++ {
		dup = rows[i].TsMs == rows[i-1].TsMs
	}
	if !dup {
		return rows
	}
	compare := func(a, b HostSample) int {
		return cmp.Or(compareFloat(a.PowerW, b.PowerW), compareFloat(a.CPUFrac, b.CPUFrac),
			compareFloat(a.StorageTxBps, b.StorageTxBps), compareFloat(a.StorageRxBps, b.StorageRxBps))
	}
	out := make([]HostSample, 0, len(rows))
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && rows[j].TsMs == rows[i].TsMs {
			j++
		}
		same := slices.Clone(rows[i:j])
		slices.SortStableFunc(same, func(a, b HostSample) int {
			return cmp.Or(cmp.Compare(a.AvailableMs, b.AvailableMs), compare(a, b))
		})
		merged := same[0]
		for _, r := range same[1:] {
			if compare(merged, r) == 0 {
				continue
			}
			r.PowerW, r.CPUFrac = measured(r.PowerW, merged.PowerW), measured(r.CPUFrac, merged.CPUFrac)
			r.StorageTxBps = measured(r.StorageTxBps, merged.StorageTxBps)
			r.StorageRxBps = measured(r.StorageRxBps, merged.StorageRxBps)
			merged = r
		}
		out = append(out, merged)
		i = j
	}
	return out
}

// measured returns v, or other where v was not measured.
func measured(v, other float64) float64 {
	if math.IsNaN(v) {
		return other
	}
	return v
}

// traffic is what the ports of one kind moved within the minute.
type traffic struct {
	txBytes, rxBytes float64
	coverMs          int64
	cvSum, cvWeight  float64 // bytes-weighted CV of the ports' rates
}

// add takes one port's traffic in.
func (t *traffic) add(p traffic) {
	t.txBytes = plus(t.txBytes, p.txBytes)
	t.rxBytes = plus(t.rxBytes, p.rxBytes)
	t.coverMs = max(t.coverMs, p.coverMs)
	t.cvSum += p.cvSum
	t.cvWeight += p.cvWeight
}

// plus adds where NaN means "not measured".
func plus(a, b float64) float64 {
	switch {
	case math.IsNaN(a):
		return b
	case math.IsNaN(b):
		return a
	}
	return a + b
}

// reduceFabric returns the rows that the cell rests on, by port and time.
func reduceFabric(c *NodeCell, rows []FabricSample) ([]FabricSample, bool) {
	from, to := c.MinuteMs-WindowMs, c.MinuteMs+MinuteMs
	kept := make([]FabricSample, 0, len(rows))
	seen := false
	for _, r := range rows {
		if r.TsMs < from || r.TsMs >= to {
			continue
		}
		kept = append(kept, r)
		if r.TsMs >= c.MinuteMs {
			seen = true
			c.AvailableMs = max(c.AvailableMs, r.AvailableMs)
		}
	}
	if !seen {
		return nil, false
	}
	slices.SortStableFunc(kept, func(a, b FabricSample) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.TsMs, b.TsMs), cmp.Compare(a.AvailableMs, b.AvailableMs),
			compareFloat(a.TxBytes, b.TxBytes), compareFloat(a.RxBytes, b.RxBytes))
	})
	nan := math.NaN()
	none := traffic{txBytes: nan, rxBytes: nan}
	backend, ethernet := none, none
	for _, p := range ports(kept, c.MinuteMs) {
		if p.through != nil {
			p.atLeast(p.through)
		}
		if p.coverMs == 0 {
			continue
		}
		c.AvailableMs = max(c.AvailableMs, p.avail)
		if IsBackEnd(p.kind) {
			backend.add(p.traffic)
		} else {
			ethernet.add(p.traffic)
		}
	}
	c.FabricTxBytes, c.FabricRxBytes, c.FabricCoverMs = backend.txBytes, backend.rxBytes, backend.coverMs
	if backend.cvWeight > 0 {
		c.FabricTxCV = backend.cvSum / backend.cvWeight
	}
	c.EthernetTxBytes, c.EthernetRxBytes, c.EthernetCoverMs = ethernet.txBytes, ethernet.rxBytes, ethernet.coverMs
	return kept, true
}

// portTraffic is what passed a port in a minute.
type portTraffic struct {
	traffic
	name, kind, parent string
	avail              int64
	through            *portTraffic // the sum of its virtual functions; nil: it has none
}

// ports reduces rows, sorted by port. Those whose parent is among them are not listed: they are
// in the parent's through.
func ports(rows []FabricSample, minuteMs int64) []*portTraffic {
	var all, top []*portTraffic
	byName := map[string]*portTraffic{}
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && rows[j].Port == rows[i].Port {
			j++
		}
		p := &portTraffic{name: rows[i].Port, kind: rows[j-1].Kind, parent: rows[j-1].Parent}
		p.traffic, p.avail = reducePort(rows[i:j], minuteMs)
		all, byName[p.name] = append(all, p), p
		i = j
	}
	for _, p := range all {
		parent := byName[p.parent]
		if p.parent == "" || parent == nil || parent == p {
			top = append(top, p)
			continue
		}
		if parent.through == nil {
			parent.through = &portTraffic{traffic: traffic{txBytes: math.NaN(), rxBytes: math.NaN()}, avail: math.MinInt64}
		}
		if p.coverMs > 0 {
			parent.through.add(p.traffic)
			parent.through.avail = max(parent.through.avail, p.avail)
		}
	}
	return top
}

// atLeast raises what passed a port to what passed its virtual functions. Some adapters count
// that in both, some in the functions alone: the greater of the two is never counted twice, and
// what a guest sends is not taken for silence.
func (p *portTraffic) atLeast(through *portTraffic) {
	if through.coverMs == 0 {
		return
	}
	if math.IsNaN(p.txBytes) || through.txBytes > p.txBytes {
		p.txBytes, p.cvSum, p.cvWeight = through.txBytes, through.cvSum, through.cvWeight
	}
	if math.IsNaN(p.rxBytes) || through.rxBytes > p.rxBytes {
		p.rxBytes = through.rxBytes
	}
	p.coverMs, p.avail = max(p.coverMs, through.coverMs), max(p.avail, through.avail)
}

// IsBackEnd reports whether ports of the kind belong to the network between GPUs.
func IsBackEnd(kind string) bool { return kind == "infiniband" || kind == "roce" }

// reducePort credits one port's increments to the minute. rows are of one port, sorted.
func reducePort(rows []FabricSample, minuteMs int64) (traffic, int64) {
	t := traffic{txBytes: math.NaN(), rxBytes: math.NaN()}
	avail := int64(math.MinInt64)
	var rates []reading
	walk := func(value func(*FabricSample) float64, tx bool) (bytes float64, coverMs int64) {
		bytes = math.NaN()
		prev := -1
		for i := range rows {
			v := value(&rows[i])
			if math.IsNaN(v) {
				continue
			}
			if i+1 < len(rows) && rows[i+1].TsMs == rows[i].TsMs && !math.IsNaN(value(&rows[i+1])) {
				continue // a repeat: the one available last holds
			}
			if prev >= 0 && rows[i].TsMs >= minuteMs {
				d, ms := step(value(&rows[prev]), v), rows[i].TsMs-rows[prev].TsMs
				bytes = plus(bytes, d)
				coverMs += ms
				avail = max(avail, rows[prev].AvailableMs, rows[i].AvailableMs)
				if tx && ms > 0 {
					rates = append(rates, reading{d / float64(ms), ms})
				}
			}
			prev = i
		}
		return bytes, coverMs
	}
	var txMs, rxMs int64
	t.txBytes, txMs = walk(func(r *FabricSample) float64 { return r.TxBytes }, true)
	t.rxBytes, rxMs = walk(func(r *FabricSample) float64 { return r.RxBytes }, false)
	t.coverMs = max(txMs, rxMs)
	if len(rates) >= 3 && t.txBytes > 0 {
		if mean, sd, _ := moments(rates); mean > 0 {
			t.cvSum, t.cvWeight = sd/mean*t.txBytes, t.txBytes
		}
	}
	return t, avail
}
