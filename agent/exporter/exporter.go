package exporter

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Broker is how the connection is.
type Broker struct {
	Up    bool
	Downs uint64 // how often it was lost
}

// Spool is what of the spool is shown; *spool.Spool has it.
type Spool interface {
	Stats() spool.Stats
	OldestMs() (int64, error)
	Synced() uint64
	Acked() uint64
	Committed() uint64
	Gaps() []spool.Gap
}

// Config of an exporter. Agent, Spool, Ship and Broker are needed; the functions may be
// called from any goroutine.
type Config struct {
	Build, Node   string
	Agent         func() agent.Stats
	Spool         Spool
	SpoolMaxBytes int64
	Ship          func() ship.Stats
	Broker        func() Broker
	// NVML tells of the child that reads GPUs; ok is false where there is none. nil: never.
	NVML func() (st NVML, ok bool)
	// LogSkipped counts lines that were kept out of the log. nil: none are.
	LogSkipped func() uint64
	// Kernel tells of the features of the instrument "kernel". nil: never.
	Kernel func() []Feature
	// GPUs are the last readings. nil: there are none.
	GPUs func() []GPU
	// Now is the wall clock; nil: the system's.
	Now func() time.Time
	Log *slog.Logger // nil: none
}

// NVML is the instrument of GPUs, seen from outside.
type NVML struct {
	Starts, Restarts, Kills, Abandoned uint64        // of flopwatch-nvml
	Calls                              uint64        // into NVIDIA's library
	Readings, Dropped                  uint64        // passes over a GPU, and those nobody fetched
	LastPass                           time.Duration // of one GPU
	GPUs, Stalled                      int
	Faults                             []Fault
	// Bursts are passes between ticks; BurstsRefused were left out as their calls would not have
	// fit, BudgetRefused by the child for the same reason.
	Bursts, BurstsRefused, BudgetRefused uint64
	// Tiers are times in the driver by tier.
	Tiers []Tier
	// Slowest is the longest call by class, since the agent started.
	Slowest []Slowest
	// Events are what happened to GPUs; EventsDropped were too many at once.
	Events        []Count
	EventsDropped uint64
	// Backed are GPUs that are read more seldom as their calls take long; BackedRare only what
	// is rarer than ticks.
	Backed, BackedRare int
}

// Tier is how long answers of a tier took in the driver.
type Tier struct {
	Name   string
	Asked  uint64
	Took   time.Duration
	Bounds []time.Duration // upper ends
	By     []uint64        // answers by bound, and those above all
}

// Slowest is the longest call of a class.
type Slowest struct {
	Class string
	Took  time.Duration
}

// Count is how often something happened.
type Count struct {
	Name string
	N    uint64
}

// Fault is a call into the library that failed.
type Fault struct {
	Function string // of the library; empty: the binding
	Code     int    // NVML's, or above those one of agent/gpu/frame's
	Count    uint64
}

// Exporter shows the agent's health, and GPUs.
type Exporter struct {
	cfg Config

	mu     sync.Mutex // guards below
	digest string
	gpus   bool
	failed bool // the spool did not tell its age, and that was logged
	descs  map[shape][]*prometheus.Desc
}

var _ prometheus.Collector = (*Exporter)(nil)

// New returns an exporter.
func New(cfg Config) *Exporter {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Exporter{cfg: cfg}
}

// SetConfig says which configuration is in force, by its digest.
func (e *Exporter) SetConfig(digest string) {
	e.mu.Lock()
	e.digest = digest
	e.mu.Unlock()
}

// ShowGPUs says whether the page has the GPUs.
func (e *Exporter) ShowGPUs(show bool) {
	e.mu.Lock()
	e.gpus = show
	e.mu.Unlock()
}

