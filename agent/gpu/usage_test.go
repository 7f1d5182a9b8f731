package gpu_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// usage is the processor time and resident memory of a process.
func usage(tb testing.TB, pid int) (cpu time.Duration, rssKiB int) {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} { // utime, stime in ticks of 10 ms
		n, nerr := strconv.Atoi(f[i])
		if nerr != nil {
			tb.Fatal(nerr)
		}
		cpu += time.Duration(n) * 10 * time.Millisecond
	}
	pages, err := strconv.Atoi(f[21])
	if err != nil {
		tb.Fatal(err)
	}
	return cpu, pages * os.Getpagesize() >> 10
}
