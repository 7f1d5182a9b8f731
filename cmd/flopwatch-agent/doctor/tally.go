package doctor

import (
	"cmp"
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
	subjects map[subjectKey]*subject
	facts    Facts // of the driver
}

// subjectKey is what rows are of: a GPU, or a part that a controller tells of.
type subjectKey struct {
	kind wire.Kind
	id   string
}

// subject is what rows of one subject held.
type subject struct {
	kind    wire.Kind
	id      string // UUID of a GPU; "": not known
	gpu     int64
	target  string // that tells of it
	methods map[string]bool
	rows    int
	fields  map[uint8]bool
}

// mostSubjects bounds what a look keeps.
const mostSubjects = 4096

var _ source.Sink = (*tally)(nil)

func newTally() *tally {
	return &tally{rows: map[[2]uint8]int{}, fields: map[[2]uint8]map[uint8]bool{}, statuses: map[string]source.Status{},
		subjects: map[subjectKey]*subject{}, facts: Facts{}}
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
	t.subject(table)
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

// subject counts the row under what it is of. Called with t.mu held.
func (t *tally) subject(table *wire.Table) {
	text := func(name string) string {
		if c := table.Column(field(table.Kind, name)); c != nil {
			return c.Str(0)
		}
		return ""
	}
	if table.Kind == wire.KindFact {
		if text("subject") == "driver" && len(t.facts) < 64 {
			t.facts[text("name")] = text("value")
		}
		return
	}
	key := subjectKey{table.Kind, text("gpu_uuid")}
	switch table.Kind {
	case wire.KindGPU, wire.KindHealth, wire.KindDevice:
	case wire.KindOutOfBand:
		key.id = text("target") + "/" + text("component")
	default:
		return
	}
	s := t.subjects[key]
	if s == nil {
		if len(t.subjects) >= mostSubjects {
			return
		}
		s = &subject{kind: table.Kind, id: text("gpu_uuid"), target: text("target"), methods: map[string]bool{}, fields: map[uint8]bool{}}
		if c := table.Column(field(table.Kind, "gpu")); c != nil && c.Has(0) {
			s.gpu = c.Int[0]
		}
		t.subjects[key] = s
	}
	s.rows++
	if m := text("method"); m != "" {
		s.methods[m] = true
	}
	for i := range table.Columns {
		if c := &table.Columns[i]; c.Has(0) {
			s.fields[c.Field] = true
		}
	}
}

// field is the number of a field; 0: the kind has none of that name.
func field(k wire.Kind, name string) uint8 {
	for _, f := range wire.Schema[k] {
		if f.Name == name {
			return f.ID
		}
	}
	return 0
}

// of lists the subjects and the driver's facts.
func (t *tally) of() ([]subject, Facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]subject, 0, len(t.subjects))
	for _, s := range t.subjects {
		c := *s // a source that hangs may come back and write
		c.fields, c.methods = maps.Clone(s.fields), maps.Clone(s.methods)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b subject) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.target, b.target), cmp.Compare(a.id, b.id), cmp.Compare(a.gpu, b.gpu))
	})
	return out, maps.Clone(t.facts)
}
