package bmc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// passthroughName is the instrument's name.
const passthroughName = "passthrough"

// How often, in milliseconds of the boot clock.
const (
	lookMs = 60_000     // the bus is looked at
	tellMs = 6 * 3600e3 // facts that have not changed are told again
)

// maxDevices bounds what is looked at of a PCI bus.
const maxDevices = 8192

// Fields of wire.KindFact.
const (
	factTs      = 1
	factSubject = 2
	factName    = 3
	factValue   = 10
)

// PassthroughConfig of the instrument.
type PassthroughConfig struct {
	Sysfs string // default /sys
	Dev   string // default /dev
	// Watched says that a [bmc] target stands for this host, so that its GPUs are seen
	// although guests have them.
	Watched bool
}

// Passthrough is the instrument "passthrough": whether this host's GPUs are guests', so that
// no driver of the host can see what they do.
type Passthrough struct {
	cfg    PassthroughConfig
	looked bool
	lookAt int64
	told   map[fact]string // what was told of whom
	tellAt int64
	status source.Status
}

type fact struct{ subject, name string }

// pciGPU is an NVIDIA GPU, or a part of one, on the bus.
type pciGPU struct {
	address, driver string
	group           string // of the IOMMU
	open            bool   // /dev/vfio has the group, or the device itself
	virtual         bool   // a function of a GPU that is split by SR-IOV
	mediated        int    // mediated devices (mdev) made of it
	functions       int    // virtual functions that are handed out
}

// NewPassthrough returns the instrument. It needs no privilege: it reads names in sysfs.
func NewPassthrough(cfg PassthroughConfig) *Passthrough {
	if cfg.Sysfs == "" {
		cfg.Sysfs = "/sys"
	}
	if cfg.Dev == "" {
		cfg.Dev = "/dev"
	}
	return &Passthrough{cfg: cfg, told: map[fact]string{}}
}

// Name returns "passthrough".
func (p *Passthrough) Name() string { return passthroughName }

// Close has nothing to give back.
func (p *Passthrough) Close() error { return nil }

// Sample looks at the bus once a minute, and tells what is new.
func (p *Passthrough) Sample(_ context.Context, t source.Tick, out source.Sink) error {
	if p.looked && t.BootMs-p.lookAt < lookMs {
		return nil
	}
	p.looked, p.lookAt = true, t.BootMs
	gpus, unread, err := p.gpus()
	if err != nil { // what was told stays: nobody knows better
		p.say(source.Status{Instrument: passthroughName, State: source.Unavailable, Reason: "which GPUs there are is not seen: " + err.Error()}, out)
		return nil //nolint:nilerr // the status says it
	}
	again := t.BootMs-p.tellAt >= tellMs
	now := map[fact]string{}
	for _, g := range gpus {
		now[fact{g.address, "driver"}] = g.driver
		if g.passed() && g.group != "" {
			now[fact{g.address, "vfio_group"}] = g.group
		}
		if kind := g.shared(); kind != "" {
			now[fact{g.address, "vgpu"}] = kind
		}
	}
	c := count(gpus)
	c.unread = len(unread)
	for f, value := range p.told {
		if c.unread > 0 && (f.subject == "host" || unread[f.subject]) {
			now[f] = value // as when it was last seen
		}
	}
	if c.unread == 0 && (c.gpus > 0 || p.told[fact{"host", "passthrough_gpus"}] != "") {
		now[fact{"host", "passthrough_gpus"}] = strconv.Itoa(c.passed)
		now[fact{"host", "vgpu_gpus"}] = strconv.Itoa(c.shared)
	}
	p.tell(now, again, t, out)
	p.say(c.status(p.cfg.Watched), out)
	return nil
}

func (p *Passthrough) say(s source.Status, out source.Sink) {
	if s != p.status {
		p.status = s
		out.Status(s)
	}
}

// tell puts the facts that are new, or all of them when it is time again. What is gone from
// the bus has no driver any more.
func (p *Passthrough) tell(now map[fact]string, again bool, t source.Tick, out source.Sink) {
	for f := range p.told {
		if _, ok := now[f]; !ok && p.told[f] != "absent" && p.told[f] != "0" {
			now[f] = "absent"
		}
	}
	if again {
		p.tellAt = t.BootMs
	}
	facts := make([]fact, 0, len(now))
	for f := range now {
		facts = append(facts, f)
	}
	slices.SortFunc(facts, func(a, b fact) int { return strings.Compare(a.subject+" "+a.name, b.subject+" "+b.name) })
	for _, f := range facts {
		value := now[f]
		if was, ok := p.told[f]; ok && was == value && !again {
			continue
		}
		out.Row(wire.KindFact, wire.SourceSysfs, "", nil, func(b *wire.Builder) {
			b.SetInt(factTs, t.WallMs)
			b.SetStr(factSubject, f.subject)
			b.SetStr(factName, f.name)
			b.SetStr(factValue, value)
		})
	}
	p.told = now
}

