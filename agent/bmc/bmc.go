package bmc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindOutOfBand.
const (
	fieldTs        = 1
	fieldTarget    = 2
	fieldComponent = 3
	fieldVantage   = 10
	fieldMethod    = 11
	fieldReport    = 12
	fieldGPU       = 13
	fieldUUID      = 14
)

// vantage of all rows.
const vantage = "outofband"

// BMC is the instrument "bmc": rows of wire.KindOutOfBand, one a part of a target and
// answer.
type BMC struct {
	targets []*target
	slots   chan struct{}
	devices source.DeviceLister
	cancel  context.CancelFunc
	done    sync.WaitGroup
	told    map[string]source.Status
	arrived []sample

	at   int64 // of the row that is being filled
	node string
	part *component
	gpu  map[string]int
	fill func(b *wire.Builder)
}

// New checks the configuration, credentials included, and returns the instrument. It asks
// nobody before the first tick.
func New(cfg Config) (*BMC, error) {
	switch {
	case len(cfg.Targets) == 0:
		return nil, errors.New("no bmc target: name at least one, with node, address and credentials_file")
	case len(cfg.Targets) > maxTargets:
		return nil, fmt.Errorf("%d bmc targets, at most %d: spread them over agents", len(cfg.Targets), maxTargets)
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = defaultConcurrency
	}
	if cfg.Concurrency < 1 || cfg.Concurrency > 256 {
		return nil, fmt.Errorf("bmc concurrency %d is not within 1 and 256", cfg.Concurrency)
	}
	least := minInterval
	if cfg.minInterval > 0 {
		least = cfg.minInterval
	}
	b := &BMC{slots: make(chan struct{}, cfg.Concurrency), devices: cfg.Devices, told: map[string]source.Status{}}
	b.fill = b.fillRow
	seen := map[string]bool{}
	for _, given := range cfg.Targets {
		t, err := given.complete(least)
		if err != nil {
			return nil, err
		}
		if seen[t.Node] {
			return nil, fmt.Errorf("bmc target %q: named twice", t.Node)
		}
		seen[t.Node] = true
		b.targets = append(b.targets, newTarget(t))
	}
	return b, nil
}

// Name returns "bmc".
func (b *BMC) Name() string { return "bmc" }

// Sample hands over what has arrived. It never waits for a controller.
func (b *BMC) Sample(ctx context.Context, _ source.Tick, out source.Sink) error {
	if b.cancel == nil {
		// The questions outlive this sample; Close ends them.
		life, cancel := context.WithCancel(context.WithoutCancel(ctx))
		b.cancel = cancel
		for _, t := range b.targets {
			b.done.Go(func() { t.run(life, b.slots) })
		}
	}
	good, worst := 0, source.Status{}
	for _, t := range b.targets {
		var st source.Status
		b.arrived, st = t.taken(b.arrived[:0])
		if len(b.arrived) > 0 {
			b.learnGPUs()
		}
		for _, s := range b.arrived {
			for _, c := range s.components {
				b.at, b.node, b.part = s.wallMs, t.Node, c
				out.Row(wire.KindOutOfBand, wire.SourceBMC, "", nil, b.fill)
			}
		}
		clear(b.arrived)
		b.say(st, out)
		if st.State == source.Active {
			good++
		} else {
			worst = st
		}
	}
	whole := source.Status{Instrument: "bmc", State: source.Active}
	if good < len(b.targets) {
		whole.State = source.Degraded
		whole.Reason = fmt.Sprintf("%d of %d controllers are not fully read; one of them: %s", len(b.targets)-good, len(b.targets), worst.Instrument)
	}
	b.say(whole, out)
	return nil
}

func (b *BMC) say(st source.Status, out source.Sink) {
	if b.told[st.Instrument] != st {
		b.told[st.Instrument] = st
		out.Status(st)
	}
}

// learnGPUs takes the indices of this host's own GPUs.
func (b *BMC) learnGPUs() {
	if b.devices == nil {
		return
	}
	list, ok := b.devices.GPUDevices()
	if !ok {
		return
	}
	b.gpu = make(map[string]int, len(list))
	for _, d := range list {
		b.gpu[d.UUID] = d.Index
	}
}

func (b *BMC) fillRow(w *wire.Builder) {
	c := b.part
	w.SetInt(fieldTs, b.at)
	w.SetStr(fieldTarget, b.node)
	w.SetStr(fieldComponent, c.name)
	w.SetStr(fieldVantage, vantage)
	w.SetStr(fieldMethod, c.method)
	if c.reportMs > 0 {
		w.SetInt(fieldReport, c.reportMs)
	}
	if c.uuid != "" {
		w.SetStr(fieldUUID, c.uuid)
		if i, ok := b.gpu[c.uuid]; ok {
			w.SetInt(fieldGPU, int64(i))
		}
	}
	for i, v := range c.value {
		if v != absent {
			w.SetInt(uint8(firstField+i), v)
		}
	}
}

// Close ends the questions and gives the sessions back, which takes a few seconds at most
// where controllers answer.
func (b *BMC) Close() error {
	if b.cancel != nil {
		b.cancel()
		b.done.Wait()
		b.cancel = nil
	}
	return nil
}
