package detector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/internal/store"
)

// reportEveryMs is how often the folder of a finding that is revised all the time is written
// again, in event time.
const reportEveryMs = 10 * 60_000

// withdrawnDir is where the folders of findings go that were taken back.
const withdrawnDir = "withdrawn"

// reportQueue knows which folders are to be written, and which taken aside.
type reportQueue struct {
	write   map[string]bool
	aside   map[string]bool
	written map[string]int64 // when, in event time
	failed  map[string]int   // how often in a row
	atMs    int64
}

func newReportQueue() reportQueue {
	return reportQueue{write: map[string]bool{}, aside: map[string]bool{}, written: map[string]int64{}, failed: map[string]int{}}
}

// add takes versions of findings of a block that ended at atMs.
func (q *reportQueue) add(said []store.FindingRow, atMs int64) {
	q.atMs = atMs
	for i := range said {
		if !report.IsFinding(said[i].Limb) {
			continue // a question has no report
		}
		id := said[i].FindingID
		if said[i].Retracted {
			delete(q.write, id)
			q.aside[id] = true
		} else {
			delete(q.aside, id)
			q.write[id] = true
		}
	}
}

// again asks for a folder that an earlier process may not have come to write.
func (q *reportQueue) again(id string) { q.write[id] = true }

func (q *reportQueue) waiting() int { return len(q.write) + len(q.aside) }

// due are the findings whose folders are to be written now; those that could not be written
// come last, so that one of them holds up no other.
func (q *reportQueue) due(all bool) []string {
	var ids []string
	for id := range q.write {
		if at, ok := q.written[id]; all || !ok || q.atMs-at >= reportEveryMs {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(q.failed[a], q.failed[b]), cmp.Compare(a, b)) })
	return ids
}

// writeReports brings the folders up to date. A disk or store that refuses is told once, and
// tried again with the next block.
func (f *Follower) writeReports(ctx context.Context, all bool) error {
	if f.live.ReportsDir == "" || f.d.acts == nil {
		return nil
	}
	err := f.updateReports(ctx, all)
	switch {
	case err == nil:
		f.reportsAreBack()
		return nil
	case errors.Is(err, ErrStopped) || ctx.Err() != nil:
		return err
	}
	f.reportsFail(ctx, err)
	return nil
}

func (f *Follower) updateReports(ctx context.Context, all bool) error {
	q := &f.reports
	ids := q.due(all)
	if len(ids) == 0 && len(q.aside) == 0 {
		return nil
	}
	if err := os.MkdirAll(f.live.ReportsDir, 0o755); err != nil {
		return fmt.Errorf("make reports folder: %w", err)
	}
	for id := range q.aside { // each on its own
		if err := takeAside(f.live.ReportsDir, id); err != nil {
			return err
		}
		delete(q.aside, id)
		delete(q.written, id)
		delete(q.failed, id)
	}
	for _, id := range ids {
		if err := f.live.Held(); err != nil {
			return errors.Join(ErrStopped, err)
		}
		if _, holds := f.d.prev[id]; holds {
			if _, err := f.d.writeReports(ctx, f.live.ReportsDir, "", []string{id}, f.live.EndMs != 0 && f.judgedMs >= f.live.EndMs); err != nil {
				q.failed[id]++
				return err
			}
		}
		delete(q.write, id)
		delete(q.failed, id)
		q.written[id] = q.atMs
	}
	return nil
}

// takeAside moves the folder of a finding that was taken back, so that it does not lie beside
// what holds. The one that lay there from an earlier time makes room.
func takeAside(dir, id string) error {
	from, to := filepath.Join(dir, id), filepath.Join(dir, withdrawnDir, id)
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("make folder for withdrawn reports: %w", err)
	}
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(dir, withdrawnDir, fmt.Sprintf("%s.%d", id, n))
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("move the report of a withdrawn finding: %w", err)
	}
	return nil
}

func (f *Follower) reportsFail(ctx context.Context, err error) {
	f.mu.Lock()
	first := f.status.ReportError == ""
	f.status.ReportError = err.Error()
	f.status.Errors++
	f.mu.Unlock()
	if first {
		f.live.Log.LogAttrs(ctx, slog.LevelWarn, "reports wait, trying again", slog.Any("err", err))
	}
}

func (f *Follower) reportsAreBack() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.ReportError, f.status.Reports = "", f.reports.waiting()
}
