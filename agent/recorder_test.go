package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

func openSpool(tb testing.TB, dir string) *spool.Spool {
	tb.Helper()
	sp, err := spool.Open(spool.Config{Dir: dir, FS: durable.NoSync(durable.OS{}), MaxBytes: 4096,
		NewID: func() ([16]byte, error) { return [16]byte{1}, nil }})
	if err != nil {
		tb.Fatal(err)
	}
	return sp
}

func privacy(tb testing.TB) *Privacy {
	tb.Helper()
	p, err := NewPrivacy(bytes.Repeat([]byte{7}, keyBytes))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func hostTable(tb testing.TB, tsMs int64) wire.Table {
	tb.Helper()
	b := wire.NewBuilder(wire.KindHost, wire.SourceProcfs)
	b.Begin()
	b.SetInt(1, tsMs)
	b.SetInt(10, 5)
	if err := b.End(); err != nil {
		tb.Fatal(err)
	}
	return *b.Build()
}

// batches decodes all frames of a spool.
func batches(tb testing.TB, sp *spool.Spool) (frames [][]byte, all []wire.Batch) {
	tb.Helper()
	r := sp.Read(1)
	for {
		_, frame, err := r.Next(nil)
		if errors.Is(err, io.EOF) {
			return frames, all
		}
		if err != nil {
			tb.Fatal(err)
		}
		d, err := wire.NewDecoder()
		if err != nil {
			tb.Fatal(err)
		}
		var b wire.Batch
		if err := d.Decode(frame, &b); err != nil {
			tb.Fatal(err)
		}
		frames, all = append(frames, frame), append(all, b)
	}
}

func seal(tb testing.TB, r *Recorder, availableMs int64, tables ...wire.Table) uint64 {
	tb.Helper()
	seq, err := r.Seal(availableMs, tables...)
	if err != nil {
		tb.Fatal(err)
	}
	return seq
}

func TestSeal(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	r, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: privacy(t), BootID: "boot",
		Clock: func() (int64, int64) { return 100, 7 }})
	if err != nil {
		t.Fatal(err)
	}
	if seq := seal(t, r, 0); seq != 0 {
		t.Errorf("nothing was sealed as %d", seq)
	}
	for i := range int64(3) {
		r.Tick()
		r.Tick()
		if seq := seal(t, r, 0, hostTable(t, i), wire.Table{Kind: wire.KindGPU}); seq != uint64(i)+1 {
			t.Errorf("batch %d is sealed as %d", i+1, seq)
		}
	}
	frames, all := batches(t, sp)
	if len(all) != 3 {
		t.Fatalf("%d batches", len(all))
	}
	for i, b := range all {
		if b.Sequence != uint64(i)+1 || b.Ticks != uint64(2*i+2) || b.SealedWallMs != 100 || b.SealedBootMs != 7 || b.BootID != "boot" || b.Spool != sp.ID() {
			t.Errorf("batch %d: %+v", i, b)
		}
		var prev [32]byte
		if i > 0 {
			prev = wire.Digest(frames[i-1])
		}
		if b.PrevDigest != prev {
			t.Errorf("batch %d: the chain is broken", i)
		}
	}
}

// TestGaps: what the spool gave up is told by the batches that follow, and the chain of
// digests goes on over the gap.
func TestGaps(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	r, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: privacy(t)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(60) {
		seal(t, r, 0, hostTable(t, i))
	}
	_, all := batches(t, sp)
	last, first := all[len(all)-1], all[0]
	if len(last.Gaps) != 1 || last.Gaps[0].From != 1 || last.Gaps[0].To < first.Sequence-2 {
		t.Errorf("gaps %+v before batch %d", last.Gaps, first.Sequence)
	}
	if g := sp.Gaps(); len(g) != 1 || g[0].To+1 != first.Sequence || first.PrevDigest != g[0].Digest {
		t.Errorf("the chain is broken at gap %+v", g)
	}
}

// TestReplay: a replay that starts again skips what the spool has and gives the same bytes.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	run := func(upTo int64) {
		sp := openSpool(t, dir)
		r, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: privacy(t), Replay: true, SyncEvery: 3})
		if err != nil {
			t.Fatal(err)
		}
		for i := range upTo {
			if seq := seal(t, r, 10*i, hostTable(t, i)); seq != uint64(i)+1 {
				t.Errorf("batch %d is sealed as %d", i+1, seq)
			}
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := sp.Close(); err != nil {
			t.Fatal(err)
		}
	}
	run(4)
	run(9)
	sp := openSpool(t, dir)
	resumed, all := batches(t, sp)
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	if len(all) != 9 || all[8].AvailableMs != 80 || all[8].Tables[0].Column(1).Int[0] != 8 {
		t.Fatalf("%d batches: %+v", len(all), all)
	}
	dir = t.TempDir()
	run(9)
	sp = openSpool(t, dir)
	defer sp.Close()
	straight, _ := batches(t, sp)
	for i := range straight {
		if !bytes.Equal(straight[i], resumed[i]) {
			t.Errorf("frame %d differs after a restart", i+1)
		}
	}
}