// gpus lists NVIDIA's GPUs on the bus, whatever their driver. unread are devices that could not be
// looked at, by address: any may be a GPU.
func (p *Passthrough) gpus() (out []pciGPU, unread map[string]bool, err error) {
	root := filepath.Join(p.cfg.Sysfs, "bus/pci/devices")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		if _, berr := os.Stat(filepath.Join(p.cfg.Sysfs, "bus")); berr == nil {
			return nil, nil, nil // a machine without PCI
		}
		return nil, nil, fmt.Errorf("list PCI devices: %w: is sysfs mounted at %s?", err, p.cfg.Sysfs)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list PCI devices: %w", err)
	}
	unread = map[string]bool{}
	for i, e := range entries {
		dir := filepath.Join(root, e.Name())
		if i >= maxDevices || !readable(dir) {
			unread[e.Name()] = true
			continue
		}
		// 0x0300: VGA; 0x0302: 3D, as data centre GPUs are. Not their sound, nor NVSwitches.
		if class := word(dir, "class"); !strings.HasPrefix(class, "0x0300") && !strings.HasPrefix(class, "0x0302") || word(dir, "vendor") != "0x10de" {
			continue
		}
		g := pciGPU{address: e.Name(), driver: linkName(dir, "driver"), group: linkName(dir, "iommu_group")}
		if g.driver == "" {
			g.driver = "none"
		}
		if _, err = os.Lstat(filepath.Join(dir, "physfn")); err == nil {
			g.virtual = true
		}
		if g.group != "" {
			_, err = os.Stat(filepath.Join(p.cfg.Dev, "vfio", g.group))
			g.open = err == nil
		}
		if n, err := strconv.Atoi(word(dir, "sriov_numvfs")); err == nil && n > 0 {
			g.functions = n
		}
		if g.passed() && !g.open {
			g.open = p.device(dir)
		}
		g.mediated = mediated(dir)
		out = append(out, g)
	}
	return out, unread, nil
}

// readable reports whether a device says what it is; one that has just left needs not.
func readable(dir string) bool {
	fine := func(err error) bool { return err == nil || errors.Is(err, fs.ErrNotExist) }
	for _, name := range []string{"class", "vendor"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err == nil {
			_ = f.Close() // it was only opened
		}
		if !fine(err) {
			return false
		}
	}
	_, err := os.Readlink(filepath.Join(dir, "driver"))
	return fine(err)
}

// passed reports whether a driver holds the GPU that hands it to guests whole: vfio-pci, one made
// of it for a model (nvgrace_gpu_vfio_pci, of GH200 and GB200), or Xen's.
func (g pciGPU) passed() bool {
	return strings.Contains(strings.ReplaceAll(g.driver, "_", "-"), "vfio-pci") || g.driver == "pciback" || g.driver == "xen-pciback"
}

// device reports whether /dev/vfio has the device itself, as hosts with iommufd have, with groups
// or without.
func (p *Passthrough) device(dir string) bool {
	list, err := os.ReadDir(filepath.Join(dir, "vfio-dev"))
	if err != nil || len(list) == 0 {
		return false
	}
	_, err = os.Stat(filepath.Join(p.cfg.Dev, "vfio/devices", list[0].Name()))
	return err == nil
}

// word reads the first word of a file; "": it cannot be read.
func word(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || len(b) > 256 {
		return ""
	}
	f := strings.Fields(string(b))
	if len(f) == 0 {
		return ""
	}
	return f[0]
}

// linkName is the last part of what a symbolic link points to.
func linkName(dir, name string) string {
	to, err := os.Readlink(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// mediated counts the mediated devices below a GPU: directories named by a UUID.
func mediated(dir string) int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries[:min(len(entries), maxDevices)] {
		if gpuUUID(e.Name()) == "" {
			continue
		}
		if _, err = os.Lstat(filepath.Join(dir, e.Name(), "mdev_type")); err == nil {
			n++
		}
	}
	return n
}

// shared says how a GPU is split among guests; "": it is not.
func (g pciGPU) shared() string {
	switch {
	case g.virtual:
		return "function"
	case g.mediated > 0:
		return fmt.Sprintf("mdev %d", g.mediated)
	case g.functions > 0:
		return fmt.Sprintf("sriov %d", g.functions)
	}
	return ""
}

// counts of a host. Functions of a split GPU are not GPUs.
type counts struct{ gpus, passed, shared, bare, other, closed, unread int }

func count(gpus []pciGPU) (c counts) {
	for _, g := range gpus {
		if g.virtual {
			continue
		}
		c.gpus++
		switch {
		case g.passed():
			c.passed++
			if !g.open && strings.Contains(g.driver, "vfio") {
				c.closed++
			}
		case g.shared() != "":
			c.shared++
		case g.driver == "none":
			c.bare++
		case g.driver != "nvidia":
			c.other++
		}
	}
	return c
}

func (c counts) status(watched bool) source.Status {
	s := source.Status{Instrument: passthroughName, State: source.Active}
	var say []string
	if c.passed > 0 && !watched {
		what := fmt.Sprintf("%d GPUs are passed through to guests; NVML sees nothing here; configure [bmc]", c.passed)
		if c.passed < c.gpus {
			what = fmt.Sprintf("%d of %d GPUs are passed through to guests; NVML does not see these; configure [bmc]", c.passed, c.gpus)
		}
		say = append(say, what)
	}
	if c.shared > 0 {
		say = append(say, fmt.Sprintf("%d GPUs are shared with guests as vGPUs: the host's driver sees what each GPU does, not which guest", c.shared))
	}
	if c.bare > 0 {
		say = append(say, fmt.Sprintf("%d GPUs have no driver: what they do is not seen", c.bare))
	}
	if c.other > 0 {
		say = append(say, fmt.Sprintf("%d GPUs are held by a driver that is not NVIDIA's own: NVML sees nothing of them", c.other))
	}
	if c.closed > 0 {
		say = append(say, fmt.Sprintf("%d GPUs are bound to vfio-pci and have neither group nor device in /dev/vfio that is seen here", c.closed))
	}
	if c.unread > 0 {
		say = append(say, fmt.Sprintf("%d PCI devices could not be looked at: whether they are GPUs, and whose, is not seen", c.unread))
	}
	switch {
	case c.gpus == 0 && c.unread == 0:
		s.State, s.Reason = source.Unavailable, "no NVIDIA GPU is on the PCI bus of this host"
	case len(say) > 0:
		s.State, s.Reason = source.Degraded, strings.Join(say, "; ")
	}
	return s
}
