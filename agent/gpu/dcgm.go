package gpu

import (
	"bytes"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// maxLooked is how many processes are looked at for those of DCGM: some tens of milliseconds,
// as rarely as facts are read.
const maxLooked = 8192

// dcgmFact says which programs of DCGM run on the host. They read the same counters: whether they
// perturb what is read here is disputed, so what was read beside them can be told apart. A
// process's name is a claim of who started it. "none" is said where the host's processes are
// seen, and all of them were looked at.
func dcgmFact(dst []fact, procFS string) []fact {
	dir, err := os.Open(procFS)
	if err != nil {
		return dst
	}
	defer func() { _ = dir.Close() }() // read only
	var engine, exporter, whole, host bool
	var comm [32]byte // the kernel's names have at most 15
	for looked := 0; looked < maxLooked; {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if name[0] < '1' || name[0] > '9' {
				continue
			}
			looked++
			n, there := readInto(comm[:], filepath.Join(procFS, name, "comm"))
			if !there {
				continue // it has ended
			}
			switch string(bytes.TrimSuffix(comm[:n], []byte("\n"))) {
			case "nv-hostengine":
				engine = true
			case "dcgm-exporter":
				exporter = true
			case "kthreadd":
				host = host || name == "2"
			}
		}
		if err != nil { // the end, or as good as that
			whole = len(names) == 0 && looked > 0
			break
		}
	}
	var value string
	switch {
	case engine && exporter:
		value = "nv-hostengine,dcgm-exporter"
	case engine:
		value = "nv-hostengine"
	case exporter:
		value = "dcgm-exporter"
	case whole && host:
		value = "none"
	default:
		return dst
	}
	return append(dst, fact{subjectHost, "dcgm", value, wire.SourceProcfs})
}

// readInto reads the first bytes of a file: thousands of them leave nothing behind. It is false
// where there is none to read.
func readInto(b []byte, path string) (n int, there bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	n, err = unix.Read(fd, b)
	_ = unix.Close(fd) // read only
	return max(n, 0), err == nil
}
