package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxPorts bounds memory and open files. A host has some ten.
const maxPorts = 128

// arphrdEther is the type of an Ethernet device in /sys/class/net/*/type.
const arphrdEther = "1"

// Kinds of ports, as the store knows them.
const (
	kindInfiniBand = "infiniband"
	kindRoCE       = "roce"
	kindEthernet   = "ethernet"
	kindVF         = "vf"
)

// maxNames bounds what is looked at: adapters may offer hundreds of functions.
const maxNames = 4096

// listing is the names in the two classes of devices.
type listing struct{ net, rdma []string }

func (l listing) equal(o listing) bool {
	return slices.Equal(l.net, o.net) && slices.Equal(l.rdma, o.rdma)
}

// list names the devices that sysfs shows now.
func (f *Fabric) list() (l listing, err error) {
	if l.net, err = names(filepath.Join(f.cfg.Sysfs, "class/net")); err != nil {
		return l, fmt.Errorf("list network devices (is sysfs mounted at %s?): %w", f.cfg.Sysfs, err)
	}
	l.rdma, err = names(filepath.Join(f.cfg.Sysfs, "class/infiniband"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("list RDMA devices: %w", err)
	}
	return l, nil
}

// names returns what is in a directory, sorted.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out[:min(len(out), maxNames)], nil
}

// found makes ports of the listed devices, physical ones first, as those beyond maxPorts
// are left out; over is their number.
func (f *Fabric) found(l listing) (ports []port, over int) {
	var functions []port
	add := func(p port, ok bool) {
		switch {
		case !ok:
		case p.kind == kindVF:
			functions = append(functions, p)
		default:
			ports = append(ports, p)
		}
	}
	for _, name := range l.rdma {
		dir := filepath.Join(f.cfg.Sysfs, "class/infiniband", name)
		numbers, err := names(filepath.Join(dir, "ports"))
		if err != nil {
			continue // it is going away, or has no ports
		}
		for _, n := range numbers {
			add(f.rdmaPort(dir, name, n))
		}
	}
	for _, name := range l.net {
		add(f.netPort(filepath.Join(f.cfg.Sysfs, "class/net", name), name))
	}
	ports = append(ports, functions...)
	over = max(0, len(ports)-maxPorts)
	return ports[:len(ports)-over], over
}

func (f *Fabric) rdmaPort(device, name, number string) (port, bool) {
	if _, err := parseCount([]byte(number)); err != nil || f.soft(device) {
		return port{}, false
	}
	dir := filepath.Join(device, "ports", number)
	p := port{
		name: name + "/" + number, rdma: true, kind: kindRoCE,
		rate: filepath.Join(dir, "rate"), link: filepath.Join(dir, "state"), phys: filepath.Join(dir, "phys_state"),
	}
	if layer, err := small(filepath.Join(dir, "link_layer"), f.buf[:]); err == nil && string(layer) == "InfiniBand" {
		p.kind = kindInfiniBand
	}
	if virtual(device) {
		p.kind = kindVF
		p.parent = f.parent(device, true)
	}
	// The words of the standard, unless they hold no count; then what the driver has of its
	// own; the words again if there is nothing, so that the reason names them.
	words := func() []reading { return append(f.pick(dir, rdmaTx), f.pick(dir, rdmaRx)...) }
	p.base = words()
	if len(p.base) < 2 || f.read(&p.base[0]) != nil {
		if own := append(f.pick(dir, rdmaTxOctets), f.pick(dir, rdmaRxOctets)...); len(own) == 2 {
			closeAll(p.base)
			p.base = own
		}
	}
	closeAll(p.base)
	if len(p.base) == 2 {
		packets := append(f.pick(dir, rdmaTxPackets), f.pick(dir, rdmaRxPackets)...)
		p.slow = f.pickAll(dir, rdmaSlow)
		p.add(packets)
	}
	return p, true
}

func closeAll(rs []reading) {
	for i := range rs {
		rs[i].close()
	}
}

// add takes the packets in: with the bytes, but of a virtual function with what is slow,
// as there may be hundreds, each with files that stay open.
func (p *port) add(packets []reading) {
	if p.kind == kindVF {
		p.slow = append(packets, p.slow...)
		return
	}
	p.base = append(p.base, packets...)
}

