package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/internal/store"
)

// Defaults of LiveConfig.
const (
	// HorizonMs is how much event time is kept in memory.
	HorizonMs = 35 * dayMs
	// MaxCells is how many minute cells of GPUs memory holds, some 0.2 KiB each; older time is sealed
	// to a few cells an hour. The last hour stays in minutes whatever the number of GPUs.
	MaxCells = 500_000
	// sealedMost is how many cells of GPUs there may be altogether for each of MaxCells, before activities that ended leave memory
	// sooner than at the horizon.
	sealedMost = 24
	// SettleMs is how much longer than the wait a minute waits for rows on their way from the
	// broker into the store.
	SettleMs = 15_000

	// overlapMs is how long after its time of insertion the row of a batch may become visible.
	overlapMs = 5 * 60_000
	// ratesMs is how often the rates of ports are read.
	ratesMs = 60 * 60_000
	// leastSpanMs stays in memory however many cells there are.
	leastSpanMs = 2 * dayMs
)

// ErrStopped says that a Follower may say no more: another detector leads.
var ErrStopped = errors.New("another detector leads")

// LiveStore is what following a store needs beyond judging a period of it.
type LiveStore interface {
	Store
	// BatchesInserted returns batches that came into the store after insertedAfterMs, by its own
	// clock, and were available by toAvailableMs.
	BatchesInserted(ctx context.Context, cluster string, insertedAfterMs, toAvailableMs int64) ([]store.BatchRow, error)
	FirstData(ctx context.Context, cluster string, fromMs int64) (firstMs, availableMs int64, ok bool, err error)
	Position(ctx context.Context, cluster string) (p store.PositionRow, ok bool, err error)
	PutPosition(ctx context.Context, cluster string, p store.PositionRow) error
	RunsAsOf(ctx context.Context, cluster string, version uint64) ([]store.RunRow, error)
	FindingsAsOf(ctx context.Context, cluster string, version uint64) ([]store.FindingRow, error)
	PartiesMark(ctx context.Context) (string, error)
	// LossesMark changes when what is lost does.
	LossesMark(ctx context.Context, cluster string) (string, error)
	Register
	ReviewStore
}

// LiveConfig says how a store is followed. BrokerMs, Held and Log are needed.
type LiveConfig struct {
	// BrokerMs is the broker's time in Unix milliseconds, by which batches are stamped; not ok:
	// it cannot be told now, and nothing is judged.
	BrokerMs func() (ms int64, ok bool)
	// Held is nil while this detector leads. It is asked before each write.
	Held func() error
	// Instance names this process in the position, for people.
	Instance string
	// HorizonMs and SettleMs: see the constants; 0: those. A negative SettleMs: none.
	HorizonMs, SettleMs int64
	// MaxCells is that of the Config, where it is not 0.
	MaxCells int
	// StartMs is where the period that is judged begins where nothing was judged before; 0: with
	// the first data in the store within the horizon.
	StartMs int64
	// EndMs is where a recording ends that is followed: it is judged with all that is there, and
	// Run returns. 0: never.
	EndMs int64
	// Poll is how often the broker's time is looked at; default 1 s.
	Poll time.Duration
	// Retry is the longest pause before a write or a read is tried again; default 15 s.
	Retry time.Duration
	// ReportsDir gets one folder a finding, as findings are raised and revised; "": none does.
	ReportsDir string
	Log        *slog.Logger
}

// Follower judges a store as it grows. Run is used by one goroutine, Status by any.
type Follower struct {
	d     *Detector
	live  LiveConfig
	store LiveStore

	started  bool
	resumed  bool  // the next step is the first since a restart
	firstMs  int64 // the first moment that is judged
	judgedMs int64 // the last moment that is judged and stored; 0: none is
	availMs  int64 // batches available by then were taken in
	seenMs   int64 // latest insertion of a batch that was seen, by the store's clock
	seen     map[store.BatchKey]int64
	facts    bool   // to be read again
	profiles string // under which history was judged last, as verdicts say; "": not known
	parties  string
	losses   string // mark of what is lost; "": not read yet
	ratesAt  int64
	reports  reportQueue
	crowded  bool   // told that there are more cells than memory was planned for
	failing  string // what the store refuses; "": nothing
	// reviewConfig is that under which history is judged again where profiles changed.
	reviewConfig Config

	mu     sync.Mutex
	status Status
	handed *reviewed // a review that is to be taken over; nil: none is
}

