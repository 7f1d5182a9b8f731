package detector

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

// pending is what the block that is being judged will write.
type pending struct {
	cells    map[nodeMinute]cells
	again    map[nodeMinute]cells        // made again after a restart, and found as they are stored
	findings map[string]store.FindingRow // by finding id, the latest version of the block
}

func newPending() pending {
	return pending{cells: map[nodeMinute]cells{}, again: map[nodeMinute]cells{}, findings: map[string]store.FindingRow{}}
}

func (d *Detector) provenance(atMs int64) store.Provenance {
	return store.Provenance{
		Version: uint64(max(atMs, 0)), DetectorVersion: Version, ProfileVersion: d.cfg.ProfileVersion, ConfigDigest: d.cfg.ConfigDigest, Epoch: d.cfg.Epoch,
	}
}

// keepFindings compares the verdict with the one before: what is new or revised becomes
// a version, what no longer holds is taken back, in the open.
func (d *Detector) keepFindings(atMs int64, found []report.Finding) error {
	now := make(map[string]report.Finding, len(found))
	for _, f := range found {
		now[f.Finding] = f
		doc, err := json.Marshal(f)
		if err != nil {
			return fmt.Errorf("render finding %s: %w", f.Finding, err)
		}
		if _, again := d.ahead.findings[f.Finding]; d.written[f.Finding] == string(doc) && !again {
			continue
		}
		d.written[f.Finding] = string(doc)
		d.pending.findings[f.Finding] = d.findingRow(atMs, f, string(doc), false)
	}
	for id, f := range d.prev { // each on its own: the order reaches no output
		if _, ok := now[id]; !ok {
			if len(f.Runs) > 0 && !slices.ContainsFunc(f.Runs, func(r string) bool { return !d.left[r] }) {
				delete(d.written, id) // its run is judged no more: it stays as it was found
				continue
			}
			d.pending.findings[id] = d.findingRow(atMs, f, d.written[id], true)
			delete(d.written, id)
			if len(f.Runs) > 0 {
				d.withdrawn[id] = f
			}
		}
	}
	d.prev = now
	return nil
}

// known is the findings whose known_at holds: those of the last verdict, and those on
// runs that were withdrawn since. A finding that comes back, as when a run's class wavers,
// comes back as what it was, with the moment from which its evidence sufficed.
func (d *Detector) known() map[string]report.Finding {
	if len(d.withdrawn) == 0 {
		return d.prev
	}
	all := maps.Clone(d.withdrawn)
	maps.Copy(all, d.prev)
	return all
}

func (d *Detector) findingRow(atMs int64, f report.Finding, doc string, retracted bool) store.FindingRow {
	if _, ok := d.raised[f.Finding]; !ok {
		d.raised[f.Finding] = atMs + d.cfg.WaitMs
	}
	r := store.FindingRow{
		FindingID: f.Finding, Limb: f.Limb, Subject: f.Subject(), KnownAtMs: f.KnownAtMs, RaisedMs: d.raised[f.Finding],
		RaisedAt: d.cfg.Now(), State: f.State, Severity: f.Severity, Retracted: retracted, Doc: doc, Provenance: d.provenance(atMs),
	}
	if f.Profile != nil {
		r.Profile = *f.Profile
	}
	return r
}

// flush writes the cells and verdicts of a block. Cells go first: a verdict never
// stands in the store before the cells that it rests on.
//
// Each write may be repeated: what was written is taken for written at its end alone.
func (d *Detector) flush(ctx context.Context, startMs, atMs int64, last, runs bool) error {
	cells := d.cellRows()
	if err := d.putOnce(ctx, "store cells", func(ctx context.Context) error { return d.store.PutCells(ctx, cells, d.provenance(atMs)) }); err != nil {
		return err
	}
	if err := d.flushHours(ctx, startMs, atMs, last); err != nil {
		return err
	}
	if runs {
		if err := d.flushRuns(ctx, startMs, atMs, last); err != nil {
			return err
		}
	}
	d.settleFindings(atMs)
	findings := make([]store.FindingRow, 0, len(d.pending.findings))
	for _, f := range d.pending.findings {
		findings = append(findings, f)
	}
	slices.SortFunc(findings, func(a, b store.FindingRow) int { return strings.Compare(a.FindingID, b.FindingID) })
	if err := d.putOnce(ctx, "store findings", func(ctx context.Context) error { return d.store.PutFindings(ctx, d.cfg.Cluster, findings) }); err != nil {
		return err
	}
	d.said = append(d.said, findings...)
	d.pending = newPending()
	return nil
}

