package host

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
)

var (
	errStat      = errors.New("its first line is not that of all processors (cpu user nice system idle ...)")
	errDiskstats = errors.New("a line has no major, minor, name and ten counts")
)

// cpuTimes are times since boot in ticks of the kernel.
type cpuTimes struct{ busy, rest uint64 }

// parseStat reads the first line of /proc/stat. Guest time is in user time already.
func parseStat(b []byte) (cpuTimes, error) {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	rest, ok := bytes.CutPrefix(line, []byte("cpu "))
	if !ok {
		return cpuTimes{}, errStat
	}
	var v [8]uint64 // user nice system idle iowait irq softirq steal
	n := 0
	for ; n < len(v); n++ {
		var word []byte
		if word, rest = field(rest); len(word) == 0 {
			break
		}
		if v[n], ok = number(word); !ok {
			return cpuTimes{}, errStat
		}
	}
	if n < 4 {
		return cpuTimes{}, errStat
	}
	return cpuTimes{busy: v[0] + v[1] + v[2] + v[5] + v[6], rest: v[3] + v[4] + v[7]}, nil
}

// busyE4 returns the share of time that processors were busy between two readings, times
// 10,000. ok is false if the counters stood still or went backwards.
func busyE4(was, now cpuTimes) (e4 int64, ok bool) {
	if now.busy < was.busy {
		return 0, false
	}
	busy, rest := now.busy-was.busy, uint64(0)
	if now.rest > was.rest { // iowait may fall a little
		rest = now.rest - was.rest
	}
	if busy+rest == 0 {
		return 0, false
	}
	return int64(math.Round(1e4 * float64(busy) / (float64(busy) + float64(rest)))), true
}

// traffic is octets since boot, of one disk or mount.
type traffic struct{ tx, rx uint64 }

// sectorBytes is the unit of /proc/diskstats, whatever a disk's sectors are.
const sectorBytes = 512

// parseDiskstats calls put for every disk and partition of /proc/diskstats. name is only
// good during the call.
func parseDiskstats(b []byte, put func(name []byte, t traffic)) error {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		_, rest := field(line)
		_, rest = field(rest)
		name, rest := field(rest)
		if len(name) == 0 {
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			return errDiskstats
		}
		var v [7]uint64 // reads merged sectors ms, writes merged sectors
		for i := range v {
			var word []byte
			word, rest = field(rest)
			var ok bool
			if v[i], ok = number(word); !ok {
				return errDiskstats
			}
		}
		if v[2] > math.MaxInt64/sectorBytes || v[6] > math.MaxInt64/sectorBytes {
			return errDiskstats
		}
		put(name, traffic{tx: v[6] * sectorBytes, rx: v[2] * sectorBytes})
	}
	return nil
}

// field cuts the first word off b.
func field(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t")
	if i := bytes.IndexAny(b, " \t"); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// number reads a decimal count that fits 63 bits.
func number(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var v uint64
	for _, d := range b {
		if d < '0' || d > '9' {
			return 0, false
		}
		v = 10*v + uint64(d-'0')
	}
	return v, v <= math.MaxInt64
}

// blind are file systems whose clients count elsewhere or nowhere.
var blind = []string{"lustre", "gpfs", "wekafs", "beegfs", "ceph", "9p", "virtiofs", "cifs", "smb3", "pvfs2", "panfs"}

// parseMountstats reads /proc/self/mountstats: put is called for each NFS mount with the
// octets that went over the wire, and other for each file system of the kinds in blind. A
// mount that is bound elsewhere comes again with the same numbers.
func parseMountstats(b []byte, put func(device string, t traffic), other func(fstype string)) {
	device, fstype := "", ""
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		if rest, ok := bytes.CutPrefix(line, []byte("device ")); ok {
			device, fstype = mountLine(string(rest))
			if slices.Contains(blind, fstype) {
				other(fstype)
			}
			continue
		}
		rest, ok := bytes.CutPrefix(bytes.TrimLeft(line, " \t"), []byte("bytes:"))
		if !ok || fstype != "nfs" && fstype != "nfs4" {
			continue
		}
		var v [6]uint64 // normal read and write, direct read and write, server read and write
		for i := range v {
			var word []byte
			word, rest = field(rest)
			if v[i], ok = number(word); !ok {
				break
			}
		}
		if ok {
			put(device, traffic{tx: v[5], rx: v[4]})
		}
	}
}

// mountLine reads what follows "device ", as "srv:/data mounted on /mnt with fstype nfs4
// statvers=1.1". Names in it are escaped, so that they hold no blanks.
func mountLine(s string) (device, fstype string) {
	device, rest, ok := strings.Cut(s, " mounted on ")
	if !ok {
		return "", ""
	}
	_, rest, ok = strings.Cut(rest, " with fstype ")
	if !ok {
		return "", ""
	}
	fstype, _, _ = strings.Cut(rest, " ")
	return device, fstype
}

// parseMountinfo reads /proc/PID/mountinfo: put is called for each mount. The names are
// escaped as those of mountstats are.
func parseMountinfo(b []byte, put func(device, fstype string)) {
	for line := range bytes.Lines(b) {
		_, rest, ok := bytes.Cut(line, []byte(" - ")) // behind it: type, device, options
		fstype, rest := field(rest)
		device, _ := field(bytes.TrimRight(rest, "\n"))
		if ok && len(device) > 0 {
			put(string(device), string(fstype))
		}
	}
}
