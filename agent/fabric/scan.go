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
	if _, err := parseCount([]byte(number)); err != nil {
		return port{}, false
	}
	dir := filepath.Join(device, "ports", number)
	p := port{
		name: name + "/" + number, rdma: true, kind: kindRoCE,
		rate: filepath.Join(dir, "rate"), link: filepath.Join(dir, "state"),
	}
	if layer, err := small(filepath.Join(dir, "link_layer"), f.buf[:]); err == nil && string(layer) == "InfiniBand" {
		p.kind = kindInfiniBand
	}
	if virtual(device) {
		p.kind = kindVF
	}
	// The first pair of files that exists; the words of the standard if none does, so that
	// the reason names them.
	p.tx, p.rx, p.scale = file(dir, "counters/port_xmit_data"), file(dir, "counters/port_rcv_data"), 4
	for _, c := range []struct {
		tx, rx string
		scale  int64
	}{
		{"counters_ext/port_xmit_data_64", "counters_ext/port_rcv_data_64", 4},
		{"counters/port_xmit_data", "counters/port_rcv_data", 4},
		{"hw_counters/tx_bytes", "hw_counters/rx_bytes", 1},
	} {
		if exists(filepath.Join(dir, c.tx)) {
			p.tx, p.rx, p.scale = file(dir, c.tx), file(dir, c.rx), c.scale
			break
		}
	}
	return p, true
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
		name: name, kind: kindEthernet, scale: 1,
		tx: file(dir, "statistics/tx_bytes"), rx: file(dir, "statistics/rx_bytes"),
		rate: filepath.Join(dir, "speed"), link: filepath.Join(dir, "operstate"),
	}
	if virtual(dir) {
		p.kind = kindVF
	}
	return p, true
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
