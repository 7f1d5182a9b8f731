package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Outcome is what became of a fault.
type Outcome struct {
	Seed    uint64
	Kind    string
	What    string
	Hold    time.Duration // how long it lasts
	Again   string        // the command that makes it again
	Took    time.Duration // from its beginning until the verdict
	Rest    time.Duration // from its end until the verdict
	Wrong   []string      // empty: it was survived
	Tally   tally
	Unasked []string // ends of processes that nobody asked for
}

// Report sums a run up.
type Report struct {
	Outcomes []Outcome
	Totals   tally
	Peaks    map[string]int64
	Notes    []string
	Began    time.Time
	Took     time.Duration
	// Load is the machine's load average of a minute at the beginning, and the highest seen.
	Load [2]float64
}

// Bounds of memory, in bytes, of each process: what none may pass, whatever happens to it.
var bounds = map[string]int64{"gpu": 80 << 20, "gpu's child": 80 << 20, "col": 400 << 20, "broker": 400 << 20, "engine": 2500 << 20, "engine's child": 2500 << 20}

// Run makes the faults and returns what became of each. The error is that something of the suite
// itself failed.
func Run(ctx context.Context, p Plan) (*Report, error) {
	p.Round, p.Worlds = cmp.Or(p.Round, defaultRound), cmp.Or(p.Worlds, 1)
	load := loadAverage()
	rep := &Report{Peaks: map[string]int64{}, Totals: tally{LostReasons: map[string]int{}}, Began: time.Now(), Load: [2]float64{load, load}}
	if err := p.check(); err != nil {
		return rep, fmt.Errorf("chaos: %w", err)
	}
	var mu sync.Mutex
	rounds := make(chan []Pick)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(rounds)
		for picks := range slices.Chunk(p.picks(), p.Round) {
			select {
			case rounds <- picks:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for i := range p.Worlds {
		g.Go(func() error {
			for picks := range rounds {
				for len(picks) > 0 {
					// A round ends with its first failure; what is left of it has a new world.
					o := round{p: &p, picks: picks, index: i}
					err := o.run(ctx, func(x Outcome) {
						mu.Lock()
						defer mu.Unlock()
						rep.Outcomes = append(rep.Outcomes, x)
						rep.Load[1] = max(rep.Load[1], loadAverage())
						show(p.Out, &x, p.List)
					})
					mu.Lock()
					o.sum(rep)
					mu.Unlock()
					if err != nil {
						return err
					}
					picks = picks[o.done:]
				}
			}
			return nil
		})
	}
	err := g.Wait()
	rep.Took = time.Since(rep.Began)
	slices.SortStableFunc(rep.Outcomes, func(a, b Outcome) int { return cmp.Or(cmp.Compare(a.Seed, b.Seed), cmp.Compare(a.Kind, b.Kind)) })
	if err != nil {
		return rep, fmt.Errorf("chaos: %w", err)
	}
	return rep, nil
}

func show(out io.Writer, x *Outcome, list bool) {
	if list {
		_, _ = fmt.Fprintf(out, "seed %-6d %s: %s\n", x.Seed, x.Kind, x.What) // the same as below
		return
	}
	word := "survived"
	if len(x.Wrong) > 0 {
		word = "FAILED"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "seed %-6d %-9s %5.1f s (rest %4.1f s)  %s: %s\n", x.Seed, word, x.Took.Seconds(), x.Rest.Seconds(), x.Kind, x.What)
	for _, s := range x.Wrong {
		fmt.Fprintf(&b, "    %s\n", s)
	}
	for _, s := range x.Unasked {
		fmt.Fprintf(&b, "    ended unasked: %s\n", s)
	}
	_, _ = io.WriteString(out, b.String()) // a terminal that is gone changes no verdict
}

// round is a stretch of faults in one world.
type round struct {
	p     *Plan
	picks []Pick
	index int

	done int
	w    *world
	last *verdict
}

func (r *round) sum(rep *Report) {
	if r.w != nil {
		for name, n := range r.w.peaks {
			rep.Peaks[name] = max(rep.Peaks[name], n)
		}
		rep.Notes = append(rep.Notes, r.w.notes...)
	}
	if r.last != nil {
		t, l := &rep.Totals, r.last
		t.Frames, t.Rows, t.Stored, t.StoredRows = t.Frames+l.Frames, t.Rows+l.Rows, t.Stored+l.Stored, t.StoredRows+l.StoredRows
		t.Aside, t.Lost, t.Injected, t.Repeats = t.Aside+l.Aside, t.Lost+l.Lost, t.Injected+l.Injected, t.Repeats+l.Repeats
		for reason, n := range l.LostReasons {
			t.LostReasons[reason] += n
		}
	}
}

// run makes faults until one fails.
func (r *round) run(ctx context.Context, each func(Outcome)) (err error) {
	if r.p.List {
		w := sketch(r.p.Options)
		for _, k := range r.picks {
			name, f := draw(w, newExcused(), k, r.p.Only)
			each(Outcome{Seed: k.Seed, Kind: name, What: f.what, Hold: f.hold, Again: r.p.Again([]Pick{k})})
		}
		r.done = len(r.picks)
		return nil
	}
	o := r.p.Options
	o.Dir = filepath.Join(o.Dir, fmt.Sprintf("w%d", r.index))
	if err = os.RemoveAll(o.Dir); err == nil {
		err = os.MkdirAll(o.Dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("make a world: %w", err)
	}
	w, err := openWorld(ctx, o)
	r.w = w
	if err != nil {
		_ = keep(context.WithoutCancel(ctx), w, filepath.Join(r.p.Evidence, fmt.Sprintf("start-%d", r.picks[0].Seed)), nil, answers{}, "")
		return err
	}
	e := newExcused()
	var failed *Outcome
	for r.done < len(r.picks) && failed == nil && ctx.Err() == nil {
		x := r.one(ctx, e)
		if ctx.Err() != nil {
			break // it was not let finish
		}
		r.done++
		if len(x.Wrong) > 0 {
			failed = &x
		}
		if r.done == len(r.picks) && failed == nil {
			r.finish(ctx, e, &x)
		}
		each(x)
	}
	if err = w.close(); err == nil {
		err = ctx.Err()
	}
	return err
}

// patience is how long the system may take for what it surely does.
const patience = 3 * time.Minute

// one makes a fault and judges what is left of it.
func (r *round) one(ctx context.Context, e *excused) Outcome {
	w, k := r.w, r.picks[r.done]
	name, f := draw(w, e, k, r.p.Only)
	x := Outcome{Seed: k.Seed, Kind: name, What: f.what, Hold: f.hold, Again: r.p.Again([]Pick{k})}
	began := time.Now()
	before := map[*process]int{}
	for _, p := range w.processes() {
		before[p] = len(p.unasked())
	}
	if err := f.run(ctx, w); err != nil {
		x.Wrong = append(x.Wrong, "the fault itself: "+err.Error())
	}
	ended := time.Now()
	cut := w.oracle.cut()
	err := until(ctx, patience, "everything works again", func() error { return w.working(cut) })
	cut = w.oracle.cut()
	if err == nil {
		err = until(ctx, patience, "everything is at rest", func() error {
			w.measure()
			return w.atRest(cut)
		})
	}
	if err == nil && f.after != nil {
		err = f.after(ctx)
		cut = w.oracle.cut()
		if err == nil {
			err = until(ctx, patience, "everything is at rest", func() error { return w.atRest(cut) })
		}
	}
	if err != nil {
		x.Wrong = append(x.Wrong, err.Error())
	}
	a, chain := r.judge(ctx, e, cut, &x, err != nil)
	w.measure()
	for name, n := range w.peaks {
		if most := bounds[name]; n > most {
			x.Wrong = append(x.Wrong, fmt.Sprintf("%s has held %d MiB, its bound is %d MiB", name, n>>20, most>>20))
		}
	}
	for _, p := range w.processes() {
		for _, how := range p.unasked()[before[p]:] {
			x.Unasked = append(x.Unasked, p.name+" "+how)
		}
	}
	x.Wrong = append(x.Wrong, w.panics()...)
	x.Took, x.Rest = time.Since(began), time.Since(ended)
	if len(x.Wrong) > 0 {
		dir := filepath.Join(r.p.Evidence, fmt.Sprintf("seed-%d-%s", k.Seed, strings.NewReplacer(" ", "-", "'", "").Replace(name)))
		if kerr := keep(ctx, w, dir, &x, a, chain); kerr != nil {
			x.Wrong = append(x.Wrong, kerr.Error())
		}
		x.Wrong = append(x.Wrong, fmt.Sprintf("evidence in %s; again: %s; with what went before: %s", dir, x.Again, r.p.Again(r.picks[:r.done+1])))
	}
	return x
}

// judge asks until nothing is wrong, or for so long that it stays so.
func (r *round) judge(ctx context.Context, e *excused, cut map[string]uint64, x *Outcome, once bool) (a answers, chain string) {
	patience := 20 * time.Second
	if once {
		patience = time.Second
	}
	var v *verdict
	err := until(ctx, patience, "stored = distinct = taken less what is accounted for", func() error {
		var err error
		if v, a, err = r.w.judge(ctx, cut, e); err == nil && len(v.wrong) > 0 {
			err = errors.New(strings.Join(v.wrong, "\n    "))
		}
		return err
	})
	if v != nil {
		r.last, x.Tally = v, v.tally
	}
	if err != nil {
		x.Wrong = append(x.Wrong, err.Error())
	}
	if chain, err = r.w.chains(ctx, cut, e); err != nil {
		x.Wrong = append(x.Wrong, err.Error())
	}
	return a, chain
}

// finish ends the agents, so that all they have is taken, and judges a last time.
func (r *round) finish(ctx context.Context, e *excused, x *Outcome) {
	if err := r.w.stopAgents(); err != nil {
		x.Wrong = append(x.Wrong, err.Error())
	}
	pause(100 * time.Millisecond) // the oracle looks every 20 ms
	cut := r.w.oracle.cut()
	if err := until(ctx, time.Minute, "everything is stored at the end", func() error {
		v, _, err := r.w.judge(ctx, cut, e)
		if err == nil && len(v.wrong) > 0 {
			err = errors.New(strings.Join(v.wrong, "\n    "))
		}
		return err
	}); err != nil {
		x.Wrong = append(x.Wrong, "at the end of the round: "+err.Error())
	}
	a, chain := r.judge(ctx, e, cut, x, true)
	if len(x.Wrong) > 0 {
		if err := keep(ctx, r.w, filepath.Join(r.p.Evidence, fmt.Sprintf("round-%d", r.picks[0].Seed)), x, a, chain); err != nil {
			x.Wrong = append(x.Wrong, err.Error())
		}
	}
}

// run lets a fault happen.
func (f *fault) run(ctx context.Context, w *world) error {
	err := f.begin(ctx)
	end := time.NewTimer(f.hold)
	defer end.Stop()
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	for over := err != nil; !over; {
		select {
		case <-end.C:
			over = true
		case <-ctx.Done():
			over = true
		case <-tick.C:
			w.measure()
			if f.again != nil {
				err = errors.Join(err, f.again(ctx))
			}
		}
	}
	return errors.Join(err, f.end(context.WithoutCancel(ctx)))
}

// panics looks for what no daemon may ever write.
func (w *world) panics() []string {
	var all []string
	for _, p := range w.processes() {
		out, _ := exec.Command("grep", "-n", "-m3", "-E", "^panic:|^fatal error:|DATA RACE|SIGSEGV", p.logPath).Output() // 1: it found none
		for line := range strings.Lines(string(out)) {
			all = append(all, p.name+" wrote "+strings.TrimSpace(line))
		}
	}
	return all
}

// keep copies what a failure can be understood from.
func keep(ctx context.Context, w *world, dir string, x *Outcome, a answers, chain string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("keep evidence: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep evidence: %w", err)
	}
	var err error
	put := func(name, text string) {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	if x != nil {
		text, jerr := json.MarshalIndent(x, "", " ")
		err = errors.Join(err, jerr)
		put("outcome.json", string(text))
	}
	put("batches.tsv", a.batches)
	put("rows.tsv", a.rows)
	put("quarantine.tsv", a.quarantine)
	put("gaps.tsv", a.gaps)
	put("chain.json", chain)
	for name, sql := range map[string]string{
		"engine-parts.tsv":    "SELECT table, name, active, rows, level, bytes_on_disk, modification_time FROM system.parts WHERE database = 'flopwatch' ORDER BY table, name",
		"engine-detached.tsv": "SELECT * FROM system.detached_parts",
	} {
		text, aerr := w.ask(ctx, sql)
		put(name, fmt.Sprintln(text, aerr))
	}
	look := exec.CommandContext(ctx, "sh", "-c", "find engine/engine/store -name '*.cmrk*' | xargs ls -l; find engine/engine/store -name 'deduplication_log_*' | xargs tail -n 300")
	look.Dir = w.o.Dir
	files, _ := look.CombinedOutput() // what can be had
	put("engine-files.txt", string(files))
	logs, gerr := filepath.Glob(w.path("*.log"))
	err = errors.Join(err, gerr)
	for _, name := range logs {
		err = errors.Join(err, copyFile(filepath.Join(dir, filepath.Base(name)), name))
	}
	var spools strings.Builder
	for _, n := range w.nodes() {
		rep, verr := verifySpool(w.spoolDir(n))
		text, _ := json.Marshal(rep) // numbers and text
		files, _ := exec.CommandContext(ctx, "ls", "-lR", w.spoolDir(n)).CombinedOutput()
		fmt.Fprintf(&spools, "%s: %s %v\n%s\n", n, text, verr, files)
	}
	put("spools.txt", spools.String())
	var frames strings.Builder
	w.oracle.mu.Lock()
	for _, k := range slices.SortedFunc(maps.Keys(w.oracle.frames), func(a, b frameKey) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.spool, b.spool), cmp.Compare(a.seq, b.seq))
	}) {
		fmt.Fprintf(&frames, "%s\t%s\t%d\t%s\t%v\n", k.node, k.spool, k.seq, w.oracle.frames[k].digest, w.oracle.frames[k].rows)
	}
	w.oracle.mu.Unlock()
	put("taken.tsv", frames.String())
	if w.nc != nil {
		var streams strings.Builder
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		for i := range partitions {
			s, serr := w.tap.js.Stream(bounded, fmt.Sprintf("FLOPWATCH_%d", i))
			if serr != nil {
				fmt.Fprintf(&streams, "%d: %v\n", i, serr)
				continue
			}
			text, _ := json.Marshal(s.CachedInfo())
			fmt.Fprintf(&streams, "%s\n", text)
		}
		put("streams.txt", streams.String())
	}
	if err != nil {
		return fmt.Errorf("keep evidence: %w", err)
	}
	return nil
}

// note keeps a line for the report.
func (w *world) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}
