package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/internal/store"
)

const (
	cluster  = "bench"
	sourceOf = "nvml:util_e4,mem_used_bytes,power_mw,energy_mj,temp_c,clocks_event_reasons,mem_util_e4;gpm:sm_active_e4,tensor_e4,fp16_e4,dram_e4,pcie_tx_bps,pcie_rx_bps,nvlink_tx_bps,nvlink_rx_bps"
	// perNode GPUs share a node, and perBatch ticks a batch.
	perNode, perBatch = 8, 10
	// insertRows is about what a collector inserts at once.
	insertRows = 100_000
)

// fleetConfig says what to make of recorded series.
type fleetConfig struct {
	gpus   int
	tickMs int64 // between two samples of a GPU
	// startMs is when the fleet begins to report.
	startMs int64
	// asRecorded stores each series once, untouched.
	asRecorded bool
}

// fleet makes GPUs of series: each follows one of them from a moment of its own, over and over, with noise of its own in
// the digits that move in the recording.
type fleet struct {
	cfg  fleetConfig
	all  []series
	gpus []gpu
	rng  *rand.Rand
	// present counts the values that were made.
	present uint64
}

type gpu struct {
	of      *series
	at      int
	counter []int64
	rng     *rand.Rand
}

func newFleet(all []series, cfg fleetConfig) *fleet {
	f := &fleet{cfg: cfg, all: all, rng: rand.New(rand.NewPCG(1, 2))}
	for g := range cfg.gpus {
		s := &all[g%len(all)]
		one := gpu{of: s, rng: rand.New(rand.NewPCG(uint64(g), 7)), counter: make([]int64, len(signals))}
		if !cfg.asRecorded {
			one.at = one.rng.IntN(len(s.tsMs))
		}
		for i := range signals {
			one.counter[i] = s.values[i][one.at] + int64(one.rng.Uint64N(1<<38))
		}
		f.gpus = append(f.gpus, one)
	}
	return f
}

// next is the GPU's next value of each signal.
func (g *gpu) next(out []int64) {
	n := len(g.of.tsMs)
	was := g.at
	g.at = (g.at + 1) % n
	for i := range signals {
		v, prev := g.of.values[i][g.at], g.of.values[i][was]
		if v == absent || prev == absent {
			out[i] = v
			continue
		}
		step := v - prev
		if signals[i].counter {
			if step < 0 || g.at == 0 { // the recording begins anew
				step = g.of.values[i][1] - g.of.values[i][0]
			}
			g.counter[i] += max(step+g.noise(step/16, 1), 0)
			out[i] = g.counter[i]
			continue
		}
		v = max(v+g.noise(step, signals[i].quantum), 0)
		if signals[i].scale == 10_000 || signals[i].scale == 100 {
			v = min(v, 10_000)
		}
		out[i] = v
	}
}

// noise is evenly spread over a width, in multiples of a quantum: where the recording stands still there is none.
func (g *gpu) noise(width, quantum int64) int64 {
	if width /= quantum; width < 0 {
		width = -width
	}
	if width < 2 {
		return 0
	}
	return (int64(g.rng.Uint64N(uint64(width))) - width/2) * quantum
}

// scratch is columns of one batch.
type scratch struct {
	ts, boot, index []int64
	ref             []uint32
	values          [][]int64
	present         [][]uint64
	row             []int64
}

func newScratch(rows int) *scratch {
	s := &scratch{ts: make([]int64, rows), boot: make([]int64, rows), index: make([]int64, rows), ref: make([]uint32, rows), row: make([]int64, len(signals))}
	for range signals {
		s.values, s.present = append(s.values, make([]int64, rows)), append(s.present, make([]uint64, (rows+63)/64))
	}
	return s
}

// set fills one row and returns how many values it has.
func (s *scratch) set(r int, row []int64) (present uint64) {
	for i, v := range row {
		s.values[i][r] = v
		if v == absent {
			s.values[i][r] = 0
			s.present[i][r/64] &^= 1 << (r % 64)
		} else {
			s.present[i][r/64] |= 1 << (r % 64)
			present++
		}
	}
	return present
}

func (s *scratch) put(b *store.RawBlock, m store.RawMeta, uuids []string, rows int) {
	b.Begin(m, rows)
	b.Ints(b.Column("ts_ms"), s.ts, nil)
	b.Ints(b.Column("boot_ms"), s.boot, nil)
	b.Ints(b.Column("gpu"), s.index, nil)
	b.Strings(b.Column("gpu_uuid"), uuids, s.ref, nil)
	for i := range signals {
		b.Ints(b.Column(signals[i].column), s.values[i], s.present[i])
	}
	b.End()
}

