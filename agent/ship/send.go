package ship

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// maxParked bounds the frames that are set aside for being too large.
const maxParked = 64

// fill publishes until the window is full or there is nothing to send: new frames first, and
// the backlog, if there is one, with what is left of the window and at its pace.
func (s *Ship) fill() error {
	if s.paused {
		return nil
	}
	s.divide()
	for len(s.flights) < s.cfg.Window {
		seq, frame, err := s.live.Next(nil)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		s.liveNext = seq + 1
		if err := s.publish(seq, frame, false); err != nil {
			return err
		}
	}
	for s.back != nil && s.roomForBacklog() {
		now := time.Now()
		if _, err := s.back.Size(); errors.Is(err, io.EOF) {
			s.endBacklog()
			return nil
		}
		if s.pace.wait(now) > 0 {
			return nil
		}
		seq, frame, err := s.back.Next(nil)
		if errors.Is(err, io.EOF) {
			continue
		}
		if err != nil {
			return err
		}
		s.pace.spend(len(frame), now)
		if err := s.publish(seq, frame, true); err != nil {
			return err
		}
	}
	return nil
}

// divide makes a backlog of what waits to be sent, if that is much: the newest frame, and
// those that come, overtake it.
func (s *Ship) divide() {
	if s.cfg.BacklogRate <= 0 {
		return
	}
	if n, size := s.live.Rest(s.cfg.BacklogBytes); n < 2 || size < s.cfg.BacklogBytes {
		return
	}
	sp := s.cfg.Spool
	s.split = sp.Synced()
	if s.back != nil {
		s.back.Extend(s.split - 1)
		s.backTo = max(s.backTo, s.split-1)
	} else {
		s.begin(sp.ReadUnacked(s.liveNext, s.split-1), s.split-1, false)
	}
	s.live, s.liveNext = sp.ReadUnacked(s.split, 0), s.split
}

// begin starts with a backlog, after a while of the node's own.
func (s *Ship) begin(r *spool.Reader, to uint64, again bool) {
	s.back, s.backTo, s.again = r, to, again
	s.sent, s.ahead = s.sent[:0], 0
	if s.cfg.BacklogRate > 0 {
		frames, size := r.Rest(1 << 40)
		s.lg.LogAttrs(noCtx, slog.LevelInfo, "a backlog is sent beside new frames", slog.Int("frames", frames), slog.Int64("bytes", size),
			slog.Int64("bytes_per_s", s.pace.rate))
		s.pace.start(time.Now().Add(s.shift()))
	}
}

func (s *Ship) endBacklog() {
	s.back, s.again, s.backTo = nil, false, 0
	if s.cfg.BacklogRate > 0 {
		s.lg.LogAttrs(noCtx, slog.LevelInfo, "the backlog is sent")
	}
}

// shift is the node's own delay within BacklogSpread, by its name.
func (s *Ship) shift() time.Duration {
	if s.cfg.BacklogSpread <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.cfg.Cluster + "/" + s.cfg.Node)) // a hash's Write does not fail
	return time.Duration(h.Sum64() % uint64(s.cfg.BacklogSpread))
}

// roomForBacklog reports whether the window, half of which is for new frames, and the bound
// of what is not committed let the backlog go on.
func (s *Ship) roomForBacklog() bool {
	if s.cfg.BacklogRate <= 0 {
		return len(s.flights) < s.cfg.Window
	}
	n, size := 0, s.ahead
	for _, f := range s.flights {
		if f.back {
			n++
			size += int64(f.size)
		}
	}
	return n < max(s.cfg.Window/2, 1) && len(s.flights) < s.cfg.Window && size < s.cfg.BacklogAhead
}

// credit counts what of the backlog is committed now.
func (s *Ship) credit() {
	rest := s.sent[:0]
	s.ahead = 0
	for _, f := range s.sent {
		if !s.cfg.Spool.IsCommitted(f.seq) {
			rest = append(rest, f)
			s.ahead += int64(f.size)
		}
	}
	if len(rest) < len(s.sent) {
		s.pace.faster()
	}
	s.sent = rest
}

