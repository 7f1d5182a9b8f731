package nccl

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/flopwatch/flopwatch/agent/kernel/probe"
)

// piece bounds one piece of a look for libraries. A process may have 65,530 mappings, and a
// tenant as many processes as the host lets it: what is left comes with the next piece.
type piece struct {
	processes int   // on GPUs, whose mappings are passed one by one
	files     int   // libraries that are opened for probes
	keys      int   // and to know them by, without the iterator
	maps      int64 // bytes of /proc/PID/maps that are read
}

// onePiece is what a piece may take.
func onePiece() piece { return piece{processes: 64, files: 64, keys: 4096, maps: 32 << 20} }

const (
	filesEach = 16 // files of one process that are opened for probes at a look
	keysEach  = 64 // areas of it that are known by opening them
)

// hunt is a look for libraries. Where one is long, as of very many mappings, processes on
// GPUs come first, so that nobody keeps their libraries from being found.
type hunt struct {
	on      bool
	startMs int64 // boot ms
	tookMs  int64
	pieces  int

	gpus   []int32    // whose mappings are to be passed
	passed bool       // over all processes
	run    *probe.Run // that does it
	pids   []int32    // without the iterator: whose maps are to be read
	found  []mapping  // that are to be met
	hidden []int32    // in which NCCL may be out of sight, to be looked at
	listed bool       // hidden is made

	left   piece         // of this piece
	opened map[int32]int // files of each process, tried at this look
	capped bool          // as Feature has them, of this look
	lost   bool
	// Kept from look to look.
	fullMs int64 // when the last one that was brought to its end began
	slow   bool  // it came in several pieces
}

// scan goes on with a look, or begins one.
func (f *Feature) scan(ctx context.Context, bootMs int64) error {
	h := &f.hunt
	if !h.on {
		f.begin(bootMs)
	}
	h.pieces++
	h.left = f.piece
	first := f.passGPUs(ctx, bootMs)
	rest, err := f.passAll(ctx, bootMs) // goes on in every piece, not only when the first is done
	switch {
	case err != nil:
		f.abandon()
		return err
	case !first || !rest || !f.hide(ctx, bootMs):
		if !h.slow {
			h.slow = true
			f.hurry()
		}
		return ctx.Err()
	}
	h.on, h.fullMs, h.slow = false, h.startMs, h.pieces > 1
	f.capped, f.lost = h.capped, h.lost
	return nil
}

func (f *Feature) begin(bootMs int64) {
	h := &f.hunt
	*h = hunt{on: true, startMs: bootMs, fullMs: h.fullMs, slow: h.slow, opened: map[int32]int{}}
	if h.slow {
		f.hurry()
	}
	for k, bad := range f.failed {
		if bootMs >= bad.until {
			delete(f.failed, k)
		}
	}
}

// abandon ends a look before its end.
func (f *Feature) abandon() {
	h := &f.hunt
	if h.run != nil {
		_ = h.run.Close() // it was only read
	}
	*h = hunt{fullMs: h.fullMs, slow: h.slow}
}

// hurry puts processes on GPUs first in a look that is long.
func (f *Feature) hurry() {
	h := &f.hunt
	switch {
	case !h.on || !h.slow:
	case f.single != nil && len(h.gpus) == 0:
		h.gpus = f.onGPUs()
	case f.iter == nil && h.passed:
		h.pids = append(f.onGPUs(), h.pids...)
	}
}

// onGPUs are the processes on GPUs, first those of which no library is known.
func (f *Feature) onGPUs() []int32 {
	list := make([]int32, 0, len(f.gpus))
	for pid := range f.gpus {
		list = append(list, pid)
	}
	known := func(pid int32) int {
		if p := f.procs[pid]; p != nil && p.lib != nil {
			return 1
		}
		return 0
	}
	slices.SortFunc(list, func(a, b int32) int {
		if d := known(a) - known(b); d != 0 {
			return d
		}
		return int(a - b)
	})
	return list
}

// passGPUs passes the mappings of processes on GPUs, one after another.
func (f *Feature) passGPUs(ctx context.Context, bootMs int64) (done bool) {
	h := &f.hunt
	for len(h.gpus) > 0 {
		if !f.meetFound(ctx, bootMs) || h.left.processes <= 0 {
			return false
		}
		pid := h.gpus[0]
		h.gpus = h.gpus[1:]
		if _, runs := f.fs.start(pid); !runs {
			continue
		}
		h.left.processes--
		err := f.single.Process(pid, func(b []byte) int {
			at := 0
			for ; len(b)-at >= mappingBytes; at += mappingBytes {
				if m, ok := parseMapping(b[at:]); ok && m.tgid == pid {
					h.found = f.note(h.found, m)
				}
			}
			return at
		})
		if err != nil { // the pass over all finds it
			f.env.Log.Debug("mappings not passed", slog.Int("pid", int(pid)), slog.String("error", err.Error()))
		}
	}
	return f.meetFound(ctx, bootMs)
}

// passAll passes the mappings of all processes.
func (f *Feature) passAll(ctx context.Context, bootMs int64) (done bool, err error) {
	h := &f.hunt
	if f.iter == nil {
		return f.readAll(ctx, bootMs)
	}
	if !f.meetFound(ctx, bootMs) {
		return false, nil
	}
	if h.passed {
		return true, nil
	}
	if h.run == nil {
		if h.run, err = probe.Begin(f.iter, mappingBytes); err != nil {
			return false, err
		}
	}
	done, err = h.run.Next(func(rec []byte) {
		if m, ok := parseMapping(rec); ok {
			h.found = f.note(h.found, m)
		}
	})
	if err != nil {
		return false, err
	}
	if done {
		h.passed = true
		_ = h.run.Close() // it was only read
		h.run = nil
	}
	return f.meetFound(ctx, bootMs) && done, nil
}

