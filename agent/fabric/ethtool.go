package fabric

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What ethtool asks of drivers, as linux/ethtool.h numbers it. The questions change
// nothing and need no privilege.
const (
	ethtoolGStrings  = 0x1b
	ethtoolGStats    = 0x1d
	ethtoolGSsetInfo = 0x37
	ssStats          = 1
	stringBytes      = 32
	maxStats         = 4096
)

// representorStats takes a function's counters from its representor, which counts what
// leaves the switch towards the function as sent: the names are seen from the switch.
func (f *Fabric) representorStats(v *function) error {
	all, err := f.stats(v.representor)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.value > math.MaxInt64 {
			continue
		}
		switch n := int64(s.value); s.name {
		case "vport_rx_bytes":
			v.txBytes = n
		case "vport_tx_bytes":
			v.rxBytes = n
		case "vport_rx_packets":
			v.txPackets = n
		case "vport_tx_packets":
			v.rxPackets = n
		}
	}
	return nil
}

type stat struct {
	name  string
	value uint64
}

// ethtoolStats asks a network device's driver for its own counters.
func ethtoolStats(device string) ([]stat, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	// struct ethtool_sset_info: command, reserved, mask, one count.
	info := make([]byte, 24)
	binary.NativeEndian.PutUint32(info, ethtoolGSsetInfo)
	binary.NativeEndian.PutUint64(info[8:], 1<<ssStats)
	if err = ethtool(fd, device, info); err != nil {
		return nil, fmt.Errorf("ask %s for its number of counters: %w", device, err)
	}
	n := int(binary.NativeEndian.Uint32(info[16:]))
	if binary.NativeEndian.Uint64(info[8:]) == 0 || n == 0 {
		return nil, nil
	}
	if n > maxStats {
		return nil, fmt.Errorf("%s has %d counters, more than %d", device, n, maxStats)
	}
	// struct ethtool_gstrings and ethtool_stats: command, (set,) length, data. The driver
	// fills what it has now, which may be more than it had: room is left.
	room := n + 64
	names, values := make([]byte, 12+room*stringBytes), make([]byte, 8+room*8)
	binary.NativeEndian.PutUint32(names, ethtoolGStrings)
	binary.NativeEndian.PutUint32(names[4:], ssStats)
	binary.NativeEndian.PutUint32(names[8:], uint32(n))
	if err = ethtool(fd, device, names); err != nil {
		return nil, fmt.Errorf("ask %s for the names of its counters: %w", device, err)
	}
	binary.NativeEndian.PutUint32(values, ethtoolGStats)
	binary.NativeEndian.PutUint32(values[4:], uint32(n))
	if err = ethtool(fd, device, values); err != nil {
		return nil, fmt.Errorf("ask %s for its counters: %w", device, err)
	}
	return pairs(names[8:], values[4:]), nil
}

// pairs joins names and values, each behind their number.
func pairs(names, values []byte) []stat {
	if len(names) < 4 || len(values) < 4 {
		return nil
	}
	n := min(uint64(binary.NativeEndian.Uint32(names)), uint64(binary.NativeEndian.Uint32(values)), uint64(len(names)-4)/stringBytes, uint64(len(values)-4)/8)
	out := make([]stat, 0, n)
	for i := range n {
		name, _, _ := bytes.Cut(names[4+i*stringBytes:4+(i+1)*stringBytes], []byte{0})
		out = append(out, stat{string(name), binary.NativeEndian.Uint64(values[4+i*8:])})
	}
	return out
}

// ethtool passes data to a device's driver, which changes it in place.
func ethtool(fd int, device string, data []byte) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if len(device) >= len(req.name) {
		return unix.ENODEV
	}
	copy(req.name[:], device)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&data[0])
	req.data = unsafe.Pointer(&data[0])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
