package nccl

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/flopwatch/flopwatch/agent/kernel/probe"
)

// errNoCollectives says that a file has no function that makes collectives.
var errNoCollectives = errors.New("exports no " + marker)

// library is a file with probes in it.
type library struct {
	file    fileKey
	name    string // base name
	buildID string
	links   []link.Link
	steps   [256]bool // by function code: the kernel steps over the instruction there
	funcs   int
	usedMs  int64 // boot ms at which it was last seen mapped

	// site is where communicators keep what is read of them, exact if that was proved.
	site  int64
	exact bool

	// Since it was weighed.
	calls, ns uint64
	paused    int64                 // boot ms until which it has no probes; 0: it has
	calm      map[int32][]link.Link // meanwhile, of processes that call it in measure
}

// site is where one function of a library gets its probe.
type site struct {
	fn *function
	at probe.Site
}

// sites finds the functions of a library. amd says that it is AMD's.
func sites(f *os.File, amd bool) (found []site, buildID string, err error) {
	e, err := probe.ReadELF(f)
	if err != nil {
		return nil, "", err
	}
	if !e.Native(runtime.GOARCH) {
		return nil, "", errors.New("is for another processor")
	}
	if _, ok, err := e.Lookup(marker); err != nil {
		return nil, "", err
	} else if !ok {
		return nil, "", errNoCollectives
	}
	taken := map[uint64]bool{}
	for i := range functions {
		fn := &functions[i]
		if fn.nvidia && amd {
			continue
		}
		s, ok, err := e.Lookup(fn.name)
		if err != nil {
			return nil, "", err
		}
		if !ok || taken[s.Offset] {
			continue
		}
		at, err := e.Site(s)
		if err != nil {
			return nil, "", err
		}
		taken[s.Offset] = true
		found = append(found, site{fn, at})
	}
	return found, e.BuildID(), nil
}

// attach puts probes into an open file, for one process or, with 0, for all.
func (k *programs) attach(f *os.File, name string, pid int32) (*library, error) {
	found, buildID, err := sites(f, strings.HasPrefix(name, "librccl"))
	if err != nil {
		return nil, err
	}
	// By descriptor: the file that was read is the one that gets probes.
	exe, err := link.OpenExecutable(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open for probes: %w", err)
	}
	l := &library{name: name, buildID: buildID, site: unknownSite, funcs: len(found)}
	for _, s := range found {
		l.steps[s.fn.code] = s.at.Steps
	}
	if k.multi {
		err = k.attachMulti(exe, found, l, pid)
	} else {
		err = k.attachEach(exe, found, l)
	}
	if err != nil {
		_ = l.close() // the first error counts
		return nil, err
	}
	return l, nil
}

func (k *programs) attachMulti(exe *link.Executable, found []site, l *library, pid int32) error {
	type set struct{ addresses, cookies []uint64 }
	var order []string
	sets := map[string]*set{}
	for _, s := range found {
		g := sets[s.fn.program]
		if g == nil {
			g = &set{}
			sets[s.fn.program] = g
			order = append(order, s.fn.program)
		}
		g.addresses, g.cookies = append(g.addresses, s.at.Offset), append(g.cookies, s.fn.cookie())
	}
	for _, name := range order {
		g := sets[name]
		at, err := exe.UprobeMulti(nil, k.prog(name, nil), &link.UprobeMultiOptions{Addresses: g.addresses, Cookies: g.cookies, PID: uint32(pid)})
		if err != nil {
			return fmt.Errorf("uprobe_multi of %s: %w", name, err)
		}
		l.links = append(l.links, at)
	}
	return nil
}

func (k *programs) attachEach(exe *link.Executable, found []site, l *library) error {
	for _, s := range found {
		opts := &link.UprobeOptions{Address: s.at.Offset}
		if k.cookies {
			opts.Cookie = s.fn.cookie()
		}
		at, err := exe.Uprobe("", k.prog(s.fn.program, s.fn), opts)
		if err != nil {
			return fmt.Errorf("uprobe of %s: %w", s.fn.name, err)
		}
		l.links = append(l.links, at)
	}
	return nil
}

