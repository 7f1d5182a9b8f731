package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Config of one node's ship. Conn, JetStream, Spool and Cluster are needed; zero values
// elsewhere mean the defaults.
type Config struct {
	Conn *nats.Conn
	// JetStream may be shared by all ships of a process: see JetStream.
	JetStream jetstream.JetStream
	Spool     *spool.Spool
	Cluster   string
	Node      string // "": the provider's batches
	// Window is how many frames may wait for their acks; default 16.
	Window int
	// ResendAfter is the time without progress of commits after which acknowledged frames are
	// sent again; default 10 minutes. It must be longer than the broker's dedup window.
	ResendAfter time.Duration
	// AskAfter is the time without progress after which the last commit mark is asked for;
	// default 30 s.
	AskAfter time.Duration
	// BackoffMin and BackoffMax bound the wait after an error; default 250 ms and 30 s.
	BackoffMin, BackoffMax time.Duration
	Log                    *slog.Logger // nil: none
}

// maxResendFactor bounds the doubling of ResendAfter.
const maxResendFactor = 16

// askTimeout bounds the wait for the last commit mark.
const askTimeout = 2 * time.Second

// JetStream returns a context that hundreds of ships can share.
func JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<16), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("make jetstream context: %w", err)
	}
	return js, nil
}

// Stats are counts since New.
type Stats struct {
	Published, Acked, Resent, Errors, Marks, BadMarks uint64
}

// Ship carries one spool's frames.
type Ship struct {
	cfg     Config
	lg      *slog.Logger
	subject string // "": by the batch
	commit  string

	// Owned by Run.
	dec      *wire.Decoder
	reader   *spool.Reader
	flights  []flight
	mark     wire.CommitMark
	progress time.Time // of the last commit, or of the start
	asked    time.Time
	factor   time.Duration // of ResendAfter
	backoff  time.Duration
	paused   bool // an error: nothing is sent before resume
	resume   time.Time
	failing  bool // logged already

	mu      sync.Mutex // guards below
	changed chan struct{}
	stats   Stats
	ended   error // of Run; errNotRunning before
}

var (
	errNotRunning = errors.New("ship is not running")
	errNoBroker   = errors.New("there is no connection to the broker")
)

// flight is a published frame.
type flight struct {
	seq uint64
	ack jetstream.PubAckFuture
}

// New returns a ship that does nothing before Run.
func New(cfg Config) (*Ship, error) {
	if cfg.Conn == nil || cfg.JetStream == nil || cfg.Spool == nil || cfg.Cluster == "" {
		return nil, errors.New("make ship: connection, jetstream, spool and cluster are needed")
	}
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orDuration(&cfg.ResendAfter, 10*time.Minute)
	orDuration(&cfg.AskAfter, 30*time.Second)
	orDuration(&cfg.BackoffMin, 250*time.Millisecond)
	orDuration(&cfg.BackoffMax, 30*time.Second)
	if cfg.Window <= 0 {
		cfg.Window = 16
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Ship{
		cfg: cfg, lg: cfg.Log.With(slog.String("node", cfg.Node)), commit: wire.CommitSubject(cfg.Cluster, cfg.Node),
		mark: wire.CommitMark{Spool: cfg.Spool.ID()}, changed: make(chan struct{}), factor: 1,
	}
	if cfg.Node != "" {
		s.subject = wire.NodeSubject(cfg.Cluster, cfg.Node)
		return s, nil
	}
	dec, err := wire.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("make ship: %w", err)
	}
	s.dec = dec
	return s, nil
}

// Stats returns the ship's counts.
func (s *Ship) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Ship) count(add func(*Stats)) {
	s.mu.Lock()
	add(&s.stats)
	s.mu.Unlock()
}

// Run ships until ctx ends, and then returns nil. It outlives broker and collector; the
// errors it returns are a closed spool or connection. It runs once.
func (s *Ship) Run(ctx context.Context) error {
	marks := make(chan *nats.Msg, 16)
	sub, err := s.cfg.Conn.ChanSubscribe(s.commit, marks)
	if err != nil {
		return s.end(fmt.Errorf("subscribe to commit marks: %w", err))
	}
	err = s.loop(ctx, marks)
	if uerr := sub.Unsubscribe(); uerr != nil && !s.cfg.Conn.IsClosed() {
		err = errors.Join(err, fmt.Errorf("unsubscribe from commit marks: %w", uerr))
	}
	return s.end(err)
}

