package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/store"
)

// quarantineRecent is how long a message in quarantine stays a reason.
const quarantineRecent = 10 * time.Minute

// causeRecent is how long a partition that was let go is a reason: one that cannot be taken
// fails again within it, one that another holds does not.
const causeRecent = 2 * time.Minute

// watch says how the collector is, from its start on.
type watch struct {
	mu        sync.Mutex
	conn      *nats.Conn           // nil: not there yet
	collector *collector.Collector // nil: not there yet
	awaySince time.Time            // the broker; zero: it is there
	store     *store.Store         // nil: not there yet
	space     store.Space          // as it was at spaceAt
	spaceAt   time.Time
}

// spaceEvery is how often the store is asked how full it is, at most.
const spaceEvery = 30 * time.Second

// full asks how full the store is; false: it cannot be told, as where the user may not look at disks.
func (w *watch) full(ctx context.Context) (store.Space, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); w.store != nil && now.Sub(w.spaceAt) > spaceEvery {
		w.spaceAt = now
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var err error
		if w.space, err = w.store.Space(asking); err != nil {
			w.space = store.Space{}
		}
	}
	return w.space, len(w.space.Disks) > 0
}

// lowSpace is the share of the store's disks below which the collector is degraded.
const lowSpace = 0.1

// judgeSpace adds to a judgement that the store fills up.
func judgeSpace(h daemon.Health, s store.Space) daemon.Health {
	usable, total := uint64(0), uint64(0)
	for _, d := range s.Disks {
		usable, total = usable+d.Usable(), total+d.TotalBytes
	}
	if float64(usable) >= lowSpace*float64(total) {
		return h
	}
	if h.State == daemon.OK {
		h.State = daemon.Degraded
	}
	reason := fmt.Sprintf("the store's disk has %d MiB left of %d", usable>>20, total>>20)
	if d, ok := s.Lasts(); ok {
		reason += fmt.Sprintf(", enough for %.1f days", d.Hours()/24)
	}
	h.Reasons = append(h.Reasons, reason)
	return h
}

// serve answers on an address until stop is called; "": nowhere.
func (w *watch) serve(ctx context.Context, listen string) (stop func() error, err error) {
	if listen == "" {
		return func() error { return nil }, nil
	}
	ln, err := daemon.Listen(ctx, listen)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen: %w", err)
	}
	registry := prometheus.NewRegistry()
	if err = registry.Register(newExporter(w)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	g := new(errgroup.Group)
	g.Go(func() error { return daemon.Serve(ctx, ln, registry, w.health) })
	return func() error {
		cancel()
		return g.Wait() // it names the address
	}, nil
}

func (w *watch) connected(nc *nats.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = nc
}

func (w *watch) collecting(c *collector.Collector, s *store.Store) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.collector, w.store = c, s
}

// look looks whether the broker is there; away is since when it was first seen not to be.
func (w *watch) look() (c *collector.Collector, connected bool, away time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	connected = w.conn != nil && w.conn.IsConnected()
	switch {
	case connected:
		w.awaySince = time.Time{}
	case w.awaySince.IsZero():
		w.awaySince = time.Now()
	}
	return w.collector, connected, w.awaySince
}

func (w *watch) health() daemon.Health {
	c, connected, away := w.look()
	if c == nil {
		return daemon.Health{State: daemon.Failing, Reasons: []string{"starting: the store or the broker has not answered yet"}}
	}
	h := judge(c.Condition(), c.Stats(), connected, away, time.Now())
	if s, ok := w.full(context.Background()); ok {
		h = judgeSpace(h, s)
	}
	if s, ok := c.Standing(); ok {
		checks, _ := c.Checks()
		h = judgeChains(h, s, checks)
	}
	return h
}

