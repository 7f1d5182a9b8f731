package detector

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// gpuHour names an hour of a GPU.
type gpuHour struct {
	feature.GPUKey
	hourMs int64
}

// flushHours writes the roll-ups, which are for views and are not judged from, of hours that were judged to their end by atMs, and anew those of earlier hours of which
// the block made cells. It comes after the cells: what it needs of hours that memory has let go is read back. What is cut
// short is done again, as the position still stands before the hour then.
func (d *Detector) flushHours(ctx context.Context, startMs, atMs int64, last bool) error {
	was := d.hoursMs
	rows, err := d.hourRows(ctx, startMs, atMs, last)
	if err != nil {
		return err
	}
	d.hoursMs = atMs
	if len(rows) == 0 {
		return nil
	}
	cells := store.Cells{Cluster: d.cfg.Cluster, Hour: rows}
	if err := d.putOnce(ctx, "store hours", func(ctx context.Context) error { return d.store.PutCells(ctx, cells, d.provenance(atMs)) }); err != nil {
		d.hoursMs = was
		return err
	}
	return nil
}

func (d *Detector) hourRows(ctx context.Context, startMs, atMs int64, last bool) ([]store.GPUHourRow, error) {
	done := d.hoursMs
	if done == 0 {
		done = feature.HourOf(startMs)
	}
	end := feature.HourOf(atMs) // of the hours that are over
	if last {
		end = feature.HourOf(atMs) + feature.HourMs
	}
	due := map[gpuHour]bool{}
	for _, made := range []map[nodeMinute]cells{d.pending.cells, d.pending.again} {
		for k := range made { // sorted below
			if hour := feature.HourOf(k.minute); hour+feature.HourMs <= done {
				for i := range made[k].gpu {
					due[gpuHour{feature.GPUKey{Node: k.node, GPU: made[k].gpu[i].GPU}, hour}] = true
				}
			}
		}
	}
	var out []store.GPUHourRow
	add := func(cells []feature.GPUCell, hour int64) {
		if h, ok := feature.ReduceHour(cells, hour); ok {
			out = append(out, gpuHourRow(&h))
		}
	}
	for hour := feature.HourOf(done); hour < end; hour += feature.HourMs {
		for k := range d.st.gpu { // sorted below
			add(d.st.hour(k, hour), hour)
		}
	}
	for k := range due {
		if k.hourMs >= max(d.cutMs, d.st.sealed[0]) {
			add(d.st.hour(k.GPUKey, k.hourMs), k.hourMs)
			continue
		}
		cells, err := d.storedHour(ctx, k)
		if err != nil {
			return nil, err
		}
		add(cells, k.hourMs)
	}
	slices.SortFunc(out, func(a, b store.GPUHourRow) int {
		return cmp.Or(cmp.Compare(a.MinuteMs, b.MinuteMs), strings.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU))
	})
	return out, nil
}

func gpuHourRow(h *feature.HourCell) store.GPUHourRow {
	r := store.GPUHourRow{GPUCellRow: gpuCellRow(&h.GPUCell), Presence: h.Presence}
	r.Rhythm.Share = h.RhythmShare
	return r
}

// hour is a GPU's cells of an hour.
func (s *state) hour(k feature.GPUKey, hourMs int64) []feature.GPUCell {
	t := s.gpu[k]
	if t == nil || t.n == 0 {
		return nil
	}
	cells := t.view(k, hourMs, hourMs+feature.HourMs-1)
	from := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= hourMs })
	to := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= hourMs+feature.HourMs })
	return cells[from:to]
}

// storedHour reads them back.
func (d *Detector) storedHour(ctx context.Context, k gpuHour) ([]feature.GPUCell, error) {
	var out []feature.GPUCell
	err := d.putOnce(ctx, "read cells of an hour", func(ctx context.Context) error {
		rows, err := d.store.GPUCells(ctx, store.RowQuery{Cluster: d.cfg.Cluster, Nodes: []string{k.Node}, FromMs: k.hourMs, ToMs: k.hourMs + feature.HourMs})
		out = out[:0]
		for i := range rows {
			if rows[i].Node == k.Node && rows[i].GPU == k.GPU {
				out = append(out, gpuCell(&rows[i]))
			}
		}
		return err
	})
	return out, err
}
