package detector

import (
	"context"
	"log/slog"
	"maps"

	"github.com/flopwatch/flopwatch/detector/flops"
)

// Status says how a Follower does.
type Status struct {
	Epoch        uint64 // of the lease under which it leads
	StartedMs    int64  // start of the judged period; 0: there is no data yet
	JudgedUpToMs int64  // event time; 0: nothing is judged yet
	BrokerMs     int64  // the broker's time when last looked at; 0: it was never told
	LagMs        int64  // how far judging lies behind the moment that is due; 0: it is there
	AheadMs      int64  // how far what is judged lies ahead of what is due: the broker's time was set back
	StepSeconds  float64
	Minutes      uint64 // judged since Run began
	Late         uint64 // batches whose rows appeared after their time had been judged
	Cells        int    // of GPUs, in memory
	FromMs       int64  // the minutes in memory begin here; 0: with the judged period
	Beyond       int    // cells beyond what memory was planned for, some 0.2 KiB each: what goes on is kept whole
	Runs         int
	Findings     map[FindingKind]int
	Contradicted int // nodes whose driver says other GPUs than the inventory
	Reports      int // folders that wait to be written
	// Review is the judgement of history under profiles that changed, "": none is under way, and how far it is.
	Review                        string
	ReviewJudgedMs, ReviewUntilMs int64
	Errors                        uint64
	LastError                     string // of reading or writing the store; "": all is well now
	ReportError                   string // of writing report folders; "": all is well now
}

// FindingKind groups findings.
type FindingKind struct{ Limb, State string }

// Status returns how the follower does. It may be called at any time.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Findings = maps.Clone(s.Findings)
	return s
}

func (f *Follower) clock(nowMs int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok {
		return
	}
	f.status.BrokerMs = nowMs
	f.behind(f.judgedMs)
}

// behind tells how far what is judged lies from what is due. The caller holds the lock.
func (f *Follower) behind(judgedMs int64) {
	s := &f.status
	s.LagMs, s.AheadMs = 0, 0
	if s.BrokerMs == 0 || judgedMs == 0 {
		return
	}
	dueMs := s.BrokerMs - f.d.cfg.WaitMs - f.live.SettleMs
	s.LagMs, s.AheadMs = max(0, dueMs-StepMs-judgedMs), max(0, judgedMs-dueMs)
}

// judged tells the status after a block.
func (f *Follower) judged(toMs, minutes int64) {
	findings := map[FindingKind]int{}
	for _, x := range f.d.prev {
		findings[FindingKind{x.Limb, x.State}]++
	}
	odd := 0
	for name := range f.d.st.nodes {
		if n := f.d.st.nodes[name]; n.Listed && n.SeenCount > 0 && (otherPart(n.GPUModel, n.SeenModel) || n.SeenCount < n.GPUCount) {
			odd++
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.status
	s.StartedMs, s.JudgedUpToMs, s.FromMs = f.d.startMs, toMs, f.d.cutMs
	s.Minutes += uint64(max(minutes, 0))
	s.Cells, s.Runs, s.Findings, s.Contradicted, s.Reports = f.d.st.gpuCells, len(f.d.runs), findings, odd, f.reports.waiting()
	f.behind(toMs)
}

func (f *Follower) over(cells int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Beyond, f.status.FromMs, f.status.Cells = cells, f.d.cutMs, f.d.st.gpuCells
}

// otherPart reports whether two names of a model mean two parts. A name that is not known
// means none.
func otherPart(stated, seen string) bool {
	if stated == "" || seen == "" {
		return false
	}
	a, known := flops.Lookup(stated)
	b, knownToo := flops.Lookup(seen)
	return known && knownToo && a.Name != b.Name
}

func (f *Follower) took(seconds float64, late int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.StepSeconds = seconds
	f.status.Late += uint64(late)
}

// storeFails says once that the store refuses, and counts.
func (f *Follower) storeFails(ctx context.Context, what string, err error) {
	if f.failing == "" {
		f.live.Log.LogAttrs(ctx, slog.LevelWarn, "cannot go on, trying again", slog.String("at", what), slog.Any("err", err))
	}
	f.failing = what
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Errors++
	f.status.LastError = what + ": " + err.Error()
}

func (f *Follower) storeIsBack(ctx context.Context) {
	if f.failing == "" {
		return
	}
	f.live.Log.LogAttrs(ctx, slog.LevelInfo, "going on", slog.String("at", f.failing))
	f.failing = ""
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.LastError = ""
}
