package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// ErrStaleEpoch refuses verdicts of a detector that lost its lease: the store already
// holds verdicts of a later epoch.
var ErrStaleEpoch = errors.New("stale epoch")

// FLOPs is an interval of floating point operations; NaN: cannot be told.
type FLOPs struct{ Low, Best, High float64 }

// RunRow is one version of the verdict on a run.
type RunRow struct {
	RunID            string
	JudgedMs         int64 // event time up to which evidence was looked at
	Class            string
	ClassProbability float64
	StartMs          int64
	EndMs            int64 // 0: goes on
	Executed, Model  FLOPs
	CoverageFrac     float64 // NaN: cannot be told
	SupersededBy     string  // empty: it stands
	Doc              string  // its line of runs.jsonl
	Provenance       Provenance
}

// RunMemberRow is one GPU and interval of a version of a run.
type RunMemberRow struct {
	RunID          string
	Version, Epoch uint64
	Node           string
	GPU            int
	StartMs, EndMs int64
}

// FindingRow is one version of a finding. RaisedMs, RaisedAt and AcknowledgedAt are carried
// from version to version: PutFindings keeps the first and the last acknowledgement.
type FindingRow struct {
	FindingID      string
	Profile        string // empty: none
	Limb, Subject  string
	KnownAtMs      int64     // event time from which the evidence sufficed
	RaisedMs       int64     // event time of the watermark when the system raised it
	RaisedAt       time.Time // wall time when the system raised it
	AcknowledgedAt time.Time // wall time when a person acknowledged it; zero: nobody has
	State          string
	Severity       string
	Retracted      bool
	Doc            string // its line of findings.jsonl
	Provenance     Provenance
}

func (s *Store) epoch(ctx context.Context, table, cluster string) (uint64, error) {
	var newest proto.ColUInt64
	var latest uint64
	err := s.native.query(ctx, "SELECT max(epoch) AS epoch FROM "+s.table(table)+" WHERE cluster = "+quote(cluster),
		proto.Results{{Name: "epoch", Data: &newest}}, func(rows int) error {
			latest = newest[rows-1]
			return nil
		})
	if err != nil {
		return 0, fmt.Errorf("read epoch of %s: %w", table, err)
	}
	return latest, nil
}

func (s *Store) checkEpoch(ctx context.Context, table, cluster string, epoch uint64) error {
	latest, err := s.epoch(ctx, table, cluster)
	if err != nil {
		return err
	}
	if latest > epoch {
		return fmt.Errorf("put %s with epoch %d, the store has %d: %w", table, epoch, latest, ErrStaleEpoch)
	}
	return nil
}

// checkVerdict refuses an epoch that is older than the table's newest, or than that of the newest
// position: who leads now may have found nothing new to say yet.
func (s *Store) checkVerdict(ctx context.Context, table, cluster string, epoch uint64) error {
	if err := s.checkEpoch(ctx, table, cluster, epoch); err != nil {
		return err
	}
	return s.checkEpoch(ctx, TablePositions, cluster, epoch)
}

// LatestEpoch is the newest epoch under which verdicts on a cluster stand; 0: none do.
func (s *Store) LatestEpoch(ctx context.Context, cluster string) (uint64, error) {
	latest := uint64(0)
	for _, table := range []string{TableRuns, TableFindings, TablePositions} {
		e, err := s.epoch(ctx, table, cluster)
		if err != nil {
			return 0, err
		}
		latest = max(latest, e)
	}
	return latest, nil
}

// oneEpoch refuses rows of different epochs in one call.
func oneEpoch[R any](rows []R, epoch func(*R) uint64) (uint64, error) {
	e := epoch(&rows[0])
	for i := range rows {
		if epoch(&rows[i]) != e {
			return 0, errors.New("rows of several epochs in one call")
		}
	}
	return e, nil
}

type verdictWriter struct {
	cluster, detector, profile, config *proto.ColStr
	version, epoch                     *proto.ColUInt64
}

func (w *writer) verdict() verdictWriter {
	return verdictWriter{w.text("cluster"), w.text("detector_version"), w.text("profile_version"), w.text("config_digest"), w.u64("version"), w.u64("epoch")}
}

