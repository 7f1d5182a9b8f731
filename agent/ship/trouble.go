package ship

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/spool"
)

// Trouble is why frames are not sent.
type Trouble string

// Troubles.
const (
	TroubleNone     Trouble = ""
	TroubleNoBroker Trouble = "no broker"   // no connection
	TroubleNoStream Trouble = "no stream"   // nothing takes the subject
	TroubleFull     Trouble = "stream full" // the stream has no room, or the broker no storage
	TroubleDenied   Trouble = "denied"      // no permission to publish
	TroubleTooLarge Trouble = "too large"   // frames larger than the broker takes
	TroubleTimeout  Trouble = "no answer"   // no ack in time
	TroubleSpool    Trouble = "spool"       // the spool cannot be read
	TroubleOther    Trouble = "other"
)

// words say what would help.
var words = map[Trouble]string{
	TroubleNoBroker: "there is no connection to the broker; frames wait in the spool",
	TroubleNoStream: "no stream takes this node's subject: make the streams, or look at the partitions and the account",
	TroubleFull:     "the stream, or the broker's storage, is full: look whether a collector works, or give the stream more room",
	TroubleDenied:   "the broker does not let this node publish to its subject: look at the node's credentials and name",
	TroubleTooLarge: "frames are larger than the broker takes: raise max_payload, or seal more often",
	TroubleTimeout:  "the broker does not acknowledge in time",
	TroubleSpool:    "the spool cannot be read",
	TroubleOther:    "the broker refuses",
}

const (
	// relog is the least time between two lines of the log on the same trouble.
	relog = 10 * time.Minute
	// resay is the least time between two on different ones.
	resay = time.Minute
)

var noCtx = context.Background() // for the log, which outlives no call

// Error codes of JetStream.
const (
	codeStorage   = 10047 // insufficient storage
	codeResources = 10023 // insufficient resources
	codeTooLarge  = 10054 // message larger than the stream takes
	codeStore     = 10077 // the stream cannot store it: full, mostly
	codeUnmatched = 10060 // expected stream does not match
)

// classify names the trouble behind an error.
func classify(nc *nats.Conn, err error) Trouble {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return TroubleNone
	case errors.As(err, &api):
		switch api.ErrorCode {
		case codeStorage, codeResources, codeStore:
			return TroubleFull
		case codeTooLarge:
			return TroubleTooLarge
		case codeUnmatched:
			return TroubleNoStream
		}
		return TroubleOther
	case errors.Is(err, nats.ErrMaxPayload):
		return TroubleTooLarge
	case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrAuthorization):
		return TroubleDenied
	case spool.Classify(err) != spool.TroubleOther:
		return TroubleSpool
	case errors.Is(err, errNoBroker), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected), !nc.IsConnected():
		return TroubleNoBroker
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		// A broker tells of a lack of permission beside the call, not in answer to it.
		return deniedOr(nc, TroubleNoStream)
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, nats.ErrTimeout):
		return deniedOr(nc, TroubleTimeout)
	}
	return TroubleOther
}

func deniedOr(nc *nats.Conn, other Trouble) Trouble {
	if errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
		return TroubleDenied
	}
	return other
}

// refused takes the first flight's error.
func (s *Ship) refused(err error) {
	f := s.flights[0]
	err = fmt.Errorf("publish frame %d: %w", f.seq, err)
	if classify(s.cfg.Conn, err) == TroubleTooLarge && s.park(f.seq, TroubleTooLarge, err) == nil {
		s.flights = append(s.flights[:0], s.flights[1:]...)
		return
	}
	s.fail(err)
}

// fail forgets the window and pauses, so that no error is met again and again at once.
func (s *Ship) fail(err error) {
	s.count(func(st *Stats) { st.Errors++ })
	why := classify(s.cfg.Conn, err)
	s.note(why, err)
	if why != TroubleNoBroker {
		s.pace.slower()
	}
	s.flights = s.flights[:0]
	s.rewind()
	s.backoff = min(max(2*s.backoff, s.cfg.BackoffMin), s.cfg.BackoffMax)
	// A fleet that was refused together does not come back together.
	wait := s.backoff - time.Duration(rand.Int64N(int64(s.backoff)/4+1))
	s.paused, s.resume = true, time.Now().Add(wait)
}

// note remembers a trouble, and logs it if it is news, or has lasted.
func (s *Ship) note(why Trouble, err error) {
	now := time.Now()
	s.count(func(st *Stats) {
		if st.Refused == nil {
			st.Refused = map[Trouble]uint64{}
		}
		st.Refused[why]++
		if st.Trouble != why {
			st.SinceMs = now.UnixMilli()
		}
		st.Trouble, st.Reason = why, words[why]+": "+err.Error()
	})
	quiet := now.Sub(s.saidAt)
	if s.said == TroubleNone && s.saidAt.IsZero() || s.said != why && quiet >= resay || quiet >= relog {
		s.said, s.saidAt = why, now
		s.lg.LogAttrs(noCtx, slog.LevelWarn, "shipping pauses", slog.String("why", string(why)), slog.Any("err", err))
	}
}

// well says that the broker takes frames, if the contrary was said.
func (s *Ship) well(seq uint64) {
	s.count(func(st *Stats) {
		st.Trouble, st.Reason, st.SinceMs = TroubleNone, "", 0
		if seq <= s.behind {
			st.Trouble, st.Reason = TroubleSpool, behindText
		}
		if len(s.parked) > 0 {
			st.Trouble, st.Reason = TroubleTooLarge, fmt.Sprintf("%d frames are set aside: %s", len(s.parked), words[TroubleTooLarge])
		}
	})
	if s.said != TroubleNone && len(s.parked) == 0 {
		s.said = TroubleNone
		s.lg.LogAttrs(noCtx, slog.LevelInfo, "frames are shipped again", slog.Uint64("sequence", seq))
	}
}

// show publishes what Stats tells of the loop's own.
func (s *Ship) show() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = s.split
	s.stats.InFlight, s.stats.Parked, s.stats.BacklogRate = len(s.flights), len(s.parked), 0
	if s.back != nil {
		s.stats.BacklogRate = s.pace.rate
	}
}
