package main

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flopwatch/flopwatch/internal/loadgen"
)

// lastSnapshot is what the page tells.
type lastSnapshot struct {
	mu sync.Mutex
	s  loadgen.Snapshot
}

func (l *lastSnapshot) set(s loadgen.Snapshot) {
	l.mu.Lock()
	l.s = s
	l.mu.Unlock()
}

var loadgenNumbers = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*loadgen.Snapshot) float64
}{
	{loadgenDesc("hosts", "Hosts that there are."), prometheus.GaugeValue, func(s *loadgen.Snapshot) float64 { return float64(s.Hosts) }},
	{loadgenDesc("frames_sealed_total", "Frames that were sealed."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Frames) }},
	{loadgenDesc("rows_sealed_total", "Rows in them."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Rows) }},
	{loadgenDesc("gpu_samples_sealed_total", "Samples of GPUs among them."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Samples) }},
	{loadgenDesc("bytes_sealed_total", "Size of the frames."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Bytes) }},
	{loadgenDesc("frames_published_total", "Frames that were published, repeats included."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Published) }},
	{loadgenDesc("frames_acked_total", "Frames that the broker acknowledged."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Acked) }},
	{loadgenDesc("frames_committed_total", "Frames whose commit mark has come."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Committed) }},
	{loadgenDesc("rows_committed_total", "Rows in them."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.CommittedRows) }},
	{loadgenDesc("frames_given_up_total", "Frames that full spools gave up."), prometheus.CounterValue, func(s *loadgen.Snapshot) float64 { return float64(s.Lost) }},
	{loadgenDesc("frames_waiting", "Frames that wait for their commit mark."), prometheus.GaugeValue, func(s *loadgen.Snapshot) float64 { return float64(s.Waiting) }},
	{loadgenDesc("oldest_seconds", "How long the first of them waits."), prometheus.GaugeValue, func(s *loadgen.Snapshot) float64 { return s.Oldest.Seconds() }},
	{loadgenDesc("late_seconds", "How late a seal was at most: the generator's own lag."), prometheus.GaugeValue, func(s *loadgen.Snapshot) float64 { return s.Late.Seconds() }},
	{loadgenDesc("hosts_away", "Hosts without a connection."), prometheus.GaugeValue, func(s *loadgen.Snapshot) float64 { return float64(s.Away) }},
}

var (
	loadgenLag = prometheus.NewDesc("flopwatch_loadgen_lag_seconds", "From the seal of a frame to what the label says, since the start.", []string{"to", "quantile"}, nil)
	loadgenErr = prometheus.NewDesc("flopwatch_loadgen_refused_total", "Errors of the hosts' ships, by what they were.", []string{"why"}, nil)
)

func loadgenDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("flopwatch_loadgen_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (*lastSnapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, n := range loadgenNumbers {
		ch <- n.desc
	}
	ch <- loadgenLag
	ch <- loadgenErr
}

// Collect implements prometheus.Collector.
func (l *lastSnapshot) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	s := l.s
	l.mu.Unlock()
	for _, n := range loadgenNumbers {
		ch <- prometheus.MustNewConstMetric(n.desc, n.kind, n.value(&s))
	}
	for to, lag := range map[string]loadgen.Lag{"ack": s.Ack, "commit": s.Commit, "visible": s.Visible} {
		for q, ms := range map[string]float64{"0.5": lag.P50Ms, "0.9": lag.P90Ms, "0.99": lag.P99Ms, "1": lag.MaxMs} {
			ch <- prometheus.MustNewConstMetric(loadgenLag, prometheus.GaugeValue, ms/1000, to, q)
		}
	}
	for why, n := range s.Refused {
		ch <- prometheus.MustNewConstMetric(loadgenErr, prometheus.CounterValue, float64(n), why)
	}
}

// spareFiles are open files besides the hosts' connections.
const spareFiles = 200

// enoughFiles raises the bound of open files as far as it goes, and says how many hosts it is
// enough for; an error is that it is not enough for those that were asked for.
func enoughFiles(c *loadgen.Config, most bool, maxNodes int) (hosts int, err error) {
	if c.Connections > 0 {
		return maxNodes, nil
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the bound of open files: %w", err)
	}
	if l.Cur < l.Max {
		up := l
		up.Cur = l.Max
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &up) == nil {
			l = up
		}
	}
	hosts = int(min(l.Cur, 1<<30)) - spareFiles
	need, hint := c.Nodes, ""
	if most && maxNodes > need {
		need, hint = maxNodes, ", or end at fewer with --max-nodes"
	}
	if need > hosts {
		return 0, fmt.Errorf("%d hosts with a connection each need %d open files, and this process may have %d: raise `ulimit -n`, or let them share with --connections 64%s",
			need, need+spareFiles, l.Cur, hint)
	}
	return hosts, nil
}
