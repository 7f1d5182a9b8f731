package detector

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

func byAvailability(a, b store.BatchRow) int {
	return cmp.Or(cmp.Compare(a.AvailableMs, b.AvailableMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Spool, b.Spool), cmp.Compare(a.Sequence, b.Sequence))
}

// resume takes up where the last leader's position stands, or starts anew where there is none
// or it lies beyond the horizon, and claims the position for this epoch. It may be repeated.
func (f *Follower) resume(ctx context.Context) error {
	p, ok, err := f.store.Position(ctx, f.d.cfg.Cluster)
	if err != nil {
		return err
	}
	f.reset()
	if !ok || p.JudgedMs == 0 || f.beyond(ctx, p) {
		return f.claim(ctx)
	}
	d := f.d
	d.startMs, d.cutMs, d.prevAtMs, d.hoursMs, d.newestMs, d.due = p.StartMs, p.CutMs, p.LastMs, p.JudgedMs, p.NewestMs, p.Due
	f.judgedMs, f.availMs, f.seenMs = p.JudgedMs, p.AvailableMs, p.SeenMs
	if err = f.readFacts(ctx, p.JudgedMs, min(p.AvailableMs, p.JudgedMs+d.cfg.WaitMs)); err != nil {
		return err
	}
	if f.facts { // rates of nodes that the first reading made known
		if err = f.readFacts(ctx, p.JudgedMs, min(p.AvailableMs, p.JudgedMs+d.cfg.WaitMs)); err != nil {
			return err
		}
	}
	d.due = true // what was stated or lost while nobody led is in no step of its own
	runs, err := f.loadRuns(ctx, uint64(p.JudgedMs))
	if err != nil {
		return err
	}
	if err = f.loadFindings(ctx, uint64(p.JudgedMs)); err != nil {
		return err
	}
	if err = f.loadState(ctx, p, runs); err != nil {
		return err
	}
	if err = f.planReview(ctx, p, f.profiles); err != nil {
		return err
	}
	f.started, f.resumed = true, true
	f.live.Log.LogAttrs(ctx, slog.LevelInfo, "judging goes on", slog.Time("judged_up_to", time.UnixMilli(p.JudgedMs).UTC()), slog.Uint64("after_epoch", p.Epoch),
		slog.Int("cells", d.st.gpuCells), slog.Int("runs", len(d.runs)), slog.Int("findings", len(d.prev)))
	if p.Config != d.cfg.ConfigDigest {
		f.live.Log.LogAttrs(ctx, slog.LevelInfo, "configuration changed, it holds from here on", slog.String("was", p.Config), slog.String("is", d.cfg.ConfigDigest))
	}
	return f.claim(ctx)
}

// beyond reports whether a position lies so far back that nothing can be joined to it.
func (f *Follower) beyond(ctx context.Context, p store.PositionRow) bool {
	nowMs, ok := f.live.BrokerMs()
	if !ok || p.JudgedMs >= nowMs-f.live.HorizonMs {
		return false
	}
	f.live.Log.LogAttrs(ctx, slog.LevelWarn, "what was judged last lies beyond the horizon, judging starts anew", slog.Time("judged_up_to", time.UnixMilli(p.JudgedMs).UTC()))
	return true
}

// reset forgets what an attempt to resume left.
func (f *Follower) reset() {
	cfg, write := f.d.cfg, f.d.write
	profiles, parties := f.d.profiles, f.d.parties
	f.d = New(cfg, f.store, parties)
	f.d.write, f.d.profiles = write, profiles
	f.d.ahead = ahead{map[string]store.RunRow{}, map[string]store.FindingRow{}}
	f.started, f.resumed, f.judgedMs, f.availMs, f.seenMs, f.facts, f.ratesAt, f.losses = false, false, 0, 0, 0, true, 0, ""
	clear(f.seen)
	f.reports = newReportQueue()
}

// claim writes the position under this epoch, which fences the leader before.
func (f *Follower) claim(ctx context.Context) error {
	if err := f.store.PutPosition(ctx, f.d.cfg.Cluster, f.position()); err != nil {
		return err
	}
	f.judged(f.judgedMs, 0)
	return nil
}

// loadRuns takes the verdicts on runs as they stood at a version, and remembers what was said
// after it. It returns the lines of those that stand.
func (f *Follower) loadRuns(ctx context.Context, version uint64) ([]RunLine, error) {
	rows, err := f.store.RunsAsOf(ctx, f.d.cfg.Cluster, version)
	if err != nil {
		return nil, err
	}
	var lines []RunLine
	var newest store.Provenance
	for i := range rows {
		if p := &rows[i].Provenance; p.Epoch > newest.Epoch || p.Epoch == newest.Epoch && p.Version >= newest.Version {
			newest, f.profiles = *p, p.ProfileVersion
		}
		if rows[i].SupersededBy != "" {
			continue
		}
		var l RunLine
		if err = json.Unmarshal([]byte(rows[i].Doc), &l); err != nil {
			return nil, fmt.Errorf("read back run %s: %w", rows[i].RunID, err)
		}
		if cut := f.d.cutMs; l.StartedMs < cut && l.EndedMs != nil && *l.EndedMs < cut {
			f.d.left[l.Run] = true
			continue
		}
		f.d.runs[rows[i].RunID] = rows[i].Doc
		lines = append(lines, l)
	}
	latest, err := f.store.LatestRuns(ctx, f.d.cfg.Cluster)
	if err != nil {
		return nil, err
	}
	for i := range latest {
		if latest[i].Provenance.Version > version {
			f.d.ahead.runs[latest[i].RunID] = latest[i]
		}
	}
	return lines, nil
}

