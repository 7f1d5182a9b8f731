package ship

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// DefaultBacklogRate suits a GPU host: a day of eight GPUs, 40 MB at most, is sent in three
// minutes. What a fleet sends together is bounded by BacklogAhead.
const DefaultBacklogRate = 256 << 10

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
	// BacklogRate is how many bytes a second may be sent of a backlog, beside new frames, which
	// overtake it. 0: without limit, and all in order, as a replay wants it.
	BacklogRate int64
	// BacklogBytes is how much may wait to be sent before it is a backlog; default 256 KiB.
	BacklogBytes int64
	// BacklogAhead is how much of a backlog may be acknowledged and not committed, so that a
	// fleet that comes back sends no faster than the collector stores, and leaves room in the
	// streams for what is new; default 256 KiB.
	BacklogAhead int64
	// BacklogSpread is the time over which the nodes of a fleet begin with their backlogs;
	// default 30 s, negative: none.
	BacklogSpread time.Duration
	// ParkFor is the time after which a frame that the broker can never take as it is set is
	// tried again; default 1 h.
	ParkFor time.Duration
	// Progress is called after an ack or a commit mark that brought news, by the goroutine of Run,
	// which it holds up; nil: nobody is told.
	Progress func()
	Log      *slog.Logger // nil: none
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

// Stats are counts since New, and from InFlight on what there is.
type Stats struct {
	Published, Acked, Resent, Errors, Marks, BadMarks uint64
	PublishedBytes, BacklogSent                       uint64 // bytes; BacklogSent of a backlog
	// Refused counts the errors by what they were.
	Refused map[Trouble]uint64

	InFlight int
	// Backlog is what is left of it, and BacklogRate the bytes a second that it may have now.
	BacklogFrames int
	BacklogBytes  int64
	BacklogRate   int64
	// LiveLagMs is how old the oldest new frame is that waits for its ack; 0: none waits.
	LiveLagMs int64
	Parked    int // frames that the broker can never take as it is set
	// Trouble is why nothing is sent, or not all; Reason says it in words, since SinceMs.
	Trouble Trouble
	Reason  string
	SinceMs int64
}

// Ship carries one spool's frames.
type Ship struct {
	cfg     Config
	lg      *slog.Logger
	subject string // "": by the batch
	commit  string

	// Owned by Run.
	dec      *wire.Decoder
	live     *spool.Reader // new frames: those from split on
	split    uint64
	liveNext uint64        // behind the last that live has read
	back     *spool.Reader // nil: there is no backlog
	backTo   uint64
	again    bool // back sends again what was acknowledged
	pace     pace
	sent     []sent // of the backlog, acknowledged and not committed
	ahead    int64  // their bytes
	parked   map[uint64]time.Time
	behind   uint64 // a frame that the collector has, and the spool has not made
	flights  []flight
	progress time.Time // of the last commit, or of the start
	asked    time.Time
	factor   time.Duration // of ResendAfter
	backoff  time.Duration
	paused   bool // an error: nothing is sent before resume
	resume   time.Time
	said     Trouble // logged last, at saidAt
	saidAt   time.Time

	mu      sync.Mutex // guards below
	changed chan struct{}
	stats   Stats
	first   uint64 // split, for Stats
	ended   error  // of Run; errNotRunning before
}

var (
	errNotRunning = errors.New("ship is not running")
	errNoBroker   = errors.New("there is no connection to the broker")
)

// flight is a published frame.
type flight struct {
	seq  uint64
	size int
	back bool
	ack  jetstream.PubAckFuture
}

