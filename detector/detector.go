package detector

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/store"
)

// Version of the detector's arithmetic. It stands on every verdict; change it whenever
// the same rows would be judged differently.
const Version = "0.2.0"

// Timing of the judgement, in milliseconds of event time.
const (
	// StepMs is the grid on which event time is judged.
	StepMs = feature.MinuteMs
	// WaitMs is how far behind what has arrived a minute is judged, whoever is missing, unless
	// Config says otherwise.
	WaitMs = 10 * 60_000
	// quietMs is how often a fleet is judged from which nothing new came: silence is a
	// finding too.
	quietMs     = 10 * 60_000
	quietHourMs = 60 * 60_000      // after six hours of silence
	quietDayMs  = 24 * quietHourMs // after a week of it
	// blockMs is how much event time is read from the store at once.
	blockMs      = 30 * 60_000
	quietBlockMs = 12 * quietHourMs // behind a block in which nothing came
	// nearSpanMs is how far behind a block rows are read for it as a whole.
	nearSpanMs = 2 * quietHourMs
	// maxMs is later than any event.
	maxMs = math.MaxInt64 / 4
)

// Config of a detector.
type Config struct {
	Cluster              string
	Profiles             []threshold.Profile
	ProfileVersion       string   // of the set of profiles
	SpecialJurisdictions []string // country codes under special measures
	ConfigDigest         string   // of everything that can change a verdict, for the record
	Epoch                uint64   // fencing epoch of the leader's lease; stands on every verdict
	WaitMs               int64    // how far behind what has arrived a minute is judged; 0: the default
	StepMs               int64    // least time between two judgements, whole minutes; 0: one
	MaxCells             int      // minutes of GPUs that stay minutes in memory: older ones are sealed; 0: the constant
	// Now stamps when the system raised a finding, in wall time. No verdict depends on it.
	Now func() time.Time
	// Progress, if set, is called after each block with the judged moment.
	Progress func(atMs int64)
}

// Store is what the detector reads and writes.
type Store interface {
	BatchesAfter(ctx context.Context, cluster string, afterAvailableMs, toAvailableMs int64) ([]store.BatchRow, error)
	GPURows(ctx context.Context, q store.RowQuery) ([]store.GPURow, error)
	HostRows(ctx context.Context, q store.RowQuery) ([]store.HostRow, error)
	FabricRows(ctx context.Context, q store.RowQuery) ([]store.FabricRow, error)
	FlowRows(ctx context.Context, q store.RowQuery) ([]store.FlowRow, error)
	CollectiveRows(ctx context.Context, q store.RowQuery) ([]store.CollectiveRow, error)
	ProcessRows(ctx context.Context, a store.AsOf) ([]store.ProcessRow, error)
	AllocationRows(ctx context.Context, a store.AsOf) ([]store.AllocationRow, error)
	OrderRows(ctx context.Context, a store.AsOf) ([]store.OrderRow, error)
	InventoryRows(ctx context.Context, a store.AsOf) ([]store.InventoryRow, error)
	Losses(ctx context.Context, a store.AsOf) ([]store.Loss, error)
	DeviceRows(ctx context.Context, a store.AsOf) ([]store.DeviceRow, error)
	InstanceHours(ctx context.Context, q store.RowQuery) ([]store.InstanceRow, error)
	CheckpointRows(ctx context.Context, a store.AsOf) ([]store.CheckpointRow, error)
	FabricRates(ctx context.Context, q store.RowQuery) (map[string]float64, error)
	PutCells(ctx context.Context, c store.Cells, p store.Provenance) error
	GPUCells(ctx context.Context, q store.RowQuery) ([]store.GPUCellRow, error)
	NodeCells(ctx context.Context, q store.RowQuery) ([]store.NodeCellRow, error)
	CommCells(ctx context.Context, q store.RowQuery) ([]store.CommCellRow, error)
	FlowCells(ctx context.Context, q store.RowQuery) ([]store.FlowCellRow, error)
	PutRuns(ctx context.Context, cluster string, rows []store.RunRow) error
	PutRunMembers(ctx context.Context, cluster string, rows []store.RunMemberRow) error
	PutFindings(ctx context.Context, cluster string, rows []store.FindingRow) error
	Verdicts
	PutEvidence(ctx context.Context, cluster, findingID string, gpu []store.GPURow, host []store.HostRow) error
}

