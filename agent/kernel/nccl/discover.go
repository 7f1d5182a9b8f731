package nccl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/flopwatch/flopwatch/agent/kernel/probe"
)

// scanShare bounds what looking for libraries may take of a core: one part in so many.
const scanShare = 1000

// rushShare is the same while processes come and go.
const rushShare = 100

// discover finds out who has which library mapped, when it is time, and puts probes into
// new ones. A look that is long comes in pieces.
func (f *Feature) discover(ctx context.Context, bootMs int64) error {
	if bootMs < f.scannedMs+f.tookMs*rushShare {
		return nil
	}
	h := &f.hunt
	due := bootMs >= f.scanAt || h.on
	for len(f.scans) > 0 && bootMs >= f.scans[0] {
		f.scans, due = f.scans[1:], true
		f.hurry()
	}
	if !due {
		return nil
	}
	began := time.Now()
	err := f.scan(ctx, bootMs)
	f.scannedMs, f.tookMs = bootMs, f.took(time.Since(began)).Milliseconds()
	if h.tookMs += f.tookMs; !h.on {
		f.scanAt = bootMs + max(f.cfg.ScanEvery.Milliseconds(), h.tookMs*scanShare)
	}
	f.retire(bootMs)
	f.publish()
	return err
}

// note adds a mapping to those of a look, once a process and file. Of too many, as of
// thousands of processes that come before, those of processes on GPUs still find room.
func (f *Feature) note(found []mapping, m mapping) []mapping {
	if n := len(found); n > 0 && found[n-1].tgid == m.tgid && found[n-1].file == m.file {
		return found
	}
	room := maxMappings
	if _, on := f.gpus[m.tgid]; on {
		room *= 2
	}
	if len(found) >= room {
		f.over++
		return found
	}
	return append(found, m)
}

// openMapping opens the file of an area that the kernel told.
func (f *Feature) openMapping(m mapping) (file *os.File, name string, err error) {
	var refused error
	err = f.fs.areas(m.tgid, func(a area) {
		if a.start != m.start || file != nil || refused != nil {
			return
		}
		name = path.Base(a.path)
		if file, refused = f.fs.openArea(m.tgid, a); refused != nil {
			refused = fmt.Errorf("%s of process %d: %w", name, m.tgid, refused)
		}
	})
	if file != nil {
		return file, name, nil
	}
	if err = errors.Join(err, refused); err == nil {
		err = errGone
	}
	return nil, name, err
}

var errGone = errors.New("the process or its mapping has gone")

// matters reports whether a process that cannot be read is missed: one on a GPU, or any
// while those are not known, but for the first, which some hosts shield.
func (f *Feature) matters(pid int32) bool {
	_, on := f.gpus[pid]
	return on || f.gpus == nil && pid != 1
}

// keyOf makes a key of what an overlay and what is below it have in common.
func keyOf(file *os.File) (fileKey, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &st); err != nil {
		return fileKey{}, err
	}
	id := ""
	if e, err := probe.ReadELF(file); err == nil {
		id = e.BuildID()
	}
	h := uint64(14695981039346656037)
	for _, b := range []byte(fmt.Sprintf("%d %d %d %s", st.Size, st.Mtim.Sec, st.Mtim.Nsec, id)) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return fileKey{ino: h | 1}, nil
}

// meet takes note of a process that has a file mapped, and puts probes into the file if it
// is new.
func (f *Feature) meet(bootMs int64, pid int32, key fileKey, open func() (*os.File, string, error)) {
	if !f.only(pid) {
		return
	}
	if bad, ok := f.failed[key]; ok {
		if !bad.plain {
			f.process(pid)
		}
		return
	}
	l := f.libs[key]
	if l == nil {
		_, on := f.gpus[pid]
		if len(f.failed) >= maxFailed && !on {
			f.hunt.capped, f.capped = true, true
			return
		}
		if len(f.libs) >= f.cfg.MaxLibraries && !f.makeRoom(pid) {
			f.hunt.capped, f.capped = true, true
			return
		}
		if f.hunt.opened[pid] >= filesEach {
			f.over++
			f.hunt.capped, f.capped = true, true
			return
		}
		if f.hunt.opened != nil {
			f.hunt.opened[pid]++
		}
		var err error
		if l, err = f.attach(pid, 0, open); err != nil {
			if !errors.Is(err, errGone) && !errors.Is(err, os.ErrNotExist) {
				if closed(err) {
					f.hunt.lost, f.lost = true, true
				}
				f.fail(bootMs, key, err)
			}
			return
		}
		l.file = key
		f.libs[key] = l
		f.env.Log.Info("counting collectives", slog.String("library", l.name), slog.String("build_id", l.buildID),
			slog.Int("functions", l.funcs), slog.Int("pid", int(pid)))
		for _, other := range f.libs { // what was learnt of one copy holds for all
			if other != l && other.buildID == l.buildID && l.buildID != "" && other.site >= 0 {
				l.site, l.exact = other.site, other.exact
			}
		}
	}
	l.usedMs = bootMs
	p := f.process(pid)
	if l.paused != 0 {
		f.resume(bootMs, l, pid, p, open)
	}
	if p != nil {
		p.lib, p.hides = l, false
	}
}