// judge says how a collector is. One whose partitions others hold is well.
func judge(c collector.Condition, st collector.Stats, connected bool, away, now time.Time) daemon.Health {
	h := daemon.Health{State: daemon.OK}
	add := func(state daemon.State, format string, args ...any) {
		if h.State != daemon.Failing {
			h.State = state
		}
		h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
	}
	if !connected {
		add(daemon.Failing, "the broker is away since %s", away.UTC().Format(time.TimeOnly))
	}
	held, refused := 0, false
	for _, p := range c.Partitions {
		if p.Held {
			held++
		}
		if p.StoreError != "" && !refused {
			refused = true // one store: one reason
			add(daemon.Failing, "the store refuses since %s: %s", p.StoreSince.UTC().Format(time.TimeOnly), p.StoreError)
		}
		if !p.Held && p.Cause != "" && now.Sub(p.CauseAt) < causeRecent && connected { // later, another holds it
			add(daemon.Degraded, "partition %s is not held since %s: %s", p.Name, p.Since.UTC().Format(time.TimeOnly), p.Cause)
		}
	}
	if ago := now.Sub(c.QuarantinedAt); !c.QuarantinedAt.IsZero() && ago < quarantineRecent {
		add(daemon.Degraded, "%d messages went to quarantine since the start, the last %s ago: see flopwatch quarantine ls", st.Quarantined, ago.Round(time.Second))
	}
	h.Details = map[string]any{
		"partitions": len(c.Partitions), "partitions_held": held, "collectors": c.Members, "rows": st.Rows, "batches": st.Batches, "repeats": st.Repeats, "quarantined": st.Quarantined,
	}
	return h
}

// exporter gives the counters to Prometheus as they are when it asks.
type exporter struct {
	w      *watch
	descs  map[string]*prometheus.Desc
	chains *chainDescs
	disks  map[string]*prometheus.Desc // by name, of each disk of the store
}

// numbers are the metrics without labels.
var numbers = []struct {
	name, help string
	of         func(collector.Stats) uint64
}{
	{"rows_total", "Rows of batches that are wholly stored.", func(s collector.Stats) uint64 { return s.Rows }},
	{"batches_total", "Batches that are wholly stored.", func(s collector.Stats) uint64 { return s.Batches }},
	{"repeats_total", "Batches that the store had already.", func(s collector.Stats) uint64 { return s.Repeats }},
	{"conflicts_total", "Messages with other content under an identity that was taken; they went to quarantine.", func(s collector.Stats) uint64 { return s.Conflicts }},
	{"quarantined_total", "Messages that went to quarantine.", func(s collector.Stats) uint64 { return s.Quarantined }},
	{"inserts_total", "Inserts into the store.", func(s collector.Stats) uint64 { return s.Inserts }},
	{"ranges_total", "Ranges of messages taken from the broker.", func(s collector.Stats) uint64 { return s.Ranges }},
	{"store_refusals_total", "Inserts and questions that the store refused or left without an answer.", func(s collector.Stats) uint64 { return s.Refusals }},
	{"commit_marks_total", "Commit marks that were published.", func(s collector.Stats) uint64 { return s.Marks }},
}

// partitionMetrics are gauges of each partition; known false: there is nothing to tell.
var partitionMetrics = []struct {
	name, help string
	of         func(p collector.PartitionCondition, now time.Time) (value float64, known bool)
}{
	{"partition_held", "1: this collector holds the partition.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) { return truth(p.Held), true }},
	{"lease_epoch", "Fencing epoch under which this collector holds the partition, or held it last.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) {
		return float64(p.Epoch), p.Epoch != 0
	}},
	{"backlog_messages", "Messages of the partition's stream that are not stored yet, whoever holds it.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) {
		return float64(p.Backlog.Messages), !p.Backlog.At.IsZero()
	}},
	{"backlog_bytes", "Bytes of those.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) {
		return float64(p.Backlog.Bytes), !p.Backlog.At.IsZero()
	}},
	{"backlog_limit_bytes", "Bytes at which the stream takes no more, and agents' spools wait.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) {
		return float64(p.Backlog.MaxBytes), p.Backlog.MaxBytes > 0
	}},
	{"backlog_oldest_seconds", "Age of the oldest message that is not stored yet, by the broker's clock; 0: there is none.", func(p collector.PartitionCondition, now time.Time) (float64, bool) {
		if p.Backlog.Oldest.IsZero() {
			return 0, !p.Backlog.At.IsZero()
		}
		return max(now.Sub(p.Backlog.Oldest).Seconds(), 0), true
	}},
	{"store_backing_off", "1: the store refuses this partition's inserts, which wait to be tried again.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) {
		return truth(p.StoreError != ""), true
	}},
	{"linger_seconds", "How long a range waits for more, as it is now: wider than configured under pressure.", func(p collector.PartitionCondition, _ time.Time) (float64, bool) {
		return p.Linger.Seconds(), p.Linger > 0
	}},
}