func (v verdictWriter) add(cluster string, p Provenance) {
	v.cluster.Append(cluster)
	v.detector.Append(p.DetectorVersion)
	v.profile.Append(p.ProfileVersion)
	v.config.Append(p.ConfigDigest)
	v.version.Append(p.Version)
	v.epoch.Append(p.Epoch)
}

// PutRuns adds versions of verdicts on runs. Nothing is overwritten; the same version
// written again is one. Rows share an epoch; an older one than the store holds is
// ErrStaleEpoch. (A leader deposed between the check and the insert still gets its rows in;
// readers order by epoch first, so they never hold.)
func (s *Store) PutRuns(ctx context.Context, cluster string, rows []RunRow) error {
	if len(rows) == 0 {
		return nil
	}
	epoch, err := oneEpoch(rows, func(r *RunRow) uint64 { return r.Provenance.Epoch })
	if err != nil {
		return fmt.Errorf("put runs: %w", err)
	}
	if err := s.checkVerdict(ctx, TableRuns, cluster, epoch); err != nil {
		return err
	}
	return s.insertRuns(ctx, TableRuns, cluster, "", rows)
}

// insertRuns adds rows to runs, or to those of a review.
func (s *Store) insertRuns(ctx context.Context, table, cluster, review string, rows []RunRow) error {
	var w writer
	v := w.verdict()
	of := w.reviewed(review)
	id, judged, class, prob := w.text("run_id"), w.int("judged_ms"), w.text("class"), new(proto.ColFloat64)
	w.put("class_probability", prob)
	start, end := w.int("start_ms"), proto.NewColNullable[int64](new(proto.ColInt64))
	w.put("end_ms", end)
	var flops [6]*nullFloat
	for i, name := range [...]string{"flops_executed_low", "flops_executed_best", "flops_executed_high", "flops_model_low", "flops_model_best", "flops_model_high"} {
		flops[i] = w.float(name)
	}
	coverage, by, doc := w.float("coverage_frac"), w.text("superseded_by"), w.text("doc")
	for i := range rows {
		r := &rows[i]
		v.add(cluster, r.Provenance)
		of.add()
		id.Append(r.RunID)
		judged.Append(r.JudgedMs)
		class.Append(r.Class)
		prob.Append(r.ClassProbability)
		start.Append(r.StartMs)
		if r.EndMs == 0 {
			end.Append(proto.Null[int64]())
		} else {
			end.Append(proto.NewNullable(r.EndMs))
		}
		for k, f := range [...]float64{r.Executed.Low, r.Executed.Best, r.Executed.High, r.Model.Low, r.Model.Best, r.Model.High} {
			flops[k].add(f, true)
		}
		coverage.add(r.CoverageFrac, true)
		by.Append(r.SupersededBy)
		doc.Append(r.Doc)
	}
	return s.Insert(ctx, table, "", &columnsBlock{in: w.in})
}

// PutRunMembers adds the members of versions of runs. Write them before PutRuns, so that a
// version that is seen has its members.
func (s *Store) PutRunMembers(ctx context.Context, cluster string, rows []RunMemberRow) error {
	for from := 0; from < len(rows); from += cellChunk {
		var w writer
		cl, id, version, epoch := w.text("cluster"), w.text("run_id"), w.u64("version"), w.u64("epoch")
		node, gpu, start, end := w.text("node"), w.int("gpu"), w.int("start_ms"), w.int("end_ms")
		for _, r := range rows[from:min(from+cellChunk, len(rows))] {
			cl.Append(cluster)
			id.Append(r.RunID)
			version.Append(r.Version)
			epoch.Append(r.Epoch)
			node.Append(r.Node)
			gpu.Append(int64(r.GPU))
			start.Append(r.StartMs)
			end.Append(r.EndMs)
		}
		if err := s.Insert(ctx, TableRunMembers, "", &columnsBlock{in: w.in}); err != nil {
			return err
		}
	}
	return nil
}

// PutFindings adds versions of findings, as PutRuns does. RaisedMs and RaisedAt of a
// finding that is there already stay as they were first written, and an acknowledgement is
// never lost, whatever the row says.
func (s *Store) PutFindings(ctx context.Context, cluster string, rows []FindingRow) error {
	if len(rows) == 0 {
		return nil
	}
	epoch, err := oneEpoch(rows, func(r *FindingRow) uint64 { return r.Provenance.Epoch })
	if err != nil {
		return fmt.Errorf("put findings: %w", err)
	}
	if err = s.checkVerdict(ctx, TableFindings, cluster, epoch); err != nil {
		return err
	}
	before, err := s.carried(ctx, cluster, rows)
	if err != nil {
		return err
	}
	return s.insertFindings(ctx, TableFindings, cluster, "", rows, before)
}

