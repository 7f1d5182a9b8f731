package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/internal/daemon"
)

// lagging is how far judging may lie behind what is due before that is a reason.
const lagging = 3 * time.Minute

// state is a copy of what a leader is at.
type state struct {
	phase   phase
	since   time.Time
	lastErr string
	epoch   uint64
	led     uint64
	changed bool
	status  detector.Status
}

func (d *leader) state() state {
	d.mu.Lock()
	s := state{phase: d.phase, since: d.since, lastErr: d.lastErr, epoch: d.epoch, led: d.led, changed: d.changed}
	f := d.follower
	d.mu.Unlock()
	if f != nil {
		s.status = f.Status()
	}
	return s
}

// health says how the detector is. One that stands by is well.
func (d *leader) health() daemon.Health { return judge(d.state(), d.cfg, d.instance) }

func judge(s state, cfg config, instance string) daemon.Health {
	h := daemon.Health{State: daemon.OK, Details: map[string]any{
		"leader": s.phase == leading, "phase": string(s.phase), "instance": instance, "cluster": cfg.Cluster, "wait_ms": cfg.Wait.Milliseconds(), "last_error": s.lastErr,
	}}
	add := func(state daemon.State, format string, args ...any) {
		if h.State != daemon.Failing {
			h.State = state
		}
		h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
	}
	if s.changed {
		add(daemon.Degraded, "profiles_file changed: restart to take it up")
	}
	switch s.phase {
	case starting:
		if s.lastErr == "" {
			add(daemon.Failing, "reaching for the store and the broker since %s", s.since.UTC().Format(time.TimeOnly))
		} else {
			add(daemon.Failing, "not leading since %s: %s", s.since.UTC().Format(time.TimeOnly), s.lastErr)
		}
		return h
	case standby:
		return h
	case leading:
	}
	st := s.status
	h.Details["epoch"], h.Details["judged_up_to_ms"], h.Details["lag_ms"] = s.epoch, st.JudgedUpToMs, st.LagMs
	h.Details["started_ms"], h.Details["broker_ms"], h.Details["runs"], h.Details["cells"] = st.StartedMs, st.BrokerMs, st.Runs, st.Cells
	h.Details["contradicted_nodes"], h.Details["reports_waiting"] = st.Contradicted, st.Reports
	if st.Review != "" {
		h.Details["review"], h.Details["review_judged_up_to_ms"], h.Details["review_until_ms"] = st.Review, st.ReviewJudgedMs, st.ReviewUntilMs
	}
	if s.lastErr != "" {
		add(daemon.Degraded, "the broker does not tell its time: %s", s.lastErr)
	}
	if st.LastError != "" {
		h.Details["last_error"] = st.LastError
		add(daemon.Failing, "the store does not answer as it should: %s", st.LastError)
	}
	if st.ReportError != "" {
		h.Details["last_error"] = st.ReportError
		add(daemon.Degraded, "reports cannot be written: %s", st.ReportError)
	}
	if lag := time.Duration(st.LagMs) * time.Millisecond; lag > lagging {
		add(daemon.Degraded, "judging lies %s behind", lag.Round(time.Second))
	}
	if st.Beyond > 0 {
		add(daemon.Degraded, "activities that go on are kept whole and take some %d MiB more memory than max_cells plans for", st.Beyond/5_000)
	}
	if ahead := time.Duration(st.AheadMs) * time.Millisecond; ahead > lagging {
		add(daemon.Degraded, "the broker's time lies %s behind what was judged under it: nothing is judged until it has caught up", ahead.Round(time.Second))
	}
	return h
}

// exporter gives the numbers to Prometheus as they are when it asks.
type exporter struct {
	d     *leader
	descs map[string]*prometheus.Desc
	find  *prometheus.Desc
}

// numbers are the metrics without labels.
var numbers = []struct {
	name, help string
	kind       prometheus.ValueType
	of         func(state) float64
}{
	{"leader", "1: this detector holds the lease.", prometheus.GaugeValue, func(s state) float64 { return truth(s.phase == leading) }},
	{"epoch", "Fencing epoch under which it leads, or led last.", prometheus.GaugeValue, func(s state) float64 { return float64(s.epoch) }},
	{"leases_total", "Leases taken since the start.", prometheus.CounterValue, func(s state) float64 { return float64(s.led) }},
	{"judged_up_to_seconds", "Event time up to which everything is judged, Unix seconds; 0: nothing is.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.JudgedUpToMs) / 1e3 }},
	{"lag_seconds", "How far judging lies behind the minute that is due.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.LagMs) / 1e3 }},
	{"broker_time_seconds", "The broker's time, Unix seconds; 0: not told.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.BrokerMs) / 1e3 }},
	{"minutes_judged_total", "Minutes judged since it leads.", prometheus.CounterValue, func(s state) float64 { return float64(s.status.Minutes) }},
	{"step_seconds", "How long the last step took.", prometheus.GaugeValue, func(s state) float64 { return s.status.StepSeconds }},
	{"late_batches_total", "Batches whose rows appeared after their time had been judged.", prometheus.CounterValue, func(s state) float64 { return float64(s.status.Late) }},
	{"cells", "Minute cells of GPUs in memory.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.Cells) }},
	{"runs", "Activities that stand.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.Runs) }},
	{"contradicted_nodes", "Nodes whose driver says other GPUs than the inventory.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.Contradicted) }},
	{"reports_waiting", "Report folders that wait to be written.", prometheus.GaugeValue, func(s state) float64 { return float64(s.status.Reports) }},
	{"review_remaining_seconds", "Event time that is still to be judged again, as profiles changed; 0: none is.", prometheus.GaugeValue, func(s state) float64 {
		if s.status.Review == "" {
			return 0
		}
		return float64(s.status.ReviewUntilMs-s.status.ReviewJudgedMs) / 1e3
	}},
	{"errors_total", "Failed reads and writes since it leads.", prometheus.CounterValue, func(s state) float64 { return float64(s.status.Errors) }},
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (d *leader) metrics() prometheus.Collector {
	e := &exporter{d: d, descs: map[string]*prometheus.Desc{}, find: prometheus.NewDesc("flopwatch_detector_findings", "Findings that stand.", []string{"limb", "state"}, nil)}
	for _, n := range numbers {
		e.descs[n.name] = prometheus.NewDesc("flopwatch_detector_"+n.name, n.help, nil, nil)
	}
	return e
}

// Describe implements prometheus.Collector.
func (e *exporter) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range e.descs {
		ch <- d
	}
	ch <- e.find
}

// Collect implements prometheus.Collector.
func (e *exporter) Collect(ch chan<- prometheus.Metric) {
	s := e.d.state()
	for _, n := range numbers {
		ch <- prometheus.MustNewConstMetric(e.descs[n.name], n.kind, n.of(s))
	}
	for k, n := range s.status.Findings {
		ch <- prometheus.MustNewConstMetric(e.find, prometheus.GaugeValue, float64(n), k.Limb, k.State)
	}
}