// publish sends one frame, unless it is parked.
func (s *Ship) publish(seq uint64, frame []byte, back bool) error {
	if _, parked := s.parked[seq]; parked {
		return nil
	}
	subject := s.subject
	if subject == "" {
		var b wire.Batch
		if err := s.dec.Decode(frame, &b); err != nil {
			return s.park(seq, TroubleOther, fmt.Errorf("frame %d: %w", seq, err))
		}
		subject = wire.BatchSubject(&b)
	}
	ack, err := s.cfg.JetStream.PublishMsgAsync(&nats.Msg{Subject: subject, Data: frame},
		jetstream.WithMsgID(wire.MessageID(s.cfg.Node, s.cfg.Spool.ID(), seq)))
	if away := errors.Is(err, nats.ErrHeadersNotSupported) || errors.Is(err, nats.ErrReconnectBufExceeded); away && !s.cfg.Conn.IsConnected() {
		err = errNoBroker // what it can do is not known, and nothing is kept for it but in the spool
	}
	if err != nil {
		err = fmt.Errorf("publish frame %d: %w", seq, err)
		if errors.Is(err, nats.ErrMaxPayload) {
			return s.park(seq, TroubleTooLarge, fmt.Errorf("%w (%d bytes, the broker takes %d)", err, len(frame), s.cfg.Conn.MaxPayload()))
		}
		return err
	}
	s.flights = append(s.flights, flight{seq, len(frame), back, ack})
	s.count(func(st *Stats) {
		st.Published++
		st.PublishedBytes += uint64(len(frame))
		if back {
			st.BacklogSent += uint64(len(frame))
		}
		if back && s.again {
			st.Resent++
		}
	})
	return nil
}

// park sets a frame aside that the broker can never take as it is set, so that it stands in
// nobody's way. It stays in the spool and is tried again.
func (s *Ship) park(seq uint64, why Trouble, err error) error {
	if len(s.parked) >= maxParked {
		return err
	}
	s.parked[seq] = time.Now().Add(s.cfg.ParkFor)
	s.count(func(st *Stats) { st.Errors++ })
	s.note(why, err)
	return nil
}

// unpark tries frames again that were set aside.
func (s *Ship) unpark(now time.Time) {
	due := false
	for seq, until := range s.parked {
		if s.cfg.Spool.IsCommitted(seq) || s.cfg.Spool.First(seq) != seq {
			delete(s.parked, seq) // given up meanwhile
		} else if !now.Before(until) {
			delete(s.parked, seq)
			due = true
		}
	}
	switch from := s.cfg.Spool.Acked() + 1; {
	case !due:
	case s.back == nil && s.liveNext > 1:
		s.begin(s.cfg.Spool.ReadUnacked(from, s.liveNext-1), s.liveNext-1, false)
	case s.back != nil && !s.again:
		s.back = s.cfg.Spool.ReadUnacked(from, s.backTo)
	}
}

// pace is a rate of bytes. It owes what a frame takes beyond it.
type pace struct {
	most, rate int64   // bytes a second; 0: without limit
	tokens     float64 // may be negative
	at         time.Time
}

// burst is for how long a pace may save up.
const burst = time.Second

func newPace(rate int64) pace { return pace{most: rate, rate: rate} }

// start begins at a time that may be to come.
func (p *pace) start(at time.Time) { p.at, p.tokens = at, 0 }

// wait is how long nothing may be sent.
func (p *pace) wait(now time.Time) time.Duration {
	if p.most <= 0 {
		return 0
	}
	if now.Before(p.at) {
		return p.at.Sub(now)
	}
	p.tokens = min(p.tokens+now.Sub(p.at).Seconds()*float64(p.rate), burst.Seconds()*float64(p.rate))
	p.at = now
	if p.tokens >= 0 {
		return 0
	}
	return time.Duration(-p.tokens/float64(p.rate)*1e9) + time.Millisecond
}

func (p *pace) spend(bytes int, now time.Time) {
	p.tokens -= float64(bytes)
	if p.at.Before(now) {
		p.at = now
	}
}

// slower is for a broker that refuses, faster for a collector that stores.
func (p *pace) slower() { p.rate = max(p.rate/2, p.most/64, min(p.most, 1)) }
func (p *pace) faster() { p.rate = min(p.rate+p.most/8+1, p.most) }
