package tasks

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxMounts bounds the places where control groups are looked for.
const maxMounts = 16

// TickNs is a tick of /proc/PID/stat in nanoseconds.
const TickNs = 10_000_000

var (
	errStat = errors.New("not a line of /proc/PID/stat")
	// ErrGone says that a process has ended.
	ErrGone = errors.New("the process has ended")
)

// Stat is what is read of /proc/PID/stat.
type Stat struct {
	Parent int32
	Start  uint64 // ticks since boot
	// Dead: a zombie, or gone while it was read. A process whose first thread has ended while
	// others run is not.
	Dead bool
}

// ReadStat reads the state of a process.
func ReadStat(procfs string, pid int32) (Stat, error) {
	b, err := ReadFile(filepath.Join(procfs, strconv.Itoa(int(pid)), "stat"))
	if err != nil {
		return Stat{}, gone(err)
	}
	return parseStat(b)
}

// ReadFile reads a small file of /proc, in three calls: os.ReadFile, which would make it wait for
// readiness first and finds that it cannot, takes nine.
func ReadFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // it was only read
	b := make([]byte, 0, 512)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b, nil
		default:
			if b = b[:len(b)+n]; len(b) == cap(b) {
				b = slices.Grow(b, len(b))
			}
		}
	}
}

func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
		return ErrGone
	}
	return err
}

// parseStat reads the fields behind the name, which may hold anything, brackets too.
func parseStat(b []byte) (Stat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return Stat{}, errStat
	}
	fields := bytes.Fields(b[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return Stat{}, errStat
	}
	parent, err := strconv.ParseInt(string(fields[1]), 10, 32)
	if err != nil {
		return Stat{}, errStat
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 63)
	if err != nil {
		return Stat{}, errStat
	}
	threads, err := strconv.ParseInt(string(fields[17]), 10, 64)
	if err != nil {
		return Stat{}, errStat
	}
	state := fields[0][0]
	return Stat{Parent: int32(parent), Start: start, Dead: state == 'Z' && threads <= 1 || state == 'X' || state == 'x'}, nil
}

// BootMs reads when the host was started from /proc/stat, in Unix milliseconds: what the
// starts of processes in the rows of agent/job are reckoned from.
func BootMs(procfs string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(procfs, "stat"))
	if err != nil {
		return 0, fmt.Errorf("read the time of the boot: %w", err)
	}
	return parseBoot(b)
}

func parseBoot(b []byte) (int64, error) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			if v, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 40); err == nil {
				return int64(v) * 1000, nil
			}
		}
	}
	return 0, errors.New("read the time of the boot: /proc/stat has no line btime")
}

// parseGroup reads the path of the unified hierarchy from /proc/PID/cgroup; "" if there is
// none.
func parseGroup(b []byte) string {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("0::/")); ok {
			return "/" + string(bytes.TrimSuffix(rest, []byte("\n")))
		}
	}
	return ""
}

// mount is a place where the unified hierarchy, or a part of it, is mounted.
type mount struct {
	root string // the group that is on top there, as paths of /proc/PID/cgroup begin
	at   string
}

// mounts are those of a mount namespace, the longest root first; of equal ones the last that
// was mounted, as it may lie over the others.
type mounts []mount

// parseMounts reads /proc/PID/mountinfo.
func parseMounts(b []byte) mounts {
	var all mounts
	for line := range bytes.Lines(b) {
		head, tail, ok := bytes.Cut(line, []byte(" - "))
		if !ok || !bytes.HasPrefix(tail, []byte("cgroup2 ")) {
			continue
		}
		if f := bytes.Fields(head); len(f) >= 5 && f[3][0] == '/' && f[4][0] == '/' && len(all) < maxMounts {
			all = append(all, mount{unescape(f[3]), unescape(f[4])})
		}
	}
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b mount) int { return cmp.Compare(len(b.root), len(a.root)) })
	return all
}

// unescape undoes what the kernel does to spaces and the like: a backslash and three octal
// digits.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if v, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				out = append(out, byte(v))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

// below returns path as seen from the mount's root; ok is false where it is not in the
// mount. Groups above the reader's own begin with "/..", as do mounts of them.
func (m mount) below(path string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(m.root, "/"))
	if !ok || rest != "" && rest[0] != '/' || rest == "/.." || strings.HasPrefix(rest, "/../") {
		return "", false
	}
	return rest, true
}

// find returns the directory of a control group; "": none is mounted that has it. is says
// whether a directory is there.
func (all mounts) find(path string, is func(dir string) bool) string {
	for _, m := range all {
		if rest, ok := m.below(path); ok {
			if dir := filepath.Join(m.at, rest); is(dir) {
				return dir
			}
		}
	}
	return ""
}
