package feature

import (
	"cmp"
	"slices"
)

// ReduceComm adds up the collective calls of the minute, one cell a process, GPU,
// communicator and op, sorted by those. rows may be in any order; rows of other minutes
// are ignored; identical repeats count once, different rows of one key and time add up. Rank and
// size are no part of the key, as rows may come before they are known: the cell has the known ones.
func ReduceComm(rows []Collective, minuteMs int64) []CommCell {
	var kept []Collective
	for _, r := range rows {
		if MinuteOf(r.TsMs) == minuteMs {
			kept = append(kept, r)
		}
	}
	slices.SortStableFunc(kept, func(a, b Collective) int {
		return cmp.Or(compareComm(&a, &b), cmp.Compare(a.TsMs, b.TsMs), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.NRanks, b.NRanks),
			compareFloat(a.Calls, b.Calls), compareFloat(a.Bytes, b.Bytes), cmp.Compare(a.AvailableMs, b.AvailableMs))
	})
	var out []CommCell
	for i := range kept {
		r := &kept[i]
		if i > 0 && compareComm(&kept[i-1], r) == 0 {
			c := &out[len(out)-1]
			c.NRanks, c.Rank = max(c.NRanks, r.NRanks), max(c.Rank, r.Rank)
			if p := &kept[i-1]; p.TsMs == r.TsMs && p.Rank == r.Rank && p.NRanks == r.NRanks && compareFloat(p.Calls, r.Calls) == 0 && compareFloat(p.Bytes, r.Bytes) == 0 {
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
		cmp.Compare(a.Comm, b.Comm), cmp.Compare(a.Op, b.Op))
}

// ReduceFlows adds up the traffic of the minute, one cell a pair, sorted by node and
// peer. rows may be in any order; rows of other minutes are ignored; identical repeats
// count once, different rows of one pair and time (two connections) add up.
func ReduceFlows(rows []Flow, minuteMs int64) []FlowCell {
	var kept []Flow
	for _, r := range rows {
		if MinuteOf(r.TsMs) == minuteMs {
			kept = append(kept, r)
		}
	}
	slices.SortStableFunc(kept, func(a, b Flow) int {
		return cmp.Or(compareFlow(&a, &b), cmp.Compare(a.TsMs, b.TsMs),
			compareFloat(a.TxBytes, b.TxBytes), cmp.Compare(a.AvailableMs, b.AvailableMs))
	})
	var out []FlowCell
	for i := range kept {
		r := &kept[i]
		if i > 0 && compareFlow(&kept[i-1], r) == 0 {
			if p := &kept[i-1]; p.TsMs != r.TsMs || compareFloat(p.TxBytes, r.TxBytes) != 0 {
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

// SortComm puts the cells of one node and minute into the order in which ReduceComm gives
// them.
func SortComm(cells []CommCell) {
	slices.SortStableFunc(cells, func(a, b CommCell) int {
		return compareComm(&Collective{Node: a.Node, PID: a.PID, GPU: a.GPU, Comm: a.Comm, Op: a.Op},
			&Collective{Node: b.Node, PID: b.PID, GPU: b.GPU, Comm: b.Comm, Op: b.Op})
	})
}

// SortFlows does the same for the cells that ReduceFlows gives.
func SortFlows(cells []FlowCell) {
	slices.SortStableFunc(cells, func(a, b FlowCell) int {
		return compareFlow(&Flow{Node: a.Node, Peer: a.Peer}, &Flow{Node: b.Node, Peer: b.Peer})
	})
}
