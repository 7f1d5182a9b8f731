package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/agent/spool"
)

// excused is what the faults so far explain. All else has to be stored.
type excused struct {
	// lost are the reasons by which a node's spool may have given frames up.
	lost map[string]map[string]bool
	// corrupt are frames that were damaged on disk.
	corrupt map[frameKey]bool
	// aside are ranges of a spool that quarantine may have for a reason.
	aside []asideRange
	// injected are messages that an intruder published: stream and sequence, and whether
	// quarantine must have them.
	injected map[string]bool
}

// asideRange excuses the frames of a node that were taken in a stretch of time.
type asideRange struct {
	node, reason string
	from, to     map[string]uint64 // by spool, from exclusive; to nil: still open
	retried      bool              // they were sent again: now they have to be stored
}

func newExcused() *excused {
	return &excused{lost: map[string]map[string]bool{}, corrupt: map[frameKey]bool{}, injected: map[string]bool{}}
}

func (e *excused) mayLose(node, reason string) {
	if e.lost[node] == nil {
		e.lost[node] = map[string]bool{}
	}
	e.lost[node][reason] = true
}

// mayStandAside says whether quarantine may have a frame, and whether it must be stored all the same.
func (e *excused) mayStandAside(k frameKey, reason string) (ok, retried bool) {
	for _, a := range e.aside {
		if a.node == k.node && a.reason == reason && k.seq > a.from[k.spool] && (a.to == nil || k.seq <= a.to[k.spool]) {
			retried = a.retried && (retried || !ok) // a range that nobody retried excuses more
			ok = true
		}
	}
	return ok, retried
}

// tally is what became of what was taken.
type tally struct {
	Frames, Rows          int // taken
	Stored, StoredRows    int
	Aside, Lost           int // frames in quarantine for a clock, and given up by a spool
	Injected, Repeats     int // messages of an intruder in quarantine; rows beyond one a key
	Unstored              int // quarantined frames that a retry has stored since are not here
	LostReasons           map[string]int
	OldestMs, GapsOfStore int
}

// answers are those of the store that a verdict rests on, as they came.
type answers struct{ batches, rows, quarantine, gaps string }

func (w *world) inquire(ctx context.Context) (a answers, err error) {
	var parts []string
	for _, t := range slices.Sorted(maps.Values(tables)) {
		parts = append(parts, "SELECT '"+t+"' AS t, node, spool, sequence, count() AS n FROM flopwatch."+t+" FINAL WHERE cluster = '"+cluster+"' GROUP BY node, spool, sequence")
	}
	for to, sql := range map[*string]string{
		&a.batches:    "SELECT node, spool, sequence, count(), lower(hex(any(digest))), uniqExact(digest) FROM flopwatch.batches WHERE cluster = '" + cluster + "' GROUP BY node, spool, sequence",
		&a.rows:       "SELECT t, node, spool, sequence, n FROM (" + strings.Join(parts, " UNION ALL ") + ")",
		&a.quarantine: "SELECT node, spool, sequence, reason, stream, stream_seq FROM flopwatch.quarantine FINAL",
		&a.gaps:       "SELECT node, spool, from_sequence, to_sequence, reason FROM flopwatch.gaps FINAL WHERE cluster = '" + cluster + "'",
	} {
		if *to, err = w.ask(ctx, sql); err != nil {
			return a, err
		}
	}
	return a, nil
}

// verdict holds the store to the oracle, for all that was taken up to the cut.
type verdict struct {
	tally
	wrong []string
}

func (v *verdict) fault(format string, args ...any) {
	if len(v.wrong) < 40 {
		v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
	}
}

func (w *world) judge(ctx context.Context, cut map[string]uint64, e *excused) (v *verdict, a answers, err error) {
	if a, err = w.inquire(ctx); err != nil {
		return nil, a, err
	}
	v = &verdict{tally: tally{LostReasons: map[string]int{}}}
	stored, rows := map[frameKey]string{}, map[frameKey]map[string]int{}
	for f := range fields(a.batches, 6) {
		k := frameKey{f[0], f[1], number(f[2])}
		stored[k] = f[4]
		if f[5] != "1" {
			v.fault("batch %d of %s is stored as %s different ones", k.seq, k.node, f[5])
		}
		v.Repeats += int(number(f[3])) - 1
	}
	for f := range fields(a.rows, 5) {
		k := frameKey{f[1], f[2], number(f[3])}
		if rows[k] == nil {
			rows[k] = map[string]int{}
		}
		rows[k][f[0]] = int(number(f[4]))
	}
	aside := map[frameKey]string{}
	found := map[string]bool{}
	for f := range fields(a.quarantine, 6) {
		k, reason, at := frameKey{f[0], f[1], number(f[2])}, f[3], f[4]+"/"+f[5]
		_, ours := e.injected[at]
		found[at] = true
		switch {
		case ours:
			v.Injected++
		default:
			may, retried := e.mayStandAside(k, reason)
			if k.seq > 0 && may {
				if !retried {
					aside[k] = reason
				}
				continue
			}
			v.fault("quarantine has message %s: %s, batch %d of %q", at, reason, k.seq, k.node)
		}
	}
	for at, must := range e.injected {
		if must && !found[at] {
			v.fault("quarantine lacks the intruder's message %s", at)
		}
	}
	given := map[frameKey]string{}
	for f := range fields(a.gaps, 5) {
		v.GapsOfStore++
		for seq := number(f[2]); seq <= number(f[3]) && seq-number(f[2]) < 1e6; seq++ {
			given[frameKey{f[0], f[1], seq}] = f[4]
		}
	}
	w.oracle.mu.Lock()
	defer w.oracle.mu.Unlock()
	v.wrong = append(v.wrong, w.oracle.faults...)
	for k := range stored {
		if _, ok := w.oracle.frames[k]; !ok && k.seq <= cut[k.spool] {
			v.fault("batch %d of %s is stored, and was never taken", k.seq, k.node)
		}
	}
	for spoolID, last := range cut {
		name := w.oracle.owner(spoolID)
		for seq := uint64(1); seq <= last; seq++ {
			k := frameKey{name, spoolID, seq}
			t, known := w.oracle.frames[k]
			if known {
				v.Frames++
				for _, n := range t.rows {
					v.Rows += n
				}
			}
			digest, isStored := stored[k]
			switch {
			case isStored && !known: // told above
			case isStored:
				v.Stored++
				if digest != t.digest {
					v.fault("batch %d of %s is stored as %.12s, %.12s was taken", seq, name, digest, t.digest)
				}
				for _, n := range rows[k] {
					v.StoredRows += n
				}
				if !maps.Equal(rows[k], t.rows) {
					v.fault("batch %d of %s: rows stored %v, taken %v", seq, name, rows[k], t.rows)
				}
			case aside[k] != "":
				v.Aside++
			case given[k] != "":
				v.Lost++
				v.LostReasons[given[k]]++
				if !e.lost[name][given[k]] && !e.corrupt[k] {
					v.fault("batch %d of %s was given up: %s", seq, name, given[k])
				}
			default:
				v.fault("batch %d of %s is neither stored, nor in quarantine, nor given up", seq, name)
			}
			if !isStored && len(rows[k]) > 0 {
				v.fault("batch %d of %s is not in batches, and has rows: %v", seq, name, rows[k])
			}
		}
	}
	slices.Sort(v.wrong)
	return v, a, nil
}