// Detector judges one cluster. It is used by one goroutine.
type Detector struct {
	newestMs int64 // the moment at which something new was last judged

	cfg      Config
	store    Store
	parties  *identity.Graph
	profiles []report.Profile
	st       *state

	startMs   int64                     // of the period that is judged
	prev      map[string]report.Finding // findings of the moment judged last, by id
	withdrawn map[string]report.Finding // findings on runs that an earlier verdict had and the last has not
	due       bool                      // something came since the moment judged last
	prevAtMs  int64                     // that moment; 0: none
	hoursMs   int64                     // hours that end by then were rolled up; 0: none
	raised    map[string]int64          // finding id -> watermark at which it was raised first
	written   map[string]string         // finding id -> line last written
	runs      map[string]string         // run id -> line last written
	acts      []judged                  // activities at the end of the last block, all estimated
	campaigns []run.Campaign            // of these
	looked    *looked                   // nil: the fleet is not large
	runsMs    int64                     // moment as of which runs were written last
	pending   pending
	peaks     map[string]peak // by GPU model: looking one up is slow

	// Of a detector that follows the store, see Follower:
	// rates are those of the nodes' own ports, Gbit/s; ratesMissing: some node's is not stated.
	rates        map[string]float64
	ratesMissing bool

	parted  []string // nodes with partitioned GPUs, sorted
	partsMs int64    // their hours that end by then were read; 0: none were

	cutMs  int64                      // minutes before this were let go; 0: none were
	left   map[string]bool            // runs that are judged no more, as their beginning was let go
	ahead  ahead                      // what an earlier leader said of moments that are judged again
	runsAt map[string]int64           // when a version of a run was written last
	said   []store.FindingRow         // versions of findings since reports were written last
	copied map[string]map[string]span // raw rows that evidence tables have, by finding and node
	// write does one write to the store, again and again if need be; nil: once.
	write func(ctx context.Context, what string, put func(context.Context) error) error
}

// ahead is the latest versions that lie behind the position from which judging goes on: they
// are written again when their moment is judged, or taken back.
type ahead struct {
	runs     map[string]store.RunRow
	findings map[string]store.FindingRow
}

// New returns a detector that knows nothing yet.
func New(cfg Config, st Store, parties *identity.Graph) *Detector {
	cfg.Profiles = watched(cfg.Profiles)
	profiles := make([]report.Profile, len(cfg.Profiles))
	for i, p := range cfg.Profiles {
		profiles[i] = reportProfile(p)
	}
	if cfg.WaitMs == 0 {
		cfg.WaitMs = WaitMs
	}
	if cfg.MaxCells == 0 {
		cfg.MaxCells = MaxCells
	}
	memory := newState()
	memory.waitMs = cfg.WaitMs
	return &Detector{
		left: map[string]bool{}, runsAt: map[string]int64{}, copied: map[string]map[string]span{},
		cfg: cfg, store: st, parties: parties, profiles: profiles, st: memory,
		prev: map[string]report.Finding{}, withdrawn: map[string]report.Finding{}, raised: map[string]int64{}, written: map[string]string{}, runs: map[string]string{},
		pending: newPending(), peaks: map[string]peak{},
	}
}

// Backfill judges the period [startMs, endMs] of stored telemetry minute by minute, as
// it would have been judged live, and writes cells and verdicts. It expects that the
// collector has stored all that the period will get: the last moment is judged with
// everything that is there.
func (d *Detector) Backfill(ctx context.Context, startMs, endMs int64) error {
	if endMs < startMs {
		return fmt.Errorf("judge period: it ends at %d ms, before its start at %d ms", endMs, startMs)
	}
	d.startMs, d.newestMs = startMs, startMs
	if err := d.loadFacts(ctx); err != nil {
		return err
	}
	availMs := int64(-maxMs)
	block := int64(blockMs)
	for at := startMs; ; {
		to := min(feature.MinuteOf(at+block), endMs)
		hi := to + d.cfg.WaitMs
		if to == endMs {
			hi = maxMs
		}
		batches, err := d.store.BatchesAfter(ctx, d.cfg.Cluster, availMs, hi)
		if err != nil {
			return fmt.Errorf("read batches: %w", err)
		}
		if block = blockMs; len(batches) == 0 {
			block = quietBlockMs
		}
		if err = d.loadInstances(ctx, at, to); err != nil {
			return err
		}
		w, err := d.loadWindow(ctx, batches, at-nearSpanMs, hi)
		if err != nil {
			return err
		}
		if err := d.judgeBlock(ctx, &rawFeed{d: d, w: w, nearMs: at - nearSpanMs, batches: batches}, startMs, at, to, endMs); err != nil {
			return err
		}
		if d.cfg.Progress != nil {
			d.cfg.Progress(to)
		}
		if to == endMs {
			return d.endEarlier(ctx, endMs)
		}
		availMs, at = hi, nextStep(to)
	}
}

