package feature

import (
	"cmp"
	"slices"
)

// ReduceComm adds up the collective calls of the minute, one cell a process, GPU,
// communicator and op, sorted by those. rows may be in any order; rows of other minutes
// are ignored, repeats of a key and time count once.
func ReduceComm(rows []Collective, minuteMs int64) []CommCell {
	var kept []Collective
	for _, r := range rows {
		if MinuteOf(r.TsMs) == minuteMs {
			kept = append(kept, r)
		}
	}
	slices.SortStableFunc(kept, func(a, b Collective) int {
		return cmp.Or(compareComm(&a, &b), cmp.Compare(a.TsMs, b.TsMs), cmp.Compare(a.AvailableMs, b.AvailableMs),
			compareFloat(a.Calls, b.Calls), compareFloat(a.Bytes, b.Bytes))
	})
	var out []CommCell
	for i := range kept {
		r := &kept[i]
		if i > 0 && compareComm(&kept[i-1], r) == 0 {
			c := &out[len(out)-1]
			if kept[i-1].TsMs == r.TsMs {
				continue
			}
			c.Calls, c.Bytes = plus(c.Calls, r.Calls), plus(c.Bytes, r.Bytes)
			c.AvailableMs = max(c.AvailableMs, r.AvailableMs)
			continue
		}
		out = append(out, CommCell{
			Node: r.Node, PID: r.PID, GPU: r.GPU, Comm: r.Comm, Op: r.Op, NRanks: r.NRanks, Rank: r.Rank,
			MinuteMs: minuteMs, AvailableMs: r.AvailableMs, Calls: r.Calls, Bytes: r.Bytes,
		})
	}
	return out
}

func compareComm(a, b *Collective) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID), cmp.Compare(a.GPU, b.GPU),
		cmp.Compare(a.Comm, b.Comm), cmp.Compare(a.Op, b.Op), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.NRanks, b.NRanks))
}

// ReduceFlows adds up the traffic of the minute, one cell a pair, sorted by node and
// peer. rows may be in any order; rows of other minutes are ignored, repeats of a pair
// and time count once.
func ReduceFlows(rows []Flow, minuteMs int64) []FlowCell {
	var kept []Flow
	for _, r := range rows {
		if MinuteOf(r.TsMs) == minuteMs {
			kept = append(kept, r)
		}
	}
	slices.SortStableFunc(kept, func(a, b Flow) int {
		return cmp.Or(compareFlow(&a, &b), cmp.Compare(a.TsMs, b.TsMs), cmp.Compare(a.AvailableMs, b.AvailableMs),
			compareFloat(a.TxBytes, b.TxBytes))
	})
	var out []FlowCell
	for i := range kept {
		r := &kept[i]
		if i > 0 && compareFlow(&kept[i-1], r) == 0 {
			if kept[i-1].TsMs != r.TsMs {
				c := &out[len(out)-1]
				c.TxBytes = plus(c.TxBytes, r.TxBytes)
				c.AvailableMs = max(c.AvailableMs, r.AvailableMs)
			}
			continue
		}
		out = append(out, FlowCell{Node: r.Node, Peer: r.Peer, MinuteMs: minuteMs, AvailableMs: r.AvailableMs, TxBytes: r.TxBytes})
	}
	return out
}

func compareFlow(a, b *Flow) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Peer, b.Peer))
}
