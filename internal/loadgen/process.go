package loadgen

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hertz is the unit of /proc's times, USER_HZ: the same on every architecture of Go.
const hertz = 100

// used is what a process has used of processors, and its memory.
func used(pid int) (cpu time.Duration, rss int64, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	data, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("watch process %d: %w", pid, err)
	}
	// Behind the name, which may hold anything, come state and numbers.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 22 {
		return 0, 0, fmt.Errorf("watch process %d: its stat is too short", pid)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, perr := strconv.ParseInt(f, 10, 64)
		if perr != nil {
			return 0, 0, fmt.Errorf("watch process %d: %w", pid, perr)
		}
		ticks += n
	}
	pages, err := strconv.ParseInt(fields[21], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return time.Duration(ticks) * time.Second / hertz, pages * int64(os.Getpagesize()), nil
}

// own is what this process has used.
func own() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("read own use of processors: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// self is the name of this process among the watched.
const self = "loadgen"

// meter measures processes between two moments.
type meter struct {
	watch []Process
	at    time.Time
	cpu   []time.Duration
}

func newMeter(watch []Process) (*meter, error) {
	m := &meter{watch: append([]Process{{self, os.Getpid()}}, watch...)}
	_, err := m.read()
	return m, err
}

// Cost is what a process used over a time.
type Cost struct {
	Name  string  `json:"name"`
	Cores float64 `json:"cores"`
	// MicrosPerRow and MicrosPerSample are CPU a row of any kind, and a sample of a GPU with all that
	// belongs to it.
	MicrosPerRow    float64 `json:"us_per_row"`
	MicrosPerSample float64 `json:"us_per_gpu_sample"`
	RSSMiB          float64 `json:"rss_mib"`
	cpu             time.Duration
}

// read returns what was used since the last call.
func (m *meter) read() ([]Cost, error) {
	now := time.Now()
	var costs []Cost
	next := make([]time.Duration, len(m.watch))
	for i, p := range m.watch {
		cpu, rss, err := used(p.PID)
		if err == nil && p.Name == self {
			cpu, err = own() // finer
		}
		if err != nil {
			return nil, err
		}
		next[i] = cpu
		if m.cpu != nil {
			d := cpu - m.cpu[i]
			costs = append(costs, Cost{Name: p.Name, Cores: d.Seconds() / now.Sub(m.at).Seconds(), RSSMiB: float64(rss) / (1 << 20), cpu: d})
		}
	}
	m.at, m.cpu = now, next
	return costs, nil
}

// per divides costs by what was done.
func per(costs []Cost, rows, samples uint64) {
	for i := range costs {
		c := &costs[i]
		if rows > 0 {
			c.MicrosPerRow = c.cpu.Seconds() * 1e6 / float64(rows)
		}
		if samples > 0 {
			c.MicrosPerSample = c.cpu.Seconds() * 1e6 / float64(samples)
		}
	}
}

// load is the machine's load average of the last minute, "" where it is not told.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(data), " ")
	return first
}