// Register puts the exporter into a registry, and what client_golang knows of the process.
func (e *Exporter) Register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{e, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// metric is one name on the page.
type metric struct {
	desc *prometheus.Desc
	typ  prometheus.ValueType
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("flopwatch_agent_"+name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("flopwatch_agent_"+name, help, labels, nil), prometheus.GaugeValue}
}

func (m metric) value(v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(m.desc, m.typ, v, labels...)
}

var (
	buildInfo   = gauge("build_info", "Which build this is.", "version")
	configInfo  = gauge("config_info", "Which configuration is in force.", "digest", "node")
	ticks       = counter("ticks_total", "Sampling ticks, missed ones included.")
	missedTicks = counter("missed_ticks_total", "Ticks at which nothing was sampled: the host was suspended or overloaded.")
	logSkipped  = counter("log_lines_skipped_total", "Lines that were kept out of the log, as there were too many of the same message.")
	lastTick    = gauge("last_tick_timestamp_seconds", "When the last tick was.")
	clockSteps  = counter("clock_steps_total", "Steps of the wall clock.")

	srcSamples = counter("source_samples_total", "Ticks that a source answered.", "source")
	srcMissed  = counter("source_missed_ticks_total", "Ticks that passed a source by, as it was busy or had panicked.", "source")
	srcErrors  = counter("source_errors_total", "Ticks at which a source saw nothing.", "source")
	srcPanics  = counter("source_panics_total", "Panics of a source.", "source")
	srcSeconds = counter("source_seconds_total", "Time that a source took to answer.", "source")
	srcLast    = gauge("source_last_seconds", "Time that a source took for its last answer.", "source")
	srcBursts  = counter("source_burst_samples_total", "Moments between ticks that a source answered.", "source")
	srcPassed  = counter("source_missed_bursts_total", "Moments between ticks that passed a source by.", "source")
	srcStalled = gauge("source_stalled", "1: the source was asked and does not answer.", "source")

	rowsTaken   = counter("rows_total", "Rows that sources gave.", "kind")
	rowsRefused = counter("rows_refused_total", "Rows that lacked a key or broke the contract in another way.", "kind")
	rowsLost    = counter("rows_lost_total", "Rows that were given up because the spool took nothing for too long.", "kind")
	rowsPending = gauge("rows_pending", "Rows in memory, not in the spool yet.")

	sealedBatches = counter("sealed_batches_total", "Batches put into the spool.")
	sealedBytes   = counter("sealed_bytes_total", "Bytes of the batches put into the spool.")
	sealErrors    = counter("seal_errors_total", "Attempts to put a batch into the spool that failed.")

	instruments = gauge("instruments", "Instruments and parts of them, by state.", "state")
	instrument  = gauge("instrument_state", "1: the instrument is in that state. No state is idle: what was not seen is not zero.", "instrument", "state")

	nvmlStarts    = counter("nvml_starts_total", "Starts of flopwatch-nvml.")
	nvmlRestarts  = counter("nvml_restarts_total", "Starts of flopwatch-nvml after it had ended unasked.")
	nvmlKills     = counter("nvml_kills_total", "How often flopwatch-nvml was killed because no GPU answered.")
	nvmlAbandoned = counter("nvml_abandoned_total", "Processes flopwatch-nvml that hang in the kernel and were left behind.")
	nvmlCalls     = counter("nvml_calls_total", "Calls into NVIDIA's library.")
	nvmlReadings  = counter("nvml_readings_total", "Passes over a GPU.")
	nvmlDropped   = counter("nvml_readings_dropped_total", "Passes over a GPU that came too late to be used.")
	nvmlLastPass  = gauge("nvml_last_pass_seconds", "Time that all calls of the last pass over a GPU took.")
	nvmlGPUs      = gauge("nvml_gpus", "GPUs that are watched.")
	nvmlStalled   = gauge("nvml_gpus_stalled", "GPUs that were asked and do not answer.")
	nvmlFaults    = counter("nvml_faults_total", "Calls into NVIDIA's library that failed.", "function", "code")
	nvmlBursts    = counter("nvml_burst_readings_total", "Passes over a GPU between ticks.")
	nvmlRefused   = counter("nvml_refused_total", "What was left out as its calls would not have fit into the budget: moments of bursts by the agent, anything by flopwatch-nvml.", "by")
	nvmlSlowest   = gauge("nvml_slowest_call_seconds", "The longest call into NVIDIA's library, by what it asks for.", "class")
	nvmlBacked    = gauge("nvml_gpus_backed_off", "GPUs that are read more seldom as calls take long: all that is read of them, or only what is rarer than ticks.", "tiers")
	gpuEvents     = counter("gpu_events_total", "What happened to GPUs.", "event")
	eventsDropped = counter("gpu_events_dropped_total", "Events of GPUs that were too many at once.")
	tierSeconds   = prometheus.NewDesc("flopwatch_agent_nvml_tier_seconds", "Time that answers took in the driver, by tier.", []string{"tier"}, nil)
)

// mostInstruments have series of their own: a host that hears of more parts (ports, controllers,
// virtual functions) counts them by state.
const mostInstruments = 512

var states = []source.State{source.Active, source.Degraded, source.Stalled, source.Lost, source.Unavailable}

// Describe implements prometheus.Collector. It announces nothing: which series there are
// depends on the host.
func (e *Exporter) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (e *Exporter) Collect(out chan<- prometheus.Metric) {
	put := func(m metric, v float64, labels ...string) { out <- m.value(v, labels...) }
	e.mu.Lock()
	digest, gpus := e.digest, e.gpus
	e.mu.Unlock()
	put(buildInfo, 1, e.cfg.Build)
	put(configInfo, 1, digest, e.cfg.Node)

	st := e.cfg.Agent()
	put(ticks, float64(st.Tick.Seq))
	put(missedTicks, float64(st.MissedTicks))
	if st.Tick.Seq > 0 {
		put(lastTick, float64(st.Tick.WallMs)/1000)
	}
	put(clockSteps, float64(st.ClockSteps))
	if e.cfg.LogSkipped != nil {
		put(logSkipped, float64(e.cfg.LogSkipped()))
	}
	for _, s := range st.Sources {
		put(srcSamples, float64(s.Samples), s.Name)
		put(srcMissed, float64(s.Missed), s.Name)
		put(srcErrors, float64(s.Errors), s.Name)
		put(srcPanics, float64(s.Panics), s.Name)
		put(srcSeconds, s.Total.Seconds(), s.Name)
		if s.Samples+s.Errors > 0 {
			put(srcLast, s.Last.Seconds(), s.Name)
		}
		put(srcStalled, one(s.Stalled), s.Name)
		if s.Bursts+s.BurstsMissed > 0 {
			put(srcBursts, float64(s.Bursts), s.Name)
			put(srcPassed, float64(s.BurstsMissed), s.Name)
		}
	}
	kinds := func(m metric, rows map[wire.Kind]uint64) {
		for _, k := range slices.Sorted(maps.Keys(rows)) {
			put(m, float64(rows[k]), k.String())
		}
	}
	kinds(rowsTaken, st.Rows)
	kinds(rowsRefused, st.RefusedRows)
	kinds(rowsLost, st.LostRows)
	put(rowsPending, float64(st.PendingRows))
	put(sealedBatches, float64(st.Batches))
	put(sealedBytes, float64(st.Bytes))
	put(sealErrors, float64(st.SealErrors))
	in := map[source.State]int{}
	for n, i := range st.Instruments {
		in[i.State]++
		if n >= mostInstruments {
			continue
		}
		for _, state := range states {
			put(instrument, one(i.State == state), i.Instrument, string(state))
		}
	}
	if len(st.Instruments) > 0 {
		for _, state := range states {
			put(instruments, float64(in[state]), string(state))
		}
	}
	e.bmc(st.Instruments, put)
	e.spool(put)

	e.ship(put)
	e.kernel(put)
	e.nvml(put)
	e.tiers(out)
	if gpus && e.cfg.GPUs != nil {
		for _, g := range e.cfg.GPUs() {
			e.gpu(&g, out)
		}
	}
}

func (e *Exporter) nvml(put func(m metric, v float64, labels ...string)) {
	if e.cfg.NVML == nil {
		return
	}
	st, ok := e.cfg.NVML()
	if !ok {
		return
	}
	put(nvmlStarts, float64(st.Starts))
	put(nvmlRestarts, float64(st.Restarts))
	put(nvmlKills, float64(st.Kills))
	put(nvmlAbandoned, float64(st.Abandoned))
	put(nvmlCalls, float64(st.Calls))
	put(nvmlReadings, float64(st.Readings))
	put(nvmlDropped, float64(st.Dropped))
	if st.Readings > 0 {
		put(nvmlLastPass, st.LastPass.Seconds())
	}
	put(nvmlGPUs, float64(st.GPUs))
	put(nvmlStalled, float64(st.Stalled))
	put(nvmlBursts, float64(st.Bursts))
	put(nvmlRefused, float64(st.BurstsRefused), "agent")
	put(nvmlRefused, float64(st.BudgetRefused), "child")
	put(nvmlBacked, float64(st.Backed), "all")
	put(nvmlBacked, float64(st.BackedRare), "rare")
	for _, c := range st.Slowest {
		put(nvmlSlowest, c.Took.Seconds(), c.Class)
	}
	for _, c := range st.Events {
		put(gpuEvents, float64(c.N), c.Name)
	}
	put(eventsDropped, float64(st.EventsDropped))
	for _, f := range st.Faults {
		put(nvmlFaults, float64(f.Count), f.Function, strconv.Itoa(f.Code))
	}
}

// tiers puts how long answers took.
func (e *Exporter) tiers(out chan<- prometheus.Metric) {
	if e.cfg.NVML == nil {
		return
	}
	st, ok := e.cfg.NVML()
	if !ok {
		return
	}
	for _, t := range st.Tiers {
		if len(t.By) != len(t.Bounds)+1 {
			continue
		}
		upTo, sum := map[float64]uint64{}, uint64(0)
		for i, b := range t.Bounds {
			sum += t.By[i]
			upTo[b.Seconds()] = sum
		}
		out <- prometheus.MustNewConstHistogram(tierSeconds, t.Asked, t.Took.Seconds(), upTo, t.Name)
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