func (s *Ship) end(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = errNotRunning
	if err != nil {
		s.ended = err
	}
	close(s.changed)
	s.changed = nil
	return err
}

func (s *Ship) loop(ctx context.Context, marks <-chan *nats.Msg) error {
	s.progress = time.Now()
	s.reader = s.cfg.Spool.Read(s.cfg.Spool.Acked() + 1)
	s.ask(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := s.fill(); err != nil {
			if s.cfg.Conn.IsClosed() || errors.Is(err, spool.ErrClosed) {
				return fmt.Errorf("ship node %q: %w", s.cfg.Node, err)
			}
			s.fail(err)
		}
		timer.Reset(s.wait())
		var acked <-chan *jetstream.PubAck
		var refused <-chan error
		if len(s.flights) > 0 {
			acked, refused = s.flights[0].ack.Ok(), s.flights[0].ack.Err()
		}
		select {
		case <-ctx.Done():
			return nil
		case ack := <-acked:
			s.acked(ack)
		case err := <-refused:
			s.fail(fmt.Errorf("publish frame %d: %w", s.flights[0].seq, err))
		case msg, ok := <-marks:
			if !ok {
				return fmt.Errorf("ship node %q: %w", s.cfg.Node, nats.ErrConnectionClosed)
			}
			s.take(msg.Data)
		case <-s.cfg.Spool.Notify():
		case <-timer.C:
			if s.paused {
				s.paused = time.Now().Before(s.resume)
			}
			s.overdue(ctx)
		}
	}
}

// fill publishes until the window is full or there is nothing to send.
func (s *Ship) fill() error {
	for !s.paused && len(s.flights) < s.cfg.Window {
		seq, frame, err := s.reader.Next(nil)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.mark.Has(seq) {
			continue // a repeat that has become needless
		}
		subject := s.subject
		if subject == "" {
			var b wire.Batch
			if err = s.dec.Decode(frame, &b); err != nil {
				return fmt.Errorf("frame %d: %w", seq, err)
			}
			subject = wire.BatchSubject(&b)
		}
		ack, err := s.cfg.JetStream.PublishMsgAsync(&nats.Msg{Subject: subject, Data: frame},
			jetstream.WithMsgID(wire.MessageID(s.cfg.Node, s.cfg.Spool.ID(), seq)))
		if away := errors.Is(err, nats.ErrHeadersNotSupported) || errors.Is(err, nats.ErrReconnectBufExceeded); away && !s.cfg.Conn.IsConnected() {
			err = errNoBroker // what it can do is not known, and nothing is kept for it but in the spool
		}
		if err != nil {
			return fmt.Errorf("publish frame %d: %w", seq, err)
		}
		s.flights = append(s.flights, flight{seq, ack})
		s.count(func(st *Stats) { st.Published++ })
	}
	return nil
}

func (s *Ship) acked(*jetstream.PubAck) {
	seq := s.flights[0].seq
	s.flights = append(s.flights[:0], s.flights[1:]...)
	if s.cfg.Spool.Acked() == s.cfg.Spool.Committed() {
		s.progress = time.Now() // from now on something waits for a mark
	}
	if err := s.cfg.Spool.Ack(seq); err != nil {
		s.fail(err)
		return
	}
	s.backoff = 0
	s.count(func(st *Stats) { st.Acked++ })
	if s.failing {
		s.failing = false
		s.lg.LogAttrs(context.Background(), slog.LevelInfo, "frames are shipped again", slog.Uint64("sequence", seq))
	}
}

// fail forgets the window and pauses; it logs the first of a row of errors.
func (s *Ship) fail(err error) {
	s.count(func(st *Stats) { st.Errors++ })
	if !s.failing {
		s.failing = true
		s.lg.LogAttrs(context.Background(), slog.LevelWarn, "shipping pauses", slog.Any("err", err))
	}
	s.flights = s.flights[:0]
	s.reader = s.cfg.Spool.Read(s.cfg.Spool.Acked() + 1)
	s.backoff = min(max(2*s.backoff, s.cfg.BackoffMin), s.cfg.BackoffMax)
	s.paused, s.resume = true, time.Now().Add(s.backoff)
}

