package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// found lists the ports that sysfs shows now. over is the number of ports beyond maxPorts.
func (f *Fabric) found() (ports []port, over int, err error) {
	class := filepath.Join(f.cfg.Sysfs, "class")
	devices, err := os.ReadDir(filepath.Join(class, "net"))
	if err != nil {
		return nil, 0, fmt.Errorf("list network devices (is sysfs mounted at %s?): %w", f.cfg.Sysfs, err)
	}
	add := func(p port) {
		if len(ports) >= maxPorts {
			over++
			return
		}
		ports = append(ports, p)
	}
	adapters, err := os.ReadDir(filepath.Join(class, "infiniband"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("list RDMA devices: %w", err)
	}
	for _, a := range adapters {
		dir := filepath.Join(class, "infiniband", a.Name())
		numbers, rerr := os.ReadDir(filepath.Join(dir, "ports"))
		if rerr != nil {
			continue // it is going away, or has no ports
		}
		for _, n := range numbers {
			if p, ok := f.rdmaPort(dir, a.Name(), n.Name()); ok {
				add(p)
			}
		}
	}
	for _, d := range devices {
		if p, ok := f.netPort(filepath.Join(class, "net", d.Name()), d.Name()); ok {
			add(p)
		}
	}
	return ports, over, nil
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
