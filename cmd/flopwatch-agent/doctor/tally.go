package doctor

import (
	"maps"
	"slices"
	"sync"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Seen is what rows of one kind and source held.
type Seen struct {
	Kind   string   `json:"kind"`
	Source string   `json:"source"`
	Rows   int      `json:"rows"`
	Fields []string `json:"fields"` // that were measured in any row, keys left out
}

// tally counts rows and keeps statuses. It is a source.Sink.
type tally struct {
	mu       sync.Mutex
	rows     map[[2]uint8]int
	fields   map[[2]uint8]map[uint8]bool // by the source of the column
	bad      int
	lastBad  error
	statuses map[string]source.Status
}

var _ source.Sink = (*tally)(nil)

func newTally() *tally {
	return &tally{rows: map[[2]uint8]int{}, fields: map[[2]uint8]map[uint8]bool{}, statuses: map[string]source.Status{}}
}

// Row implements source.Sink.
func (t *tally) Row(kind wire.Kind, src wire.Source, _ string, prepare, fill func(b *wire.Builder)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := wire.NewBuilder(kind, src)
	if prepare != nil {
		prepare(b)
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		t.bad++
		t.lastBad = err
		return
	}
	table := b.Build()
	counted := map[wire.Source]bool{}
	for i := range table.Columns {
		c := &table.Columns[i]
		if f, ok := wire.FieldOf(kind, c.Field); !ok || f.Key || !c.Has(0) {
			continue
		}
		key := [2]uint8{uint8(kind), uint8(c.Source)}
		if t.fields[key] == nil {
			t.fields[key] = map[uint8]bool{}
		}
		t.fields[key][c.Field] = true
		if !counted[c.Source] {
			counted[c.Source] = true
			t.rows[key]++
		}
	}
}

// Status implements source.Sink.
func (t *tally) Status(s source.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.statuses[s.Instrument] = s
}

// seen lists what came, by kind and source.
func (t *tally) seen() []Seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(t.rows), func(a, b [2]uint8) int { return slices.Compare(a[:], b[:]) })
	out := make([]Seen, 0, len(keys))
	for _, k := range keys {
		s := Seen{Kind: wire.Kind(k[0]).String(), Source: wire.Source(k[1]).String(), Rows: t.rows[k]}
		for _, f := range wire.Schema[wire.Kind(k[0])] {
			if t.fields[k][f.ID] {
				s.Fields = append(s.Fields, f.Name)
			}
		}
		out = append(out, s)
	}
	return out
}

func (t *tally) said() []source.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(func(yield func(source.Status) bool) {
		for _, name := range slices.Sorted(maps.Keys(t.statuses)) {
			if !yield(t.statuses[name]) {
				return
			}
		}
	})
}
