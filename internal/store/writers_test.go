package store

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"
)

// ingest writes two rows into each table that collectors write to, with the writers that they use.
func ingest(ctx context.Context, s *Store, cluster string) error {
	for _, table := range RawTables() {
		b, err := NewRawBlock(table)
		if err != nil {
			return err
		}
		b.Begin(RawMeta{Cluster: cluster, Node: "n", Spool: "s", Sequence: 1, Sources: "nvml", AvailableMs: 90_000}, 2)
		for _, f := range rawTables[table].fields {
			switch {
			case f.name == "gpu_list":
				b.Strings(b.Column(f.name), []string{"0", "0 1"}, []uint32{0, 1}, nil)
			case f.name == "end_ms":
				b.Ints(b.Column(f.name), []int64{120_000, 120_001}, nil)
			case f.typ == tLC || f.typ == tNLC:
				b.Strings(b.Column(f.name), []string{"a", "b"}, []uint32{0, 1}, nil)
			default:
				b.Ints(b.Column(f.name), []int64{60_000, 60_001}, nil)
			}
		}
		b.End()
		if table == TableGPUSamples { // one of now, for v_fleet_now
			b.Begin(RawMeta{Cluster: cluster, Node: "n", Spool: "s", Sequence: 1, Sources: "nvml", AvailableMs: 90_000}, 1)
			b.Ints(b.Column("ts_ms"), []int64{time.Now().UnixMilli()}, nil)
			b.End()
		}
		if err = s.Insert(ctx, table, cluster+table, b); err != nil {
			return err
		}
	}
	batches, gaps, aside := make([]BatchRow, 2), make([]GapRow, 2), make([]QuarantineRow, 2)
	for i := range uint64(2) {
		key := BatchKey{Cluster: cluster, Node: "n", Spool: "s", Sequence: 1 + i}
		batches[i] = BatchRow{BatchKey: key, Ticks: 60 * (1 + i), MinTsMs: 60_000, MaxTsMs: 119_000, SealedWallMs: 120_000, Minutes: []int64{1}, AvailableMs: 121_000,
			Gaps: []BatchGap{{From: 3, To: 4, Reason: 1}}, NodeKey: [32]byte{7}}
		gaps[i] = GapRow{Cluster: cluster, Node: "n", Spool: "s", FromSequence: 3 + 2*i, ToSequence: 4 + 2*i, Reason: "bytes", AvailableMs: 121_000}
		key.Sequence += 10
		aside[i] = QuarantineRow{Stream: "FLOPWATCH_0", StreamSeq: 1 + i, Subject: cluster, BatchKey: key, Reason: "digest", Rows: 5, BrokerMs: 121_000, Bytes: []byte{0, 10, 10, 255}}
	}
	dropped := []DroppedRow{{Stream: "FLOPWATCH_0", Seq: 5, LastSeq: 6, Subject: cluster, Reason: "decode", Messages: 2, Size: 10, BrokerMs: 121_000}, {Stream: "FLOPWATCH_0", Seq: 7, LastSeq: 7, Subject: cluster, Reason: "decode", Messages: 1, Size: 5, BrokerMs: 121_000}}
	for table, b := range map[string]Block{TableBatches: BatchBlock(batches), TableGaps: GapBlock(gaps), TableQuarantine: QuarantineBlock(aside), TableQuarantineDropped: DroppedBlock(dropped)} {
		if err := s.Insert(ctx, table, cluster+table, b); err != nil {
			return err
		}
	}
	// The hourly check of chains.
	key := BatchKey{Cluster: cluster, Node: "n", Spool: "s", Sequence: 1}
	hours, losses := make([]ChainHour, 2), make([]Loss, 2)
	for i := range int64(2) {
		hours[i] = ChainHour{Node: "n", HourMs: i * HourMs, Status: "verified", Reasons: []string{"key"}, Batches: 1, SeenMs: 1, KnownMs: 121_000}
		losses[i] = Loss{Node: "n", Spool: "s", FromSequence: uint64(3 + i), ToSequence: uint64(3 + i), Reason: "bytes", Batches: 1, FromMs: 1, ToMs: 2, KnownMs: 3}
	}
	for _, step := range []func() error{
		func() error {
			_, err := s.QuarantineUse(ctx, "FLOPWATCH_0", 10, 0) // what a collector asks
			return err
		},
		func() error { _, err := s.HeldAside(ctx, SpoolKey{cluster, "n", "s"}); return err },
		func() error { _, err := s.PartPressure(ctx); return err },
		func() error { return s.PutChainHours(ctx, cluster, hours) },
		func() error { return s.PutLosses(ctx, cluster, losses) },
		func() error {
			return s.PutChainPosition(ctx, cluster, ChainPosition{ThroughMs: 1, SeenMs: 1, Instance: "i"})
		},
		func() error { return s.PutChainPosition(ctx, cluster+" 2", ChainPosition{ThroughMs: 1, SeenMs: 1}) },
		func() error { _, err := s.ChainHours(ctx, cluster, "n", 0, 1<<40); return err },
		func() error { _, err := s.LossesOf(ctx, cluster, []string{"n"}, 0); return err },
		func() error { _, err := s.ChainStanding(ctx, 1, 2); return err },
		func() error { _, err := s.ChainPositions(ctx, 0); return err },
		func() error { _, err := s.DueHours(ctx, cluster, 0, 1<<40, 1<<40, 10); return err },
		func() error { _, err := s.KeyNotes(ctx, cluster, "n"); return err },
		func() error { _, err := s.Digests(ctx, []BatchKey{key}); return err },
		func() error { _, err := s.Conflicts(ctx, cluster, []string{"n"}, 0, 1<<40); return err },
		func() error { _, err := s.QuarantinedFrames(ctx, cluster, []string{"n"}); return err },
		func() error {
			return s.Heads(ctx, HeadQuery{Cluster: cluster, Keys: []BatchKey{key}}, func(HeadRow) error { return nil })
		},
		func() error { _, _, err := s.HeadBefore(ctx, key); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	handled, err := s.Handled(ctx, []SpoolKey{{cluster, "n", "s"}})
	if err != nil {
		return err
	}
	if h := handled[SpoolKey{cluster, "n", "s"}]; len(h.Stored) != 2 || len(h.GivenUp) != 2 {
		return fmt.Errorf("handled %+v", handled)
	}
	return nil
}

// judge reads what a detector reads and writes two rows into each table that it writes to. Of
// telemetry it wants what ingest wrote.
func judge(ctx context.Context, s *Store, cluster string) error {
	q := RowQuery{Cluster: cluster, FromMs: 0, ToMs: 1 << 40}
	as := AsOf{Cluster: cluster, EndedFromMs: 1}
	gpu, err := s.GPURows(ctx, q)
	if err != nil {
		return err
	}
	host, err := s.HostRows(ctx, q)
	if err != nil {
		return err
	}
	if len(gpu) < 2 || len(host) < 2 {
		return fmt.Errorf("%d rows of GPUs, %d of hosts", len(gpu), len(host))
	}
	const judged = int64(120_000)
	n := len(CellSignals)
	p := Provenance{Version: 3, DetectorVersion: "d", ProfileVersion: "p", ConfigDigest: "c", Epoch: 5}
	cells := Cells{Cluster: cluster}
	for i := range int64(2) {
		cells.GPU = append(cells.GPU, GPUCellRow{Node: "n", GPU: int(i), MinuteMs: 60_000, AvailableMs: 121_000, Samples: 60, Mean: make([]float64, n), SD: make([]float64, n), CoverMs: make([]int64, n)})
		cells.Node = append(cells.Node, NodeCellRow{Node: fmt.Sprint("n", i), MinuteMs: 60_000, AvailableMs: 121_000, PowerW: 1, PowerCoverMs: 1})
		cells.Comm = append(cells.Comm, CommCellRow{Node: "n", PID: i, Comm: "c", Op: "o", MinuteMs: 60_000, AvailableMs: 121_000})
		cells.Flow = append(cells.Flow, FlowCellRow{Node: fmt.Sprint("n", i), Peer: "m", MinuteMs: 60_000, AvailableMs: 121_000})
	}
	for _, c := range cells.GPU {
		c.Node, c.MinuteMs = "a", 0 // as in the rows of allocations
		cells.Hour = append(cells.Hour, GPUHourRow{GPUCellRow: c, Presence: 2})
	}
	account := "account of " + cluster
	var runs []RunRow
	var members []RunMemberRow
	var findings []FindingRow
	var parties []PartyRow
	var accounts []PartyAccountRow
	for _, id := range []string{"1", "2"} {
		runs = append(runs, RunRow{RunID: id, JudgedMs: judged, Class: "idle", StartMs: 60_000, Doc: `{"terms":[{"name":"dtype","log_sd":0.2,"half_width":0.3}]}`, Provenance: p})
		members = append(members, RunMemberRow{RunID: id, Version: 3, Epoch: 5, Node: "n", StartMs: 60_000, EndMs: judged})
		findings = append(findings, FindingRow{FindingID: id, Limb: "actual", KnownAtMs: judged, RaisedMs: judged, RaisedAt: time.UnixMilli(judged), Doc: "{}", Provenance: p})
		parties = append(parties, PartyRow{PartyID: id + cluster, Version: 1, Envelope: "sealed", Status: "verified", AvailableMs: 1})
		accounts = append(accounts, PartyAccountRow{Account: account, PartyID: id + cluster, Version: 1, AvailableMs: 1})
	}
	for _, step := range []func() error{
		func() error { _, err := s.FabricRows(ctx, q); return err },
		func() error { _, err := s.FlowRows(ctx, q); return err },
		func() error { _, err := s.CollectiveRows(ctx, q); return err },
		func() error { _, err := s.ProcessRows(ctx, as); return err },
		func() error { _, err := s.AllocationRows(ctx, as); return err },
		func() error { _, err := s.OrderRows(ctx, as); return err },
		func() error { _, err := s.InventoryRows(ctx, as); return err },
		func() error { _, err := s.DeviceRows(ctx, as); return err },
		func() error { _, err := s.InstanceHours(ctx, q); return err },
		func() error { _, err := s.CheckpointRows(ctx, as); return err },
		func() error { _, err := s.Instruments(ctx, as); return err },
		func() error { _, err := s.FabricRates(ctx, q); return err },
		func() error { _, err := s.BatchesAfter(ctx, cluster, 0, 0); return err },
		func() error { _, err := s.BatchesInserted(ctx, cluster, 0, 1<<40); return err },
		func() error { _, _, _, err := s.FirstData(ctx, cluster, 0); return err },
		func() error { _, err := s.NodeHours(ctx, cluster, []string{"n"}, 0, 1<<40); return err },
		func() error { _, err := s.Losses(ctx, as); return err },
		func() error { _, err := s.LossesMark(ctx, cluster); return err },
		func() error { return s.PutCells(ctx, cells, p) },
		func() error { return s.PutRuns(ctx, cluster, runs) },
		func() error { return s.PutRunMembers(ctx, cluster, members) },
		func() error { return s.PutFindings(ctx, cluster, findings) },
		func() error { return s.PutEvidence(ctx, cluster, "1", gpu, host) },
		func() error { return s.PutParties(ctx, parties) },
		func() error { return s.PutPartyAccounts(ctx, accounts) },
		func() error { return s.PutPosition(ctx, cluster, PositionRow{Epoch: 5, JudgedMs: judged, StartMs: 1}) },
		func() error { return s.PutPosition(ctx, cluster, PositionRow{Epoch: 6, JudgedMs: judged, StartMs: 1}) },
		func() error { return s.PutReviewedRuns(ctx, cluster, "v", runs) },
		func() error { return s.PutReviewedFindings(ctx, cluster, "v", findings) },
		func() error { return s.PutReview(ctx, cluster, ReviewRow{ReviewID: "v", Progress: 1}) },
		func() error { return s.PutReview(ctx, cluster, ReviewRow{ReviewID: "w", Progress: 1}) },
		func() error { _, err := s.Reviews(ctx, cluster); return err },
		func() error { _, err := s.ReviewedRuns(ctx, cluster, "v", 3); return err },
		func() error { _, err := s.ReviewedFindings(ctx, cluster, "v", 3); return err },
		func() error { _, err := s.GPUCells(ctx, q); return err },
		func() error { _, err := s.GPUHours(ctx, q); return err },
		func() error { _, err := s.NodeCells(ctx, q); return err },
		func() error { _, err := s.CommCells(ctx, q); return err },
		func() error { _, err := s.FlowCells(ctx, q); return err },
		func() error { _, err := s.LatestRuns(ctx, cluster); return err },
		func() error { _, err := s.RunsAsOf(ctx, cluster, 3); return err },
		func() error { _, err := s.RunMembers(ctx, cluster, "1", 3, 5); return err },
		func() error { _, err := s.LatestFindings(ctx, cluster); return err },
		func() error { _, err := s.FindingsAsOf(ctx, cluster, 3); return err },
		func() error { _, err := s.Parties(ctx, 0); return err },
		func() error { _, err := s.PartyAccounts(ctx, 0); return err },
		func() error { _, err := s.PartiesMark(ctx); return err },
		func() error { _, err := s.LatestEpoch(ctx, cluster); return err },
		func() error { _, _, err := s.Position(ctx, cluster); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// correct says twice that a verdict is wrong, as people do.
func correct(ctx context.Context, s *Store, cluster string) error {
	var labels []LabelRow
	for _, id := range []string{"1", "2"} {
		labels = append(labels, LabelRow{LabelID: id, Version: 1, Kind: LabelClass, RunID: id, Value: "inference", Number: math.NaN(), Who: "w", Role: "analyst", At: time.UnixMilli(120_000)})
	}
	if err := s.PutLabels(ctx, cluster, labels); err != nil {
		return err
	}
	for _, read := range []func() error{
		func() error { _, err := s.Labels(ctx, cluster); return err },
		func() error { _, err := s.LatestRuns(ctx, cluster); return err },
		func() error { _, err := s.LatestFindings(ctx, cluster); return err },
	} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// closed closes a store when the test ends.
func closed(t *testing.T, s *Store, err error) *Store {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	return s
}