// sent is a frame of a backlog that waits for its commit mark.
type sent struct {
	seq  uint64
	size int
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
	orDuration(&cfg.ParkFor, time.Hour)
	if cfg.BacklogSpread == 0 {
		cfg.BacklogSpread = 30 * time.Second
	}
	if cfg.BacklogBytes <= 0 {
		cfg.BacklogBytes = 256 << 10
	}
	if cfg.BacklogAhead <= 0 {
		cfg.BacklogAhead = 256 << 10
	}
	if cfg.Window <= 0 {
		cfg.Window = 16
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Ship{
		cfg: cfg, lg: cfg.Log.With(slog.String("node", cfg.Node)), commit: wire.CommitSubject(cfg.Cluster, cfg.Node),
		changed: make(chan struct{}), factor: 1, parked: map[uint64]time.Time{}, pace: newPace(cfg.BacklogRate),
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

// Stats returns the ship's counts and how it is.
func (s *Ship) Stats() Stats {
	s.mu.Lock()
	st, first := s.stats, s.first
	st.Refused = maps.Clone(s.stats.Refused)
	s.mu.Unlock()
	sp := s.cfg.Spool
	if first > 1 {
		st.BacklogFrames, st.BacklogBytes = sp.ReadUnacked(1, first-1).Rest(math.MaxInt64)
	}
	// A closed spool has nothing that waits.
	if at, err := sp.OldestUnackedMs(first); err == nil && at > 0 {
		st.LiveLagMs = max(time.Now().UnixMilli()-at, 0)
	}
	return st
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
	s.rewind()
	s.ask(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		err := s.fill()
		if err != nil {
			if s.cfg.Conn.IsClosed() || errors.Is(err, spool.ErrClosed) {
				return fmt.Errorf("ship node %q: %w", s.cfg.Node, err)
			}
			s.fail(err)
		}
		s.show()
		timer.Reset(s.wait())
		var acked <-chan *jetstream.PubAck
		var refused <-chan error
		if len(s.flights) > 0 {
			acked, refused = s.flights[0].ack.Ok(), s.flights[0].ack.Err()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-acked:
			s.acked()
		case err := <-refused:
			s.refused(err)
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

// rewind makes the readers begin with the first frames that are not acknowledged.
func (s *Ship) rewind() {
	sp := s.cfg.Spool
	switch {
	case s.back == nil:
		s.split = sp.Acked() + 1
	case s.again:
		s.back = sp.ReadUncommitted(sp.Committed()+1, s.backTo)
	default:
		s.back = sp.ReadUnacked(sp.Acked()+1, s.backTo)
	}
	s.live, s.liveNext = sp.ReadUnacked(s.split, 0), s.split
}

// acked takes the ack of the first flight.
func (s *Ship) acked() {
	f := s.flights[0]
	s.flights = append(s.flights[:0], s.flights[1:]...)
	sp := s.cfg.Spool
	if sp.Settled() {
		s.progress = time.Now() // from now on something waits for a mark
	}
	if err := sp.AckRange(f.seq, f.seq); err != nil {
		s.fail(err)
		return
	}
	if f.back && !sp.IsCommitted(f.seq) {
		s.sent = append(s.sent, sent{f.seq, f.size})
		s.ahead += int64(f.size)
	}
	s.backoff = 0
	s.count(func(st *Stats) { st.Acked++ })
	s.well(f.seq)
	s.progressed()
}

func (s *Ship) progressed() {
	if s.cfg.Progress != nil {
		s.cfg.Progress()
	}
}

// wait is how long the loop may sleep without an event.
func (s *Ship) wait() time.Duration {
	now := time.Now()
	if s.paused {
		return max(s.resume.Sub(now), time.Millisecond)
	}
	due := s.cfg.AskAfter
	if !s.cfg.Spool.Settled() { // something waits for a mark
		due = min(s.progress.Add(s.factor*s.cfg.ResendAfter).Sub(now), max(s.asked.Sub(now), s.progress.Sub(now))+s.cfg.AskAfter)
	}
	if s.back != nil && s.roomForBacklog() {
		due = min(due, s.pace.wait(now))
	}
	for _, until := range s.parked {
		due = min(due, until.Sub(now))
	}
	return max(due, time.Millisecond)
}

// overdue asks for a mark, or sends again, if that is due.
func (s *Ship) overdue(ctx context.Context) {
	sp := s.cfg.Spool
	now := time.Now()
	s.unpark(now)
	if sp.Settled() {
		s.progress = now // the time counts from the next ack on
		return
	}
	if now.Sub(s.asked) >= s.cfg.AskAfter && now.Sub(s.progress) >= s.cfg.AskAfter {
		s.ask(ctx)
	}
	if now.Sub(s.progress) < s.factor*s.cfg.ResendAfter || sp.Settled() || len(s.flights) > 0 {
		return
	}
	from, to := sp.Committed()+1, max(s.backTo, s.liveNext-1)
	s.lg.LogAttrs(ctx, slog.LevelWarn, "frames are sent again for want of a commit mark",
		slog.Uint64("from", from), slog.Uint64("to", to))
	s.begin(sp.ReadUncommitted(from, to), to, true)
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
	more := make([]spool.Range, len(m.Ranges))
	for i, r := range m.Ranges {
		more[i] = spool.Range(r)
	}
	sp := s.cfg.Spool
	s.compare(m)
	before := sp.Committed()
	news, err := sp.CommitMark(m.Through, more)
	if err != nil {
		// What is committed is known, and frames stay on disk longer than they need to.
		s.note(classify(s.cfg.Conn, err), fmt.Errorf("free committed frames: %w", err))
	}
	if !news {
		return
	}
	if sp.Committed() > before || sp.Settled() {
		// New frames that are stored are no progress for one that got lost before them.
		s.progress, s.factor = time.Now(), 1
	}
	s.credit()
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	s.progressed()
}

// compare looks whether the collector has frames that this spool has not made: then it was put
// back to an earlier state, as with a snapshot of the host, and what it makes under their numbers
// goes to quarantine as conflicts. That cannot be mended here, and must not pass in silence.
func (s *Ship) compare(m wire.CommitMark) {
	top := m.Through
	for _, r := range m.Ranges {
		top = max(top, r.To)
	}
	next := s.cfg.Spool.NextSequence()
	if top < next || top <= s.behind {
		return
	}
	s.behind = top
	s.count(func(st *Stats) { st.Trouble, st.Reason, st.SinceMs = TroubleSpool, behindText, 0 })
	s.lg.LogAttrs(noCtx, slog.LevelError, behindText, slog.Uint64("collector_has", top), slog.Uint64("spool_made", next-1))
}

// behindText is what is said of a spool that was put back.
const behindText = "the spool was put back to an earlier state: the collector has later frames, and takes new ones of their numbers for repeats; stop the agent and move the spool's directory away, so that it begins a new one"

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
