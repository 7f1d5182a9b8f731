package gpu

import (
	"cmp"
	"log/slog"
	"time"
)

// Config of the instrument. The zero value is a good one.
type Config struct {
	// Child is the path of flopwatch-nvml. Default: beside the running program.
	Child string
	// Library is the path of libnvidia-ml.so.1. Default: as the loader finds it.
	Library string
	// Env is the child's environment, beside PATH: nothing is inherited. LD_LIBRARY_PATH may
	// be needed where a container brings the library.
	Env []string
	// Interval is the time between ticks. Default 1 s.
	Interval time.Duration
	// ProcessInterval is the time between looks at the processes, by the ticks' clock.
	// Default 10 s; negative: never.
	ProcessInterval time.Duration
	// SlowInterval is the time between looks at the GPUs' health: 10 s to 30 s is sensible.
	// Default 20 s; negative: never.
	SlowInterval time.Duration
	// BurstGPM asks in bursts for the performance monitor as well: three calls a moment in
	// place of one, so that there is room for three moments a second at most.
	BurstGPM bool
	// BurstBase is how often, while bursts leave no room for whole passes at every tick, there
	// is one all the same. Default 5 s.
	BurstBase time.Duration
	// CallBudget is how many calls into the library for a GPU may be in a second of a burst, so
	// that its moments are fewer if it is less. Default 12, which the child holds in any case.
	CallBudget int
	// DriverShare bounds the share of time that calls for one GPU spend in the driver, in the
	// mean of a minute. Default 0.02.
	DriverShare float64
	// NoEvents: events of the GPUs are not listened for.
	NoEvents bool
	// DeviceInterval is the time between descriptions of the GPUs, by the ticks' clock.
	// Default 5 min.
	DeviceInterval time.Duration
	// AnswerWait bounds how long a Sample waits for answers. Default: half an interval, at
	// most 500 ms.
	AnswerWait time.Duration
	// StallAfter is how long a GPU may take to answer before it is stalled. Default 2 s.
	StallAfter time.Duration
	// KillAfter is how long all GPUs may be stalled before the child is killed. Default 15 s.
	KillAfter time.Duration
	// HelloTimeout is how long the child may take to load and initialise the library, which
	// wakes GPUs up where no daemon keeps them awake. Default 1 min.
	HelloTimeout time.Duration
	// ReapTimeout is how long a killed child may take to end before it is abandoned. Default 5 s.
	ReapTimeout time.Duration
	// RetryEvery is the time between looks for a driver that is not there. Default 3 min.
	RetryEvery time.Duration
	// BackoffMin and BackoffMax bound the wait before a restart. Defaults 1 s and 5 min.
	BackoffMin, BackoffMax time.Duration
	// ProcFS is where /proc is. Default "/proc".
	ProcFS string
	// Log. Default: none.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.ProcessInterval = cmp.Or(c.ProcessInterval, 10*time.Second)
	c.SlowInterval = cmp.Or(c.SlowInterval, 20*time.Second)
	c.BurstBase = cmp.Or(c.BurstBase, 5*time.Second)
	c.CallBudget = cmp.Or(c.CallBudget, 12)
	c.DriverShare = min(max(cmp.Or(c.DriverShare, 0.02), 0.0001), 1)
	c.DeviceInterval = cmp.Or(c.DeviceInterval, 5*time.Minute)
	c.AnswerWait = cmp.Or(c.AnswerWait, min(c.Interval/2, 500*time.Millisecond))
	c.StallAfter = cmp.Or(c.StallAfter, 2*time.Second)
	c.KillAfter = cmp.Or(c.KillAfter, 15*time.Second)
	c.HelloTimeout = cmp.Or(c.HelloTimeout, time.Minute)
	c.ReapTimeout = cmp.Or(c.ReapTimeout, 5*time.Second)
	c.RetryEvery = cmp.Or(c.RetryEvery, 3*time.Minute)
	c.BackoffMin = cmp.Or(c.BackoffMin, time.Second)
	c.BackoffMax = cmp.Or(c.BackoffMax, 5*time.Minute)
	c.ProcFS = cmp.Or(c.ProcFS, "/proc")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}
