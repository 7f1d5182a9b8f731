package job

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Confidence in an attribution, times 10,000. doc.go says which rule has which.
const (
	whole       = 10_000
	byUUID      = whole
	byMinor     = 9500
	byIndex     = 9000
	byMapIndex  = 8000
	byParent    = 5000 // a MIG device of that GPU, not known which
	minorsAfter = 60_000
)

// device is a GPU or MIG device that a scheduler named.
type device struct {
	uuid string
	gpu  int // index of the GPU; -1: not known
	conf int64
}

// gpuNames are how schedulers name GPUs of vendors that flopwatch reads.
func maybeGPU(resource string, id []byte) bool {
	s := string(id)
	return hasUUID(s) || strings.HasPrefix(resource, "nvidia.com/") || resource == "gpu.nvidia.com" || strings.HasPrefix(s, "nvidia.com/") ||
		strings.Contains(s, "gpu.nvidia.com/")
}

// hasUUID reports whether a name holds the UUID of a GPU or MIG device.
func hasUUID(s string) bool { _, ok := findUUID(s); return ok }

// findUUID cuts the UUID of a GPU or MIG device out of a name.
func findUUID(s string) (uuid string, ok bool) {
	for _, prefix := range []string{"MIG-GPU-", "MIG-", "GPU-"} {
		at := strings.Index(s, prefix)
		if at < 0 {
			continue
		}
		end := at + len(prefix) + uuidLen
		if end > len(s) || !isUUID(s[at+len(prefix):end]) {
			continue
		}
		if prefix == "MIG-GPU-" { // the old form: MIG-GPU-UUID/GI/CI
			tail, of := strings.CutPrefix(s[end:], "/")
			gi, rest, cut := strings.Cut(tail, "/")
			ci := rest[:len(rest)-len(strings.TrimLeft(rest, digits))]
			if !of || !cut || !isNumber(gi) || ci == "" {
				return "", false
			}
			end += len("/") + len(gi) + len("/") + len(ci)
		}
		return s[at:end], true
	}
	return "", false
}

const (
	uuidLen = 36
	digits  = "0123456789"
)

// isUUID reports whether s is a UUID in lower case, as the driver writes it. A driver that is
// not at work yet writes question marks.
func isUUID(s string) bool {
	if len(s) != uuidLen {
		return false
	}
	for i, c := range []byte(s) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash != (c == '-'):
			return false
		case !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 6 && strings.Trim(s, digits) == ""
}

// index is a small number at the front of s, and what is behind it.
func index(s string) (n int, rest string, ok bool) {
	rest = strings.TrimLeft(s, digits)
	if !isNumber(s[:len(s)-len(rest)]) {
		return 0, s, false
	}
	n, err := strconv.Atoi(s[:len(s)-len(rest)])
	return n, rest, err == nil
}

// devices resolves the names that schedulers have for GPUs. A GPU's number is one of two:
// its index, as NVML counts, and its minor, the N of /dev/nvidiaN, which differ on hosts
// whose buses are found in another order. Which minor is which UUID stands in the driver's
// files /proc/driver/nvidia/gpus/BUS/information; where they cannot be read, a minor is
// resolved only on a host with one GPU, and never guessed.
type devices struct {
	lister source.DeviceLister
	driver string // root of the driver's files

	list    []source.GPUDevice
	minors  map[int]string // UUIDs
	readMs  int64
	read    bool
	missing error // why there are no minors
}

// refresh takes the host's GPUs; changed says that they are others than before.
func (d *devices) refresh(bootMs int64) (changed bool) {
	if d.lister != nil {
		if list, ok := d.lister.GPUDevices(); ok && !slices.EqualFunc(list, d.list, equalDevices) {
			d.list, changed = slices.Clone(list), true
		}
	}
	if !d.read || changed || bootMs-d.readMs >= minorsAfter && len(d.minors) == 0 {
		d.read, d.readMs = true, bootMs
		before := len(d.minors)
		d.minors, d.missing = readMinors(d.driver)
		changed = changed || before != len(d.minors)
	}
	return changed
}