// insertFindings adds rows to findings, or to those of a review. before is what earlier versions
// carry on.
func (s *Store) insertFindings(ctx context.Context, table, cluster, review string, rows []FindingRow, before map[string]FindingRow) error {
	var w writer
	v := w.verdict()
	of := w.reviewed(review)
	id, profile, limb, subject := w.text("finding_id"), w.text("profile"), w.text("limb"), w.text("subject")
	known, raisedMs := w.int("known_at_ms"), w.int("raised_ms")
	raisedAt := (&proto.ColDateTime64{}).WithPrecision(proto.PrecisionMilli)
	acknowledged := proto.NewColNullable[time.Time]((&proto.ColDateTime64{}).WithPrecision(proto.PrecisionMilli))
	w.put("raised_at", raisedAt)
	w.put("acknowledged_at", acknowledged)
	state, severity, retracted, doc := w.text("state"), w.text("severity"), new(proto.ColBool), w.text("doc")
	w.put("retracted", retracted)
	for _, r := range rows {
		if old, ok := before[r.FindingID]; ok {
			r.RaisedMs, r.RaisedAt = old.RaisedMs, old.RaisedAt
			if r.AcknowledgedAt.IsZero() {
				r.AcknowledgedAt = old.AcknowledgedAt
			}
		}
		v.add(cluster, r.Provenance)
		of.add()
		id.Append(r.FindingID)
		profile.Append(r.Profile)
		limb.Append(r.Limb)
		subject.Append(r.Subject)
		known.Append(r.KnownAtMs)
		raisedMs.Append(r.RaisedMs)
		raisedAt.Append(r.RaisedAt)
		if r.AcknowledgedAt.IsZero() {
			acknowledged.Append(proto.Null[time.Time]())
		} else {
			acknowledged.Append(proto.NewNullable(r.AcknowledgedAt))
		}
		state.Append(r.State)
		severity.Append(r.Severity)
		retracted.Append(r.Retracted)
		doc.Append(r.Doc)
	}
	return s.Insert(ctx, table, "", &columnsBlock{in: w.in})
}

