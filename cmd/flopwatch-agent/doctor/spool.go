package doctor

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Spool is what lies in a spool's directory.
type Spool struct {
	Dir      string `json:"dir"`
	Segments int    `json:"segments"`
	Frames   int    `json:"frames"`
	Bytes    int64  `json:"bytes"`
	First    uint64 `json:"first_sequence"`
	Last     uint64 `json:"last_sequence"`
	Acked    uint64 `json:"acked"`
	// Committed is what the collector has stored up to; Uncommitted frames are behind it.
	Committed       uint64     `json:"committed"`
	Uncommitted     int        `json:"uncommitted_frames"`
	OldestMs        int64      `json:"oldest_ms,omitempty"` // Unix milliseconds
	Gaps            []SpoolGap `json:"gaps,omitempty"`
	QuarantineFiles int        `json:"quarantine_files"`
	QuarantineBytes int64      `json:"quarantine_bytes"`
	// Chained frames were decoded, and follow the one before by its digest. Unread ones there
	// was no time for.
	Chained int      `json:"chained_frames"`
	Unread  int      `json:"unread_frames,omitempty"`
	Faults  []string `json:"faults,omitempty"`
}

// SpoolGap is a range of frames that were given up.
type SpoolGap struct {
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Reason string `json:"reason"`
}

// mostFaults are told of a spool, and mostGaps.
const (
	mostFaults = 20
	mostGaps   = 100
)

// ReadSpool reads a spool as it lies there, beside an agent or without: it changes nothing and
// takes no lock. Frames are decoded, and their chain is followed, until ctx ends.
func ReadSpool(ctx context.Context, dir string) (*Spool, error) {
	dec, err := wire.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	s := &Spool{Dir: dir}
	var last uint64 // Verify may begin again: then sequences fall
	var digest [32]byte
	found, err := spool.Verify(dir, func(seq uint64, own [32]byte, frame []byte) error {
		follows := seq == last+1 && last != 0
		if seq <= last {
			s.Chained, s.Unread = 0, 0
		}
		before := digest
		last, digest = seq, own
		select {
		case <-ctx.Done():
			s.Unread++
			return nil
		default:
		}
		var b wire.Batch
		if derr := dec.Decode(frame, &b); derr != nil {
			return fmt.Errorf("decode: %w", derr)
		}
		switch {
		case b.Sequence != seq:
			return fmt.Errorf("the batch in it is number %d", b.Sequence)
		case follows && b.PrevDigest != before:
			return fmt.Errorf("it follows a frame with the digest %s, the one before has %s", hex.EncodeToString(b.PrevDigest[:4]), hex.EncodeToString(before[:4]))
		}
		s.Chained++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	s.Segments, s.Frames, s.Bytes, s.First, s.Last = found.Segments, found.Frames, found.Bytes, found.First, found.Last
	s.Acked, s.Committed, s.Uncommitted = found.Acked, found.Committed, found.Uncommitted
	if found.Uncommitted > 0 {
		s.OldestMs = found.OldestMs
	}
	s.QuarantineFiles, s.QuarantineBytes = found.QuarantineFiles, found.QuarantineBytes
	for _, g := range found.Gaps[:min(len(found.Gaps), mostGaps)] {
		s.Gaps = append(s.Gaps, SpoolGap{g.From, g.To, g.Reason.String()})
	}
	s.Faults = found.Faults[:min(len(found.Faults), mostFaults)]
	return s, nil
}

// Check judges the spool.
func (s *Spool) Check(now time.Time) Check {
	c := Check{What: "spool", Status: OK, Text: fmt.Sprintf("%s: %d frames of %d KiB, %d to %d%s; the collector has all up to %d", s.Dir, s.Frames, s.Bytes>>10, s.First, s.Last, yes(s.Chained == s.Frames, ", in one chain", ""), s.Committed)}
	if s.Frames == 0 {
		c.Text = s.Dir + ": empty: the collector has all"
		if s.Last == 0 && s.Committed == 0 {
			c.Text = s.Dir + ": nothing was put into it yet"
		}
	}
	if s.Unread > 0 {
		c.Text += fmt.Sprintf("; for %d of them there was no time", s.Unread)
	}
	if s.Uncommitted > 0 {
		c.Text += fmt.Sprintf("; %d wait", s.Uncommitted)
		if age := now.Sub(time.UnixMilli(s.OldestMs)); s.OldestMs > 0 && age > 0 {
			c.Text += fmt.Sprintf(", the oldest for %s", age.Round(time.Second))
		}
	}
	var lost uint64
	for _, g := range s.Gaps {
		lost += g.To - g.From + 1
	}
	switch {
	case len(s.Faults) > 0:
		c.Status = Warn
		c.Text += fmt.Sprintf("; %d things are wrong: %s", len(s.Faults), s.Faults[0])
		c.Remedy = "the agent repairs it when it starts: damaged frames go to quarantine and leave a gap"
	case lost > 0:
		c.Status = Warn
		c.Text += fmt.Sprintf("; %d frames were given up (%s), which the collector will be told", lost, s.Gaps[len(s.Gaps)-1].Reason)
		c.Remedy = "give it more room (spool.max_bytes, the disk), or look why the collector is behind"
	case s.QuarantineFiles > 0:
		c.Status = Info
	}
	if s.QuarantineFiles > 0 {
		c.Text += fmt.Sprintf("; %d files, %d KiB, are in quarantine", s.QuarantineFiles, s.QuarantineBytes>>10)
	}
	return c
}
