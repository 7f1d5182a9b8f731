package playback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"slices"

	"github.com/google/uuid"

	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	chunkMs = 60_000 // of arrival, one batch a host; unless Clock says otherwise
	// maxRows in a batch: a chunk that grows past it is sealed early, well below the
	// wire's limits.
	maxRows = 8_000
)

// Sink takes what the recorded hosts and the provider would have published. Tables
// belong to the caller and are valid until Node or Provider returns.
type Sink interface {
	// Node takes one chunk of a host's telemetry.
	Node(ctx context.Context, node string, availableMs int64, tables []wire.Table) error
	// Provider takes one chunk of what the provider states, of one kind.
	Provider(ctx context.Context, availableMs int64, table wire.Table) error
}

// Counts is what was handed over, in rows. Processes and rentals count once for their
// start and once for their end.
type Counts struct {
	Rows map[wire.Kind]int
	// Values is how many fields were measured or stated, keys apart.
	Values int
}

var errStop = errors.New("stop")

// Clock says when a recording is played. The zero value plays it at its own time, as fast
// as the sink takes it.
type Clock struct {
	// ShiftMs is added to every instant of the recording, in milliseconds.
	ShiftMs int64
	// ChunkMs is how much of arrival goes into one batch a host; 0: a minute. Another value
	// makes other batches: who resumes a play keeps it.
	ChunkMs int64
	// Wait, if set, is called before each chunk with the shifted instant by which all of it
	// had arrived, and returns when the chunk may be handed on.
	Wait func(ctx context.Context, arrivedMs int64) error
}

// Play hands the whole recording to the sink. Rows that the bundle's reader refused are
// in the bundle's report; an error is one that nothing can be read behind.
func Play(ctx context.Context, b *bundle.Bundle, sink Sink) (Counts, error) {
	return PlayAt(ctx, b, sink, Clock{})
}

// PlayAt is Play on another clock. availableMs of the sink's calls is shifted too.
func PlayAt(ctx context.Context, b *bundle.Bundle, sink Sink, clock Clock) (Counts, error) {
	if clock.ChunkMs == 0 {
		clock.ChunkMs = chunkMs
	}
	if clock.ChunkMs < 0 {
		return Counts{}, fmt.Errorf("play recording: chunks of %d ms", clock.ChunkMs)
	}
	p := &player{
		ctx: ctx, b: b, sink: sink, clock: clock, nodes: map[string]*tables{}, counts: Counts{Rows: map[wire.Kind]int{}},
		gpuFields: gpuFields(), id: map[wire.Kind]map[string]uint8{},
	}
	for k := range wire.Schema {
		p.id[k] = ids(k)
	}
	p.provider = newTables(wire.SourceDeclared, wire.KindInventory, wire.KindAllocation, wire.KindOrder)
	err := p.play()
	return p.counts, err
}

// tables are the builders of one host, or of the provider, for the open chunk.
type tables struct {
	builders    map[wire.Kind]*wire.Builder
	kinds       []wire.Kind
	availableMs int64
	rows        int
}

func newTables(source wire.Source, kinds ...wire.Kind) *tables {
	t := &tables{builders: map[wire.Kind]*wire.Builder{}, kinds: kinds}
	for _, k := range kinds {
		t.builders[k] = wire.NewBuilder(k, source)
	}
	return t
}

// begin opens a row of kind k that arrived at arrivalMs.
func (t *tables) begin(k wire.Kind, arrivalMs int64) *wire.Builder {
	if t.rows == 0 || arrivalMs > t.availableMs {
		t.availableMs = arrivalMs
	}
	t.rows++
	b := t.builders[k]
	b.Begin()
	return b
}

type player struct {
	ctx       context.Context //nolint:containedctx // a player lives for one call of Play
	b         *bundle.Bundle
	sink      Sink
	clock     Clock
	nodes     map[string]*tables
	provider  *tables
	counts    Counts
	gpuFields []gpuField
	id        map[wire.Kind]map[string]uint8 // field ids by name
}

// feed is one file of the recording, read row by row in arrival order.
type feed struct {
	arrivalMs int64
	ok        bool
	take      func() error // hands the row on and reads the next
	stop      func()
	err       func() error
}

