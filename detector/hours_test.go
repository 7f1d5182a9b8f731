package detector

import (
	"fmt"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
)

// TestHoursAreRolledUp: after all is judged there is a roll-up of every hour of every GPU that has a cell, equal to what its cells
// give.
func TestHoursAreRolledUp(t *testing.T) {
	t.Parallel()
	one, _ := followed(t)
	cells := map[gpuHour][]feature.GPUCell{}
	for _, rows := range one.gpuCells {
		for _, v := range rows {
			c := gpuCell(&v.row)
			k := gpuHour{feature.GPUKey{Node: c.Node, GPU: c.GPU}, feature.HourOf(c.MinuteMs)}
			cells[k] = upsert(cells[k], c, func(x feature.GPUCell) int64 { return x.MinuteMs })
		}
	}
	got := map[gpuHour]store.GPUHourRow{}
	for _, rows := range one.gpuHours {
		for _, v := range rows {
			got[gpuHour{feature.GPUKey{Node: v.row.Node, GPU: v.row.GPU}, v.row.MinuteMs}] = v.row
		}
	}
	if len(cells) == 0 || len(got) != len(cells) {
		t.Fatalf("%d roll-ups of %d hours", len(got), len(cells))
	}
	for k, minutes := range cells {
		h, _ := feature.ReduceHour(minutes, k.hourMs)
		if want := gpuHourRow(&h); fmt.Sprintf("%+v", got[k]) != fmt.Sprintf("%+v", want) {
			t.Errorf("%+v\nis\n%+v, want\n%+v", k, got[k], want)
		}
	}
}
