package agent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Clocks are the system's: Unix milliseconds, and milliseconds since boot with suspend
// included, which no step of the wall clock moves.
func Clocks() (wallMs, bootMs int64) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Every Linux since 2.6.39 has it.
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return time.Now().UnixMilli(), ts.Sec*1000 + ts.Nsec/1_000_000
}