func uuid(g int) string {
	return fmt.Sprintf("GPU-%08x-%04x-4%03x-8%03x-%012x", g*2654435761%(1<<32), g%65536, g%4096, g%4096, g)
}
func node(n int) string { return fmt.Sprintf("hgx-%04d", n) }

// insert stores rows rows, or, as recorded, all there are.
func (f *fleet) insert(ctx context.Context, st *store.Store, rows int) error {
	if f.cfg.asRecorded {
		return f.insertRecorded(ctx, st)
	}
	nodes := f.cfg.gpus / perNode
	blocks := make(chan *store.RawBlock, 2)
	for range 2 {
		b, err := store.NewRawBlock(store.TableGPUSamples)
		if err != nil {
			return err
		}
		blocks <- b
	}
	full := make(chan *store.RawBlock)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(full)
		s := newScratch(perNode * perBatch)
		uuids := make([][]string, nodes)
		for n := range nodes {
			for k := range perNode {
				uuids[n] = append(uuids[n], uuid(n*perNode+k))
			}
		}
		b := <-blocks
		made := 0
		for sequence := uint64(1); made < rows; sequence++ {
			for n := range nodes {
				tick := f.cfg.startMs + int64(sequence-1)*perBatch*f.cfg.tickMs
				var ts [perBatch]int64
				for k := range perBatch {
					ts[k] = tick + int64(k)*f.cfg.tickMs + f.rng.Int64N(4)
				}
				for k := range perNode {
					for i := range perBatch {
						r := k*perBatch + i
						s.ts[r], s.boot[r], s.index[r], s.ref[r] = ts[i], ts[i]-f.cfg.startMs+int64(n)*7_654_321, int64(k), uint32(k)
						f.gpus[n*perNode+k].next(s.row)
						f.present += s.set(r, s.row)
					}
				}
				s.put(b, store.RawMeta{Cluster: cluster, Node: node(n), Spool: fmt.Sprintf("%032x", n+1), Sequence: sequence, Sources: sourceOf, AvailableMs: ts[perBatch-1] + 20 + f.rng.Int64N(400)}, uuids[n], perNode*perBatch)
				made += perNode * perBatch
			}
			if b.Rows() >= insertRows || made >= rows {
				select {
				case full <- b:
				case <-ctx.Done():
					return ctx.Err()
				}
				b = <-blocks
			}
		}
		return nil
	})
	g.Go(func() error {
		n := 0
		for b := range full {
			n++
			if err := st.Insert(ctx, store.TableGPUSamples, fmt.Sprint("bench/", f.cfg.startMs, "/", n), b); err != nil {
				return err
			}
			b.Reset()
			blocks <- b
		}
		return nil
	})
	return g.Wait()
}

func (f *fleet) insertRecorded(ctx context.Context, st *store.Store) error {
	b, err := store.NewRawBlock(store.TableGPUSamples)
	if err != nil {
		return err
	}
	for g := range f.all {
		one := &f.all[g]
		for from := 0; from < len(one.tsMs); from += perBatch {
			rows := min(perBatch, len(one.tsMs)-from)
			s := newScratch(rows)
			for r := range rows {
				for i := range signals {
					s.row[i] = one.values[i][from+r]
				}
				s.ts[r], s.boot[r], s.index[r] = one.tsMs[from+r], one.tsMs[from+r]-one.tsMs[0]+60_000, int64(g%perNode)
				s.set(r, s.row)
			}
			s.put(b, store.RawMeta{Cluster: cluster, Node: node(g / perNode), Spool: fmt.Sprintf("%032x", g/perNode+1), Sequence: uint64(from/perBatch + 1), Sources: sourceOf, AvailableMs: s.ts[rows-1] + 120}, []string{uuid(g)}, rows)
		}
	}
	return st.Insert(ctx, store.TableGPUSamples, "recorded", b)
}