// Rejudge judges the period [startMs, endMs] from stored cells alone: raw rows may have
// expired. It writes verdicts and no cells.
func (d *Detector) Rejudge(ctx context.Context, startMs, endMs int64) error {
	if endMs < startMs {
		return fmt.Errorf("judge period: it ends at %d ms, before its start at %d ms", endMs, startMs)
	}
	d.startMs, d.newestMs = startMs, startMs
	if err := d.loadFacts(ctx); err != nil {
		return err
	}
	f, err := d.loadCells(ctx, startMs-dayMs, endMs+dayMs)
	if err != nil {
		return err
	}
	for at := startMs; ; {
		to := min(feature.MinuteOf(at+blockMs), endMs)
		if err := d.loadInstances(ctx, at, to); err != nil {
			return err
		}
		if err := d.judgeBlock(ctx, f, startMs, at, to, endMs); err != nil {
			return err
		}
		if d.cfg.Progress != nil {
			d.cfg.Progress(to)
		}
		if to == endMs {
			return d.endEarlier(ctx, endMs)
		}
		at = nextStep(to)
	}
}

// nextStep is the first moment of the grid after ms.
func nextStep(ms int64) int64 { return feature.MinuteOf(ms) + StepMs }

// judgeBlock judges the steps from at to to. Step T sees what was available by T + WaitMs;
// the last step of the period sees everything.
func (d *Detector) judgeBlock(ctx context.Context, f feed, startMs, at, to, endMs int64) error {
	for t := at; ; t = min(nextStep(t), to) {
		if err := ctx.Err(); err != nil {
			return err
		}
		availMs := t + d.cfg.WaitMs
		if t == endMs {
			availMs = maxMs
		}
		came, err := f.until(ctx, availMs)
		if err != nil {
			return err
		}
		d.st.seal(t, d.cfg.MaxCells)
		if came || d.factBetween(t-StepMs, t) {
			d.newestMs = t
		}
		every := quiet(t - d.newestMs)
		d.due = d.due || d.newestMs == t || t/every != (t-StepMs)/every
		if t == startMs || t == endMs || (d.due && t-d.prevAtMs >= d.stride()) {
			d.due = false
			if err := d.judge(startMs, t, t == endMs); err != nil {
				return err
			}
		}
		if t == to {
			break
		}
	}
	return d.flush(ctx, startMs, to, to == endMs, d.prevAtMs >= at || to == endMs || !d.live())
}

// live: a detector that follows the store writes runs when it has judged, not for every minute.
func (d *Detector) live() bool { return d.write != nil }

// cellsPerStep is how many cells of GPUs are judged every minute; a fleet that has more is
// judged less often, so that the work of a day stays bounded. Findings lose nothing by it:
// each looks at every minute since the judgement before.
const (
	cellsPerStep     = 50_000
	cellsPerHalfHour = 4_000_000 // beyond, every half hour will do
)

// stride is the least time between two judgements, in milliseconds.
func (d *Detector) stride() int64 {
	every := int64(1 + d.st.gpuCells/cellsPerStep)
	if d.st.gpuCells > cellsPerHalfHour {
		every = min(every, 30)
	} else {
		every = min(every, 15)
	}
	return max(every*StepMs, d.cfg.StepMs)
}

// quiet is how often a fleet is judged that was silent for a while.
func quiet(silentMs int64) int64 {
	switch {
	case silentMs < 6*quietHourMs:
		return quietMs
	case silentMs < 7*quietDayMs:
		return quietHourMs
	default:
		return quietDayMs
	}
}

// touch is what batches of a step have to do with one node and minute.
type touch struct {
	fresh  bool  // one of them is new for sure
	asOfMs int64 // what was available by then makes the cells
}

