package tasks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

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
		case err == unix.EINTR: //nolint:errorlint // it is bare
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

// parseMount finds where the unified hierarchy is mounted, in /proc/PID/mountinfo.
func parseMount(b []byte) string {
	for line := range bytes.Lines(b) {
		head, tail, ok := bytes.Cut(line, []byte(" - "))
		if !ok || !bytes.HasPrefix(tail, []byte("cgroup2 ")) {
			continue
		}
		if f := bytes.Fields(head); len(f) >= 5 {
			return string(f[4])
		}
	}
	return ""
}