// pick returns the reading of the first of the names that exists.
func (f *Fabric) pick(dir string, n named) []reading {
	for _, name := range n.names {
		first, second, sum := strings.Cut(name, "+")
		if !exists(filepath.Join(dir, first)) {
			continue
		}
		r := reading{field: n.field, scale: n.scale, value: -1, files: [2]counter{file(dir, first), {fd: -1}}}
		if sum && exists(filepath.Join(dir, second)) {
			r.files[1] = file(dir, second)
		}
		return []reading{r}
	}
	return nil
}

func (f *Fabric) pickAll(dir string, all []named) []reading {
	var out []reading
	for _, n := range all {
		out = append(out, f.pick(dir, n)...)
	}
	return out
}

// soft reports whether an RDMA device is made of software: its bytes are those of the
// network device that it rides on.
func (f *Fabric) soft(device string) bool {
	if desc, err := small(filepath.Join(device, "node_desc"), f.buf[:]); err == nil {
		if d := string(desc); d == "rxe" || strings.HasPrefix(d, "Software iWARP") {
			return true
		}
	}
	target, err := os.Readlink(device)
	return err == nil && strings.Contains(target, "/devices/virtual/")
}

// parent finds the port that a virtual function stands behind, if the host has it.
func (f *Fabric) parent(device string, rdma bool) string {
	pf := filepath.Join(device, "device", "physfn")
	if rdma {
		if list, err := names(filepath.Join(pf, "infiniband")); err == nil && len(list) > 0 {
			return list[0] + "/1"
		}
	}
	list, err := names(filepath.Join(pf, "net"))
	if err != nil {
		return ""
	}
	for _, n := range list { // representors are among them
		if label, lerr := small(filepath.Join(pf, "net", n, "phys_port_name"), f.buf[:]); lerr != nil || !representor(string(label)) {
			return n
		}
	}
	return ""
}

func (f *Fabric) netPort(dir, name string) (port, bool) {
	kind, err := small(filepath.Join(dir, "type"), f.buf[:])
	if err != nil || string(kind) != arphrdEther {
		return port{}, false
	}
	if !exists(filepath.Join(dir, "device")) || exists(filepath.Join(dir, "master", "device")) {
		return port{}, false // of the kernel's own making, or half of a paravirtual pair
	}
	if label, lerr := small(filepath.Join(dir, "phys_port_name"), f.buf[:]); lerr == nil && representor(string(label)) {
		return port{}, false
	}
	p := port{
		name: name, kind: kindEthernet, ifindex: f.number(filepath.Join(dir, "ifindex")),
		rate: filepath.Join(dir, "speed"), link: filepath.Join(dir, "operstate"),
	}
	if virtual(dir) {
		p.kind = kindVF
		p.parent = f.parent(dir, false)
	}
	for _, n := range netBase[:2] {
		p.base = append(p.base, reading{field: n.field, scale: n.scale, value: -1, files: [2]counter{file(dir, n.names[0]), {fd: -1}}})
	}
	p.slow = f.pickAll(dir, netSlow)
	p.add(f.pickAll(dir, netBase[2:]))
	return p, true
}

// number reads a small count; -1: there is none.
func (f *Fabric) number(path string) int64 {
	b, err := small(path, f.buf[:])
	if err != nil {
		return -1
	}
	v, err := parseCount(b)
	if err != nil {
		return -1
	}
	return v
}

// representor reports whether a port's name is that of a function behind an adapter's
// switch, as "pf0vf3", "c1pf0sf8" or "pf0": its bytes are the function's own.
func representor(label string) bool {
	if rest, ok := strings.CutPrefix(label, "c"); ok {
		label = strings.TrimLeft(rest, "0123456789")
	}
	return strings.HasPrefix(label, "pf")
}

// virtual reports whether a device's directory is that of a virtual function, or of a
// sub-function, which is a device on the auxiliary bus.
func virtual(dir string) bool {
	if exists(filepath.Join(dir, "device", "physfn")) {
		return true
	}
	target, err := os.Readlink(filepath.Join(dir, "device"))
	return err == nil && strings.Contains(filepath.Base(target), ".sf.")
}

func file(dir, name string) counter { return counter{path: filepath.Join(dir, name), fd: -1} }

func exists(path string) bool {
	var st syscall.Stat_t
	return syscall.Stat(path, &st) == nil
}
