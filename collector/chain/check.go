package chain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Store is what the hourly check reads and writes.
type Store interface {
	Clock(ctx context.Context) (int64, error)
	ChainPositions(ctx context.Context, insertedAfterMs int64) (map[string]store.ChainPosition, error)
	DueHours(ctx context.Context, cluster string, insertedAfterMs, beforeMs, checkedBeforeMs int64, most int) ([]store.DueHour, error)
	KeyNotes(ctx context.Context, cluster, node string) ([]store.KeyNote, error)
	Reader
	LossesOf(ctx context.Context, cluster string, nodes []string, hourMs int64) ([]store.Loss, error)
	PutLosses(ctx context.Context, cluster string, rows []store.Loss) error
	PutChainHours(ctx context.Context, cluster string, rows []store.ChainHour) error
	PutChainPosition(ctx context.Context, cluster string, p store.ChainPosition) error
}

// CheckConfig of a Checker. Store is needed.
type CheckConfig struct {
	Store    Store
	Instance string // names this process in positions, for people
	Log      *slog.Logger
	// MaxBatches bounds the heads that a pass verifies; what is left is for the next one. Default
	// 5,000,000, four minutes of a core.
	MaxBatches uint64
	// MaxHours bounds the hours of hosts of a pass; default 200,000.
	MaxHours int
	// AtOnce is how many heads are in memory; default 20,000.
	AtOnce uint64
	// Was are statistics to go on with.
	Was CheckStats
	// Held, if set, is asked before each write: not nil, the pass ends with it.
	Held func() error
}

const (
	// settleMs is how long after its end an hour is checked: what is on its way then is missing, and
	// looked at again.
	settleMs = 5 * 60_000
	// overlapMs is how long after its time of insertion a row may become visible.
	overlapMs = 5 * 60_000
	// skewMs is how far the store's clock may be behind the broker's.
	skewMs = 60 * 60_000
	// firstMs is how far back a cluster is checked that never was: what came into the store before is
	// for flopwatch chain verify.
	firstMs = 7 * 24 * 60 * 60_000
	// againMs is how often an hour in which something is missing is looked at again.
	againMs = 50 * 60_000
	// lookupsAtOnce bounds the identities of a question.
	lookupsAtOnce = 500
)

// Checker verifies, by the hour, what came into the store since it did last: each pass goes on
// where the last ended, whoever made it. A pass that is cut short has lost nothing: what it found is
// stored host by host, what it did not get to is due again, and doing an hour twice gives the same
// row. Pass is used by one goroutine, Stats by any.
type Checker struct {
	cfg CheckConfig

	told int // broken hours that this pass has found; the first of them are logged one by one

	mu    sync.Mutex
	stats CheckStats
}

// mostTold is how many broken hours a pass logs one by one.
const mostTold = 20

// CheckStats tell what passes of this process have found.
type CheckStats struct {
	Passes, Failed              uint64
	Hours                       map[string]uint64 // hours of hosts that were checked, by status
	Verified, Unsigned, Broken  uint64            // batches
	Missing, GivenUp, Conflicts uint64            // as of the hours that were checked; an hour that is checked again counts again
	Due                         int               // hours of hosts that the last pass left for the next
	ThroughMs                   int64             // hours before it are checked; 0: no pass was finished
	FinishedAt                  time.Time         // of the last pass
	Took                        time.Duration
	LastError                   string // of the last pass; "": it went well
}

// NewChecker returns a checker that has done nothing yet.
func NewChecker(cfg CheckConfig) *Checker {
	if cfg.MaxBatches == 0 {
		cfg.MaxBatches = 5_000_000
	}
	if cfg.MaxHours == 0 {
		cfg.MaxHours = 200_000
	}
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 20_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Checker{cfg: cfg, stats: cfg.Was}
	if c.stats.Hours == nil {
		c.stats.Hours = map[string]uint64{}
	}
	return c
}

// Stats returns the counters.
func (c *Checker) Stats() CheckStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stats
	st.Hours = maps.Clone(st.Hours)
	return st
}