func runFleet(ctx context.Context, args []string) (err error) {
	var c common
	fs := flag.NewFlagSet("fleet", flag.ContinueOnError)
	c.register(fs)
	rows := fs.Int("rows", 100_000_000, "samples")
	gpus := fs.Int("gpus", 1024, "GPUs, eight a node")
	tick := fs.Duration("tick", time.Second, "time between two samples of a GPU")
	every := fs.Int("every", 10, "keep one reading of the sessions in so many: they were read at 10 Hz")
	page := fs.String("recipes", "deploy/clickhouse/RECIPES.md", "queries")
	if err = fs.Parse(args); err != nil {
		return err //nolint:wrapcheck // it was printed
	}
	all, err := sessions(c.sessions, *every)
	if err != nil {
		return err
	}
	queries, err := recipes(*page)
	if err != nil {
		return err
	}
	b, err := open(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	lasts := time.Duration(*rows / *gpus) * *tick
	f := newFleet(all, fleetConfig{gpus: *gpus, tickMs: tick.Milliseconds(), startMs: time.Now().Add(-lasts).UnixMilli()})
	w := os.Stdout
	_, _ = fmt.Fprintf(w, "fleet\t%d rows\t%d GPUs\tevery %s\tover %s\tof %d series\n", *rows, *gpus, *tick, lasts.Round(time.Minute), len(all))
	began := time.Now()
	if err := f.insert(ctx, b.store, *rows); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "stored\t%s\t%.0f rows/s, generating them included\n", time.Since(began).Round(time.Second), float64(*rows)/time.Since(began).Seconds())
	if err := b.report(ctx, w, "as inserted, merges going on", f); err != nil {
		return err
	}
	began = time.Now()
	if err := b.exec(ctx, "OPTIMIZE TABLE "+database+".gpu_samples FINAL"); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "merged\t%s\n", time.Since(began).Round(time.Second))
	if err := b.report(ctx, w, "merged", f); err != nil {
		return err
	}
	if err := b.columnsReport(ctx, w, *rows); err != nil {
		return err
	}
	const hour = 3_600_000
	endMs := f.cfg.startMs + lasts.Milliseconds()
	b.firstHour = f.cfg.startMs / hour * hour
	if err := b.rollUp(ctx, f.cfg.startMs, endMs); err != nil {
		return err
	}
	if err := b.month(ctx, (endMs-b.firstHour)/hour+1); err != nil {
		return err
	}
	if err := b.customers(ctx, *gpus/perNode, endMs-32*24*hour); err != nil {
		return err
	}
	// What came while all this was made: a fleet that is asked for its present has reported all of the five minutes that the question reads.
	const lately = 300
	late := newFleet(all, fleetConfig{gpus: *gpus, tickMs: tick.Milliseconds(), startMs: time.Now().UnixMilli() - lately*tick.Milliseconds()})
	if err := late.insert(ctx, b.store, lately**gpus); err != nil {
		return err
	}
	for _, table := range []string{"gpu_samples", "features_gpu_minute", "features_gpu_hour", "runs"} {
		var n, bytes uint64
		if err := b.conn.QueryRow(ctx, "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = ? AND table = ?", database, table).Scan(&n, &bytes); err != nil {
			return fmt.Errorf("size of %s: %w", table, err)
		}
		_, _ = fmt.Fprintf(w, "table\t%s\t%d rows\t%.1f MiB\t%.1f B a row\n", table, n, float64(bytes)/(1<<20), float64(bytes)/float64(n))
	}
	from := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.DateTime) }
	day, month := clickhouse.Parameters{"cluster": cluster, "node": node(7), "gpu": "3", "from": from(endMs - 24*hour)}, clickhouse.Parameters{"cluster": cluster, "account": "acct-3", "from": from(endMs - 31*24*hour)}
	for _, q := range queries {
		params := day
		if !strings.Contains(q.sql, "{gpu:") {
			params = month
		}
		if err := b.ask(ctx, w, []recipe{q}, params); err != nil {
			return err
		}
	}
	return b.ask(ctx, w, []recipe{
		{"all samples, one row per key (FINAL)", "SELECT count(), avg(tensor_frac), sum(power_w) FROM flopwatch.v_gpu_samples"},
		{"all samples of the table", "SELECT count(), avg(tensor_e4), sum(power_mw) FROM flopwatch.gpu_samples"},
	}, nil)
}

// report prints what samples take: of values those count that are present, keys and times do not.
func (b *bench) report(ctx context.Context, w io.Writer, when string, f *fleet) error {
	var parts, rows, data, disk uint64
	if err := b.conn.QueryRow(ctx, "SELECT count(), sum(rows), sum(data_compressed_bytes), sum(bytes_on_disk) FROM system.parts WHERE active AND database = ? AND table = 'gpu_samples'", database).Scan(&parts, &rows, &data, &disk); err != nil {
		return fmt.Errorf("sizes: %w", err)
	}
	_, _ = fmt.Fprintf(w, "%s\t%d parts\t%d rows\t%d values\t%.2f B a row\t%.3f B a value of data\t%.3f B a value on disk\n",
		when, parts, rows, f.present, float64(disk)/float64(rows), float64(data)/float64(f.present), float64(disk)/float64(f.present))
	return nil
}

func (b *bench) columnsReport(ctx context.Context, w io.Writer, rows int) error {
	sizes, err := b.sizes(ctx, "gpu_samples")
	if err != nil {
		return err
	}
	names := slices.SortedFunc(maps.Keys(sizes), func(x, y string) int { return cmp.Compare(sizes[y], sizes[x]) })
	for _, name := range names {
		_, _ = fmt.Fprintf(w, "column\t%s\t%.4f B a row\n", name, float64(sizes[name])/float64(rows))
	}
	return nil
}