// putOnce does one write, or one read, which may be repeated.
func (d *Detector) putOnce(ctx context.Context, what string, put func(context.Context) error) error {
	if d.write != nil {
		return d.write(ctx, what, put)
	}
	if err := put(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// settleFindings says again, or takes back, what an earlier leader said of moments that have
// now been judged again.
func (d *Detector) settleFindings(atMs int64) {
	for id, row := range d.ahead.findings { // each on its own: the order reaches no output
		if int64(row.Provenance.Version) > atMs {
			continue
		}
		delete(d.ahead.findings, id)
		if _, said := d.pending.findings[id]; said {
			continue
		}
		if f, holds := d.prev[id]; holds {
			d.pending.findings[id] = d.findingRow(atMs, f, d.written[id], false)
		} else if !row.Retracted {
			row.Retracted, row.Provenance = true, d.provenance(atMs)
			d.pending.findings[id] = row
		}
	}
}

// settleRuns does the same for runs: it returns those that nobody says now.
func (d *Detector) settleRuns(atMs int64, now map[string]bool) []store.RunRow {
	var rows []store.RunRow
	for id, row := range d.ahead.runs { // sorted by the caller
		if int64(row.Provenance.Version) > atMs || now[id] || d.runs[id] != "" || row.SupersededBy != "" {
			continue
		}
		row.SupersededBy, row.JudgedMs, row.Provenance = noRun, atMs, d.provenance(atMs)
		rows = append(rows, row)
	}
	return rows
}

// flushRuns writes a version of every run whose line changed since it was last written.
func (d *Detector) flushRuns(ctx context.Context, startMs, atMs int64, last bool) error {
	var ev *feature.Evidence
	if l := d.looked; l != nil {
		if l.atMs == d.runsMs {
			return nil // written
		}
		ev, atMs, d.acts, d.campaigns = l.ev, l.atMs, l.acts, l.campaigns
	} else {
		ev = d.st.evidence(startMs, atMs, last)
		d.acts, d.campaigns = activities(ev, true)
	}
	now, docs := map[string]bool{}, map[string]string{}
	var rows []store.RunRow
	var members []store.RunMemberRow
	var wrote []string
	lines := d.lines(ev, d.acts, d.campaigns)
	into := map[string]string{} // run id -> the run that took it over
	for i, a := range d.acts {
		now[a.run.ID] = true
		for _, old := range a.run.Supersedes {
			into[old] = a.run.ID
		}
		l := lines[i]
		doc, err := json.Marshal(l)
		if err != nil {
			return fmt.Errorf("render run %s: %w", a.run.ID, err)
		}
		docs[a.run.ID] = string(doc)
		if _, again := d.ahead.runs[a.run.ID]; !again && (d.runs[a.run.ID] == string(doc) || (d.live() && !last && d.goesOn(&l, atMs))) {
			docs[a.run.ID] = d.runs[a.run.ID]
			continue
		}
		wrote = append(wrote, a.run.ID)
		r := store.RunRow{
			RunID: l.Run, JudgedMs: atMs, Class: l.Class, ClassProbability: l.ClassProbability, StartMs: l.StartedMs,
			Executed: store.FLOPs(a.est.Executed), Model: store.FLOPs(a.est.Model), CoverageFrac: l.CoverageFrac,
			Doc: string(doc), Provenance: d.provenance(atMs),
		}
		if l.EndedMs != nil {
			r.EndMs = *l.EndedMs
		}
		rows = append(rows, r)
		for _, m := range l.Members {
			members = append(members, store.RunMemberRow{
				RunID: l.Run, Version: r.Provenance.Version, Epoch: r.Provenance.Epoch, Node: m.Node, GPU: m.GPU, StartMs: m.StartMs, EndMs: m.EndMs,
			})
		}
	}
	for id, doc := range d.runs { // sorted below
		if now[id] {
			continue
		}
		by := into[id]
		var l RunLine
		if err := json.Unmarshal([]byte(doc), &l); err != nil {
			return fmt.Errorf("read back run %s: %w", id, err)
		}
		if by == "" && l.StartedMs < d.cutMs { // its beginning was let go
			if l.EndedMs == nil {
				by = continues(d.acts, &l)
			}
			if by == "" {
				continue // it stays as it was judged
			}
		}
		if by == "" {
			by = noRun
		}
		rows = append(rows, store.RunRow{
			RunID: id, JudgedMs: atMs, Class: l.Class, ClassProbability: l.ClassProbability, StartMs: l.StartedMs,
			Executed: store.FLOPs(l.FLOPsExecuted), Model: store.FLOPs(l.FLOPsModel), CoverageFrac: l.CoverageFrac,
			SupersededBy: by, Doc: doc, Provenance: d.provenance(atMs),
		})
	}
	rows = append(rows, d.settleRuns(atMs, now)...)
	slices.SortFunc(rows, func(a, b store.RunRow) int { return strings.Compare(a.RunID, b.RunID) })
	// Members go first: a version that is seen has them.
	if err := d.putOnce(ctx, "store members of runs", func(ctx context.Context) error { return d.store.PutRunMembers(ctx, d.cfg.Cluster, members) }); err != nil {
		return err
	}
	if err := d.putOnce(ctx, "store runs", func(ctx context.Context) error { return d.store.PutRuns(ctx, d.cfg.Cluster, rows) }); err != nil {
		return err
	}
	d.runs, d.runsMs = docs, atMs
	for _, id := range wrote {
		d.runsAt[id] = atMs
	}
	maps.DeleteFunc(d.runsAt, func(id string, _ int64) bool { return d.runs[id] == "" })
	maps.DeleteFunc(d.ahead.runs, func(_ string, r store.RunRow) bool { return int64(r.Provenance.Version) <= atMs })
	return nil
}

// endEarlier takes back what an earlier judgement of the period left and this one does not
// say: nothing is overwritten, but views show the latest version of each run and finding.
func (d *Detector) endEarlier(ctx context.Context, atMs int64) error {
	runs, err := d.store.LatestRuns(ctx, d.cfg.Cluster)
	if err != nil {
		return fmt.Errorf("read runs of earlier judgements: %w", err)
	}
	runs = slices.DeleteFunc(runs, func(r store.RunRow) bool { return r.Provenance.Epoch >= d.cfg.Epoch || r.SupersededBy != "" })
	for i := range runs {
		runs[i].SupersededBy, runs[i].JudgedMs, runs[i].Provenance = noRun, atMs, d.provenance(atMs)
	}
	if err = d.store.PutRuns(ctx, d.cfg.Cluster, runs); err != nil {
		return fmt.Errorf("end runs of earlier judgements: %w", err)
	}
	findings, err := d.store.LatestFindings(ctx, d.cfg.Cluster)
	if err != nil {
		return fmt.Errorf("read findings of earlier judgements: %w", err)
	}
	findings = slices.DeleteFunc(findings, func(f store.FindingRow) bool { return f.Provenance.Epoch >= d.cfg.Epoch || f.Retracted })
	for i := range findings {
		findings[i].Retracted, findings[i].Provenance = true, d.provenance(atMs)
	}
	if err = d.store.PutFindings(ctx, d.cfg.Cluster, findings); err != nil {
		return fmt.Errorf("take back findings of earlier judgements: %w", err)
	}
	return nil
}

// runEveryMs is how often a version of a run is written that goes on and only grows.
const runEveryMs = 10 * 60_000

// coverageMoved is a change of a run's coverage that makes it another answer: rows came that a
// version was written without.
const coverageMoved = 0.05

// probabilityMoved is a change of the probability that a run is beyond a limit that cannot wait.
const probabilityMoved = 0.05

// runGrew is the growth of a run since its last version that cannot wait: a young run's figures
// are those of the last minutes.
const runGrew = 0.1

// goesOn reports whether what is new about a run can wait for its next version: it goes on as it
// did when it was written not long ago, and rests on the same kind of evidence.
func (d *Detector) goesOn(l *RunLine, atMs int64) bool {
	if at, ok := d.runsAt[l.Run]; !ok || atMs-at >= runEveryMs || l.EndedMs != nil {
		return false
	}
	var was RunLine
	return json.Unmarshal([]byte(d.runs[l.Run]), &was) == nil && was.EndedMs == nil && was.Class == l.Class && len(was.Members) == len(l.Members) && slices.Equal(was.Accounts, l.Accounts) &&
		slices.Equal(was.Basis, l.Basis) && slices.Equal(was.Lost, l.Lost) && was.ContradictionCount == l.ContradictionCount && slices.Equal(was.Inquiries, l.Inquiries) &&
		slices.EqualFunc(was.Campaigns, l.Campaigns, func(a, b CampaignLine) bool { return a.Campaign == b.Campaign && a.RunCount == b.RunCount }) && math.Abs(was.CoverageFrac-l.CoverageFrac) < coverageMoved &&
		math.Abs(l.FLOPsModel.Best-was.FLOPsModel.Best) <= runGrew*was.FLOPsModel.Best && math.Abs(l.FLOPsExecuted.Best-was.FLOPsExecuted.Best) <= runGrew*was.FLOPsExecuted.Best &&
		slices.EqualFunc(was.Thresholds, l.Thresholds, func(a, b ThresholdLine) bool {
			return a.Profile == b.Profile && math.Abs(a.Probability-b.Probability) < probabilityMoved && (a.Probability < 0.5) == (b.Probability < 0.5)
		})
}

// noRun stands in place of the run that took another over, where none did: what was
// judged to be an activity is judged to be none.
const noRun = "none"

func (d *Detector) cellRows() store.Cells {
	keys := make([]nodeMinute, 0, len(d.pending.cells))
	for k := range d.pending.cells {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareNodeMinute)
	out := store.Cells{Cluster: d.cfg.Cluster}
	for _, k := range keys {
		c := d.pending.cells[k]
		for i := range c.gpu {
			out.GPU = append(out.GPU, gpuCellRow(&c.gpu[i]))
		}
		for _, x := range c.host {
			out.Node = append(out.Node, store.NodeCellRow{
				Node: x.Node, MinuteMs: x.MinuteMs, AvailableMs: x.AvailableMs, PowerW: x.PowerW, PowerSD: x.PowerSD, PowerCoverMs: x.PowerCoverMs,
				CPUFrac: x.CPUFrac, CPUCoverMs: x.CPUCoverMs, StorageTxBps: x.StorageTxBps, StorageRxBps: x.StorageRxBps, StorageCoverMs: x.StorageCoverMs,
				FabricTxBytes: x.FabricTxBytes, FabricRxBytes: x.FabricRxBytes, FabricTxCV: x.FabricTxCV, FabricCoverMs: x.FabricCoverMs,
				EthernetTxBytes: x.EthernetTxBytes, EthernetRxBytes: x.EthernetRxBytes, EthernetCoverMs: x.EthernetCoverMs,
				Rhythm: hostRhythm(&x),
			})
		}
		for _, x := range c.comm {
			out.Comm = append(out.Comm, store.CommCellRow{
				Node: x.Node, PID: int64(x.PID), GPU: x.GPU, Comm: x.Comm, Op: x.Op, NRanks: x.NRanks, Rank: x.Rank,
				MinuteMs: x.MinuteMs, AvailableMs: x.AvailableMs, Calls: x.Calls, Bytes: x.Bytes,
			})
		}
		for _, x := range c.flows {
			out.Flow = append(out.Flow, store.FlowCellRow{Node: x.Node, Peer: x.Peer, MinuteMs: x.MinuteMs, AvailableMs: x.AvailableMs, TxBytes: x.TxBytes})
		}
	}
	return out
}

func gpuCellRow(c *feature.GPUCell) store.GPUCellRow {
	return store.GPUCellRow{
		Node: c.Node, GPU: c.GPU, MinuteMs: c.MinuteMs, AvailableMs: c.AvailableMs, Samples: c.Samples,
		Mean: c.Mean[:], SD: c.SD[:], CoverMs: c.CoverMs[:], TensorClockMHz: c.TensorClockMHz, TensorClockMs: c.TensorClockMs,
		EnergyJ:   store.CounterRow{FirstMs: c.EnergyJ.FirstMs, LastMs: c.EnergyJ.LastMs, First: c.EnergyJ.First, Last: c.EnergyJ.Last, Delta: c.EnergyJ.Delta},
		MMACycles: store.CounterRow{FirstMs: c.MMACycles.FirstMs, LastMs: c.MMACycles.LastMs, First: c.MMACycles.First, Last: c.MMACycles.Last, Delta: c.MMACycles.Delta},
		Rhythm:    gpuRhythm(c),
	}
}
