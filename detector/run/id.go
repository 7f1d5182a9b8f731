package run

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
)

// firstOf is the earliest member. The exact time leads: what becomes visible later began
// later, so the first member stays the first as evidence grows.
func firstOf(members []Member) Member {
	return slices.MinFunc(members, compareFirst)
}

func compareFirst(a, b Member) int {
	return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU))
}

func minuteOf(ms int64) int64 {
	m := ms / minuteMs
	if ms < 0 && ms%minuteMs != 0 {
		m--
	}
	return m
}

// mint makes a run's id from its earliest member. n tells apart several activities that
// begin on one GPU in one minute (time-shared processes).
func mint(m Member, n int) string {
	text := m.Node + "\x00" + strconv.Itoa(m.GPU) + "\x00" + strconv.FormatInt(minuteOf(m.StartMs), 10)
	if n > 0 {
		text += "\x00" + strconv.Itoa(n)
	}
	sum := sha256.Sum256([]byte(text))
	return "run-" + hex.EncodeToString(sum[:6])
}

// mintAll gives each episode the id of a run that would begin with it. Episodes are in
// their own order, in which time-shared ones that share a first member are distinguished
// by what they declare.
func mintAll(eps []Episode) []string {
	order := make([]int, len(eps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(compareFirst(firstOf(eps[a].Members), firstOf(eps[b].Members)), slices.Compare(eps[a].JobIDs, eps[b].JobIDs))
	})
	type first struct {
		node   string
		gpu    int
		minute int64
	}
	seen := map[first]int{}
	ids := make([]string, len(eps))
	for _, i := range order {
		m := firstOf(eps[i].Members)
		k := first{m.Node, m.GPU, minuteOf(m.StartMs)}
		ids[i] = mint(m, seen[k])
		seen[k]++
	}
	return ids
}
