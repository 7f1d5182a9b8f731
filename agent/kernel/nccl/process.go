package nccl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
)

// procfs reads processes of the host.
type procfs struct{ root string }

func (p procfs) file(pid int32, name string) string {
	return p.root + "/" + strconv.Itoa(int(pid)) + "/" + name
}

// start is when a process was started, in ticks since boot; ok is false if it has ended.
func (p procfs) start(pid int32) (ticks uint64, ok bool) {
	b, err := tasks.ReadFile(p.file(pid, "stat"))
	if err != nil {
		return 0, false
	}
	return parseStart(b)
}

// parseStart reads /proc/PID/stat. The name may hold anything: it ends at the last bracket.
func parseStart(b []byte) (ticks uint64, ok bool) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0, false
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 {
		return 0, false
	}
	threads, err := strconv.ParseUint(string(f[17]), 10, 32)
	if err != nil || (f[0][0] == 'Z' || f[0][0] == 'X') && threads <= 1 {
		return 0, false
	}
	ticks, err = strconv.ParseUint(string(f[19]), 10, 64)
	return ticks, err == nil
}

// area is a line of /proc/PID/maps that names a file.
type area struct {
	span    string // as map_files calls it
	start   uint64
	ino     uint64
	exec    bool
	deleted bool
	path    string // as the process sees it
}

// maxLines bounds how much of one process's map is read: more than the kernel lets a process
// have, unless vm.max_map_count was raised.
const maxLines = 100_000

var errLong = errors.New("the process has more than " + strconv.Itoa(maxLines) + " mappings")

// areas reads the mapped files of a process.
func (p procfs) areas(pid int32, each func(a area)) error {
	f, err := os.Open(p.file(pid, "maps"))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was open for reading
	return parseAreas(f, each)
}

func parseAreas(r io.Reader, each func(a area)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 8192), 16<<10)
	for n := 0; lines.Scan(); n++ {
		if n == maxLines {
			return errLong
		}
		if a, ok := parseArea(lines.Text()); ok {
			each(a)
		}
	}
	return lines.Err()
}

// parseArea reads "start-end perms offset major:minor inode path". The kernel writes a
// newline of a name as \012.
func parseArea(line string) (area, bool) {
	var f [5]string
	rest := line
	for i := range f {
		word, more, ok := strings.Cut(rest, " ")
		if !ok {
			return area{}, false
		}
		f[i], rest = word, strings.TrimLeft(more, " ")
	}
	if !strings.HasPrefix(rest, "/") || len(f[1]) != 4 {
		return area{}, false
	}
	first, last, ok := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(first, 16, 64)
	end, err2 := strconv.ParseUint(last, 16, 64)
	ino, err3 := strconv.ParseUint(f[4], 10, 64)
	if !ok || err1 != nil || err2 != nil || err3 != nil || start >= end {
		return area{}, false
	}
	a := area{span: strconv.FormatUint(start, 16) + "-" + strconv.FormatUint(end, 16), start: start, ino: ino, exec: f[1][2] == 'x'}
	a.path, a.deleted = strings.CutSuffix(rest, " (deleted)")
	return a, true
}

// named reports whether a library of that name may have collectives. The program in the
// kernel looks at the same beginnings.
func named(base string) bool {
	for _, p := range []string{"libnccl", "librccl", "libtorch_cu", "libtorch_hi"} {
		if strings.HasPrefix(base, p) {
			return true
		}
	}
	return false
}

// usesNCCL reports whether a mapped file is what NCCL makes to talk between processes of a
// host, whichever way it was linked.
func usesNCCL(a area) bool { return strings.HasPrefix(a.path, "/dev/shm/nccl-") }

// openArea opens the file of an area: the very one that is mapped, if the agent may;
// else what the process finds under that name, which may be another by now.
func (p procfs) openArea(pid int32, a area) (*os.File, error) {
	f, err := regular(p.file(pid, "map_files/"+a.span))
	if err == nil {
		return f, nil
	}
	if a.deleted {
		return nil, errors.Join(errors.New("the file is deleted, and map_files needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE"), err)
	}
	// The kernel tells paths from the top of the process's mounts, which is where its root is
	// unless it was changed.
	names := []string{a.path}
	if top, lerr := os.Readlink(p.file(pid, "root")); lerr == nil && top != "/" && strings.HasPrefix(a.path, top+"/") {
		names = append(names, a.path[len(top):])
	}
	var errs []error
	for _, name := range names {
		if f, err = p.openIn(pid, name); err == nil {
			return f, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// regular opens a file for reading, and waits for nobody who has a lease on it.
func regular(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// openIn opens a regular file below the root of a process, as the process itself would find
// it: links stay within that root.
func (p procfs) openIn(pid int32, name string) (*os.File, error) {
	root, err := os.Open(p.file(pid, "root"))
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // it was open for reading
	// Opening a device or a pipe may already do something: the name is only taken first. Errors
	// have its base alone: reasons leave the host, and whose home it is must not.
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), name, &how)
	if err != nil {
		return nil, kept(&os.PathError{Op: "open", Path: path.Base(name), Err: err})
	}
	defer unix.Close(fd) //nolint:errcheck // it was not even open for reading
	var st unix.Stat_t
	if serr := unix.Fstat(fd, &st); serr != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	f, err := regular("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, kept(fmt.Errorf("open %s: %w", path.Base(name), errors.Unwrap(err))) // the number says nothing
	}
	return f, nil
}

// errKept says that a file is kept from others than its user: not the process is closed to the
// agent, but a way to its file.
var errKept = errors.New("its user keeps it, or a directory above it, from others: needs CAP_DAC_READ_SEARCH")

// kept tells what is missing where a file below the root of a process may not be opened: whoever
// got as far as that root may look into the process.
func kept(err error) error {
	if denied(err) {
		return fmt.Errorf("%w: %w", err, errKept)
	}
	return err
}

// memory is a process's memory for reading: by a system call, which needs CAP_SYS_PTRACE
// alone; the file /proc/PID/mem is its owner's and needs CAP_DAC_READ_SEARCH too.
// A page of it may be one that never comes: after errStuck what it was read into is lost.
type memory struct {
	pid int
	*patience
}

// ReadAt reads up to the first byte that is not there.
func (m memory) ReadAt(b []byte, at int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	type read struct {
		n   int
		err error
	}
	r, err := within(m.patience, func() (r read) { r.n, r.err = m.read(b, at); return r }, func(read) {})
	if err != nil {
		return 0, err
	}
	return r.n, r.err
}

func (m memory) read(b []byte, at int64) (int, error) {
	to, from := unix.Iovec{Base: &b[0]}, unix.RemoteIovec{Base: uintptr(at), Len: len(b)}
	to.SetLen(len(b))
	n, err := unix.ProcessVMReadv(m.pid, []unix.Iovec{to}, []unix.RemoteIovec{from}, 0)
	if err != nil {
		return 0, err
	}
	if n < len(b) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// readable reports whether the memory of a process may be read.
func (m memory) readable() error {
	// No address is 0: what matters is whether the kernel gets as far as looking.
	if _, err := m.ReadAt(make([]byte, 1), 0); err != nil && !errors.Is(err, unix.EFAULT) {
		return err
	}
	return nil
}