func newExporter(w *watch) *exporter {
	e := &exporter{w: w, descs: map[string]*prometheus.Desc{}, disks: map[string]*prometheus.Desc{}}
	for _, n := range numbers {
		e.descs[n.name] = prometheus.NewDesc("flopwatch_collector_"+n.name, n.help, nil, nil)
	}
	e.descs["broker_up"] = prometheus.NewDesc("flopwatch_collector_broker_up", "1: the broker is connected.", nil, nil)
	e.descs["store_up"] = prometheus.NewDesc("flopwatch_collector_store_up", "0: the store refuses inserts.", nil, nil)
	for name, help := range map[string]string{
		"free_bytes": "What can still be written to the disk of the store.", "total_bytes": "Size of the disk of the store.", "kept_free_bytes": "What the store keeps free: below it inserts are refused.",
	} {
		e.disks[name] = prometheus.NewDesc("flopwatch_collector_store_disk_"+name, help, []string{"disk"}, nil)
	}
	for _, m := range partitionMetrics {
		e.descs[m.name] = prometheus.NewDesc("flopwatch_collector_"+m.name, m.help, []string{"partition"}, nil)
	}
	for name, help := range map[string]string{
		"quarantine_messages_total": "Messages that could not be taken at face value, by reason.",
		"quarantine_bare_total":     "Those of them that were kept without their content, as their sender was beyond its limit.",
		"quarantine_dropped_total":  "Those of them that were not even kept, but counted.",
	} {
		e.descs[name] = prometheus.NewDesc("flopwatch_collector_"+name, help, []string{"reason"}, nil)
	}
	e.descs["insert_seconds"] = prometheus.NewDesc("flopwatch_collector_insert_seconds", "How long inserts took, refused ones included.", nil, nil)
	e.descs["store_part_pressure"] = prometheus.NewDesc("flopwatch_collector_store_part_pressure", "Parts of the store's fullest partition of a table, as a share of those at which it delays inserts.", nil, nil)
	e.chains = newChainDescs()
	return e
}

// Describe implements prometheus.Collector.
func (e *exporter) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range e.descs {
		ch <- d
	}
	for _, d := range e.disks {
		ch <- d
	}
	e.chains.describe(ch)
}

// Collect implements prometheus.Collector.
func (e *exporter) Collect(ch chan<- prometheus.Metric) {
	c, connected, _ := e.w.look()
	ch <- prometheus.MustNewConstMetric(e.descs["broker_up"], prometheus.GaugeValue, truth(connected))
	if c == nil {
		return // nothing was counted yet
	}
	st := c.Stats()
	for _, n := range numbers {
		ch <- prometheus.MustNewConstMetric(e.descs[n.name], prometheus.CounterValue, float64(n.of(st)))
	}
	if checks, ok := c.Checks(); ok {
		e.chains.collect(ch, checks)
	}
	if standing, ok := c.Standing(); ok {
		e.chains.stand(ch, standing)
	}
	for i, reason := range batch.Reasons {
		for name, n := range map[string]uint64{
			"quarantine_messages_total": st.Aside[i].Messages, "quarantine_bare_total": st.Aside[i].Bare, "quarantine_dropped_total": st.Aside[i].Dropped,
		} {
			ch <- prometheus.MustNewConstMetric(e.descs[name], prometheus.CounterValue, float64(n), reason)
		}
	}
	buckets, count := map[float64]uint64{}, uint64(0)
	for i, n := range st.Inserting {
		count += n
		if i < len(collector.InsertBounds) {
			buckets[collector.InsertBounds[i]] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(e.descs["insert_seconds"], count, st.InsertSeconds, buckets)
	answers, condition, now := true, c.Condition(), time.Now()
	if condition.PartsKnown {
		ch <- prometheus.MustNewConstMetric(e.descs["store_part_pressure"], prometheus.GaugeValue, condition.Parts)
	}
	for _, p := range condition.Partitions {
		answers = answers && p.StoreError == ""
		for _, m := range partitionMetrics {
			if v, known := m.of(p, now); known {
				ch <- prometheus.MustNewConstMetric(e.descs[m.name], prometheus.GaugeValue, v, p.Name)
			}
		}
	}
	ch <- prometheus.MustNewConstMetric(e.descs["store_up"], prometheus.GaugeValue, truth(answers))
	s, _ := e.w.full(context.Background())
	for _, d := range s.Disks {
		for name, v := range map[string]uint64{"free_bytes": d.Usable(), "total_bytes": d.TotalBytes, "kept_free_bytes": d.KeepFree} {
			ch <- prometheus.MustNewConstMetric(e.disks[name], prometheus.GaugeValue, float64(v), d.Name)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
