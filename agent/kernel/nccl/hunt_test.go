package nccl

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/source"
)

// maze is a Feature over processes that are files, without the kernel's programs.
func maze(t *testing.T, maps map[int32]string) *Feature {
	t.Helper()
	root := t.TempDir()
	for pid, text := range maps {
		dir := filepath.Join(root, strconv.Itoa(int(pid)))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"maps": text, "stat": fmt.Sprintf("%d (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 55 0 0\n", pid)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := New(Config{})
	f.fs, f.env = procfs{root}, &kernel.Env{Procfs: root, Log: slog.New(slog.DiscardHandler)}
	f.libs, f.failed, f.procs, f.gpus, f.known = map[fileKey]*library{}, map[fileKey]failure{}, map[int32]*process{}, map[int32][]int{}, true
	return f
}

// TestPieces: whose processes have very many mappings cannot keep a look from going on, nor
// the processes on GPUs from being first.
func TestPieces(t *testing.T) {
	many := strings.Repeat("7f0000000000-7f0000001000 r--p 00000000 00:01 7 /usr/lib/libc.so.6\n", 500)
	maps := map[int32]string{70: "7f0000000000-7f0000001000 rw-s 00000000 00:01 5 /dev/shm/nccl-abc\n"}
	for pid := int32(50); pid < 60; pid++ {
		maps[pid] = many
	}
	f := maze(t, maps)
	f.gpus[70] = []int{0}
	f.piece.maps = 1 // one process a piece
	for n := 1; n == 1 || f.hunt.on; n++ {
		if err := f.scan(t.Context(), int64(1000*n)); err != nil {
			t.Fatal(err)
		}
		switch {
		case n == 1 && (len(f.hunt.pids) == 0 || f.hunt.pids[0] != 70):
			t.Errorf("the process on a GPU is not looked at first: %v", f.hunt.pids)
		case n > 1 && f.hunt.on && !strings.Contains(f.report().Why, "very many mappings"):
			t.Errorf("piece %d: %s", n, f.report().Reason())
		case n > 50:
			t.Fatal("the look has no end")
		}
	}
	if h := f.hunt; h.pieces < len(maps) || h.fullMs != 1000 || !h.slow || h.startMs != 1000 {
		t.Errorf("%d pieces, the last whole look began at %d", h.pieces, h.fullMs)
	}
	if p := f.procs[70]; p == nil || !p.hides || len(f.procs) != 1 {
		t.Errorf("of %d processes none uses NCCL", len(f.procs))
	}
	if rep := f.report(); rep.State != source.Active { // publish comes behind a look
		t.Errorf("%s: %s", rep.State, rep.Reason())
	}
	f.known = false
	if rep := f.report(); rep.State != source.Degraded || !strings.Contains(rep.Why, "it is not known which processes are on GPUs") {
		t.Errorf("the driver lists nothing: %s: %s", rep.State, rep.Reason())
	}
	f.piece = onePiece()
	if err := f.scan(t.Context(), 90_000); err != nil || f.hunt.on || f.hunt.slow || f.hunt.fullMs != 90_000 {
		t.Errorf("a look in one piece: %+v, %v", f.hunt, err)
	}
}

// TestListedInPart: where the driver lists the processes of some GPUs alone, those are taken, and
// those of the last list stay while they live.
func TestListedInPart(t *testing.T) {
	f := maze(t, map[int32]string{70: "", 71: ""})
	l := &lists{seq: 1, procs: []source.GPUProcess{{GPU: 0, PID: 70}, {GPU: 1, PID: 71}, {GPU: 1, PID: 72}}}
	f.env.Processes, f.gpus = l, nil
	look := func(want string) {
		t.Helper()
		f.look(source.Tick{})
		if got := fmt.Sprint(f.gpus); got != want || f.known == l.unknown {
			t.Errorf("on GPUs: %s, want %s; known: %v", got, want, f.known)
		}
		l.seq++
	}
	look("map[70:[0] 71:[1] 72:[1]]")
	l.unknown, l.procs = true, []source.GPUProcess{{GPU: 2, PID: 70}}
	look("map[70:[2] 71:[1]]") // 72 has ended
	l.procs = nil
	look("map[70:[2] 71:[1]]")
	l.unknown = false
	look("map[]")
}

// TestKeepsProbes: a library whose users a long look has not come to yet keeps its probes.
func TestKeepsProbes(t *testing.T) {
	f := maze(t, nil)
	key := fileKey{ino: 1}
	f.libs[key] = &library{usedMs: 500}
	f.hunt = hunt{on: true, startMs: 1000}
	f.retire(10_000_000)
	if len(f.libs) != 1 {
		t.Error("it lost them")
	}
	f.hunt = hunt{fullMs: 1000}
	f.retire(10_000_000)
	if len(f.libs) != 0 {
		t.Error("nobody has it mapped, and it has probes")
	}
}

// TestFilesOfOne: of one process that maps files without end a bounded number is opened at a
// look.
func TestFilesOfOne(t *testing.T) {
	f := maze(t, map[int32]string{70: "", 71: ""})
	f.gpus[70], f.gpus[71] = []int{0}, []int{0}
	f.begin(0)
	f.hunt.left = onePiece()
	opened := map[int32]int{}
	for ino := range uint64(1000) {
		f.meet(0, 70, fileKey{ino: ino + 1}, func() (*os.File, string, error) { opened[70]++; return nil, "", errNoCollectives })
	}
	f.meet(0, 71, fileKey{ino: 5000}, func() (*os.File, string, error) { opened[71]++; return nil, "", errNoCollectives })
	if opened[70] != filesEach || opened[71] != 1 || !f.capped {
		t.Errorf("opened %v", opened)
	}
	if !strings.Contains(f.report().Why, "more than 16 in one process") {
		t.Error(f.report().Reason())
	}
}
