package detector

import (
	"cmp"
	"context"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// What is known of parts of GPUs and of checkpoints is looked at a day back: longer ago than that they say nothing that
// cells do not, and a fleet of years has many.
const tablesMs = dayMs

// checkpoint is a file that was written to its end, which is when it becomes known.
type checkpoint struct {
	feature.Checkpoint
	endMs int64
}

// loadCheckpoints reads the files that were written in the day before the period that is judged next, and since.
func (d *Detector) loadCheckpoints(ctx context.Context) error {
	from := max(d.startMs, d.prevAtMs, d.cutMs) - tablesMs
	rows, err := d.store.CheckpointRows(ctx, store.AsOf{Cluster: d.cfg.Cluster, EndedFromMs: max(from, 1)})
	if err != nil {
		return err
	}
	d.st.checkpoints = d.st.checkpoints[:0]
	for _, r := range rows {
		d.st.checkpoints = append(d.st.checkpoints, checkpoint{feature.Checkpoint{Node: r.Node, PID: int(r.PID), AtMs: r.StartMs, Bytes: r.Bytes}, r.EndMs})
	}
	slices.SortStableFunc(d.st.checkpoints, func(a, b checkpoint) int {
		return cmp.Or(cmp.Compare(a.AtMs, b.AtMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID), cmp.Compare(a.endMs, b.endMs))
	})
	return nil
}

// checkpointsAt is what had been written by atMs, and begun in the day before.
func (s *state) checkpointsAt(atMs int64) []feature.Checkpoint {
	var out []feature.Checkpoint
	for i := sort.Search(len(s.checkpoints), func(i int) bool { return s.checkpoints[i].AtMs >= atMs-tablesMs }); i < len(s.checkpoints); i++ {
		if c := &s.checkpoints[i]; c.endMs <= atMs {
			out = append(out, c.Checkpoint)
		}
	}
	return out
}

// partition names the nodes that have partitioned GPUs; where these are others than before, their hours are read anew.
func (d *Detector) partition(devices []store.DeviceRow) {
	var nodes []string
	for i := range devices {
		if devices[i].MIG == 1 {
			nodes = append(nodes, devices[i].Node)
		}
	}
	slices.Sort(nodes)
	if nodes = slices.Compact(nodes); !slices.Equal(nodes, d.parted) {
		d.parted, d.partsMs, d.st.instances = nodes, 0, nil
	}
}

// loadInstances reads which instances partitioned GPUs had in the hours that are over by toMs. It may be repeated.
func (d *Detector) loadInstances(ctx context.Context, fromMs, toMs int64) error {
	if len(d.parted) == 0 {
		return nil
	}
	from, to := d.partsMs, feature.HourOf(toMs)
	if from == 0 {
		from = feature.HourOf(fromMs) - tablesMs
	}
	if from >= to {
		return nil
	}
	rows, err := d.store.InstanceHours(ctx, store.RowQuery{Cluster: d.cfg.Cluster, Nodes: d.parted, FromMs: from, ToMs: to})
	if err != nil {
		return err
	}
	d.st.instances = slices.DeleteFunc(d.st.instances, func(r store.InstanceRow) bool { return r.HourMs < feature.HourOf(fromMs)-tablesMs })
	d.st.instances = append(d.st.instances, rows...)
	slices.SortStableFunc(d.st.instances, func(a, b store.InstanceRow) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.GI, b.GI), cmp.Compare(a.HourMs, b.HourMs))
	})
	d.partsMs = to
	return nil
}

// instancesAt is what was seen in the hours of the last day that are over at atMs: hours that follow each other are one.
func (s *state) instancesAt(atMs int64) []feature.Instance {
	to := feature.HourOf(atMs)
	var out []feature.Instance
	last := -1 // row that the last of out was made of
	for i := range s.instances {
		r := &s.instances[i]
		if r.HourMs < to-tablesMs || r.HourMs >= to {
			continue
		}
		if last >= 0 {
			if p := &s.instances[last]; p.Node == r.Node && p.GPU == r.GPU && p.GI == r.GI && p.HourMs+feature.HourMs == r.HourMs && same(p.SMFrac, r.SMFrac) {
				out[len(out)-1].ToMs, last = r.HourMs+feature.HourMs, i
				continue
			}
		}
		out = append(out, feature.Instance{Node: r.Node, GPU: r.GPU, FromMs: r.HourMs, ToMs: r.HourMs + feature.HourMs, SMFrac: r.SMFrac})
		last = i
	}
	slices.SortStableFunc(out, func(a, b feature.Instance) int {
		return cmp.Or(cmp.Compare(a.FromMs, b.FromMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU))
	})
	return out
}