// NewFollower returns a follower that knows nothing yet. The configuration's epoch is that of
// the lease under which it leads.
func NewFollower(cfg Config, live LiveConfig, st LiveStore) (*Follower, error) {
	switch {
	case live.BrokerMs == nil || live.Held == nil || live.Log == nil:
		return nil, errors.New("follow the store: without the broker's time, a lease or a logger")
	case cfg.WaitMs < 0 || live.HorizonMs < 0 || live.MaxCells < 0:
		return nil, errors.New("follow the store: wait, horizon and cells cannot be negative")
	}
	if live.HorizonMs == 0 {
		live.HorizonMs = HorizonMs
	}
	if live.MaxCells != 0 {
		cfg.MaxCells = live.MaxCells
	}
	switch {
	case live.SettleMs == 0:
		live.SettleMs = SettleMs
	case live.SettleMs < 0:
		live.SettleMs = 0
	}
	if live.Poll == 0 {
		live.Poll = time.Second
	}
	if live.Retry == 0 {
		live.Retry = 15 * time.Second
	}
	f := &Follower{d: New(cfg, st, identity.NewGraph(nil)), live: live, store: st, seen: map[store.BatchKey]int64{}, facts: true, reports: newReportQueue()}
	f.d.write = f.steadily
	f.reviewConfig = cfg
	f.reviewConfig.StepMs, f.reviewConfig.Progress = max(cfg.StepMs, reviewStepMs), nil
	f.status = Status{Epoch: cfg.Epoch, StartedMs: live.StartMs}
	return f, nil
}

// Run follows the store until ctx ends (nil), the recording that it follows does (nil), or
// somebody else leads (ErrStopped). A store that is away is waited for.
func (f *Follower) Run(ctx context.Context) error {
	err := f.run(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // told to stop: what was cut short is judged again by whoever comes next
	}
	return err
}

func (f *Follower) run(ctx context.Context) error {
	if err := f.steadily(ctx, "take up the detector's position", f.resume); err != nil {
		return err
	}
	var beside sync.WaitGroup
	reviewing, stop := context.WithCancel(ctx)
	defer beside.Wait()
	defer stop()
	beside.Go(func() { f.reviewHistory(reviewing) })
	for {
		nowMs, ok := f.live.BrokerMs()
		f.clock(nowMs, ok)
		if ok {
			if err := f.advance(ctx, nowMs); err != nil {
				return err
			}
		}
		if f.live.EndMs != 0 && f.judgedMs >= f.live.EndMs {
			return f.writeReports(ctx, true)
		}
		if err := pause(ctx, f.live.Poll); err != nil {
			return err
		}
		if err := f.live.Held(); err != nil {
			return errors.Join(ErrStopped, err)
		}
	}
}

// advance judges every moment that lies the wait behind nowMs.
func (f *Follower) advance(ctx context.Context, nowMs int64) error {
	toMs := feature.MinuteOf(nowMs - f.d.cfg.WaitMs - f.live.SettleMs)
	if f.live.EndMs != 0 && nowMs >= f.live.EndMs+f.d.cfg.WaitMs+f.live.SettleMs {
		toMs = f.live.EndMs
	}
	if !f.started {
		if err := f.steadily(ctx, "look for the first data", func(ctx context.Context) error { return f.begin(ctx, nowMs) }); err != nil || !f.started {
			return err
		}
	}
	for ctx.Err() == nil {
		at := f.firstMs
		if f.judgedMs != 0 {
			at = f.next(toMs)
		}
		if at > toMs {
			return nil
		}
		to := toMs
		if end := feature.MinuteOf(at + blockMs); end < toMs {
			to = max(end, at)
		}
		if err := f.step(ctx, at, to); err != nil {
			return err
		}
	}
	return fmt.Errorf("judge: %w", ctx.Err())
}

// next is the moment to judge after the last: the next of the grid, or the end of the
// recording where that lies before it.
func (f *Follower) next(toMs int64) int64 {
	at := nextStep(f.judgedMs)
	if toMs == f.live.EndMs && f.judgedMs < toMs {
		at = min(at, toMs)
	}
	return at
}

// begin finds where the judged period starts, once there is data.
func (f *Follower) begin(ctx context.Context, nowMs int64) error {
	from := nowMs - f.live.HorizonMs
	start := f.live.StartMs
	if start == 0 {
		first, available, ok, err := f.store.FirstData(ctx, f.d.cfg.Cluster, from)
		if err != nil || !ok {
			return err
		}
		start = feature.MinuteOf(max(first, from))
		// A moment at which nothing had come yet says nothing: rows of an hour ago that came just
		// now are judged as of now.
		f.firstMs = feature.MinuteOf(available-1-f.d.cfg.WaitMs) + StepMs
	}
	f.firstMs = max(f.firstMs, start)
	f.d.startMs, f.d.newestMs, f.started = start, start, true
	f.availMs = -maxMs
	if f.live.StartMs == 0 {
		f.availMs, f.seenMs = start-1, start // what the store has of the time before lies beyond the horizon
	}
	f.live.Log.LogAttrs(ctx, slog.LevelInfo, "judging from here", slog.Time("start", time.UnixMilli(start).UTC()))
	return nil
}

