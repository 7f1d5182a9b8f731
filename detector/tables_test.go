package detector

import (
	"math"
	"reflect"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/internal/store"
)

// TestTables: files and parts of GPUs are known from when they were written, and seen for an hour, on, for a day, and
// not before anything was.
func TestTables(t *testing.T) {
	t.Parallel()
	const h = feature.HourMs
	at := int64(1_700_000_000_000) / h * h
	m := &memory{
		devices:     []store.DeviceRow{{Node: "n1", GPU: 0, MIG: 1, PowerLimitW: math.NaN()}, {Node: "n2", GPU: 0, PowerLimitW: math.NaN()}},
		checkpoints: []store.CheckpointRow{{Node: "n1", PID: 7, StartMs: at + 1_000, EndMs: at + 60_000, Bytes: 9}, {Node: "n1", PID: 8, StartMs: at + 2_000}},
	}
	for i := range int64(3) {
		m.instances = append(m.instances, store.InstanceRow{Node: "n1", GI: 1, HourMs: at + i*h, SMFrac: 0.25})
	}
	m.instances = append(m.instances, store.InstanceRow{Node: "n1", GI: 1, HourMs: at + 3*h, SMFrac: 0.5}, store.InstanceRow{Node: "n2", GI: 1, HourMs: at, SMFrac: 0.5})
	d := New(Config{Cluster: "c"}, m, identity.NewGraph(nil))
	d.startMs = at
	if err := d.loadFacts(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, to := range []int64{at + h, at + 2*h, at + 2*h, at + 5*h} { // block by block
		if err := d.loadInstances(t.Context(), at, to); err != nil {
			t.Fatal(err)
		}
	}
	written := []feature.Checkpoint{{Node: "n1", PID: 7, AtMs: at + 1_000, Bytes: 9}}
	first := feature.Instance{Node: "n1", FromMs: at, ToMs: at + h, SMFrac: 0.25}
	quarter, half := first, feature.Instance{Node: "n1", FromMs: at + 3*h, ToMs: at + 4*h, SMFrac: 0.5}
	quarter.ToMs = at + 3*h
	for _, tt := range []struct {
		at        int64
		files     []feature.Checkpoint
		instances []feature.Instance
	}{
		{at, nil, nil},
		{at + 59_999, nil, nil},
		{at + 60_000, written, nil},
		{at + h, written, []feature.Instance{first}},
		{at + 4*h, written, []feature.Instance{quarter, half}},
		{at + 25*h + h/2, nil, []feature.Instance{{Node: "n1", FromMs: at + h, ToMs: at + 3*h, SMFrac: 0.25}, half}},
		{at + 29*h, nil, nil},
	} {
		ev := d.st.evidence(at, tt.at, false)
		if !reflect.DeepEqual(ev.Checkpoints, tt.files) || !reflect.DeepEqual(ev.Instances, tt.instances) {
			t.Errorf("at %d: %+v, %+v, want %+v, %+v", tt.at-at, ev.Checkpoints, ev.Instances, tt.files, tt.instances)
		}
	}
}
