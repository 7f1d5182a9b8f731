package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clocks returns both clocks of the host: Unix milliseconds UTC, and milliseconds since
// boot with the time of suspension in them (CLOCK_BOOTTIME; 0 if the kernel has none).
func Clocks() (wallMs, bootMs int64) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		bootMs = ts.Nano() / 1e6
	}
	return time.Now().UnixMilli(), bootMs
}

// Name returns the node's name: override, or what the kernel calls the host.
func Name(override string) (string, error) {
	if override != "" {
		return override, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("ask for the host's name (the key node sets one): %w", err)
	}
	return name, nil
}

// BootID returns the random id of this boot from procfs, mounted at the given path ("" is
// "/proc"): a UUID in lower case.
func BootID(procfs string) (string, error) {
	if procfs == "" {
		procfs = "/proc"
	}
	path := filepath.Join(procfs, "sys/kernel/random/boot_id")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.ToLower(strings.TrimSpace(string(data)))
	if len(id) != 36 || strings.Trim(id, "0123456789abcdef-") != "" {
		return "", fmt.Errorf("read boot id: %s holds no UUID", path)
	}
	return id, nil
}

// stepMs is how far the wall clock may move against the boot clock before it counts as
// stepped: both run at the same rate, slewed or not, so only reading them apart differs.
const stepMs = 1000

// clockWatch compares the clocks of successive ticks.
type clockWatch struct {
	begun    bool
	offsetMs int64 // wall - boot
}

// moved returns by how much the wall clock was stepped since it was last asked; 0: it was
// not.
func (c *clockWatch) moved(wallMs, bootMs int64) int64 {
	now := wallMs - bootMs
	if !c.begun {
		c.begun, c.offsetMs = true, now
		return 0
	}
	d := now - c.offsetMs
	if -stepMs <= d && d <= stepMs {
		return 0
	}
	c.offsetMs = now
	return d
}