// loadFindings does the same for findings.
func (f *Follower) loadFindings(ctx context.Context, version uint64) error {
	rows, err := f.store.FindingsAsOf(ctx, f.d.cfg.Cluster, version)
	if err != nil {
		return err
	}
	watched := map[string]bool{}
	for _, p := range f.d.profiles {
		watched[p.Name] = true
	}
	for i := range rows {
		var g report.Finding
		if err = json.Unmarshal([]byte(rows[i].Doc), &g); err != nil {
			return fmt.Errorf("read back finding %s: %w", rows[i].FindingID, err)
		}
		id := rows[i].FindingID
		f.d.raised[id] = rows[i].RaisedMs
		gone := len(g.Runs) > 0 && !slices.ContainsFunc(g.Runs, func(r string) bool { return !f.d.left[r] })
		switch {
		case g.Profile != nil && !watched[*g.Profile]:
			if !rows[i].Retracted { // nobody looks at that profile any more: taken back with the next verdict
				f.d.ahead.findings[id] = rows[i]
			}
		case gone:
		case !rows[i].Retracted:
			f.d.prev[id], f.d.written[id] = g, rows[i].Doc
			f.reports.again(id)
		case len(g.Runs) > 0:
			f.d.withdrawn[id] = g
		}
	}
	latest, err := f.store.LatestFindings(ctx, f.d.cfg.Cluster)
	if err != nil {
		return err
	}
	for i := range latest {
		if latest[i].Provenance.Version > version {
			f.d.ahead.findings[latest[i].FindingID] = latest[i]
		}
	}
	return nil
}

// loadState brings the cells back as they stood at a position. A cell that was made again
// since, from rows that were not there yet, is made from rows as of then.
func (f *Follower) loadState(ctx context.Context, p store.PositionRow, runs []RunLine) error {
	d := f.d
	from := p.StartMs - dayMs
	if p.CutMs != 0 {
		from = p.CutMs
	}
	end := min(max(p.JudgedMs, p.AvailableMs), p.JudgedMs+dayMs) // no more than a day, at the end of a recording
	if err := d.fill(ctx, runs, from, end+dayMs+1, p.JudgedMs, func(ctx context.Context, read []storedCells) error {
		var newer []nodeMinute
		for i := range read {
			if c := &read[i]; c.availableMs > p.AvailableMs {
				newer = append(newer, nodeMinute{c.node, c.minute})
			} else {
				d.put(c.cells)
			}
		}
		return d.reduceFar(ctx, newer, p.AvailableMs, func(nodeMinute) int64 { return p.AvailableMs }, d.putLate)
	}); err != nil {
		return err
	}
	if p.CutMs != 0 {
		d.st.dropBefore(p.CutMs, membersFrom(d.st, runs, p.CutMs))
	}
	return nil
}

// fill reads the cells that memory held when a moment had been judged, from the earliest on, and seals them on the way:
// those from fromMs to toMs, and of the nodes of activities that began before and go on, all from their beginning.
func (d *Detector) fill(ctx context.Context, runs []RunLine, fromMs, toMs, judgedMs int64, put func(context.Context, []storedCells) error) error {
	starts, first := map[string]int64{}, fromMs
	for i := range runs {
		l := &runs[i]
		if d.cutMs == 0 || l.StartedMs >= d.cutMs {
			continue
		}
		ms := floorTo(l.StartedMs-contextMs, dayMs)
		for _, m := range l.Members {
			if at, ok := starts[m.Node]; !ok || ms < at {
				starts[m.Node] = ms
			}
		}
		first = min(first, ms)
	}
	span := int64(readSpan)
	for at := feature.MinuteOf(first); at < toMs; {
		q := store.RowQuery{Cluster: d.cfg.Cluster, FromMs: at, ToMs: min(at+span, toMs)}
		if at < fromMs {
			q.ToMs = min(q.ToMs, fromMs)
			for node, ms := range starts {
				if ms < q.ToMs {
					q.Nodes = append(q.Nodes, node)
				}
			}
			slices.Sort(q.Nodes)
		}
		read, err := d.readCells(ctx, q)
		if err != nil {
			return err
		}
		n := 0
		read = slices.DeleteFunc(read, func(c storedCells) bool {
			n += len(c.gpu)
			return c.minute < q.FromMs || c.minute >= q.ToMs
		})
		if err = put(ctx, read); err != nil {
			return err
		}
		d.st.sealUpTo(judgedMs, q.ToMs, d.cfg.MaxCells)
		at, span = q.ToMs, spanOf(span, n)
	}
	return nil
}

// membersFrom says from where the GPUs of activities are kept that began before the cut.
func membersFrom(st *state, runs []RunLine, cutMs int64) map[feature.GPUKey]int64 {
	from := map[feature.GPUKey]int64{}
	for i := range runs {
		if runs[i].StartedMs >= cutMs {
			continue
		}
		for _, m := range runs[i].Members {
			k := feature.GPUKey{Node: m.Node, GPU: m.GPU}
			if at, ok := from[k]; !ok || runs[i].StartedMs-contextMs < at {
				from[k] = st.keptFrom(runs[i].StartedMs - contextMs)
			}
		}
	}
	return from
}
