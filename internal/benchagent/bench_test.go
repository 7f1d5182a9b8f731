package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// A window in which no checkpoint need fall, and of few frames, is not judged by them, and
// says so; a longer one is.
func TestReport(t *testing.T) {
	for _, c := range []struct {
		window time.Duration
		rows   map[wire.Kind]uint64
		bytes  uint64 // a sample
		broken string // "": none
		says   string
	}{
		{60 * time.Second, map[wire.Kind]uint64{}, 35, "", "are not judged"},
		{120 * time.Second, map[wire.Kind]uint64{}, 15, "no row of checkpoint arrived", ""},
		{120 * time.Second, map[wire.Kind]uint64{wire.KindCheckpoint: 1}, 35, "bytes a GPU sample", ""},
		{120 * time.Second, map[wire.Kind]uint64{wire.KindCheckpoint: 1}, 15, "", "all limits hold"},
	} {
		got := shipped{Frames: 3, GPURows: uint64(c.window.Seconds()) * gpus, Rows: c.rows}
		got.GPUBytes, got.GPUValues = got.GPURows*c.bytes, got.GPURows*sampleValues
		for _, kind := range []wire.Kind{wire.KindHealth, wire.KindCollective, wire.KindTCP} {
			got.Rows[kind] = 1
		}
		o := benchOptions{window: c.window}
		o.work = t.TempDir()
		var text strings.Builder
		err := report(&text, o, []*contender{{name: "agent", ours: true}}, make([]figures, 1), nil, "0, 0", shipped{}, got, "a test", nil)
		if c.broken == "" && err != nil || c.broken != "" && (err == nil || !strings.Contains(err.Error(), c.broken)) {
			t.Errorf("%s: %v, want %q", c.window, err, c.broken)
		}
		if !strings.Contains(text.String(), c.says) || c.broken != "" && strings.Contains(text.String(), "limits hold") {
			t.Errorf("%s: it says:\n%s", c.window, text.String())
		}
		if kept, rerr := os.ReadFile(filepath.Join(o.work, "bench-agent.txt")); rerr != nil || string(kept) != text.String() {
			t.Errorf("%s: the table is not kept: %v", c.window, rerr)
		}
	}
}
