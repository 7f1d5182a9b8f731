package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// maxOpen bounds the descriptors of one process that are looked at.
const maxOpen = 4096

// types are file systems that checkpoints are written to, by the number that statfs(2) gives.
var types = map[int64]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x2fc12fc1: "zfs", 0x01021994: "tmpfs", 0x794c7630: "overlay",
	0x6969: "nfs", 0x65735546: "fuse", 0x0bd00bd0: "lustre", 0x47504653: "gpfs", 0x00c36400: "ceph", 0x19830326: "beegfs",
	0xfe534d42: "smb2", 0xff534d42: "cifs", 0x4d44: "vfat", 0x64626720: "debugfs",
}

// procfs reads open files from /proc.
type procfs struct {
	root   string
	denied int // processes that could not be looked into, the last time
	why    error
}

func newProcfs(root string) *procfs { return &procfs{root: root} }

func (p *procfs) close() error { return nil }

func (p *procfs) source() wire.Source { return wire.SourceProcfs }

func (p *procfs) report() kernel.Report {
	if p.denied > 0 {
		return kernel.Degraded(fmt.Sprintf("%d processes could not be looked into: needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", p.denied), p.why, "")
	}
	return kernel.Report{State: source.Active}
}

func (p *procfs) path(o *opened) string {
	to, err := os.Readlink(p.file(o.pid, "fd/"+strconv.Itoa(int(o.fd))))
	if err != nil || !filepath.IsAbs(to) {
		return ""
	}
	return to
}

func (p *procfs) file(pid int32, name string) string {
	return filepath.Join(p.root, strconv.Itoa(int(pid)), name)
}

func (p *procfs) read(ctx context.Context, list []*tasks.Process, to []opened) ([]opened, error) {
	p.denied, p.why = 0, nil
	for _, t := range list {
		if ctx.Err() != nil {
			return to, ctx.Err()
		}
		var err error
		if to, err = p.process(t, to); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			p.denied++
			p.why = err
		}
	}
	return to, nil
}

func (p *procfs) process(t *tasks.Process, to []opened) ([]opened, error) {
	dir, err := os.Open(p.file(t.PID, "fd"))
	if err != nil {
		return to, err
	}
	defer dir.Close() //nolint:errcheck // it was open for reading
	names, err := dir.Readdirnames(maxOpen)
	if len(names) == 0 {
		return to, err
	}
	for _, name := range names {
		path := p.file(t.PID, "fd/"+name)
		fd, ferr := strconv.ParseUint(name, 10, 32)
		var link, st syscall.Stat_t
		if ferr != nil || syscall.Lstat(path, &link) != nil || link.Mode&0o200 == 0 {
			continue // not open for writing
		}
		if syscall.Stat(path, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
			continue
		}
		info, rerr := os.ReadFile(p.file(t.PID, "fdinfo/"+name))
		if rerr != nil {
			continue
		}
		o := opened{dev: uint32(st.Dev), ino: st.Ino, size: uint64(max(st.Size, 0)), blocks: uint64(max(st.Blocks, 0)),
			changedNs: uint64(st.Mtim.Nano()), pid: t.PID, start: t.Start * tasks.TickNs, fd: uint32(fd)}
		if !parseFdinfo(info, &o) {
			continue
		}
		var sfs syscall.Statfs_t
		if syscall.Statfs(path, &sfs) == nil {
			o.fs = types[sfs.Type]
		}
		if o.pos > 0 { // descriptors that were inherited move together
			o.id = o.ino<<20 ^ uint64(o.dev)<<40 ^ o.pos
		}
		to = append(to, o)
	}
	return to, nil
}

// parseFdinfo reads position and flags of /proc/PID/fdinfo/FD.
func parseFdinfo(b []byte, o *opened) bool {
	have := 0
	for line := range bytes.Lines(b) {
		name, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(":"))
		if !ok {
			continue
		}
		value = bytes.TrimSpace(value)
		switch string(name) {
		case "pos":
			v, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil {
				return false
			}
			o.pos = v
			have |= 1
		case "flags":
			v, err := strconv.ParseUint(string(value), 8, 32)
			if err != nil {
				return false
			}
			o.flags = uint32(v)
			have |= 2
		}
	}
	return have == 3
}
