package playback_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/agent/playback"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// tape records what a sink was handed, one line a batch and one a row of interest.
type tape struct {
	lines []string
	t     testing.TB
}

func (p *tape) Node(_ context.Context, node string, availableMs int64, tables []wire.Table) error {
	p.record(node, availableMs, tables)
	return nil
}

func (p *tape) Provider(_ context.Context, availableMs int64, table wire.Table) error {
	p.record("", availableMs, []wire.Table{table})
	return nil
}

func (p *tape) record(node string, availableMs int64, tables []wire.Table) {
	frame, err := wire.AppendBatch(nil, &wire.Batch{Cluster: "c", Node: node, Spool: [16]byte{1}, Sequence: 1, AvailableMs: availableMs, Tables: tables})
	if err != nil {
		p.t.Errorf("encode a chunk of %q: %v", node, err)
		return
	}
	kinds := ""
	for i := range tables {
		kinds += fmt.Sprintf(" %v:%d", tables[i].Kind, tables[i].Rows)
		for _, end := range []wire.Kind{wire.KindProcess, wire.KindAllocation} {
			if tables[i].Kind != end {
				continue
			}
			f, c := fieldID(end, "end_ms"), 0
			if col := tables[i].Column(f); col != nil {
				for r := range tables[i].Rows {
					if col.Has(r) {
						c++
					}
				}
			}
			kinds += fmt.Sprintf("(%d ended)", c)
		}
	}
	p.lines = append(p.lines, fmt.Sprintf("%s@%d%s %x", node, availableMs, kinds, wire.Digest(frame)))
}

func fieldID(k wire.Kind, name string) uint8 {
	for _, f := range wire.Schema[k] {
		if f.Name == name {
			return f.ID
		}
	}
	return 0
}

func play(t *testing.T, dir string) ([]string, playback.Counts) {
	t.Helper()
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := &tape{t: t}
	counts, err := playback.Play(t.Context(), b, p)
	if err != nil {
		t.Fatal(err)
	}
	return p.lines, counts
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPlay plays a hand-made recording: a late row, an end that becomes known later,
// flows that share a key, and a node that the inventory lacks.
func TestPlay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "manifest.json", `{"format":"flopwatch-bundle/1","cluster":"c","start_ms":1700000640000,"end_ms":1700001240000,"description":"d","source":"s"}`)
	write(t, dir, "nodes.csv", "node,site,gpu_model,gpu_count,fabric_gbps,vantage,tdp_w\na,s,,8,,host,\n")
	write(t, dir, "gpu.csv", "ts_ms,node,gpu,util_frac,power_w\n1700000640000,a,0,0.5,100\n1700000700000,a,0,,200\n1700000670000,a,0,0.25,\n1700000701000,b,1,0,0\n")
	write(t, dir, "flows.csv", "ts_ms,node,peer,tx_bytes\n1700000640000,a,b,5\n1700000640000,a,b,7\n")
	write(t, dir, "processes.csv", "start_ms,end_ms,node,gpus,pid,exe\n1700000640500,1700000940000,a,0 1,7,x\n1700000640600,1700000641000,a,2,8,y\n")
	write(t, dir, "allocations.csv", "account,node,gpus,start_ms,end_ms\nacct,a,0 1,1700000540000,1700000940000\n")

	lines, counts := play(t, dir)
	got := make([]string, len(lines))
	for i, l := range lines {
		got[i] = l[:len(l)-65]
	}
	want := []string{
		"@1700000540000 allocation:1(0 ended)",
		"@1700000640000 inventory:1",
		"a@1700000640600 gpu:1 flow:1 process:2(1 ended)", // the process that ended within its minute says all at once
		"a@1700000700000 gpu:2",                           // the late row came with what had arrived by then
		"b@1700000701000 gpu:1",
		"@1700000940000 allocation:1(1 ended)",
		"a@1700000940000 process:1(1 ended)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("batches:\ngot  %q\nwant %q", got, want)
	}
	if n := counts.Rows[wire.KindGPU]; n != 4 {
		t.Errorf("GPU rows: got %d, want 4", n)
	}
}

// TestPlayTwice shows that chunks depend on the recording alone: a killed replay goes on
// at the chunk where it stopped.
func TestPlayTwice(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "deploy", "recordings", "mlperf-lora")
	first, _ := play(t, dir)
	second, _ := play(t, dir)
	if len(first) == 0 || !slices.Equal(first, second) {
		t.Fatalf("two plays differ, or nothing was played: %d and %d batches", len(first), len(second))
	}
}

// TestPlayAt plays on another clock: chunks are as many rows, later by the shift, and each
// waits for its time.
func TestPlayAt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "deploy", "recordings", "clean-mix")
	const shift, chunk = 90 * 60_000, 10_000
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	was := &span{}
	want, err := playback.Play(t.Context(), b, was)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = bundle.Open(dir); err != nil {
		t.Fatal(err)
	}
	is, waits, last := &span{}, 0, int64(0)
	got, err := playback.PlayAt(t.Context(), b, is, playback.Clock{ShiftMs: shift, ChunkMs: chunk, Wait: func(_ context.Context, arrivedMs int64) error {
		if (arrivedMs-shift)%chunk != 0 || arrivedMs <= last || is.availableMs > last && last != 0 {
			t.Errorf("chunk that had arrived by %d after %d, handed on up to %d", arrivedMs, last, is.availableMs)
		}
		waits, last = waits+1, arrivedMs
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for k, n := range want.Rows {
		if more := got.Rows[k] - n; more < 0 || more > 0 && k != wire.KindProcess && k != wire.KindAllocation { // ends that no longer share their start's chunk
			t.Errorf("%v: %d rows, %d unshifted", k, got.Rows[k], n)
		}
	}
	if waits < 100 || is.firstMs-was.firstMs != shift || is.lastMs-was.lastMs != shift || is.availableMs-was.availableMs != shift {
		t.Errorf("%d waits; %+v, unshifted %+v", waits, *is, *was)
	}
	stop := fmt.Errorf("enough")
	if _, err = playback.PlayAt(t.Context(), b, is, playback.Clock{Wait: func(context.Context, int64) error { return stop }}); err != stop { //nolint:errorlint // unchanged
		t.Errorf("got %v, want the wait's own error", err)
	}
}

// span is the event time that a sink was handed.
type span struct{ firstMs, lastMs, availableMs int64 }

func (s *span) Node(_ context.Context, _ string, availableMs int64, tables []wire.Table) error {
	s.availableMs = max(s.availableMs, availableMs)
	for i := range tables {
		col := tables[i].Column(fieldID(tables[i].Kind, "ts_ms"))
		if col == nil {
			continue
		}
		for r := range tables[i].Rows {
			if s.firstMs == 0 || col.Int[r] < s.firstMs {
				s.firstMs = col.Int[r]
			}
			s.lastMs = max(s.lastMs, col.Int[r])
		}
	}
	return nil
}

func (s *span) Provider(context.Context, int64, wire.Table) error { return nil }