// wait is how long the loop may sleep without an event.
func (s *Ship) wait() time.Duration {
	if s.paused {
		return max(time.Until(s.resume), time.Millisecond)
	}
	if s.cfg.Spool.Acked() == s.cfg.Spool.Committed() {
		return s.cfg.AskAfter // nothing waits for a mark
	}
	now := time.Now()
	due := min(s.progress.Add(s.factor*s.cfg.ResendAfter).Sub(now), max(s.asked.Sub(now), s.progress.Sub(now))+s.cfg.AskAfter)
	return max(due, time.Millisecond)
}

// overdue asks for a mark, or sends again, if that is due.
func (s *Ship) overdue(ctx context.Context) {
	acked, committed := s.cfg.Spool.Acked(), s.cfg.Spool.Committed()
	now := time.Now()
	if acked == committed {
		s.progress = now // the time counts from the next ack on
		return
	}
	if now.Sub(s.asked) >= s.cfg.AskAfter && now.Sub(s.progress) >= s.cfg.AskAfter {
		s.ask(ctx)
		committed = s.cfg.Spool.Committed()
	}
	if now.Sub(s.progress) < s.factor*s.cfg.ResendAfter || acked == committed || len(s.flights) > 0 {
		return
	}
	s.lg.LogAttrs(ctx, slog.LevelWarn, "frames are sent again for want of a commit mark",
		slog.Uint64("from", committed+1), slog.Uint64("to", acked))
	s.count(func(st *Stats) { st.Resent += acked - committed })
	s.reader = s.cfg.Spool.Read(committed + 1)
	s.progress = now
	s.factor = min(2*s.factor, maxResendFactor)
}

// ask gets the last commit mark from the commit stream, by direct get, the only request
// that a node's permissions need allow. Without an answer the next mark, or sending again,
// does the same.
func (s *Ship) ask(ctx context.Context) {
	s.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg, err := s.cfg.Conn.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+broker.CommitStream+"."+s.commit, nil)
	if err != nil {
		s.lg.LogAttrs(ctx, slog.LevelDebug, "no last commit mark", slog.Any("err", err))
		return
	}
	if msg.Header.Get("Status") == "" { // else there is none
		s.take(msg.Data)
	}
}

// take works a commit mark in.
func (s *Ship) take(data []byte) {
	m, err := wire.DecodeCommitMark(data)
	if err != nil || m.Cluster != s.cfg.Cluster || m.Node != s.cfg.Node {
		s.count(func(st *Stats) { st.BadMarks++ })
		s.lg.LogAttrs(context.Background(), slog.LevelWarn, "bad commit mark", slog.Any("err", err))
		return
	}
	if m.Spool != s.cfg.Spool.ID() {
		return // of a spool that this node had before
	}
	s.count(func(st *Stats) { st.Marks++ })
	sp := s.cfg.Spool
	before, synced := sp.Committed(), sp.Synced()
	// What a mark says of frames that do not exist yet is not true of them when they do.
	s.mark.Add(1, min(m.Through, synced))
	for _, r := range m.Ranges {
		s.mark.Add(r.From, min(r.To, synced))
	}
	to := before
	for {
		// Sequences that the spool has given up stand in nobody's way.
		first := sp.First(to + 1)
		if first == 0 || first > synced || !s.mark.Has(first) {
			break
		}
		to = max(first, s.mark.Through)
	}
	if to == before {
		return
	}
	if err := sp.Commit(to); err != nil {
		s.fail(err)
		return
	}
	s.progress, s.factor = time.Now(), 1
	s.mark.Add(1, to)
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// Drain waits until every frame in the spool is committed. Run must be running, or start
// soon.
func (s *Ship) Drain(ctx context.Context) error {
	for {
		s.mu.Lock()
		changed, ended := s.changed, s.ended
		s.mu.Unlock()
		committed := s.cfg.Spool.Committed()
		if s.cfg.Spool.First(committed+1) == 0 {
			return nil
		}
		if ended != nil {
			return fmt.Errorf("drain node %q: %w", s.cfg.Node, ended)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("drain node %q: frames behind %d are not committed: %w", s.cfg.Node, committed, ctx.Err())
		}
	}
}