// owner is the node of a spool. The caller holds the lock.
func (o *oracle) owner(spool string) string {
	for n, list := range o.spools {
		if slices.Contains(list, spool) {
			return n
		}
	}
	return ""
}

// fields are the lines of an answer.
func fields(text string, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(text) {
			f := strings.Split(strings.TrimRight(line, "\n"), "\t")
			if len(f) == n && !yield(f) {
				return
			}
		}
	}
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64) // the engine's own numbers
	return n
}

// verifySpool looks at a spool from outside.
func verifySpool(dir string) (spool.Report, error) { return spool.Verify(dir, nil) }

// working reports who is not back: every process runs, and every node has taken something since.
func (w *world) working(since map[string]uint64) error {
	for _, p := range w.processes() {
		if p.pid() == 0 {
			return fmt.Errorf("%s does not run", p.name)
		}
	}
	w.oracle.mu.Lock()
	defer w.oracle.mu.Unlock()
	for _, name := range w.nodes() {
		if !slices.ContainsFunc(w.oracle.spools[name], func(s string) bool { return w.oracle.last[s] > since[s] }) {
			return fmt.Errorf("%s takes nothing", name)
		}
	}
	return nil
}

// atRest reports what is not at rest: every spool has to be free up to the cut, as the
// collectors' marks told it.
func (w *world) atRest(cut map[string]uint64) error {
	w.mu.Lock()
	broken := w.broken
	w.mu.Unlock()
	if broken != nil {
		return broken
	}
	for _, name := range w.nodes() {
		rep, err := spool.Verify(w.spoolDir(name), nil)
		if err != nil {
			return fmt.Errorf("look at the spool of %s: %w", name, err)
		}
		if rep.Committed < cut[rep.ID] {
			return fmt.Errorf("%s: committed %d, acknowledged %d of %d", name, rep.Committed, rep.Acked, cut[rep.ID])
		}
		if rep.Bytes > spoolMax {
			return fmt.Errorf("%s: the spool has %d bytes, its bound is %d", name, rep.Bytes, spoolMax)
		}
	}
	return nil
}

// chains asks the product whether the chains of heads are unbroken.
func (w *world) chains(ctx context.Context, cut map[string]uint64, e *excused) (string, error) {
	text, verr := w.flopwatch(ctx, "engine", append([]string{"chain", "verify", "--json", "--all"}, w.storeFlags()...)...)
	var wrong []string
	for line := range strings.Lines(text) {
		var s struct {
			Node, Spool                                       string
			Stored, Signed, Quarantined, Missing, Last, First uint64
			FaultCount                                        int `json:"fault_count"`
			Faults                                            []struct {
				From, To     uint64
				Kind, Detail string
			}
		}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			return text, errors.Join(fmt.Errorf("chain verify: %w", err), verr)
		}
		if s.Stored != s.Signed {
			wrong = append(wrong, fmt.Sprintf("%s: %d batches, %d signed", s.Node, s.Stored, s.Signed))
		}
		for _, f := range s.Faults {
			ok := f.From > cut[s.Spool] // still on its way
			for seq := f.From; seq <= f.To && seq <= cut[s.Spool] && !ok; seq++ {
				// A frame that could not be read has no digest that the next could be held to.
				ok = e.corrupt[frameKey{s.Node, s.Spool, seq}] || e.corrupt[frameKey{s.Node, s.Spool, seq - 1}]
			}
			if !ok {
				wrong = append(wrong, fmt.Sprintf("%s, %d to %d: %s: %s", s.Node, f.From, f.To, f.Kind, f.Detail))
			}
		}
	}
	if len(wrong) > 0 {
		return text, fmt.Errorf("chain verify: %s", strings.Join(wrong, "; "))
	}
	if text == "" {
		return text, fmt.Errorf("chain verify says nothing: %w", verr)
	}
	return text, nil
}