// carried reads what is carried from version to version of the findings of rows that are
// there already.
func (s *Store) carried(ctx context.Context, cluster string, rows []FindingRow) (map[string]FindingRow, error) {
	var in strings.Builder
	for i := range rows {
		if i > 0 {
			in.WriteString(", ")
		}
		in.WriteString(quote(rows[i].FindingID))
	}
	var id textColumn
	var raisedMs, raisedAt, acknowledged proto.ColInt64
	sql := "SELECT finding_id, argMax(raised_ms, (epoch, version)) AS raised_ms_, argMax(toUnixTimestamp64Milli(raised_at), (epoch, version)) AS raised_at_, " +
		"argMax(ifNull(toUnixTimestamp64Milli(acknowledged_at), toInt64(0)), (epoch, version)) AS acknowledged_at_ FROM " + s.table(TableFindings) +
		" WHERE cluster = " + quote(cluster) + " AND finding_id IN (" + in.String() + ") GROUP BY finding_id"
	out := map[string]FindingRow{}
	res := proto.Results{{Name: "finding_id", Data: &id}, {Name: "raised_ms_", Data: &raisedMs}, {Name: "raised_at_", Data: &raisedAt}, {Name: "acknowledged_at_", Data: &acknowledged}}
	err := s.native.query(ctx, sql, res, func(n int) error {
		for i := range n {
			r := FindingRow{RaisedMs: raisedMs[i], RaisedAt: time.UnixMilli(raisedAt[i]).UTC()}
			if ms := acknowledged[i]; ms != 0 {
				r.AcknowledgedAt = time.UnixMilli(ms).UTC()
			}
			out[id.at(i)] = r
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what findings carry on: %w", err)
	}
	return out, nil
}

// LatestRuns returns the latest version of each run, sorted by id.
func (s *Store) LatestRuns(ctx context.Context, cluster string) ([]RunRow, error) {
	return s.runs(ctx, TableRuns, cluster, "")
}

// RunsAsOf returns the latest version of each run that is no later than version, sorted by id.
func (s *Store) RunsAsOf(ctx context.Context, cluster string, version uint64) ([]RunRow, error) {
	return s.runs(ctx, TableRuns, cluster, fmt.Sprintf(" AND version <= %d", version))
}

func (s *Store) runs(ctx context.Context, table, cluster, where string) ([]RunRow, error) {
	var sel selection
	id, class, by, doc := sel.text("run_id"), sel.text("class"), sel.text("superseded_by"), sel.text("doc")
	detector, profile, config := sel.text("detector_version"), sel.text("profile_version"), sel.text("config_digest")
	judged, start, end := sel.int("judged_ms"), sel.int("start_ms"), sel.optionalInt("end_ms", 0)
	prob, version, epoch := new(proto.ColFloat64), new(proto.ColUInt64), new(proto.ColUInt64)
	sel.add("class_probability", "class_probability", prob)
	sel.add("version", "version", version)
	sel.add("epoch", "epoch", epoch)
	var f [6]*nullable[float64]
	for i, name := range [...]string{"flops_executed_low", "flops_executed_best", "flops_executed_high", "flops_model_low", "flops_model_best", "flops_model_high"} {
		f[i] = sel.float64(name)
	}
	coverage := sel.float64("coverage_frac")
	sql := sel.sql() + " FROM " + s.table(table) + s.newest(table, "run_id", cluster, where) + " ORDER BY run_id, epoch DESC, version DESC LIMIT 1 BY run_id"
	var out []RunRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, RunRow{
				RunID: id.at(i), JudgedMs: (*judged)[i], Class: class.at(i), ClassProbability: (*prob)[i], StartMs: (*start)[i], EndMs: (*end)[i],
				Executed: FLOPs{f[0].at(i), f[1].at(i), f[2].at(i)}, Model: FLOPs{f[3].at(i), f[4].at(i), f[5].at(i)},
				CoverageFrac: coverage.at(i), SupersededBy: by.at(i), Doc: doc.at(i),
				Provenance: Provenance{(*version)[i], detector.at(i), profile.at(i), config.at(i), (*epoch)[i]},
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read runs: %w", err)
	}
	return out, nil
}

// newest is the condition that picks the latest version of each id: keys are looked up first,
// so that the documents of all the versions before are never read.
func (s *Store) newest(table, id, cluster, where string) string {
	of := " WHERE cluster = " + quote(cluster) + where
	return of + " AND (" + id + ", epoch, version) IN (SELECT " + id + ", m.1, m.2 FROM (SELECT " + id + ", max((epoch, version)) AS m FROM " + s.table(table) + of + " GROUP BY " + id + "))"
}

// RunMembers returns the members of one version of a run, sorted by node, GPU, start.
func (s *Store) RunMembers(ctx context.Context, cluster, runID string, version, epoch uint64) ([]RunMemberRow, error) {
	var sel selection
	node, gpu, start, end := sel.text("node"), sel.int("gpu"), sel.int("start_ms"), sel.int("end_ms")
	sql := sel.sql() + " FROM " + s.table(TableRunMembers) + " FINAL WHERE cluster = " + quote(cluster) + " AND run_id = " + quote(runID) +
		fmt.Sprintf(" AND version = %d AND epoch = %d ORDER BY node, gpu, start_ms", version, epoch)
	var out []RunMemberRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, RunMemberRow{runID, version, epoch, node.at(i), int((*gpu)[i]), (*start)[i], (*end)[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read members of run %s: %w", runID, err)
	}
	return out, nil
}

// LatestFindings returns the latest version of each finding, sorted by id, retracted ones
// among them.
func (s *Store) LatestFindings(ctx context.Context, cluster string) ([]FindingRow, error) {
	return s.findings(ctx, TableFindings, cluster, "")
}

// FindingsAsOf returns the latest version of each finding that is no later than version, as
// LatestFindings does.
func (s *Store) FindingsAsOf(ctx context.Context, cluster string, version uint64) ([]FindingRow, error) {
	return s.findings(ctx, TableFindings, cluster, fmt.Sprintf(" AND version <= %d", version))
}

func (s *Store) findings(ctx context.Context, table, cluster, where string) ([]FindingRow, error) {
	var sel selection
	id, profile, limb, subject := sel.text("finding_id"), sel.text("profile"), sel.text("limb"), sel.text("subject")
	state, severity, doc := sel.text("state"), sel.text("severity"), sel.text("doc")
	detector, profiles, config := sel.text("detector_version"), sel.text("profile_version"), sel.text("config_digest")
	known, raised := sel.int("known_at_ms"), sel.int("raised_ms")
	raisedAt, acknowledged := new(proto.ColInt64), new(proto.ColInt64)
	sel.add("raised_at_", "toUnixTimestamp64Milli(raised_at)", raisedAt)
	sel.add("acknowledged_at_", "ifNull(toUnixTimestamp64Milli(acknowledged_at), toInt64(0))", acknowledged)
	retracted, version, epoch := new(proto.ColUInt8), new(proto.ColUInt64), new(proto.ColUInt64)
	sel.add("retracted_", "toUInt8(retracted)", retracted)
	sel.add("version", "version", version)
	sel.add("epoch", "epoch", epoch)
	sql := sel.sql() + " FROM " + s.table(table) + s.newest(table, "finding_id", cluster, where) + " ORDER BY finding_id, epoch DESC, version DESC LIMIT 1 BY finding_id"
	var out []FindingRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := FindingRow{
				FindingID: id.at(i), Profile: profile.at(i), Limb: limb.at(i), Subject: subject.at(i), KnownAtMs: (*known)[i], RaisedMs: (*raised)[i],
				RaisedAt: time.UnixMilli((*raisedAt)[i]).UTC(), State: state.at(i), Severity: severity.at(i), Retracted: (*retracted)[i] != 0, Doc: doc.at(i),
				Provenance: Provenance{(*version)[i], detector.at(i), profiles.at(i), config.at(i), (*epoch)[i]},
			}
			if ms := (*acknowledged)[i]; ms != 0 {
				r.AcknowledgedAt = time.UnixMilli(ms).UTC()
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	return out, nil
}

// PutEvidence copies raw rows that a finding rests on, so that they outlive the raw
// tables. It may be repeated.
func (s *Store) PutEvidence(ctx context.Context, cluster, findingID string, gpu []GPURow, host []HostRow) error {
	for from := 0; from < len(gpu); from += cellChunk {
		var w writer
		cl, id, node := w.text("cluster"), w.text("finding_id"), w.text("node")
		index, ts, available := w.int("gpu"), w.int("ts_ms"), w.int("available_ms")
		values := make([]*nullFloat, len(GPUMeasures))
		for i, name := range GPUMeasures {
			values[i] = w.float(name)
		}
		energy, cycles := w.float("energy_j_total"), w.float("mma_cycles_total")
		for _, r := range gpu[from:min(from+cellChunk, len(gpu))] {
			if len(r.Values) != len(values) {
				return fmt.Errorf("put evidence of %s gpu %d: %d values, wanted %d", r.Node, r.GPU, len(r.Values), len(values))
			}
			cl.Append(cluster)
			id.Append(findingID)
			node.Append(r.Node)
			index.Append(int64(r.GPU))
			ts.Append(r.TsMs)
			available.Append(r.AvailableMs)
			for k, v := range r.Values {
				values[k].add(v, true)
			}
			energy.add(r.EnergyJ, true)
			cycles.add(r.MMACycles, true)
		}
		if err := s.Insert(ctx, TableEvidenceGPU, "", &columnsBlock{in: w.in}); err != nil {
			return err
		}
	}
	for from := 0; from < len(host); from += cellChunk {
		var w writer
		cl, id, node, ts, available := w.text("cluster"), w.text("finding_id"), w.text("node"), w.int("ts_ms"), w.int("available_ms")
		power, cpu, tx, rx := w.float("power_w"), w.float("cpu_frac"), w.float("storage_tx_bps"), w.float("storage_rx_bps")
		for _, r := range host[from:min(from+cellChunk, len(host))] {
			cl.Append(cluster)
			id.Append(findingID)
			node.Append(r.Node)
			ts.Append(r.TsMs)
			available.Append(r.AvailableMs)
			power.add(r.PowerW, true)
			cpu.add(r.CPUFrac, true)
			tx.add(r.StorageTxBps, true)
			rx.add(r.StorageRxBps, true)
		}
		if err := s.Insert(ctx, TableEvidenceHost, "", &columnsBlock{in: w.in}); err != nil {
			return err
		}
	}
	return nil
}