// open starts reading a file: arrival says when a row was known, put hands it on.
func open[T any](read func(func(T) error) error, arrival func(T) int64, put func(T) error) *feed {
	var readErr error
	next, stop := iter.Pull(func(yield func(T) bool) {
		err := read(func(row T) error {
			if !yield(row) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			readErr = err
		}
	})
	f := &feed{stop: stop, err: func() error { return readErr }}
	var row T
	step := func() {
		if row, f.ok = next(); f.ok {
			f.arrivalMs = arrival(row)
		}
	}
	step()
	f.take = func() error {
		err := put(row)
		step()
		return err
	}
	return f
}

// rows feeds rows that are in memory already, sorted by arrival.
func rows[T any](all []T, arrival func(T) int64, put func(T) error) *feed {
	return open(func(yield func(T) error) error {
		for _, r := range all {
			if err := yield(r); err != nil {
				return err
			}
		}
		return nil
	}, arrival, put)
}

func (p *player) play() error {
	feeds, err := p.open()
	defer func() {
		for _, f := range feeds {
			f.stop()
		}
	}()
	if err != nil {
		return err
	}
	for {
		end, any := int64(0), false
		for _, f := range feeds {
			if f.ok && (!any || f.arrivalMs < end) {
				end, any = f.arrivalMs, true
			}
		}
		if !any {
			break
		}
		end = chunkStart(end, p.clock.ChunkMs) + p.clock.ChunkMs
		if p.clock.Wait != nil {
			if err := p.clock.Wait(p.ctx, end+p.clock.ShiftMs); err != nil {
				return err
			}
		}
		for _, f := range feeds {
			for f.ok && f.arrivalMs < end {
				if err := f.take(); err != nil {
					return err
				}
			}
		}
		if err := p.seal(); err != nil {
			return err
		}
	}
	var errs []error
	for _, f := range feeds {
		errs = append(errs, f.err())
	}
	return errors.Join(errs...)
}

// chunkStart is the beginning of the chunk that an instant lies in.
func chunkStart(ms, chunk int64) int64 {
	r := ms % chunk
	if r < 0 {
		r += chunk
	}
	return ms - r
}

// at is an instant of the recording on the clock it is played by.
func (p *player) at(ms int64) int64 { return ms + p.clock.ShiftMs }

// seal hands over the open chunk, the provider first, then hosts by name.
func (p *player) seal() error {
	if err := p.sealProvider(); err != nil {
		return err
	}
	for _, node := range slices.Sorted(maps.Keys(p.nodes)) {
		if err := p.sealNode(node); err != nil {
			return err
		}
	}
	return p.ctx.Err()
}

func (p *player) sealProvider() error {
	if p.provider.rows == 0 {
		return nil
	}
	for _, t := range p.build(p.provider) {
		if err := p.sink.Provider(p.ctx, p.at(p.provider.availableMs), t); err != nil {
			return fmt.Errorf("publish the provider's data: %w", err)
		}
	}
	p.provider.reset()
	return nil
}

func (p *player) sealNode(node string) error {
	t := p.nodes[node]
	if t.rows == 0 {
		return nil
	}
	built := p.build(t)
	if err := p.sink.Node(p.ctx, node, p.at(t.availableMs), built); err != nil {
		return fmt.Errorf("publish telemetry of node %s: %w", node, err)
	}
	t.reset()
	return nil
}

func (p *player) build(t *tables) []wire.Table {
	var out []wire.Table
	for _, k := range t.kinds {
		if b := t.builders[k]; b.Rows() > 0 {
			built := b.Build()
			out = append(out, *built)
			p.counts.Rows[k] += built.Rows
			p.counts.Values += values(built)
		}
	}
	return out
}

// values counts the fields of a table that are present, keys apart.
func values(t *wire.Table) int {
	n := 0
	for i := range t.Columns {
		c := &t.Columns[i]
		if f, ok := wire.FieldOf(t.Kind, c.Field); !ok || f.Key {
			continue
		}
		if c.Present == nil {
			n += t.Rows
			continue
		}
		for _, w := range c.Present {
			n += bits.OnesCount64(w)
		}
	}
	return n
}

func (t *tables) reset() {
	t.rows = 0
	for _, b := range t.builders {
		b.Reset()
	}
}

// node returns the builders of a host's open chunk, sealing it first where it is full.
func (p *player) node(name string) (*tables, error) {
	t := p.nodes[name]
	if t == nil {
		t = newTables(wire.SourceRecorded, wire.KindGPU, wire.KindHost, wire.KindFabric, wire.KindFlow, wire.KindProcess, wire.KindCollective)
		p.nodes[name] = t
	}
	if t.rows >= maxRows {
		if err := p.sealNode(name); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// GPUUUID is the identity of a recorded GPU. Recordings number GPUs; the product knows
// them by UUID, so each (cluster, node, index) gets one of its own, always the same.
func GPUUUID(cluster, node string, gpu int) string {
	return "GPU-" + uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "flopwatch-bundle/%s/%s/%d", cluster, node, gpu)).String()
}

func sortByArrival[T any](all []T, arrival func(T) int64) {
	slices.SortStableFunc(all, func(a, b T) int { return cmp.Compare(arrival(a), arrival(b)) })
}
