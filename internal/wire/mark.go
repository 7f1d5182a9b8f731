package wire

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxMarkRanges bounds the ranges of a commit mark. The lowest are forgotten first: the
// node then sends those frames again, and they are recognised as repeats.
const maxMarkRanges = 64

// SequenceRange is inclusive at both ends.
type SequenceRange struct{ From, To uint64 }

// CommitMark tells a node which frames of a spool the collector has stored for good, so
// that it may forget them. Marks are cumulative: the collector keeps one a (node, spool),
// adds what it commits, and publishes it whole on CommitSubject. A mark that never comes
// costs a repeat, a mark that lies costs data: add a sequence only after `batches` has it.
type CommitMark struct {
	Cluster, Node string
	Spool         [16]byte
	Through       uint64          // every sequence up to here; 0: none
	Ranges        []SequenceRange // beyond Through; ascending, disjoint, not adjacent
	Epoch         uint64          // of the collector's lease
}

// Has reports whether the mark covers a sequence.
func (m *CommitMark) Has(sequence uint64) bool {
	if sequence <= m.Through {
		return true
	}
	for _, r := range m.Ranges {
		if r.From <= sequence && sequence <= r.To {
			return true
		}
	}
	return false
}

// Add adds the sequences from..to, inclusive. A gap that a batch reports may be added as
// well once that batch is stored. It does nothing if to < from or from is 0.
func (m *CommitMark) Add(from, to uint64) {
	if from == 0 || to < from {
		return
	}
	m.Ranges = append(m.Ranges, SequenceRange{from, to})
	slices.SortFunc(m.Ranges, func(a, b SequenceRange) int {
		switch {
		case a.From < b.From:
			return -1
		case a.From > b.From:
			return 1
		}
		return 0
	})
	out := m.Ranges[:0]
	for _, r := range m.Ranges {
		switch {
		case r.From <= m.Through || r.From == m.Through+1:
			m.Through = max(m.Through, r.To)
		case len(out) > 0 && r.From <= out[len(out)-1].To+1:
			out[len(out)-1].To = max(out[len(out)-1].To, r.To)
		default:
			out = append(out, r)
		}
	}
	if n := len(out) - maxMarkRanges; n > 0 {
		out = append(out[:0], out[n:]...)
	}
	m.Ranges = out
}

// AppendCommitMark appends the mark to dst as protobuf (batch.proto).
func AppendCommitMark(dst []byte, m *CommitMark) []byte {
	dst = appendString(dst, 1, m.Cluster)
	dst = appendString(dst, 2, m.Node)
	dst = appendBytes(dst, 3, m.Spool[:])
	dst = appendUint(dst, 4, m.Through)
	var scratch [32]byte
	for _, r := range m.Ranges {
		b := appendUint(scratch[:0], 1, r.From)
		b = appendUint(b, 2, r.To)
		dst = appendBytes(dst, 5, b)
	}
	return appendUint(dst, 6, m.Epoch)
}

// DecodeCommitMark reads a mark and holds it to what CommitMark says. Errors wrap
// ErrCorrupt, ErrInvalid or ErrTooLarge.
func DecodeCommitMark(msg []byte) (CommitMark, error) {
	var m CommitMark
	var f field
	var seen uint32
	var err error
	for len(msg) > 0 {
		if msg, err = next(msg, &f); err != nil {
			return CommitMark{}, fmt.Errorf("commit mark: %w", err)
		}
		typ := protowire.BytesType
		switch f.num {
		case 1, 2, 3, 5:
		case 4, 6:
			typ = protowire.VarintType
		default:
			continue
		}
		if err = f.want(typ, &seen, f.num != 5); err != nil {
			return CommitMark{}, fmt.Errorf("commit mark: %w", err)
		}
		switch f.num {
		case 1:
			m.Cluster = string(f.bytes)
		case 2:
			m.Node = string(f.bytes)
		case 3:
			err = fixed(m.Spool[:], f.bytes, "spool")
		case 4:
			m.Through = f.value
		case 5:
			err = m.decodeRange(f.bytes)
		case 6:
			m.Epoch = f.value
		}
		if err != nil {
			return CommitMark{}, fmt.Errorf("commit mark: %w", err)
		}
	}
	if err = m.check(); err != nil {
		return CommitMark{}, fmt.Errorf("commit mark: %w", err)
	}
	return m, nil
}

func (m *CommitMark) decodeRange(b []byte) error {
	if len(m.Ranges) >= maxMarkRanges {
		return fmt.Errorf("more than %d ranges: %w", maxMarkRanges, ErrTooLarge)
	}
	var r SequenceRange
	var f field
	var seen uint32
	var err error
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		if f.num > 2 {
			continue
		}
		if err = f.want(protowire.VarintType, &seen, true); err != nil {
			return err
		}
		if f.num == 1 {
			r.From = f.value
		} else {
			r.To = f.value
		}
	}
	m.Ranges = append(m.Ranges, r)
	return nil
}

func (m *CommitMark) check() error {
	head := Batch{Cluster: m.Cluster, Node: m.Node, Spool: m.Spool, Sequence: 1}
	if err := checkHead(&head); err != nil {
		return err
	}
	last := m.Through
	for i, r := range m.Ranges {
		// Written so that no sum overflows.
		if r.To < r.From || r.From <= last || r.From-last < 2 {
			return invalid(0, 0, -1, "range %d is [%d, %d] behind %d", i, r.From, r.To, last)
		}
		last = r.To
	}
	return nil
}
