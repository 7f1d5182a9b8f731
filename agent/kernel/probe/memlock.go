package probe

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// chargesGroups is the kernel from which maps and programs count as memory of a control
// group; before, as locked memory of the user.
const (
	groupsMajor = 5
	groupsMinor = 11
)

// RaiseMemlock lifts this process's limit of locked memory where the kernel is so old that
// maps and programs count against it: the usual 64 KiB hold none of them. It needs
// CAP_SYS_RESOURCE, unless the limit is high enough already.
func RaiseMemlock() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	if !countsLocked(unix.ByteSliceToString(name.Release[:])) {
		return nil
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now); err == nil && now.Cur == math.MaxUint64 {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: math.MaxUint64, Max: math.MaxUint64}); err != nil {
		return fmt.Errorf("this kernel counts programs and maps as locked memory: needs CAP_SYS_RESOURCE, or LimitMEMLOCK=infinity: %w", err)
	}
	return nil
}

// countsLocked reports whether a kernel of that release charges maps as locked memory. One
// that took the newer accounting over counts as old: a limit too high does no harm.
func countsLocked(release string) bool {
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	if end := strings.IndexFunc(second, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		second = second[:end]
	}
	major, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	minor, err := strconv.Atoi(second)
	return err == nil && (major < groupsMajor || major == groupsMajor && minor < groupsMinor)
}
