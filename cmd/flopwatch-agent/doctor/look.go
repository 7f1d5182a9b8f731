package doctor

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Instrument is what a source, or a part of one, says of itself after the look.
type Instrument struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Remedy is what helps, where that is known.
	Remedy string `json:"remedy,omitempty"`
	Seen   []Seen `json:"seen,omitempty"` // of a source as a whole
}

// Found is what came of a look.
type Found struct {
	Instruments []Instrument
	subjects    []subject
	facts       Facts
}

// Look asks sources once a second, as long as it is told to, and closes them. clocks are those
// of the ticks. What does not answer is stalled, and keeps nobody waiting.
func Look(ctx context.Context, sources []source.Source, howLong time.Duration, clocks func() (wallMs, bootMs int64)) Found {
	ctx, cancel := context.WithTimeout(ctx, howLong)
	defer cancel()
	tallies := make([]*tally, len(sources))
	errs := make([]error, len(sources))
	done := make([]chan struct{}, len(sources))
	var mu sync.Mutex // guards errs
	for i, s := range sources {
		tallies[i], done[i] = newTally(), make(chan struct{})
		go func() { // ends with ctx, or with the process if the source hangs
			defer close(done[i])
			err := ask(ctx, s, tallies[i], clocks)
			if cerr := s.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("end: %w", cerr)
			}
			mu.Lock()
			errs[i] = err
			mu.Unlock()
		}()
	}
	<-ctx.Done()
	grace := time.NewTimer(5 * time.Second)
	defer grace.Stop()
	out := Found{facts: Facts{}}
	late := false
	for i, s := range sources {
		if !late {
			select {
			case <-done[i]:
			case <-grace.C:
				late = true
			}
		}
		hangs := false
		select {
		case <-done[i]:
		default:
			hangs = true
		}
		mu.Lock()
		err := errs[i]
		mu.Unlock()
		out.Instruments = append(out.Instruments, judge(s.Name(), tallies[i], err, hangs)...)
		subjects, facts := tallies[i].of()
		out.subjects = append(out.subjects, subjects...)
		maps.Copy(out.facts, facts)
	}
	return out
}

// ask is the life of a source in a look. The last error counts if nothing went well behind it.
func ask(ctx context.Context, s source.Source, out *tally, clocks func() (int64, int64)) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var err error
	for seq := uint64(1); ; seq++ {
		wall, boot := clocks()
		serr := s.Sample(ctx, source.Tick{Seq: seq, WallMs: wall, BootMs: boot}, out)
		if ctx.Err() != nil {
			return err // what it says while it is being stopped means nothing
		}
		err = serr
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// judge makes lines of what a source said: itself first, its parts behind it.
func judge(name string, t *tally, err error, hangs bool) []Instrument {
	own := Instrument{Name: name, State: string(source.Active), Seen: t.seen()}
	var parts []Instrument
	silent := len(own.Seen) == 0 && t.bad == 0
	for _, st := range t.said() {
		if st.Instrument == name {
			own.State, own.Reason, silent = string(st.State), st.Reason, false
			continue
		}
		parts = append(parts, Instrument{Name: st.Instrument, State: string(st.State), Reason: st.Reason})
	}
	switch {
	case hangs:
		own.State, own.Reason = string(source.Stalled), "it was asked and does not answer"
	case err != nil && own.State == string(source.Active):
		own.State, own.Reason = string(source.Degraded), "it saw nothing: "+err.Error()
	case t.bad > 0 && own.State == string(source.Active):
		own.State, own.Reason = string(source.Degraded), fmt.Sprintf("%d rows break the contract: %v", t.bad, t.lastBad)
	case silent: // that nothing was seen does not say that all is well
		own.State, own.Reason = string(source.Degraded), wordsNotKnownYet+": it has seen nothing within the look, and not said why"
	}
	return append([]Instrument{own}, parts...)
}