func TestPrivacy(t *testing.T) {
	p := privacy(t)
	for _, tc := range []struct{ got, same, other string }{
		{p.User("anna"), p.User("anna"), p.Project("anna")},
		{p.Peer("203.0.113.7"), p.Peer("203.0.113.200:443"), p.Peer("203.0.114.7")},
		{p.Peer("::ffff:203.0.113.7"), p.Peer("203.0.113.1"), p.Peer("10.0.0.1")},
		{p.Peer("2001:db8:1:2::3"), p.Peer("2001:db8:1:ffff::9"), p.Peer("2001:db8:2::3")},
		{p.Address("10.0.0.1"), p.Address("::ffff:10.0.0.1"), p.Address("10.0.0.2")},
		{p.Address("10.0.0.1:80"), p.Address("10.0.0.1"), p.Peer("10.0.0.1")},
		{p.Address("203.0.113.7"), p.Peer("203.0.113.9"), p.Address("100.64.0.1")},
		{p.File("/a"), p.File("/a"), p.Workload("/a")},
	} {
		if tc.got != tc.same || tc.got == tc.other {
			t.Errorf("%+v", tc)
		}
	}
	for name, want := range map[string]string{p.Peer("node-1"): "node-1", p.User(""): "", p.User("anna")[:2]: "u-", p.Project("x")[:2]: "p-", p.Peer("1.2.3.4")[:4]: "net-"} {
		if name != want {
			t.Errorf("got %q, want %q", name, want)
		}
	}
	if n := len(p.User("anna")); n != 2+16 {
		t.Errorf("a token of %d characters", n)
	}
	if c := ClearPrivacy(); c.User("anna") != "anna" || c.Peer("1.2.3.4") != "1.2.3.4" {
		t.Error("clear is not clear")
	}
}

// TestHide: no name is left in the frame, the caller's table is as it was, and flows that
// have become one peer's are summed.
func TestHide(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	p := privacy(t)
	r, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: p})
	if err != nil {
		t.Fatal(err)
	}
	proc := wire.NewBuilder(wire.KindProcess, wire.SourceProcfs)
	proc.Begin()
	proc.SetInt(1, 1)
	proc.SetInt(2, 2)
	proc.SetStr(15, "job-7")
	proc.SetStr(16, "anna")
	proc.SetStr(17, "anna")
	proc.SetStr(28, "secret-trainer")
	flow := wire.NewBuilder(wire.KindFlow, wire.SourceEBPF)
	if err := proc.End(); err != nil {
		t.Fatal(err)
	}
	for i, peer := range []string{"203.0.113.7", "node-2", "203.0.113.8", "203.0.113.9"} {
		flow.Begin()
		flow.SetInt(1, 5)
		flow.SetStr(2, peer)
		if i < 3 {
			flow.SetInt(10, int64(1)<<i)
		}
		if err := flow.End(); err != nil {
			t.Fatal(err)
		}
	}
	pt, ft := *proc.Build(), *flow.Build()
	seal(t, r, 0, pt, ft)
	if pt.Column(16).Dict[0] != "anna" || ft.Column(2).Dict[0] != "203.0.113.7" {
		t.Error("the caller's tables were changed")
	}
	_, all := batches(t, sp)
	got := all[0].Tables
	if u := got[0].Column(16).Str(0); u != p.User("anna") {
		t.Errorf("user %q", u)
	}
	if c := got[0].Column(28).Str(0); c != p.Container("secret-trainer") || c == "secret-trainer" {
		t.Errorf("container %q", c)
	}
	if j := got[0].Column(15).Str(0); j != "job-7" {
		t.Errorf("job %q", j)
	}
	if got[1].Rows != 2 {
		t.Fatalf("%d flows: %+v", got[1].Rows, got[1])
	}
	for row := range 2 {
		peer, tx := got[1].Column(2).Str(row), got[1].Column(10).Int[row]
		if !(peer == "node-2" && tx == 2 || peer == p.Peer("203.0.113.1") && tx == 5) {
			t.Errorf("%d bytes to %q", tx, peer)
		}
	}
}

