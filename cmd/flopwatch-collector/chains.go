package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flopwatch/flopwatch/collector/chain"
)

// chainNumbers are the counters of the check of chains. Only the collector that checks has them.
var chainNumbers = []struct {
	name, help string
	kind       prometheus.ValueType
	of         func(chain.CheckStats) float64
}{
	{"checks_total", "Checks of chains that were finished.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Passes) }},
	{"check_errors_total", "Checks of chains that failed.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Failed) }},
	{"verified_batches_total", "Batches that were signed by their host and in their place.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Verified) }},
	{"unsigned_batches_total", "Batches that are not signed.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Unsigned) }},
	{"broken_batches_total", "Batches with a fault: signature, key, link.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Broken) }},
	{"missing_batches_total", "Batches of which nothing was known when their hour was checked.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Missing) }},
	{"given_up_batches_total", "Batches that their hosts gave up.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.GivenUp) }},
	{"conflicting_batches_total", "Messages with other content under a sequence that was taken.", prometheus.CounterValue, func(s chain.CheckStats) float64 { return float64(s.Conflicts) }},
	{"due_hours", "Hours of hosts that the last check left for the next.", prometheus.GaugeValue, func(s chain.CheckStats) float64 { return float64(s.Due) }},
	{"check_seconds", "How long the last check took.", prometheus.GaugeValue, func(s chain.CheckStats) float64 { return s.Took.Seconds() }},
	{"checked_through_seconds", "Hours before it are checked, Unix time; 0: no check was finished.", prometheus.GaugeValue, func(s chain.CheckStats) float64 { return float64(s.ThroughMs) / 1000 }},
}

// chainDescs are their descriptions, and that of the hours by status.
type chainDescs struct {
	numbers []*prometheus.Desc
	hours   *prometheus.Desc
}

func newChainDescs() *chainDescs {
	d := &chainDescs{hours: prometheus.NewDesc("flopwatch_chain_hours_total", "Hours of hosts that were checked, by what was found.", []string{"status"}, nil)}
	for _, n := range chainNumbers {
		d.numbers = append(d.numbers, prometheus.NewDesc("flopwatch_chain_"+n.name, n.help, nil, nil))
	}
	return d
}

func (d *chainDescs) describe(ch chan<- *prometheus.Desc) {
	for _, n := range d.numbers {
		ch <- n
	}
	ch <- d.hours
}

func (d *chainDescs) collect(ch chan<- prometheus.Metric, st chain.CheckStats) {
	for i, n := range chainNumbers {
		ch <- prometheus.MustNewConstMetric(d.numbers[i], n.kind, n.of(st))
	}
	for _, status := range chain.Statuses {
		ch <- prometheus.MustNewConstMetric(d.hours, prometheus.CounterValue, float64(st.Hours[status]), status)
	}
}