// step judges the moments from at to to as one block: it reads what came, judges, writes, and
// moves the position. A crash before the last write repeats the block.
func (f *Follower) step(ctx context.Context, at, to int64) error {
	begun := f.d.cfg.Now()
	var review *store.ReviewRow
	if err := f.steadily(ctx, "take over what was judged again", func(ctx context.Context) (err error) {
		review, err = f.takeOver(ctx)
		return err
	}); err != nil {
		return err
	}
	hi := to + f.d.cfg.WaitMs
	last := f.live.EndMs != 0 && to >= f.live.EndMs
	if last {
		hi = maxMs
	}
	var in intake
	if err := f.steadily(ctx, "read what came", func(ctx context.Context) (err error) {
		in, err = f.read(ctx, at, hi)
		return err
	}); err != nil {
		return err
	}
	endMs := f.live.EndMs
	if endMs == 0 {
		endMs = maxMs
	}
	if err := f.d.judgeBlock(ctx, &rawFeed{d: f.d, w: in.window, nearMs: at - nearSpanMs, batches: in.batches, again: in.again}, max(f.d.startMs, f.d.cutMs), at, to, endMs); err != nil {
		return err
	}
	f.taken(&in, hi)
	f.judgedMs = to
	if err := f.steadily(ctx, "store the detector's position", func(ctx context.Context) error {
		return f.store.PutPosition(ctx, f.d.cfg.Cluster, f.position())
	}); err != nil {
		return err
	}
	if review != nil {
		if err := f.steadily(ctx, "say that history is judged again", func(ctx context.Context) error { return f.tookOver(ctx, review) }); err != nil {
			return err
		}
	}
	f.took(f.d.cfg.Now().Sub(begun).Seconds(), in.late)
	f.judged(to, (to-at)/StepMs+1)
	f.reports.add(f.d.said, to)
	f.d.said = nil
	if err := f.writeReports(ctx, false); err != nil {
		return err
	}
	f.forget(ctx, to)
	return nil
}

// intake is what a block rests on.
type intake struct {
	batches []store.BatchRow // by availability
	again   map[store.BatchKey]bool
	window  *window
	seenMs  int64
	late    int
}

// read reads batches and raw rows, and facts if they changed. It changes nothing that
// repeating it would not.
func (f *Follower) read(ctx context.Context, at, hi int64) (intake, error) {
	in := intake{again: map[store.BatchKey]bool{}, seenMs: f.seenMs}
	fresh, err := f.store.BatchesAfter(ctx, f.d.cfg.Cluster, f.availMs, hi)
	if err != nil {
		return in, fmt.Errorf("read batches: %w", err)
	}
	in.batches = fresh
	if f.judgedMs != 0 {
		late, lerr := f.store.BatchesInserted(ctx, f.d.cfg.Cluster, f.seenMs-overlapMs, f.availMs)
		if lerr != nil {
			return in, fmt.Errorf("read late batches: %w", lerr)
		}
		for i := range late {
			if _, ok := f.seen[late[i].BatchKey]; ok {
				continue
			}
			if f.resumed && late[i].InsertedMs <= f.seenMs {
				in.again[late[i].BatchKey] = true
			}
			in.batches = append(in.batches, late[i])
			in.late++
		}
		slices.SortStableFunc(in.batches, byAvailability)
	}
	for i := range in.batches {
		in.seenMs = max(in.seenMs, in.batches[i].InsertedMs)
		f.facts = f.facts || changesFacts(&in.batches[i])
	}
	f.facts = f.facts || f.d.st.grown
	if err = f.readFacts(ctx, at, hi); err != nil {
		return in, err
	}
	if err = f.d.loadInstances(ctx, at, min(hi-f.d.cfg.WaitMs, at+dayMs)); err != nil {
		return in, err
	}
	in.window, err = f.d.loadWindow(ctx, in.batches, at-nearSpanMs, hi)
	return in, err
}

// taken remembers what a block took in, once it is judged.
func (f *Follower) taken(in *intake, hi int64) {
	f.seenMs, f.resumed = in.seenMs, false
	f.availMs = max(f.availMs, hi)
	from := f.seenMs - overlapMs
	maps.DeleteFunc(f.seen, func(_ store.BatchKey, insertedMs int64) bool { return insertedMs <= from })
	for i := range in.batches {
		if b := &in.batches[i]; b.InsertedMs > from {
			f.seen[b.BatchKey] = b.InsertedMs
		}
	}
}

