package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/store"
)

// judgeChains adds to a judgement what the hourly checks of the last day found. A chain that broke, a hole that
// stays and a check that fails degrade the collector and are never a reason to take it out of service: it is a host's
// word that does not hold, and the collector takes and stores as before.
func judgeChains(h daemon.Health, s collector.Standing, checks chain.CheckStats) daemon.Health {
	add := func(format string, args ...any) {
		if h.State == daemon.OK {
			h.State = daemon.Degraded
		}
		h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
	}
	if s.BrokenHosts > 0 {
		add("what hosts signed did not hold in the last day (%d hosts, %d hours): the last is host %s of cluster %s, hour of %s UTC, %s; see flopwatch chain hours",
			s.BrokenHosts, s.Hours[chain.StatusBroken], s.Broken.Node, s.BrokenCluster, time.UnixMilli(s.Broken.HourMs).UTC().Format("2006-01-02 15:04"), s.Broken.Detail)
	}
	if l := s.Losses[chain.LossMissing]; l.OpenBatches > 0 {
		add("%d batches of %d hosts are missing for hours, and nobody accounts for them: see flopwatch chain hours", l.OpenBatches, l.OpenHosts)
	}
	if checks.LastError != "" {
		add("the last check of chains failed: %s", checks.LastError)
	}
	lost := map[string]any{}
	for reason, l := range s.Losses {
		lost[reason] = map[string]uint64{"hosts": l.Hosts, "batches": l.Batches, "ticks": l.Ticks}
	}
	day := map[string]any{"hours": s.Hours, "lost": lost, "as_of": s.At.UTC().Format(time.RFC3339)}
	if checks.ThroughMs > 0 {
		day["checked_through"] = time.UnixMilli(checks.ThroughMs).UTC().Format(time.RFC3339)
	}
	if h.Details == nil {
		h.Details = map[string]any{}
	}
	h.Details["chains_last_day"] = day
	return h
}

// lossReasons lists them, for gauges.
var lossReasons = [...]string{chain.LossBytes, chain.LossAge, chain.LossDisk, chain.LossCorrupt, chain.LossMemory, chain.LossQuarantine, chain.LossConflict, chain.LossMissing}

// lossGauges are of each reason.
var lossGauges = []struct {
	name, help string
	of         func(store.LossSum) uint64
}{
	{"lost_hosts_last_day", "Hosts that lost something, as it became known in the last 24 hours and stands now, by reason.", func(l store.LossSum) uint64 { return l.Hosts }},
	{"lost_batches_last_day", "Batches of those that are lost.", func(l store.LossSum) uint64 { return l.Batches }},
	{"lost_ticks_last_day", "Sampling ticks of those that are lost, as far as that can be told.", func(l store.LossSum) uint64 { return l.Ticks }},
}

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

// chainDescs are their descriptions, that of the hours by status, and those of what stands.
type chainDescs struct {
	numbers []*prometheus.Desc
	hours   *prometheus.Desc
	// Gauges of the last day, whoever checked: those of counters start anew with the process.
	day, brokenHosts, open *prometheus.Desc
	lost                   []*prometheus.Desc
}

func newChainDescs() *chainDescs {
	d := &chainDescs{
		hours:       prometheus.NewDesc("flopwatch_chain_hours_total", "Hours of hosts that were checked, by what was found.", []string{"status"}, nil),
		day:         prometheus.NewDesc("flopwatch_chain_hours_last_day", "Hours of hosts of the last 24, by their latest check.", []string{"status"}, nil),
		brokenHosts: prometheus.NewDesc("flopwatch_chain_broken_hosts_last_day", "Hosts with a broken hour in the last 24.", nil, nil),
		open:        prometheus.NewDesc("flopwatch_chain_open_missing_batches", "Batches that are missing for more than two hours, and nobody accounts for.", nil, nil),
	}
	for _, l := range lossGauges {
		d.lost = append(d.lost, prometheus.NewDesc("flopwatch_chain_"+l.name, l.help, []string{"reason"}, nil))
	}
	for _, n := range chainNumbers {
		d.numbers = append(d.numbers, prometheus.NewDesc("flopwatch_chain_"+n.name, n.help, nil, nil))
	}
	return d
}

func (d *chainDescs) describe(ch chan<- *prometheus.Desc) {
	for _, n := range d.numbers {
		ch <- n
	}
	for _, n := range d.lost {
		ch <- n
	}
	for _, one := range []*prometheus.Desc{d.hours, d.day, d.brokenHosts, d.open} {
		ch <- one
	}
}

// stand gives what stands: only the collector that checks has it.
func (d *chainDescs) stand(ch chan<- prometheus.Metric, s collector.Standing) {
	gauge := func(desc *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), labels...)
	}
	for _, status := range chain.Statuses {
		gauge(d.day, s.Hours[status], status)
	}
	gauge(d.brokenHosts, s.BrokenHosts)
	gauge(d.open, s.Losses[chain.LossMissing].OpenBatches)
	for _, reason := range lossReasons {
		for i, l := range lossGauges {
			gauge(d.lost[i], l.of(s.Losses[reason]), reason)
		}
	}
}

func (d *chainDescs) collect(ch chan<- prometheus.Metric, st chain.CheckStats) {
	for i, n := range chainNumbers {
		ch <- prometheus.MustNewConstMetric(d.numbers[i], n.kind, n.of(st))
	}
	for _, status := range chain.Statuses {
		ch <- prometheus.MustNewConstMetric(d.hours, prometheus.CounterValue, float64(st.Hours[status]), status)
	}
}