func equalDevices(a, b source.GPUDevice) bool {
	return a.Index == b.Index && a.UUID == b.UUID && a.PCIBusID == b.PCIBusID && slices.Equal(a.Instances, b.Instances)
}

// readMinors reads which minor is which UUID.
func readMinors(driver string) (map[int]string, error) {
	dir := filepath.Join(driver, "gpus")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	minors := map[int]string{}
	for i, e := range entries {
		if i == maxGPUs {
			break
		}
		b, rerr := os.ReadFile(filepath.Join(dir, e.Name(), "information"))
		if rerr != nil {
			err = rerr
			continue
		}
		if minor, uuid, ok := parseInformation(b); ok {
			minors[minor] = uuid
		}
	}
	if len(minors) == 0 && err == nil {
		err = errors.New("the driver's files name no UUID with its minor")
	}
	return minors, err
}

// parseInformation reads lines as "GPU UUID: GPU-..." and "Device Minor: 3".
func parseInformation(b []byte) (minor int, uuid string, ok bool) {
	minor = -1
	for line := range bytes.Lines(b) {
		key, value, cut := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "GPU UUID":
			if u, good := findUUID(value); cut && good && u == value {
				uuid = u
			}
		case "Device Minor":
			if n, rest, good := index(value); good && rest == "" {
				minor = n
			}
		}
	}
	return minor, uuid, minor >= 0 && uuid != ""
}

// uuid is a device whose UUID a scheduler named.
func (d *devices) uuid(uuid string) device {
	for _, g := range d.list {
		if g.UUID == uuid {
			return device{uuid, g.Index, byUUID}
		}
		for _, i := range g.Instances {
			if i.UUID == uuid {
				return device{uuid, g.Index, byUUID}
			}
		}
		// MIG-GPU-UUID/GI/CI, the old form, for what the driver calls MIG-UUID today.
		if rest, ok := strings.CutPrefix(uuid, "MIG-"+g.UUID+"/"); ok {
			gi, ci, _ := strings.Cut(rest, "/")
			for _, i := range g.Instances {
				if gi == strconv.Itoa(i.GI) && ci == strconv.Itoa(i.CI) {
					return device{i.UUID, g.Index, byUUID}
				}
			}
			return device{uuid, g.Index, byUUID}
		}
	}
	return device{uuid, -1, byUUID}
}

// minor is the GPU of a minor.
func (d *devices) minor(n int) (device, bool) {
	if uuid := d.minors[n]; uuid != "" {
		g := d.uuid(uuid)
		g.conf = byMinor
		return g, true
	}
	if len(d.list) == 1 && len(d.minors) == 0 && d.list[0].UUID != "" {
		return device{d.list[0].UUID, d.list[0].Index, byIndex}, true
	}
	return device{}, false
}

// index is the GPU that NVML counts as n.
func (d *devices) index(n int) (device, bool) {
	for _, g := range d.list {
		if g.Index == n && g.UUID != "" {
			return device{g.UUID, g.Index, byIndex}, true
		}
	}
	return device{}, false
}

// instance is the n-th MIG device of a GPU, or that of a GPU instance's number.
func (d *devices) instance(gpu device, nth, gi int) (device, bool) {
	at := slices.IndexFunc(d.list, func(g source.GPUDevice) bool { return g.UUID == gpu.uuid })
	if at < 0 {
		return device{}, false
	}
	list := d.list[at].Instances
	switch {
	case gi >= 0:
		var found []source.GPUInstance
		for _, i := range list {
			if i.GI == gi {
				found = append(found, i)
			}
		}
		if len(found) != 1 { // several compute instances: not known which
			return device{}, false
		}
		return device{found[0].UUID, gpu.gpu, gpu.conf}, true
	case nth < len(list):
		return device{list[nth].UUID, gpu.gpu, gpu.conf}, true
	}
	return device{}, false
}

