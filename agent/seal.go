package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	// sealTables and sealRows bound one batch, below wire.MaxTables and wire.MaxRows.
	sealTables = 60
	sealRows   = 50_000
)

// sealer moves the sink's queue into the spool. One call works at a time.
type sealer struct {
	rec  *Recorder
	sink *sink
	lg   *slog.Logger

	work sync.Mutex // held while sealing; guards rec and failing
	// failing: the last attempt failed, and that was logged
	failing bool

	mu      sync.Mutex // guards below
	batches uint64
	bytes   uint64
	errs    uint64
	lastErr error // of the last attempt; nil: it went well
}

// all seals what is in the queue, oldest first, until it is empty or the spool refuses.
func (s *sealer) all(ctx context.Context) error {
	s.work.Lock()
	defer s.work.Unlock()
	var err error
	for err == nil {
		c := s.sink.head()
		if c == nil {
			break
		}
		err = s.one(ctx, c)
		s.sink.done()
	}
	s.note(ctx, err)
	return err
}

// flush makes what was sealed durable, should an earlier sync have failed.
func (s *sealer) flush(ctx context.Context) error {
	s.work.Lock()
	defer s.work.Unlock()
	err := s.rec.Flush()
	s.note(ctx, err)
	return err
}

func (s *sealer) note(ctx context.Context, err error) {
	s.mu.Lock()
	if s.lastErr = err; err != nil {
		s.errs++
	}
	s.mu.Unlock()
	switch {
	case err != nil && !s.failing:
		s.failing = true
		s.lg.LogAttrs(ctx, slog.LevelError, "the spool takes nothing; rows are kept in memory and tried again", slog.Any("err", err))
	case err == nil && s.failing:
		s.failing = false
		s.lg.LogAttrs(ctx, slog.LevelInfo, "the spool takes rows again")
	}
}

// one seals a cut, in as many batches as it takes. What is sealed leaves the cut at once, so
// that another attempt seals nothing twice.
func (s *sealer) one(ctx context.Context, c *cut) error {
	s.rec.TickTo(c.from, c.to, c.missed)
	most := sealTables
	var tables []wire.Table
	for len(c.parts) > 0 {
		tables = tables[:0]
		rows := 0
		for i := range c.parts {
			rows += c.parts[i].table.Rows
			if len(tables) == most || len(tables) > 0 && rows > sealRows {
				break
			}
			tables = append(tables, c.parts[i].table)
		}
		before := s.rec.SealedBytes()
		seq, err := s.rec.Seal(0, tables...)
		if seq > 0 { // taken, even if the sync failed
			s.mu.Lock()
			s.batches++
			s.bytes += s.rec.SealedBytes() - before
			s.mu.Unlock()
			s.sink.sealed(c, len(tables))
		}
		switch {
		case err == nil:
		case seq > 0:
			return err
		case errors.Is(err, wire.ErrTooLarge) || errors.Is(err, wire.ErrInvalid) || errors.Is(err, wire.ErrUnknownKind):
			if len(tables) > 1 { // find the one at fault
				most = len(tables) / 2
				continue
			}
			if errors.Is(err, wire.ErrTooLarge) && s.sink.split(c) {
				continue
			}
			// It will not get better.
			p := c.parts[0]
			s.sink.refused(p.key.kind, p.table.Rows, fmt.Errorf("table of %d %s rows: %w", p.table.Rows, p.key.kind, err))
			s.lg.LogAttrs(ctx, slog.LevelError, "rows do not fit the contract and are dropped", slog.String("kind", p.key.kind.String()),
				slog.Int("rows", p.table.Rows), slog.Any("err", err))
			s.sink.sealed(c, 1)
		default:
			return err
		}
	}
	return nil
}

// split makes two tables of the head's first one; false: it is too small for that.
func (s *sink) split(c *cut) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := c.parts[0]
	at := p.table.Rows / 2 &^ 63 // a whole word of presence
	if at == 0 {
		return false
	}
	first, rest := p, p
	first.b = nil // the rest still needs its memory
	first.table, rest.table = rowsOf(p.table, 0, at), rowsOf(p.table, at, p.table.Rows)
	c.parts = append([]part{first, rest}, c.parts[1:]...)
	return true
}

// rowsOf is the rows from..to of a table, whose memory it shares; from is a multiple of 64.
func rowsOf(t wire.Table, from, to int) wire.Table {
	out := wire.Table{Kind: t.Kind, Rows: to - from}
	for _, c := range t.Columns {
		if c.Present != nil {
			c.Present = append([]uint64(nil), c.Present[from/64:(to+63)/64]...)
			if tail := to & 63; tail != 0 {
				c.Present[len(c.Present)-1] &= 1<<tail - 1
			}
		}
		if c.Int != nil {
			c.Int = c.Int[from:to:to]
		} else {
			c.Ref = c.Ref[from:to:to]
		}
		out.Columns = append(out.Columns, c)
	}
	return out
}
