package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// Kinds of labels.
const (
	LabelClass         = "class"          // Value is what it was
	LabelSameRun       = "same_run"       // Value is the run that is one with it
	LabelOtherRun      = "other_run"      // Value is a run that is not
	LabelFLOPsExecuted = "flops_executed" // Number is known
	LabelFLOPsModel    = "flops_model"
	LabelFinding       = "finding" // Value is right or wrong
)

// LabelRow is one version of what a person says of a verdict.
type LabelRow struct {
	LabelID   string
	Version   uint64
	Kind      string
	RunID     string // empty: FindingID
	FindingID string
	Value     string
	Number    float64 // NaN: the kind has none
	Because   string
	Who, Role string // a hash of the name, never the name
	Withdrawn bool
	Said      string // what the detector said then
	At        time.Time
	StoreUser string // by the store's own word; not written
}

// PutLabels adds versions of labels. Nothing is overwritten.
func (s *Store) PutLabels(ctx context.Context, cluster string, rows []LabelRow) error {
	if len(rows) == 0 {
		return nil
	}
	var w writer
	cl, id, version, kind, run, finding := w.text("cluster"), w.text("label_id"), w.u64("version"), w.text("kind"), w.text("run_id"), w.text("finding_id")
	value, number, because, who, role, said := w.text("value"), w.float("number"), w.text("because"), w.text("who"), w.text("role"), w.text("said")
	withdrawn := column(&w, "withdrawn", new(proto.ColBool))
	at := column(&w, "labelled_at", (&proto.ColDateTime64{}).WithPrecision(proto.PrecisionMilli))
	for i := range rows {
		r := &rows[i]
		if r.LabelID == "" || r.Version == 0 || (r.RunID == "") == (r.FindingID == "") {
			return errors.New("put labels: one without an id, a version, or either a run or a finding")
		}
		cl.Append(cluster)
		id.Append(r.LabelID)
		version.Append(r.Version)
		kind.Append(r.Kind)
		run.Append(r.RunID)
		finding.Append(r.FindingID)
		value.Append(r.Value)
		number.add(r.Number, true)
		because.Append(r.Because)
		who.Append(r.Who)
		role.Append(r.Role)
		said.Append(r.Said)
		withdrawn.Append(r.Withdrawn)
		at.Append(r.At)
	}
	return s.Insert(ctx, TableLabels, "", &columnsBlock{in: w.in})
}

// Labels returns the latest version of each label of a cluster, sorted by id, withdrawn ones
// among them.
func (s *Store) Labels(ctx context.Context, cluster string) ([]LabelRow, error) {
	var sel selection
	id, kind, run, finding, value := sel.text("label_id"), sel.text("kind"), sel.text("run_id"), sel.text("finding_id"), sel.text("value")
	because, who, role, said, user := sel.text("because"), sel.text("who"), sel.text("role"), sel.text("said"), sel.text("store_user")
	version, withdrawn, at, number := new(proto.ColUInt64), new(proto.ColUInt8), new(proto.ColInt64), sel.float64("number")
	sel.add("version", "version", version)
	sel.add("withdrawn_", "toUInt8(withdrawn)", withdrawn)
	sel.add("labelled_at_", "toUnixTimestamp64Milli(labelled_at)", at)
	sql := sel.sql() + " FROM " + s.table(TableLabels) + " WHERE cluster = " + quote(cluster) + " ORDER BY label_id, version DESC LIMIT 1 BY label_id"
	var out []LabelRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			out = append(out, LabelRow{
				LabelID: id.at(i), Version: (*version)[i], Kind: kind.at(i), RunID: run.at(i), FindingID: finding.at(i), Value: value.at(i), Number: number.at(i),
				Because: because.at(i), Who: who.at(i), Role: role.at(i), Withdrawn: (*withdrawn)[i] != 0, Said: said.at(i), At: time.UnixMilli((*at)[i]).UTC(), StoreUser: user.at(i),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read labels: %w", err)
	}
	return out, nil
}