// Pass checks the hours that ended before nowMs, of all clusters. now is for the statistics.
func (c *Checker) Pass(ctx context.Context, nowMs int64, now func() time.Time) error {
	begun := now()
	c.told = 0
	due, through, err := c.pass(ctx, nowMs)
	if more := c.told - mostTold; more > 0 {
		c.cfg.Log.LogAttrs(ctx, slog.LevelError, "and more hours of hosts in which what they signed does not hold: see flopwatch chain hours", slog.Int("hours", more))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := &c.stats
	st.FinishedAt, st.Took, st.LastError = now(), now().Sub(begun), ""
	if err != nil {
		st.Failed++
		st.LastError = err.Error()
		return err
	}
	st.Passes++
	st.Due = due
	if due == 0 {
		st.ThroughMs = through
	}
	return nil
}

func (c *Checker) pass(ctx context.Context, nowMs int64) (due int, throughMs int64, err error) {
	throughMs = (nowMs - settleMs) / store.HourMs * store.HourMs
	clockMs, err := c.cfg.Store.Clock(ctx)
	if err != nil {
		return 0, 0, err
	}
	positions, err := c.cfg.Store.ChainPositions(ctx, clockMs-firstMs)
	if err != nil {
		return 0, 0, err
	}
	left := c.cfg.MaxBatches
	for _, cluster := range slices.Sorted(maps.Keys(positions)) {
		n, cerr := c.cluster(ctx, cluster, positions[cluster], throughMs, clockMs, &left)
		due += n
		err = errors.Join(err, cerr)
	}
	return due, throughMs, err
}

// cluster checks what is due of a cluster, and returns how many hours are left.
func (c *Checker) cluster(ctx context.Context, cluster string, p store.ChainPosition, throughMs, clockMs int64, left *uint64) (int, error) {
	since := p.SeenMs - overlapMs - skewMs
	if p.SeenMs == 0 {
		since = clockMs - firstMs
	}
	hours, err := c.cfg.Store.DueHours(ctx, cluster, since, throughMs, clockMs-againMs, c.cfg.MaxHours)
	if err != nil {
		return 0, err
	}
	whole := len(hours) < c.cfg.MaxHours
	notes, err := c.cfg.Store.KeyNotes(ctx, cluster, "")
	if err != nil {
		return len(hours), err
	}
	known := NewNotes(notes)
	for len(hours) > 0 && *left > 0 {
		n, batches := 1, hours[0].Batches
		for n < len(hours) && hours[n].HourMs == hours[0].HourMs && batches+hours[n].Batches <= c.cfg.AtOnce && n < lookupsAtOnce {
			batches += hours[n].Batches
			n++
		}
		if err := c.some(ctx, cluster, hours[:n], known, clockMs-overlapMs); err != nil {
			return len(hours), fmt.Errorf("check chains of cluster %s: %w", cluster, err)
		}
		*left -= min(*left, max(batches, 1))
		hours = hours[n:]
	}
	if len(hours) > 0 || !whole {
		return max(len(hours), 1), nil
	}
	// Rows that come from here on are due by when they come: those of the hour in progress, too, that
	// are there already.
	next := store.ChainPosition{ThroughMs: throughMs, SeenMs: min(clockMs, throughMs), Instance: c.cfg.Instance}
	if next.ThroughMs <= p.ThroughMs && next.SeenMs <= p.SeenMs {
		return 0, nil
	}
	if err := c.held(); err != nil {
		return 0, err
	}
	return 0, c.cfg.Store.PutChainPosition(ctx, cluster, next)
}

func (c *Checker) held() error {
	if c.cfg.Held == nil {
		return nil
	}
	return c.cfg.Held()
}

// some checks one hour of some hosts.
func (c *Checker) some(ctx context.Context, cluster string, due []store.DueHour, notes *Notes, seenMs int64) error {
	hourMs := due[0].HourMs
	nodes := make([]string, len(due))
	for i := range due {
		nodes[i] = due[i].Node
	}
	hours, err := Load(ctx, c.cfg.Store, cluster, nodes, hourMs, hourMs+store.HourMs, notes)
	if err != nil {
		return err
	}
	rows := make([]store.ChainHour, 0, len(hours))
	var losses []store.Loss
	for i := range hours {
		row, lost, cerr := hours[i].Check()
		if cerr != nil {
			return cerr
		}
		row.SeenMs = seenMs
		rows, losses = append(rows, row), append(losses, lost...)
	}
	was, err := c.cfg.Store.LossesOf(ctx, cluster, nodes, hourMs)
	if err != nil {
		return err
	}
	losses = changed(was, losses, rows)
	if err = c.held(); err != nil {
		return err
	}
	// The hours last: until they are there, they are due.
	if err = c.cfg.Store.PutLosses(ctx, cluster, losses); err != nil {
		return err
	}
	if err = c.cfg.Store.PutChainHours(ctx, cluster, rows); err != nil {
		return err
	}
	c.note(ctx, cluster, rows)
	return nil
}

// changed are the losses that were not known, or otherwise, and those that are none any more.
func changed(was, now []store.Loss, rows []store.ChainHour) (out []store.Loss) {
	type key struct {
		node, spool, reason string
		from                uint64
	}
	keyOf := func(l *store.Loss) key { return key{l.Node, l.Spool, l.Reason, l.FromSequence} }
	known := map[string]int64{}
	for i := range rows {
		known[rows[i].Node] = rows[i].KnownMs
	}
	before := map[key]*store.Loss{}
	for i := range was {
		before[keyOf(&was[i])] = &was[i]
	}
	for i := range now {
		k := keyOf(&now[i])
		b := before[k]
		delete(before, k)
		if b == nil {
			out = append(out, now[i])
			continue
		}
		l := now[i]
		l.KnownMs = b.KnownMs
		if *b != l {
			l.KnownMs = max(b.KnownMs, now[i].KnownMs)
			out = append(out, l)
		}
	}
	for i := range was {
		if b, ok := before[keyOf(&was[i])]; ok {
			b.Gone, b.KnownMs = true, max(b.KnownMs, known[b.Node])
			out = append(out, *b)
		}
	}
	return out
}

// Reader is what Load reads.
type Reader interface {
	Heads(ctx context.Context, q store.HeadQuery, each func(store.HeadRow) error) error
	HeadBefore(ctx context.Context, k store.BatchKey) (store.HeadRow, bool, error)
	QuarantinedFrames(ctx context.Context, cluster string, nodes []string) (map[store.BatchKey][32]byte, error)
	Conflicts(ctx context.Context, cluster string, nodes []string, fromMs, toMs int64) ([]store.Conflict, error)
}

// Load reads what some hosts are checked by, of what became available in [fromMs, toMs): an hour, or
// any other time. It is in memory as a whole.
func Load(ctx context.Context, st Reader, cluster string, nodes []string, fromMs, toMs int64, notes *Notes) ([]Hour, error) {
	hours := make([]Hour, len(nodes))
	at := map[string]*Hour{}
	before, first, later := map[store.BatchKey]store.HeadRow{}, map[store.SpoolKey][wire.KeySize]byte{}, map[store.SpoolKey][]store.HeadRow{}
	aside := map[store.SpoolKey]map[uint64][32]byte{}
	for i, n := range nodes {
		hours[i] = Hour{Node: n, HourMs: fromMs, Before: before, First: first, Later: later, Aside: aside, Notes: notes}
		at[n] = &hours[i]
	}
	var starts []store.BatchKey
	add := func(h store.HeadRow) error {
		at[h.Node].Heads = append(at[h.Node].Heads, h)
		return nil
	}
	if err := st.Heads(ctx, store.HeadQuery{Cluster: cluster, Nodes: nodes, FromMs: fromMs, ToMs: toMs}, add); err != nil {
		return nil, err
	}
	for i := range hours {
		starts = append(starts, Starts(hours[i].Heads)...)
	}
	// The heads before those, and the first of each spool.
	var wanted []store.BatchKey
	firstOf := func(k store.BatchKey) store.BatchKey { k.Sequence = 1; return k }
	for _, k := range starts {
		if k.Sequence > 1 {
			b := k
			b.Sequence--
			wanted = append(wanted, b, firstOf(k))
		}
	}
	found := map[store.BatchKey]store.HeadRow{}
	slices.SortFunc(wanted, compareKey)
	wanted = slices.Compact(wanted)
	for part := range slices.Chunk(wanted, lookupsAtOnce) {
		if err := st.Heads(ctx, store.HeadQuery{Cluster: cluster, Keys: part}, func(h store.HeadRow) error { found[h.BatchKey] = h; return nil }); err != nil {
			return nil, err
		}
	}
	var holed []store.SpoolKey
	for _, k := range starts {
		spool := store.SpoolKey{Cluster: k.Cluster, Node: k.Node, Spool: k.Spool}
		if h, ok := found[firstOf(k)]; ok {
			first[spool] = h.NodeKey
		}
		if k.Sequence == 1 {
			continue
		}
		b := k
		b.Sequence--
		h, ok := found[b]
		if !ok {
			holed = append(holed, spool)
			var err error
			if h, ok, err = st.HeadBefore(ctx, k); err != nil {
				return nil, err
			}
		}
		if ok {
			before[k] = h
		}
	}
	holed = slices.Compact(holed) // starts are in order of spools
	for part := range slices.Chunk(holed, lookupsAtOnce) {
		if err := st.Heads(ctx, store.HeadQuery{Cluster: cluster, Spools: part}, func(h store.HeadRow) error {
			k := store.SpoolKey{Cluster: h.Cluster, Node: h.Node, Spool: h.Spool}
			later[k] = append(later[k], h)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if len(holed) > 0 {
		var in []string
		for _, k := range holed {
			in = append(in, k.Node)
		}
		frames, err := st.QuarantinedFrames(ctx, cluster, slices.Compact(in))
		if err != nil {
			return nil, err
		}
		for k, digest := range frames {
			s := store.SpoolKey{Cluster: k.Cluster, Node: k.Node, Spool: k.Spool}
			if aside[s] == nil {
				aside[s] = map[uint64][32]byte{}
			}
			aside[s][k.Sequence] = digest
		}
	}
	conflicts, err := st.Conflicts(ctx, cluster, nodes, fromMs, toMs)
	if err != nil {
		return nil, err
	}
	for _, x := range conflicts {
		at[x.Node].Conflicts = append(at[x.Node].Conflicts, x)
	}
	return hours, nil
}

func compareKey(a, b store.BatchKey) int {
	if n := strings.Compare(a.Node, b.Node); n != 0 {
		return n
	}
	if n := strings.Compare(a.Spool, b.Spool); n != 0 {
		return n
	}
	switch {
	case a.Sequence < b.Sequence:
		return -1
	case a.Sequence > b.Sequence:
		return 1
	}
	return 0
}

// note counts what was found, and tells what is wrong.
func (c *Checker) note(ctx context.Context, cluster string, rows []store.ChainHour) {
	c.mu.Lock()
	st := &c.stats
	for i := range rows {
		r := &rows[i]
		st.Hours[r.Status]++
		st.Verified, st.Unsigned, st.Broken = st.Verified+r.Verified, st.Unsigned+r.Unsigned, st.Broken+r.Broken
		st.Missing, st.GivenUp, st.Conflicts = st.Missing+r.Missing, st.GivenUp+r.GivenUp, st.Conflicts+r.Conflicts
	}
	c.mu.Unlock()
	for i := range rows {
		r := &rows[i]
		if r.Status != StatusBroken {
			continue
		}
		if c.told++; c.told <= mostTold {
			c.cfg.Log.LogAttrs(ctx, slog.LevelError, "what a host signed does not hold: see flopwatch chain verify", slog.String("cluster", cluster), slog.String("node", r.Node),
				slog.Time("hour", time.UnixMilli(r.HourMs).UTC()), slog.String("reasons", strings.Join(r.Reasons, ", ")), slog.String("detail", r.Detail))
		}
	}
}