// close takes the probes out, all at once: the kernel waits a while for each.
func (l *library) close() error {
	links := l.links
	for _, own := range l.calm {
		links = append(links, own...)
	}
	l.links, l.calm = nil, nil
	return closeAll(links)
}

// release takes out the probes that are one process's own.
func (l *library) release(pid int32) error {
	links := l.calm[pid]
	delete(l.calm, pid)
	return closeAll(links)
}

func closeAll(links []link.Link) error {
	errs := make([]error, len(links))
	var all sync.WaitGroup
	for i, at := range links {
		all.Go(func() { errs[i] = at.Close() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// programs are the kernel's part, and how it is attached.
type programs struct {
	coll    *ebpf.Collection
	multi   bool // uprobe_multi; else perf events
	cookies bool // else each function has programs of its own
	each    map[uint8]*ebpf.Collection
}

// prog is the program for a function.
func (k *programs) prog(name string, fn *function) *ebpf.Program {
	if fn != nil && !k.cookies {
		return k.each[fn.code].Programs[name]
	}
	return k.coll.Programs[name]
}

func (k *programs) close() {
	for _, c := range k.each {
		c.Close()
	}
	if k.coll != nil {
		k.coll.Close()
	}
}

// cookies is what tells functions apart for one program; from kernel 5.15.
const cookies = "cookies of uprobes"

// programNames are those of bpf/nccl/nccl.bpf.c.
var programNames = []string{"coll", "init", "init_scalable", "init_all", "split", "destroy"}

// load loads the programs for uprobe_multi, else for perf events, else (before kernel 5.15)
// once a function. refused is why the first way did not work.
func load(spec func() (*ebpf.CollectionSpec, error), opts ebpf.CollectionOptions, only func(mechanism string) error) (k *programs, refused, err error) {
	if refused = only(probe.UprobeMulti); refused == nil {
		refused = probe.Try(probe.UprobeMulti) // kernels before 6.6 load the programs and refuse the links
	}
	if refused == nil {
		k, refused = loadWith(spec, opts, true)
		if refused == nil {
			return k, nil, nil
		}
	}
	if err = only(probe.Uprobe); err != nil {
		return nil, refused, err
	}
	if err = only(cookies); err == nil {
		if k, err = loadWith(spec, opts, false); err == nil {
			return k, refused, nil
		}
	}
	k, err = loadEach(spec, opts)
	return k, refused, err
}

func loadWith(spec func() (*ebpf.CollectionSpec, error), opts ebpf.CollectionOptions, multi bool) (*programs, error) {
	s, err := spec()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	if multi {
		for _, p := range s.Programs {
			p.AttachType = ebpf.AttachTraceUprobeMulti
		}
	}
	c, err := ebpf.NewCollectionWithOptions(s, opts)
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	return &programs{coll: c, multi: multi, cookies: true}, nil
}

// loadEach loads the programs anew for each function, over the same maps.
func loadEach(spec func() (*ebpf.CollectionSpec, error), opts ebpf.CollectionOptions) (*programs, error) {
	k := &programs{each: map[uint8]*ebpf.Collection{}}
	for i := range functions {
		fn := &functions[i]
		s, err := spec()
		if err != nil {
			k.close()
			return nil, fmt.Errorf("read programs: %w", err)
		}
		for _, name := range programNames {
			if name != fn.program {
				delete(s.Programs, name)
			}
		}
		if err = s.Variables["fixed_cookie"].Set(fn.cookie()); err != nil {
			k.close()
			return nil, fmt.Errorf("set cookie: %w", err)
		}
		o := opts
		if k.coll != nil {
			o.MapReplacements = map[string]*ebpf.Map{}
			for name, m := range k.coll.Maps {
				if _, has := s.Maps[name]; has && name != ".rodata" { // the cookie is each one's own
					o.MapReplacements[name] = m
				}
			}
		}
		c, err := ebpf.NewCollectionWithOptions(s, o)
		if err != nil {
			k.close()
			return nil, fmt.Errorf("load program of %s: %w", fn.name, err)
		}
		if k.coll == nil {
			k.coll = c
		}
		k.each[fn.code] = c
	}
	return k, nil
}
