package job

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	errStat = errors.New("not a line of /proc/PID/stat")
	// errGone says that the process has ended.
	errGone = errors.New("the process has ended")
)

// stat is what is read of /proc/PID/stat.
type stat struct {
	comm    []byte // good until the next read
	state   byte
	ppid    int32
	threads int64
	start   uint64 // ticks of the kernel since boot
}

// parseStat reads /proc/PID/stat. The name may hold anything, brackets too: it ends at the
// last one.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, errStat
	}
	s := stat{comm: b[open+1 : end]}
	rest := b[end+1:]
	for i := 3; i <= 22; i++ { // fields are numbered from 1, as in proc(5)
		rest = bytes.TrimLeft(rest, " ")
		word := rest
		if at := bytes.IndexAny(rest, " \n"); at >= 0 {
			word, rest = rest[:at], rest[at:]
		} else {
			rest = nil
		}
		if len(word) == 0 {
			return stat{}, errStat
		}
		ok := true
		switch i {
		case 3:
			s.state = word[0]
		case 4:
			var v uint64
			v, ok = number(word)
			ok = ok && v <= 1<<31-1
			s.ppid = int32(v)
		case 20:
			var v uint64
			v, ok = number(word)
			s.threads = int64(v)
		case 22:
			s.start, ok = number(word)
		}
		if !ok {
			return stat{}, errStat
		}
	}
	return s, nil
}

// dead reports whether the process has ended and only waits to be reaped. A process whose
// first thread has ended while others run is not.
func (s stat) dead() bool {
	return s.state == 'X' || s.state == 'x' || s.state == 'Z' && s.threads <= 1
}

// number reads a decimal count that fits 62 bits.
func number(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var v uint64
	for _, d := range b {
		if d < '0' || d > '9' {
			return 0, false
		}
		v = 10*v + uint64(d-'0')
	}
	return v, true
}

// procfs reads processes. It has one buffer, which the next read takes.
type procfs struct {
	root string
	path []byte
	buf  []byte
}

func newProcfs(root string) *procfs { return &procfs{root: root, buf: make([]byte, 4096)} }

// file returns root/PID/name as a path for the kernel, with a zero byte at its end, good until the next call.
func (p *procfs) file(pid int32, name string) []byte {
	p.path = append(p.path[:0], p.root...)
	p.path = append(p.path, '/')
	p.path = strconv.AppendInt(p.path, int64(pid), 10)
	p.path = append(p.path, '/')
	p.path = append(p.path, name...)
	p.path = append(p.path, 0)
	return p.path
}

// read returns the first limit bytes of a file of a process. A process that is gone is
// errGone, any other error an errno.
func (p *procfs) read(pid int32, name string, limit int) ([]byte, error) {
	fd, err := open(p.file(pid, name))
	if err != nil {
		return nil, gone(err)
	}
	defer func() { _ = syscall.Close(fd) }() // it was open for reading
	n := 0
	for n < limit {
		if n == len(p.buf) {
			p.buf = append(p.buf, make([]byte, len(p.buf))...)
		}
		m, rerr := syscall.Read(fd, p.buf[n:min(limit, len(p.buf))])
		if errors.Is(rerr, syscall.EINTR) {
			continue
		}
		if rerr != nil {
			return nil, gone(rerr)
		}
		if m <= 0 {
			break
		}
		n += m
	}
	return p.buf[:n], nil
}

// open opens a path for reading without a copy of it, which os.Open would make twice: this
// is done hundreds of times a second.
func open(path []byte) (fd int, err error) {
	if bytes.IndexByte(path, 0) != len(path)-1 {
		return -1, syscall.EINVAL
	}
	for {
		at := unix.AT_FDCWD
		r, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case syscall.EINTR:
		default:
			return -1, errno
		}
	}
}

func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
		return errGone
	}
	return err
}

func (p *procfs) stat(pid int32) (stat, error) {
	b, err := p.read(pid, "stat", 4096)
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(b)
	if err != nil {
		return stat{}, err
	}
	if s.dead() {
		return stat{}, errGone
	}
	return s, nil
}

// exe returns the base name of a process's executable. It may be read by the process's own
// user and with CAP_SYS_PTRACE; else "".
func (p *procfs) exe(pid int32) string {
	target, err := os.Readlink(string(bytes.TrimSuffix(p.file(pid, "exe"), []byte{0})))
	if err != nil {
		return ""
	}
	return clean(filepath.Base(strings.TrimSuffix(target, " (deleted)")))
}

// uid returns the real user id of a process; ok is false if it is not known.
func (p *procfs) uid(pid int32) (uid uint32, ok bool) {
	b, err := p.read(pid, "status", 4096)
	if err != nil {
		return 0, false
	}
	return parseUID(b)
}

// parseUID reads the line "Uid:" of /proc/PID/status: real, effective, saved, file system.
func parseUID(b []byte) (uid uint32, ok bool) {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		rest, found := bytes.CutPrefix(line, []byte("Uid:"))
		if !found {
			continue
		}
		rest = bytes.TrimLeft(rest, " \t")
		if at := bytes.IndexAny(rest, " \t"); at >= 0 {
			rest = rest[:at]
		}
		v, good := number(rest)
		return uint32(v), good && v <= 1<<32-1
	}
	return 0, false
}

// bootSeconds reads when the host was started from /proc/stat, in Unix seconds.
func (p *procfs) bootSeconds() (int64, error) {
	data, err := os.ReadFile(p.root + "/stat")
	if err != nil {
		return 0, err
	}
	return parseBtime(data)
}

// parseBtime reads the line "btime" of /proc/stat.
func parseBtime(b []byte) (int64, error) {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		rest, ok := bytes.CutPrefix(line, []byte("btime "))
		if !ok {
			continue
		}
		if v, good := number(bytes.TrimSpace(rest)); good && v < 1<<40 {
			return int64(v), nil
		}
	}
	return 0, errors.New("no line btime")
}

// maxExe bounds names of programs.
const maxExe = 64

// clean makes a name that a process gave itself fit to be told.
func clean(name string) string {
	if !utf8.ValidString(name) {
		name = strings.ToValidUTF8(name, "?")
	}
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
	for len(name) > maxExe {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name
}
