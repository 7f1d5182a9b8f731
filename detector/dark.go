package detector

import (
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// pauseMs is the longest pause that stays inside an activity (BUNDLE.md).
const pauseMs = 15 * 60_000

// clipDark ends activities where the last of their GPUs was seen: a process of which no end
// was reported says nothing about the days in which nothing at all came, and what cannot
// be seen is not counted as work. Pauses that the activity may have are left in. A run of
// which anything is still seen, on whatever host, goes on everywhere.
func clipDark(ev *feature.Evidence, r *run.Run) {
	seenMs := lastSeen(ev, r.Members)
	if seenMs == 0 || seenMs+pauseMs >= r.EndMs {
		return
	}
	end := seenMs + pauseMs
	kept := r.Members[:0]
	for _, m := range r.Members {
		if m.StartMs >= end {
			continue
		}
		m.EndMs = min(m.EndMs, end)
		kept = append(kept, m)
	}
	r.Members, r.EndMs, r.Open = kept, end, false
}

// lastSeen is the end of the last minute in which a GPU of the members, its host or its
// communicators were sampled while they were members; 0: they never were.
func lastSeen(ev *feature.Evidence, members []run.Member) int64 {
	last := int64(0)
	see := func(n int, minute func(int) int64, m run.Member) {
		i := sort.Search(n, func(i int) bool { return minute(i) > m.EndMs }) - 1
		if i >= 0 && minute(i)+feature.MinuteMs > m.StartMs {
			last = max(last, minute(i)+feature.MinuteMs)
		}
	}
	for _, m := range members {
		gpu := ev.Cells(feature.GPUKey{Node: m.Node, GPU: m.GPU})
		see(len(gpu), func(i int) int64 { return gpu[i].MinuteMs }, m)
		host := ev.Host[m.Node]
		see(len(host), func(i int) int64 { return host[i].MinuteMs }, m)
	}
	if last == 0 {
		return 0 // never sampled: what was stated is all there is
	}
	nodes := map[string]bool{}
	for _, m := range members {
		nodes[m.Node] = true
	}
	for i := len(ev.Comm) - 1; i >= 0 && ev.Comm[i].MinuteMs+feature.MinuteMs > last; i-- {
		if nodes[ev.Comm[i].Node] {
			last = ev.Comm[i].MinuteMs + feature.MinuteMs
			break
		}
	}
	return last
}