// TestHideHost: nor are those of the kinds that the kernel, schedulers and files give.
func TestHideHost(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	p := privacy(t)
	r, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: p})
	if err != nil {
		t.Fatal(err)
	}
	build := func(kind wire.Kind, rows ...map[uint8]any) wire.Table {
		b := wire.NewBuilder(kind, wire.SourceEBPF)
		for _, row := range rows {
			b.Begin()
			for id, v := range row {
				switch v := v.(type) {
				case int:
					b.SetInt(id, int64(v))
				case string:
					b.SetStr(id, v)
				}
			}
			if err := b.End(); err != nil {
				t.Fatal(err)
			}
		}
		return *b.Build()
	}
	seal(t, r, 0,
		build(wire.KindTCP,
			map[uint8]any{1: 5, 2: "203.0.113.7", 3: "slurm", 4: "7", 10: 1, 11: 10},
			map[uint8]any{1: 5, 2: "203.0.113.8", 3: "slurm", 4: "7", 10: 2, 12: 3},
			map[uint8]any{1: 5, 2: "203.0.113.8", 3: "slurm", 4: "8", 10: 4},
			map[uint8]any{1: 5, 2: "10.0.0.8", 3: "slurm", 4: "7", 10: 8},
			map[uint8]any{1: 5, 2: "10.0.0.9", 3: "slurm", 4: "7", 10: 16}),
		build(wire.KindHold, map[uint8]any{1: 1, 2: "GPU-1", 3: "kubernetes", 4: "pod-uid", 17: "anna", 18: "anna", 19: "anna", 20: "secret-trainer 3f8c1a6b2d9e sidecar"}),
		build(wire.KindCheckpoint, map[uint8]any{1: 1, 2: 2, 3: "/home/anna/model.pt"}),
		build(wire.KindFact,
			map[uint8]any{1: 1, 2: "host", 3: "address", 10: "10.0.0.8"}, map[uint8]any{1: 1, 2: "host", 3: "address6", 10: "10.0.0.8"},
			map[uint8]any{1: 1, 2: "kernel", 3: "address", 10: "203.0.113.7"}),
		build(wire.KindProcess, map[uint8]any{1: 1, 2: 2, 22: "anna-box:29500"}))
	_, all := batches(t, sp)
	got := all[0].Tables
	for _, name := range []string{"anna", "203.0.113", "model.pt", "29500"} {
		if strings.Contains(fmt.Sprintf("%+v", got), name) {
			t.Errorf("%q is in the frame", name)
		}
	}
	tcp := map[string][3]int64{}
	for row := range got[0].Rows {
		v := [3]int64{-1, -1, -1}
		for i := range v {
			if c := got[0].Column(uint8(10 + i)); c.Has(row) {
				v[i] = c.Int[row]
			}
		}
		tcp[got[0].Column(2).Str(row)+" "+got[0].Column(4).Str(row)] = v
	}
	outside := p.Peer("203.0.113.1")
	for key, want := range map[string][3]int64{outside + " 7": {3, 10, 3}, outside + " 8": {4, -1, -1}, p.Address("10.0.0.8") + " 7": {8, -1, -1}, p.Address("10.0.0.9") + " 7": {16, -1, -1}} {
		if tcp[key] != want {
			t.Errorf("%s: %v, want %v of %v", key, tcp[key], want, tcp)
		}
	}
	if len(tcp) != 4 {
		t.Errorf("%v", tcp)
	}
	c := got[1].Column(20).Str(0)
	if words := strings.Fields(c); len(words) != 3 || words[0] != p.Container("secret-trainer") || !strings.HasPrefix(words[0], "c-") || words[1] != "3f8c1a6b2d9e" || words[2] != p.Container("sidecar") {
		t.Errorf("containers %q", c)
	}
	if h := got[1]; h.Column(17).Str(0) != p.User("anna") || h.Column(18).Str(0) != p.Project("anna") || h.Column(19).Str(0) != p.Workload("anna") || h.Column(4).Str(0) != "pod-uid" {
		t.Errorf("hold %+v", h)
	}
	if f := got[2].Column(3).Str(0); f != p.File("/home/anna/model.pt") {
		t.Errorf("file %q", f)
	}
	facts := map[string]string{}
	for row := range got[3].Rows {
		facts[got[3].Column(2).Str(row)+" "+got[3].Column(3).Str(row)] = got[3].Column(10).Str(row)
	}
	if facts["host address"] != p.Address("10.0.0.8") || facts["host address6"] != "10.0.0.8" || facts["kernel address"] != outside {
		t.Errorf("facts %v", facts)
	}
	if w := got[4].Column(22).Str(0); w != p.Rendezvous("anna-box:29500") {
		t.Errorf("rendezvous %q", w)
	}
}

func TestSiteKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "site.key")
	key, err := LoadOrCreateSiteKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateSiteKey(path)
	if err != nil || !bytes.Equal(key, again) || len(key) != keyBytes {
		t.Errorf("got %x, then %x, %v", key, again, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateSiteKey(path); err == nil {
		t.Error("a key that all can read is taken")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "bad"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateSiteKey(filepath.Join(filepath.Dir(path), "bad")); err == nil {
		t.Error("a short key is taken")
	}
}