// apply reduces the cells that the batches touch and puts them into the state. It
// reports whether there were any.
//
// Batches that may have been applied before a restart count only where they change a cell. What
// they alone touch is made as of the step that would have applied them: a row that came since
// and whose batch is not listed yet was not there then, and comes with its batch.
func (d *Detector) apply(ctx context.Context, f *rawFeed, batches []store.BatchRow, availMs int64) (bool, error) {
	dirty := map[nodeMinute]touch{}
	for _, b := range batches {
		t := touch{fresh: !f.again[b.BatchKey], asOfMs: availMs}
		if !t.fresh {
			t.asOfMs = min(d.appliedMs(b.AvailableMs), availMs)
		}
		for _, m := range b.Minutes {
			from, to := feature.DirtyMinutes(m * feature.MinuteMs)
			for minute := from; minute <= to; minute += feature.MinuteMs {
				k := nodeMinute{b.Node, minute}
				dirty[k] = dirty[k].and(t)
				for _, target := range b.Targets {
					k.node = target
					dirty[k] = dirty[k].and(t)
				}
			}
		}
	}
	d.asMade(dirty, availMs)
	var near, far []nodeMinute
	for k := range dirty { // sorted below
		if k.minute >= f.nearMs {
			near = append(near, k)
		} else {
			far = append(far, k)
		}
	}
	slices.SortFunc(near, compareNodeMinute)
	any := false
	var sealed []cells
	take := func(c cells) {
		k := nodeMinute{c.node, c.minute}
		if c.minute < d.st.sealed[0] {
			sealed = append(sealed, c)
			return
		}
		d.st.keepRicher(c)
		if !dirty[k].fresh && d.st.has(c) {
			d.pending.again[k] = c // a leader that died may have stored the cell and not what rests on it
			return
		}
		d.putLate(c)
		if len(c.gpu)+len(c.host)+len(c.comm)+len(c.flows) > 0 {
			any = true
			d.pending.cells[k] = c
		}
	}
	for _, k := range near {
		take(f.w.reduce(k.node, k.minute, dirty[k].asOfMs))
	}
	if err := d.reduceFar(ctx, far, availMs, func(k nodeMinute) int64 { return dirty[k].asOfMs }, take); err != nil {
		return any, err
	}
	changed, err := d.reopen(ctx, sealed, availMs, func(k nodeMinute) bool { return dirty[k].fresh })
	return any || changed, err
}

// and is what two batches have to do with the same cells.
func (t touch) and(o touch) touch {
	return touch{t.fresh || o.fresh, max(t.asOfMs, o.asOfMs)}
}

// appliedMs is the availability that the step saw which first saw a batch that came in time.
func (d *Detector) appliedMs(availableMs int64) int64 {
	at := feature.MinuteOf(availableMs - d.cfg.WaitMs)
	if at+d.cfg.WaitMs < availableMs {
		at += StepMs
	}
	return max(at, d.startMs) + d.cfg.WaitMs
}

// asMade lets no cell lose rows that it was made of: those that came late are in the cells that are
// held, and in those of the minutes before, on which a cell rests too. Cells that memory let go may
// hold any.
func (d *Detector) asMade(dirty map[nodeMinute]touch, availMs int64) {
	var gpus map[string][]feature.GPUKey // made where there is need: after a restart alone
	for k, t := range dirty {            // each on its own: the order reaches no output
		if t.fresh || t.asOfMs >= availMs {
			continue
		}
		if k.minute < max(d.cutMs, d.st.sealed[0]) {
			dirty[k] = touch{asOfMs: availMs}
			continue
		}
		if gpus == nil {
			gpus = map[string][]feature.GPUKey{}
			for g := range d.st.gpu { // only the latest of them counts
				gpus[g.Node] = append(gpus[g.Node], g)
			}
		}
		dirty[k] = touch{asOfMs: min(max(t.asOfMs, d.st.madeOf(k, gpus[k.node])), availMs)}
	}
}

// factBetween reports whether a stated fact (rental, order, process) changed in (from, to].
func (d *Detector) factBetween(from, to int64) bool {
	in := func(ms int64) bool { return ms > from && ms <= to }
	for _, a := range d.st.allocations {
		if in(a.StartMs) || in(a.EndMs) {
			return true
		}
	}
	for _, o := range d.st.orders {
		if in(o.AmendedMs) || in(o.StartMs) || in(o.EndMs) {
			return true
		}
	}
	for _, p := range d.st.processes {
		if in(p.StartMs) || in(p.EndMs) {
			return true
		}
	}
	return false
}