// readFacts reads what was stated again where it changed.
func (f *Follower) readFacts(ctx context.Context, at, hi int64) error {
	mark, err := f.store.PartiesMark(ctx)
	if err != nil {
		return err
	}
	if mark != f.parties {
		graph, lerr := LoadParties(ctx, f.store)
		if lerr != nil {
			return lerr
		}
		f.d.parties, f.parties = graph, mark
		f.d.due = f.d.due || f.judgedMs != 0
	}
	if mark, err = f.store.LossesMark(ctx, f.d.cfg.Cluster); err != nil {
		return err
	}
	if mark != f.losses {
		// Hours after their time: no step finds it in its own minute.
		f.d.due = f.d.due || f.losses != "" && f.judgedMs != 0
		f.losses, f.facts = mark, true
	}
	if f.d.ratesMissing && hi < maxMs && hi-f.ratesAt >= ratesMs {
		rates, err := f.store.FabricRates(ctx, store.RowQuery{Cluster: f.d.cfg.Cluster, FromMs: hi - 2*ratesMs, ToMs: hi})
		if err != nil {
			return err
		}
		if f.d.rates == nil {
			f.d.rates = map[string]float64{}
		}
		maps.Copy(f.d.rates, rates) // a port that tells nothing now is still there
		f.ratesAt, f.facts = hi, true
	}
	if !f.facts {
		return nil
	}
	f.d.st.grown = false
	before := f.d.pastFacts(at - StepMs)
	if err := f.d.loadFacts(ctx); err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	if f.judgedMs != 0 && f.d.pastFacts(at-StepMs) != before {
		f.d.due = true // stated late: no step will find it in its own minute
	}
	f.facts = f.d.ratesMissing && f.ratesAt == 0 // once their nodes are known
	return nil
}

func (f *Follower) position() store.PositionRow {
	return store.PositionRow{
		Epoch: f.d.cfg.Epoch, JudgedMs: f.judgedMs, StartMs: f.d.startMs, CutMs: f.d.cutMs, AvailableMs: f.availMs, LastMs: f.d.prevAtMs,
		NewestMs: f.d.newestMs, Due: f.d.due, SeenMs: f.seenMs, Instance: f.live.Instance, Config: f.d.cfg.ConfigDigest, Profiles: f.d.cfg.ProfileVersion,
	}
}

// forget lets go of what lies beyond the horizon, and says where that is not enough.
func (f *Follower) forget(ctx context.Context, atMs int64) {
	over := f.d.forget(atMs, f.live.HorizonMs)
	f.over(over)
	if over > 0 && !f.crowded {
		f.live.Log.LogAttrs(ctx, slog.LevelWarn, "what goes on takes more memory than was planned; it is kept whole", slog.Int("cells", f.d.st.gpuCells), slog.Int("beyond", over))
	}
	f.crowded = over > 0
}

// forget lets go of what ended beyond the horizon, or sooner where there is too much. Nothing that goes on is let go: it
// returns how many cells there are beyond what memory was planned for.
func (d *Detector) forget(atMs, horizonMs int64) (over int) {
	granule := max(feature.MinuteOf(horizonMs/16), feature.MinuteMs)
	cut := (atMs - horizonMs) / granule * granule
	if cut > max(d.cutMs, d.startMs) && d.acts != nil {
		d.trim(cut)
	}
	most := sealedMost * d.cfg.MaxCells
	// An eighth sooner, so that not every step has to.
	if span := atMs - max(d.cutMs, d.startMs); d.st.gpuCells > most && span > leastSpanMs && d.acts != nil {
		d.trim(feature.MinuteOf(atMs - max(span*7/8, leastSpanMs)))
	}
	return max(0, d.st.gpuCells-most)
}

// steadily does one piece of work with the store until it succeeds. It ends with ctx, and with
// ErrStopped when somebody else leads.
func (f *Follower) steadily(ctx context.Context, what string, work func(context.Context) error) error {
	for wait := min(250*time.Millisecond, f.live.Retry); ; wait = min(2*wait, f.live.Retry) {
		if err := f.live.Held(); err != nil {
			return errors.Join(ErrStopped, err)
		}
		err := work(ctx)
		switch {
		case err == nil:
			f.storeIsBack(ctx)
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case errors.Is(err, store.ErrStaleEpoch):
			return fmt.Errorf("%s: %w: %w", what, ErrStopped, err)
		}
		f.storeFails(ctx, what, err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// pause waits for d or the end of ctx, which is its error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	case <-t.C:
		return nil
	}
}