// meetFound meets the mappings that were found; done is false where this piece has opened as
// many files as it may.
func (f *Feature) meetFound(ctx context.Context, bootMs int64) (done bool) {
	h := &f.hunt
	for len(h.found) > 0 {
		if h.left.files <= 0 || ctx.Err() != nil {
			return false
		}
		m := h.found[0]
		h.found = h.found[1:]
		f.meet(bootMs, m.tgid, m.file, func() (*os.File, string, error) { return f.openMapping(m) })
	}
	h.found = nil // a look is rare
	return true
}

// readAll reads the maps of all processes, those on GPUs first. Without the kernel's word on
// inodes a file is known by its size, time of change and build id, which twins on overlays
// share.
func (f *Feature) readAll(ctx context.Context, bootMs int64) (done bool, err error) {
	h := &f.hunt
	if !h.passed {
		if h.pids, err = f.everyone(); err != nil {
			return false, err
		}
		h.passed = true
	}
	for len(h.pids) > 0 && h.left.files > 0 && h.left.keys > 0 && h.left.maps > 0 && ctx.Err() == nil {
		pid := h.pids[0]
		h.pids = h.pids[1:]
		f.readOne(bootMs, pid)
	}
	return len(h.pids) == 0, nil
}

// everyone lists the processes of the host, those on GPUs first.
func (f *Feature) everyone() ([]int32, error) {
	dir, err := os.Open(f.fs.root)
	if err != nil {
		return nil, fmt.Errorf("read processes: %w", err)
	}
	defer dir.Close() //nolint:errcheck // it was open for reading
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read processes: %w", err)
	}
	var first, rest []int32
	for _, n := range names {
		pid, perr := strconv.ParseInt(n, 10, 32)
		if perr != nil || !f.only(int32(pid)) {
			continue
		}
		if _, on := f.gpus[int32(pid)]; on {
			first = append(first, int32(pid))
		} else {
			rest = append(rest, int32(pid))
		}
	}
	return append(first, rest...), nil
}

// readOne meets the libraries in the maps of one process.
func (f *Feature) readOne(bootMs int64, pid int32) {
	keys := 0
	err := f.areas(pid, func(a area) {
		if !a.exec || !named(path.Base(a.path)) {
			return
		}
		if keys++; keys > keysEach {
			f.over++
			f.hunt.capped, f.capped = true, true
			return
		}
		f.hunt.left.keys--
		key, kerr := f.keyOf(pid, a)
		if kerr != nil {
			f.fail(bootMs, fileKey{ino: a.ino}, fmt.Errorf("%s of process %d: %w", path.Base(a.path), pid, kerr))
			return
		}
		f.meet(bootMs, pid, key, func() (*os.File, string, error) {
			again, derr := f.fs.openArea(pid, a)
			return again, path.Base(a.path), derr
		})
	})
	if denied(err) {
		if f.matters(pid) {
			f.hunt.lost, f.lost = true, true
		}
		f.env.Log.Debug("process not read", slog.Int("pid", int(pid)), slog.String("error", err.Error()))
	}
}

// keyOf finds the key of a mapped file, whose storage may never answer.
func (f *Feature) keyOf(pid int32, a area) (fileKey, error) {
	type result struct {
		key fileKey
		err error
	}
	r, err := within(&f.patience, func() (r result) {
		file, err := f.fs.openArea(pid, a)
		if err != nil {
			return result{fileKey{}, err}
		}
		defer file.Close() //nolint:errcheck // it was open for reading
		r.key, r.err = keyOf(file)
		return r
	}, func(result) {})
	if err != nil {
		return fileKey{}, err
	}
	return r.key, r.err
}

// hide finds processes on GPUs that use NCCL while no library of it is visible: they hold
// the files in shared memory by which it talks within a host.
func (f *Feature) hide(ctx context.Context, bootMs int64) (done bool) {
	h := &f.hunt
	if !h.listed {
		h.listed = true
		for pid := range f.gpus {
			h.hidden = append(h.hidden, pid)
		}
		slices.Sort(h.hidden)
	}
	for len(h.hidden) > 0 && h.left.maps > 0 && ctx.Err() == nil {
		pid := h.hidden[0]
		h.hidden = h.hidden[1:]
		f.seek(bootMs, pid)
	}
	return len(h.hidden) == 0
}

// seek looks whether one process uses NCCL out of sight.
func (f *Feature) seek(bootMs int64, pid int32) {
	p := f.procs[pid]
	if p != nil && p.lib != nil || p != nil && p.checked != 0 && bootMs-p.checked < failedMs && p.hides {
		return
	}
	uses := false
	err := f.areas(pid, func(a area) { uses = uses || usesNCCL(a) })
	if denied(err) {
		f.hunt.lost, f.lost = true, true
	}
	if !uses {
		return
	}
	if p = f.process(pid); p != nil {
		p.hides, p.checked = true, bootMs
	}
}

// areas reads the mapped files of a process, at the cost of this piece.
func (f *Feature) areas(pid int32, each func(a area)) error {
	maps, err := os.Open(f.fs.file(pid, "maps"))
	if err != nil {
		return err
	}
	defer maps.Close() //nolint:errcheck // it was open for reading
	return parseAreas(&spending{maps, &f.hunt.left.maps}, each)
}

// spending is a reader that takes what it reads off a budget.
type spending struct {
	r    io.Reader
	left *int64
}

func (s *spending) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	*s.left -= int64(n)
	return n, err
}