// of resolves a device that the kubelet names.
func (d *devices) of(p podDevice) (device, bool) {
	if p.dra {
		return d.ofClaim(p.id)
	}
	return d.ofPlugin(p.resource, p.id)
}

// ofPlugin resolves the id of a device of a device plugin:
//
//	GPU-UUID, MIG-UUID         with "::N" behind it for a time-slice or an MPS share
//	N, N:M                     index, and MIG device on it, of plugins told to name them so
//	nvidiaN, nvidiaN/giG       GKE: the minor; with /vgpuV behind it for a share
func (d *devices) ofPlugin(resource, id string) (device, bool) {
	id, _, _ = strings.Cut(id, "::")
	if uuid, ok := findUUID(id); ok {
		return d.uuid(uuid), uuid == id
	}
	if rest, ok := strings.CutPrefix(id, "nvidia"); ok {
		n, part, good := index(rest)
		if !good {
			return device{}, false
		}
		g, known := d.minor(n)
		part, _, _ = strings.Cut(part, "/vgpu")
		if gi, isMIG := strings.CutPrefix(part, "/gi"); known && isMIG && isNumber(gi) {
			number, _, _ := index(gi)
			return d.instance(g, -1, number)
		}
		return g, known && part == ""
	}
	// Other plugins of the vendor count other things: groups of the IOMMU, for one.
	if name := strings.TrimPrefix(resource, "nvidia.com/"); name != "gpu" && name != "gpu.shared" && !strings.HasPrefix(name, "mig-") {
		return device{}, false
	}
	return d.numbered(id)
}

// numbered resolves N and N:M.
func (d *devices) numbered(id string) (device, bool) {
	n, rest, ok := index(id)
	if !ok {
		return device{}, false
	}
	g, ok := d.index(n)
	if !ok || rest == "" {
		return g, ok
	}
	m, isMIG := strings.CutPrefix(rest, ":")
	if !isMIG || !isNumber(m) {
		return device{}, false
	}
	nth, _, _ := index(m)
	return d.instance(g, nth, -1)
}

// ofClaim resolves a device of DRA: the name of a CDI device, or the driver's own name:
//
//	VENDOR/CLASS=GPU-UUID, =MIG-UUID, =N, =N:M
//	gpu-N, VENDOR/CLASS=CLAIM-gpu-N                the minor
//	gpu-N-mig-PROFILE-ID-START, or -mig-UUID       a MIG device of that GPU
func (d *devices) ofClaim(id string) (device, bool) {
	if uuid, ok := findUUID(id); ok {
		return d.uuid(uuid), true
	}
	_, name, cdi := strings.Cut(id, "=")
	if !cdi {
		name = id
	}
	if at := strings.LastIndex(name, "gpu-"); at >= 0 && (at == 0 || cdi) {
		n, rest, ok := index(name[at+len("gpu-"):])
		if !ok {
			return device{}, false
		}
		g, ok := d.minor(n)
		if ok && strings.HasPrefix(rest, "-mig-") {
			// Its place on the GPU is told, but not which instance that is.
			if i, only := d.only(g); only {
				return i, true
			}
			g.conf = byParent
			return g, true
		}
		return g, ok && rest == ""
	}
	if cdi {
		return d.numbered(name)
	}
	return device{}, false
}

// only is the MIG device of a GPU that has one.
func (d *devices) only(gpu device) (device, bool) {
	for _, g := range d.list {
		if g.UUID == gpu.uuid && len(g.Instances) == 1 {
			return d.instance(gpu, 0, -1)
		}
	}
	return device{}, false
}

// uuidOf is the UUID of a GPU's index; "": not known.
func (d *devices) uuidOf(gpu int) string {
	g, _ := d.index(gpu)
	return g.uuid
}