// attach opens a library that a process has mapped and puts probes into it, for one process
// or, with 0, for all. The file is another's: its storage may never answer.
func (f *Feature) attach(of, only int32, open func() (*os.File, string, error)) (*library, error) {
	type result struct {
		l   *library
		err error
	}
	f.hunt.left.files--
	progs := f.progs
	r, err := within(&f.patience, func() (r result) {
		file, name, err := open()
		if err != nil {
			return result{nil, err}
		}
		defer file.Close() //nolint:errcheck // it was open for reading
		if r.l, r.err = progs.attach(file, name, only); r.err != nil {
			r.err = fmt.Errorf("%s of process %d: %w", name, of, r.err)
		}
		return r
	}, func(r result) {
		if r.l != nil {
			_ = r.l.close() // nobody knows of it
		}
	})
	if err != nil {
		return nil, fmt.Errorf("library of process %d: %w", of, err)
	}
	return r.l, r.err
}

// resume gives a library that was called too often its probes back when its time is over.
// Before, processes on GPUs that call it in measure get probes of their own: others that
// share the file, as containers of one image do, must not blind them.
func (f *Feature) resume(bootMs int64, l *library, of int32, p *process, open func() (*os.File, string, error)) {
	pid := int32(0) // all
	if bootMs < l.paused {
		if p == nil || p.shunned || !f.progs.multi || bootMs < p.hotMs || l.calm[p.pid] != nil || len(l.calm) >= maxCalm || !f.matters(p.pid) {
			return
		}
		pid = p.pid
	}
	if pid == 0 {
		if err := l.close(); err != nil {
			f.env.Log.Warn("probes were not taken out cleanly", slog.String("library", l.name), slog.String("error", err.Error()))
		}
	}
	again, err := f.attach(of, pid, open)
	switch {
	case err != nil:
		f.env.Log.Debug("library without probes again", slog.String("library", l.name), slog.String("error", err.Error()))
	case pid == 0:
		l.links, l.paused = again.links, 0
	default:
		if l.calm == nil {
			l.calm = map[int32][]link.Link{}
		}
		l.calm[pid] = again.links
	}
}

// makeRoom takes the probes out of a library that no process on a GPU has mapped, if the
// one that wants them is on a GPU: nobody else may keep those out.
func (f *Feature) makeRoom(pid int32) bool {
	if _, on := f.gpus[pid]; !on {
		return false
	}
	used := map[*library]bool{}
	for other, p := range f.procs {
		if _, on := f.gpus[other]; on {
			used[p.lib] = true
		}
	}
	for k, l := range f.libs {
		if !used[l] {
			f.drop(k, l)
			return true
		}
	}
	return false
}

// drop takes the probes out of a library for good.
func (f *Feature) drop(k fileKey, l *library) {
	delete(f.libs, k)
	if err := l.close(); err != nil {
		f.env.Log.Warn("probes were not taken out cleanly", slog.String("library", l.name), slog.String("error", err.Error()))
	}
	for _, p := range f.procs {
		if p.lib == l {
			p.lib = nil
		}
	}
}

func (f *Feature) fail(bootMs int64, key fileKey, err error) {
	if len(f.failed) >= maxFailed {
		for other := range f.failed { // the one that failed is on a GPU
			delete(f.failed, other)
			break
		}
	}
	plain := errors.Is(err, errNoCollectives) || errors.Is(err, probe.ErrNotELF)
	if !plain {
		f.env.Log.Warn("library without probes", slog.String("error", err.Error()))
	}
	f.failed[key] = failure{until: bootMs + failedMs, why: err, plain: plain}
}

// process finds the record of a process that runs now; nil: it does not, or there are too
// many.
func (f *Feature) process(pid int32) *process {
	start, ok := f.fs.start(pid)
	if !ok {
		return nil
	}
	p := f.procs[pid]
	if p != nil && p.start == start {
		return p
	}
	if p == nil && len(f.procs) >= maxProcesses && !f.yield(pid) {
		f.over++
		return nil
	}
	if p != nil {
		f.leave(p)
	}
	p = &process{pid: pid, start: start, comms: map[uint64]*comm{}}
	f.procs[pid] = p
	return p
}

// yield forgets a process that is on no GPU for one that is.
func (f *Feature) yield(pid int32) bool {
	if _, on := f.gpus[pid]; !on {
		return false
	}
	for other, p := range f.procs {
		if _, on := f.gpus[other]; !on {
			f.over++
			f.leave(p)
			delete(f.procs, other)
			return true
		}
	}
	return false
}

// leave takes out the probes that are a process's own.
func (f *Feature) leave(p *process) {
	if p.lib == nil || p.lib.calm[p.pid] == nil {
		return
	}
	if err := p.lib.release(p.pid); err != nil {
		f.env.Log.Warn("probes were not taken out cleanly", slog.String("library", p.lib.name), slog.String("error", err.Error()))
	}
}

// retire takes probes out of libraries that nobody has mapped for a while, as a whole look
// since has shown.
func (f *Feature) retire(bootMs int64) {
	for k, l := range f.libs {
		if bootMs-l.usedMs >= f.cfg.DetachAfter.Milliseconds() && l.usedMs < f.hunt.fullMs {
			f.drop(k, l)
		}
	}
}
