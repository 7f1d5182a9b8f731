package main

import (
	"maps"
	"path/filepath"
	"testing"
)

// TestFromCells judges what a replay stored again, in the real engine, from minute cells
// alone: every answer and report is the same to the byte. What was read of the recording
// is not written again.
func TestFromCells(t *testing.T) {
	t.Parallel()
	dir, data := writeBundle(t, tinyFiles(), nil), filepath.Join(t.TempDir(), "data")
	want, _ := replayed(t, dir, "--data", data, "--quiet")
	got, _ := replayed(t, dir, "--data", data, "--quiet", "--from-cells")
	want = maps.Clone(want)
	delete(want, "recording.json")
	same(t, got, want, "judgement from cells")
}
