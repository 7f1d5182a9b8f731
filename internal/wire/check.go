package wire

import (
	"fmt"
	"unicode/utf8"
)

// String names the kind as errors and metrics do.
func (k Kind) String() string {
	switch k {
	case KindGPU:
		return "gpu"
	case KindHost:
		return "host"
	case KindFabric:
		return "fabric"
	case KindFlow:
		return "flow"
	case KindProcess:
		return "process"
	case KindCollective:
		return "collective"
	case KindDevice:
		return "device"
	case KindStatus:
		return "status"
	case KindHealth:
		return "health"
	case KindEvent:
		return "event"
	case KindInstance:
		return "instance"
	case KindHold:
		return "hold"
	case KindTCP:
		return "tcp"
	case KindCheckpoint:
		return "checkpoint"
	case KindRDMA:
		return "rdma"
	case KindOutOfBand:
		return "outofband"
	case KindFact:
		return "fact"
	case KindInventory:
		return "inventory"
	case KindAllocation:
		return "allocation"
	case KindOrder:
		return "order"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// sourceNames are what the store and people call sources.
var sourceNames = [...]string{
	SourceUnknown: "unknown", SourceGPM: "gpm", SourceNVML: "nvml", SourceBMC: "bmc", SourceSysfs: "sysfs",
	SourceEBPF: "ebpf", SourceProcfs: "procfs", SourceDeclared: "declared", SourceRecorded: "recorded", SourceNetlink: "netlink",
}

// String names the source as the store's column `sources` does.
func (s Source) String() string {
	if int(s) < len(sourceNames) {
		return sourceNames[s]
	}
	return fmt.Sprintf("source%d", uint8(s))
}

// Provider reports whether the kind travels on the provider's subject.
func (k Kind) Provider() bool { return k >= KindInventory }

// FieldOf returns the field with the given id of a kind.
func FieldOf(k Kind, id uint8) (Field, bool) {
	for _, f := range Schema[k] {
		if f.ID == id {
			return f, true
		}
	}
	return Field{}, false
}

// Column returns the table's column of a field, or nil if no row has it.
func (t *Table) Column(id uint8) *Column {
	for i := range t.Columns {
		if t.Columns[i].Field == id {
			return &t.Columns[i]
		}
	}
	return nil
}

// Str returns the string of row r, and "" where the row has none.
func (c *Column) Str(r int) string {
	if !c.Has(r) {
		return ""
	}
	return c.Dict[c.Ref[r]]
}

// FrameError says where a batch breaks the contract. Row is -1 where the fault is not a
// row's, Field is 0 where it is not a field's, and Kind is 0 where it is the batch's own.
// It unwraps to ErrInvalid, ErrTooLarge or ErrUnknownKind.
type FrameError struct {
	Kind  Kind
	Field uint8
	Row   int
	What  string
	Err   error
}

func (e *FrameError) Error() string {
	s := e.Err.Error()
	if e.Kind != 0 {
		s += ": " + e.Kind.String()
	}
	if e.Field != 0 {
		if f, ok := FieldOf(e.Kind, e.Field); ok {
			s += " field " + f.Name
		} else {
			s += fmt.Sprintf(" field %d", e.Field)
		}
	}
	if e.Row >= 0 {
		s += fmt.Sprintf(" row %d", e.Row)
	}
	return s + ": " + e.What
}

func (e *FrameError) Unwrap() error { return e.Err }

func invalid(k Kind, field uint8, row int, format string, args ...any) error {
	return &FrameError{Kind: k, Field: field, Row: row, What: fmt.Sprintf(format, args...), Err: ErrInvalid}
}

// check holds a batch to the contract. Encoder and decoder both call it, so that no spool
// ever holds a frame that the collector would refuse.
func (b *Batch) check() error {
	if b.Version == 0 || b.Version > Version {
		return fmt.Errorf("%w %d", ErrUnknownVersion, b.Version)
	}
	if err := checkHead(b); err != nil {
		return err
	}
	if len(b.Tables) > MaxTables {
		return &FrameError{Row: -1, What: fmt.Sprintf("%d tables, at most %d", len(b.Tables), MaxTables), Err: ErrTooLarge}
	}
	rows := 0
	for i := range b.Tables {
		t := &b.Tables[i]
		if err := t.check(); err != nil {
			return err
		}
		if t.Kind.Provider() != (b.Node == "") {
			return invalid(t.Kind, 0, -1, "does not belong in a batch of node %q", b.Node)
		}
		if rows += t.Rows; rows > MaxRows {
			return &FrameError{Kind: t.Kind, Row: -1, What: fmt.Sprintf("%d rows in the batch so far, at most %d", rows, MaxRows), Err: ErrTooLarge}
		}
	}
	return nil
}

func checkHead(b *Batch) error {
	for _, s := range [...]struct {
		name, value string
		empty       bool
	}{{"cluster", b.Cluster, false}, {"node", b.Node, true}, {"boot id", b.BootID, true}} {
		if s.value == "" && !s.empty {
			return invalid(0, 0, -1, "no %s", s.name)
		}
		if len(s.value) > MaxStringBytes {
			return &FrameError{Row: -1, What: fmt.Sprintf("%s of %d bytes, at most %d", s.name, len(s.value), MaxStringBytes), Err: ErrTooLarge}
		}
		if !utf8.ValidString(s.value) {
			return invalid(0, 0, -1, "%s is not UTF-8", s.name)
		}
	}
	if b.Spool == [16]byte{} {
		return invalid(0, 0, -1, "no spool")
	}
	if b.Sequence == 0 {
		return invalid(0, 0, -1, "no sequence")
	}
	if len(b.Gaps) > MaxGaps {
		return &FrameError{Row: -1, What: fmt.Sprintf("%d gaps, at most %d", len(b.Gaps), MaxGaps), Err: ErrTooLarge}
	}
	for i, g := range b.Gaps {
		if g.From == 0 || g.To < g.From || g.To >= b.Sequence {
			return invalid(0, 0, -1, "gap %d is [%d, %d] in sequence %d", i, g.From, g.To, b.Sequence)
		}
	}
	return nil
}

func (t *Table) check() error {
	schema, ok := Schema[t.Kind]
	if !ok {
		return &FrameError{Kind: t.Kind, Row: -1, What: fmt.Sprintf("this code knows version %d", Version), Err: ErrUnknownKind}
	}
	if t.Rows < 1 || t.Rows > MaxRows {
		return invalid(t.Kind, 0, -1, "%d rows, must be 1 to %d", t.Rows, MaxRows)
	}
	var seen [256]bool
	for i := range t.Columns {
		c := &t.Columns[i]
		f, ok := FieldOf(t.Kind, c.Field)
		if !ok {
			return invalid(t.Kind, c.Field, -1, "unknown field")
		}
		if seen[c.Field] {
			return invalid(t.Kind, c.Field, -1, "given twice")
		}
		seen[c.Field] = true
		if err := c.check(t.Kind, f, t.Rows); err != nil {
			return err
		}
	}
	for _, f := range schema {
		if f.Key && !seen[f.ID] {
			return invalid(t.Kind, f.ID, -1, "key field is missing")
		}
	}
	return nil
}

func (c *Column) check(k Kind, f Field, rows int) error {
	if c.Present != nil {
		if len(c.Present) != (rows+63)/64 {
			return invalid(k, c.Field, -1, "presence has %d words for %d rows", len(c.Present), rows)
		}
		if tail := rows & 63; tail != 0 && c.Present[len(c.Present)-1]>>tail != 0 {
			return invalid(k, c.Field, -1, "presence beyond row %d", rows-1)
		}
		if f.Key {
			for r := range rows {
				if !c.Has(r) {
					return invalid(k, c.Field, r, "key field is absent")
				}
			}
		}
	}
	if f.Type == Int {
		if len(c.Int) != rows || c.Ref != nil || c.Dict != nil {
			return invalid(k, c.Field, -1, "%d integers for %d rows", len(c.Int), rows)
		}
		return nil
	}
	if len(c.Ref) != rows || c.Int != nil {
		return invalid(k, c.Field, -1, "%d references for %d rows", len(c.Ref), rows)
	}
	if len(c.Dict) > MaxDictEntries {
		return invalid(k, c.Field, -1, "dictionary of %d entries, at most %d", len(c.Dict), MaxDictEntries)
	}
	for i, s := range c.Dict {
		if len(s) > MaxStringBytes {
			return invalid(k, c.Field, -1, "dictionary entry %d has %d bytes, at most %d", i, len(s), MaxStringBytes)
		}
		if !utf8.ValidString(s) {
			return invalid(k, c.Field, -1, "dictionary entry %d is not UTF-8", i)
		}
	}
	n := uint32(len(c.Dict))
	for r, ref := range c.Ref {
		if ref >= n && c.Has(r) {
			return invalid(k, c.Field, r, "reference %d into a dictionary of %d", ref, n)
		}
	}
	return nil
}
