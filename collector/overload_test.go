package collector_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/collector"
	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// moody is a proxy before the store that can refuse inserts as ClickHouse does.
type moody struct {
	proxy http.Handler
	code  atomic.Int64 // of the exception; 0: none. stall: no answer at all
	slow  atomic.Int64 // nanoseconds that each insert is kept
	lies  atomic.Bool  // what it has no memory for it stores all the same

	refused, passed atomic.Int64
	mu              sync.Mutex
	at              []time.Time // of refusals
	largest         int64       // bytes of an insert's body
	most            int64       // bytes that a body may have while code is memoryLimit
}

const (
	stall        = -1
	tooManyParts = 252
	memoryLimit  = 241
)

func newMoody(tb testing.TB, target string) (*moody, string) {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	m := &moody{proxy: quietProxy(u)}
	srv := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	ln := listen(tb)
	go func() { _ = srv.Serve(ln) }() // ends with Close
	tb.Cleanup(func() { _ = srv.Close() })
	return m, "http://" + ln.Addr().String()
}

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Query().Get("query"), "INSERT INTO") {
		m.proxy.ServeHTTP(w, r)
		return
	}
	code := m.code.Load()
	if code == memoryLimit {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		m.mu.Lock()
		m.largest = max(m.largest, int64(len(body)))
		if int64(len(body)) <= m.most {
			code = 0
		}
		m.mu.Unlock()
		if code != 0 && m.lies.Load() {
			m.proxy.ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	switch code {
	case 0:
		<-time.After(time.Duration(m.slow.Load()))
		m.passed.Add(1)
		m.proxy.ServeHTTP(w, r)
		return
	case stall:
		<-r.Context().Done()
		return
	}
	m.refused.Add(1)
	m.mu.Lock()
	m.at = append(m.at, time.Now())
	m.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body) // as a server does
	w.Header().Set("X-ClickHouse-Exception-Code", strconv.FormatInt(code, 10))
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = fmt.Fprintf(w, "Code: %d. DB::Exception: a mood.", code)
}

// until waits for something to become true, however long a busy machine takes.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited in vain: %s", what)
		}
	}
}

// TestStoreRefuses: the store answers that it has too many parts, or nothing at all. The collector waits, longer and
// longer, and stores each row once.
func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	m, at := newMoody(t, b.cfg.URL)
	cfg := b.cfg
	cfg.URL, cfg.Timeout = at, 3*time.Second
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := b.collector(t, "one", func(cfg *collector.Config) { cfg.Store, cfg.MaxLinger = s, 200*time.Millisecond })
	start(t, c)
	sent := uint64(0)
	send := func(n int) {
		for range n {
			sent++
			w, frame := newFrame(t, 0, sent, nil)
			b.publish(t, w, frame)
		}
	}
	send(3)
	idle(t, c)

	m.code.Store(tooManyParts)
	send(3)
	until(t, "five refusals", func() bool { return m.refused.Load() >= 5 })
	condition := c.Condition().Partitions[0]
	if condition.StoreError == "" || condition.Messages == 0 || condition.OldestMs == 0 {
		t.Errorf("condition %+v", condition)
	}
	if l := condition.Linger; l != 200*time.Millisecond && l != 0 { // 0: it has not told yet
		t.Errorf("lingers %s with too many parts", l)
	}
	m.mu.Lock()
	if n := len(m.at); m.at[n-1].Sub(m.at[n-2]) < 500*time.Millisecond { // at least half of 2 * 2^3 * 100 ms
		t.Errorf("pauses do not grow: %v", m.at)
	}
	m.mu.Unlock()
	m.code.Store(0)
	idle(t, c)
	if c.Stats().Refusals < 5 {
		t.Errorf("%+v", c.Stats())
	}

	m.code.Store(stall)
	send(3)
	until(t, "a timeout", func() bool { return c.Condition().Partitions[0].StoreError != "" })
	m.code.Store(0)
	idle(t, c)
	wantRows(t, b.store, sent)
	if got := c.Condition().Partitions[0].StoreError; got != "" {
		t.Errorf("it still says %q", got)
	}
}

// TestNoMemory: the store lacks memory for so much at once. What is sent is cut until it is small enough, however few
// messages a range has; while there is not enough even for the least the collector waits and says so. All is stored, and shown once though the
// store may have had what it refused.
func TestNoMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	m, at := newMoody(t, b.cfg.URL)
	cfg := b.cfg
	cfg.URL = at
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	memory := func(most int64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.most, m.largest = most, 0
	}
	m.code.Store(memoryLimit)
	const dense, garbage = 12, 6
	for i, most := range []int{4, 12} { // messages of 480 rows, some 80 KiB, in a range
		node := nodeName(50 + i)
		m.lies.Store(i == 1)
		memory(200 << 10)
		for q := uint64(1); q <= dense; q++ {
			w, frame := denseFrame(t, node, q, 60)
			b.publish(t, w, frame)
		}
		c := b.collector(t, node, func(cfg *collector.Config) { cfg.Store, cfg.MaxMessages = s, most })
		stop := start(t, c)
		idle(t, c)
		m.mu.Lock()
		if m.largest <= m.most {
			t.Errorf("%d messages in a range: nothing was too large: at most %d bytes", most, m.largest)
		}
		m.mu.Unlock()
		if c.Stats().Refusals == 0 {
			t.Errorf("%+v", c.Stats())
		}
		rows, err := b.store.GPURows(t.Context(), store.RowQuery{Cluster: cluster, Nodes: []string{node}, ToMs: startMs * 2})
		if err != nil || len(rows) != dense*480 {
			t.Errorf("%d rows, want %d (%v)", len(rows), dense*480, err)
		}

		// Messages for quarantine are cut as well, to one each: a row there has a message's bytes.
		memory(100 << 10)
		for q := range garbage {
			b.send(t, wire.NodeSubject(cluster, node), fmt.Sprint(node, q), "", bytes.Repeat([]byte{byte(q)}, 80<<10))
		}
		idle(t, c)
		stop()
	}
	if n := len(aside(t, b.store, true)); n != 2*garbage {
		t.Errorf("%d messages in quarantine, want %d", n, 2*garbage)
	}

	// Not enough for a single message.
	m.lies.Store(false)
	memory(20 << 10)
	c := b.collector(t, "waits", func(cfg *collector.Config) { cfg.Store = s })
	start(t, c)
	w, frame := denseFrame(t, nodeName(60), 1, 60)
	b.publish(t, w, frame)
	until(t, "it says that it waits for memory", func() bool {
		p := c.Condition().Partitions[0]
		return strings.Contains(p.StoreError, "no memory for 480 rows, the fewest that are sent at once") && p.Messages == 1
	})
	was := c.Stats().Refusals
	until(t, "it tries again", func() bool { return c.Stats().Refusals > was })
	memory(200 << 10)
	idle(t, c)
	until(t, "it is content", func() bool { return c.Condition().Partitions[0].StoreError == "" })
	for table, want := range map[string]uint64{store.TableGPUSamples: (2*dense + 1) * 480, store.TableBatches: 2*dense + 1} {
		if _, distinct, err := b.store.Count(t.Context(), table); err != nil || distinct != want {
			t.Errorf("%s: %d distinct rows, want %d (%v)", table, distinct, want, err)
		}
	}
}

// TestPartsNearTheLimit: a table of the real store nears the number of parts at which it delays inserts. The linger
// widens before the store delays or refuses any, and comes back when parts are merged.
func TestPartsNearTheLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tell := func(sql string) {
		t.Helper()
		resp, err := http.Post(b.cfg.URL+"/?"+url.Values{"user": {b.cfg.User}, "password": {b.cfg.Password}}.Encode(), "text/plain", strings.NewReader(sql))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s (%v)", sql, text, err)
		}
	}
	table := b.cfg.Database + "." + store.TableGPUSamples
	// No merges but those asked for.
	tell("ALTER TABLE " + table + " MODIFY SETTING parts_to_delay_insert = 6, max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1")
	// A message is a range, so nothing waits for these; and storing takes no large part of them on any machine.
	const least, most = 5 * time.Minute, 20 * time.Minute
	c := b.collector(t, "one", func(cfg *collector.Config) {
		cfg.MaxMessages, cfg.Linger, cfg.MaxLinger, cfg.Survey = 1, least, most, 20*time.Millisecond
	})
	start(t, c)
	sent := uint64(0)
	send := func(want time.Duration) {
		t.Helper()
		sent++
		w, frame := newFrame(t, 0, sent, nil)
		b.publish(t, w, frame)
		idle(t, c)
		if p := c.Condition().Partitions[0]; want != 0 && (p.Linger != want || p.StoreError != "") {
			t.Errorf("after %d parts: %+v, want a linger of %s", sent, p, want)
		}
	}
	parts := func(what string, ok func(share float64) bool) {
		t.Helper()
		until(t, what, func() bool { now := c.Condition(); return now.PartsKnown && ok(now.Parts) })
	}
	send(least)
	send(least)
	send(0) // three of six, whether they were seen yet or not
	parts("half of the parts", func(share float64) bool { return share >= 0.5 })
	send(most)
	for _, want := range []time.Duration{most / 2, least, least} {
		tell("OPTIMIZE TABLE " + table + " FINAL")
		parts("one part", func(share float64) bool { return share < 0.2 })
		send(want)
	}
	wantRows(t, b.store, sent)
}

// TestLongOutage: the store is away while a million rows come. The stream fills to its limit and refuses, the sender keeps
// what is refused, the collector's process keeps a bounded part; then all of it is stored, once.
func TestLongOutage(t *testing.T) {
	t.Parallel()
	rows := 96_000
	if text := os.Getenv("OUTAGE_ROWS"); text != "" { // make outage
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const perBatch = 8 * 60
	b, engine, cfg := newOwnEngine(t, "outage")
	m, at := newMoody(t, engine.URL())
	cfg.URL, cfg.Large = at, true
	js := b.js
	stream, err := js.Stream(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	full := stream.CachedInfo().Config
	full.MaxBytes = int64(rows) * 6 // a part of what comes
	if _, err := js.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	m.code.Store(tooManyParts)
	child := childCommand(t, cfg)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill() // if the test went wrong before
		_ = child.Wait()
	}()
	refused, batches := 0, rows/perBatch
	var backlog []int // as a spool keeps it
	send := func(i int) error {
		w, frame := denseFrame(t, nodeName(i%20), uint64(i/20+1), 60)
		_, err := js.Publish(t.Context(), wire.BatchSubject(w), frame, jetstream.WithMsgID(wire.MessageID(w.Node, w.Spool, w.Sequence)))
		return err
	}
	for i := range batches {
		if len(backlog) == 0 || i%50 == 0 { // one that is refused asks again now and then
			if err := send(i); err == nil {
				continue
			}
			refused++
		}
		backlog = append(backlog, i)
	}
	if refused == 0 {
		t.Error("the stream took everything: it was to fill up")
	}
	until(t, "refusals by the store", func() bool { return m.refused.Load() >= 3 })
	down := rss(t, child.Process.Pid)
	m.code.Store(0)
	for _, i := range backlog {
		until(t, "room in the stream", func() bool { return send(i) == nil })
	}
	watcher := b.collector(t, "watcher", nil)
	idleLong(t, b, watcher)
	up := peak(t, child.Process.Pid)
	t.Logf("%d rows: %d batches were refused by the full stream and kept by the sender; the collector's process had %d MiB while the store was away, at most %d MiB until it had caught up",
		rows, len(backlog), down>>20, up>>20)
	const bound = 400 << 20
	if down > bound || up > bound {
		t.Errorf("memory is not bounded: %d MiB, %d MiB", down>>20, up>>20)
	}
	raw, distinct, err := b.store.Count(t.Context(), store.TableGPUSamples)
	if want := uint64(batches * perBatch); err != nil || raw != want || distinct != want {
		t.Errorf("%d rows, %d distinct, want %d (%v)", raw, distinct, want, err)
	}
}

// idleLong waits as long as there is progress.
func idleLong(tb testing.TB, b *bench, c *collector.Collector) {
	tb.Helper()
	for was, done := uint64(0), false; !done; {
		until(tb, "progress", func() bool {
			s, err := b.js.Stream(tb.Context(), broker.NodeStream(0))
			if err != nil {
				tb.Fatal(err)
			}
			state := s.CachedInfo().State
			done = state.Msgs == 0
			moved := state.FirstSeq != was
			was = state.FirstSeq
			return done || moved
		})
	}
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	if err := c.WaitIdle(ctx); err != nil {
		tb.Fatal(err)
	}
}

func rss(tb testing.TB, pid int) int64  { return memory(tb, pid, "VmRSS:") }
func peak(tb testing.TB, pid int) int64 { return memory(tb, pid, "VmHWM:") }

func memory(tb testing.TB, pid int, line string) int64 {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		tb.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return n << 10
		}
	}
	tb.Fatalf("no %s", line)
	return 0
}

// TestLargeMessages: messages of the largest size pass, few at a time, though a range is small.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.collector(t, "one", func(cfg *collector.Config) { cfg.MaxBytes = 1 << 20 })
	for i := range 12 {
		b.send(t, wire.NodeSubject(cluster, nodeName(0)), fmt.Sprint(i), "", bytes.Repeat([]byte{byte(i)}, wire.MaxFrameBytes))
	}
	start(t, c)
	idle(t, c)
	if st := c.Stats(); st.Quarantined != 12 || st.Ranges < 6 {
		t.Errorf("%d in quarantine, in %d ranges of at most 2 MiB", st.Quarantined, st.Ranges)
	}
}

// TestQuarantineIsBounded: a sender fills quarantine up to its limit alone; what the ledger needs stays,
// without its bytes; the rest is counted. Another is not touched by that, and a restart forgets nothing.
func TestQuarantineIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	limits := func(cfg *collector.Config) {
		cfg.Quarantine, cfg.MaxMessages = batch.Limits{Messages: 10, Bytes: 4000}, 7
		live(cfg)
	}
	garbage := func(from, to int) {
		for i := from; i < to; i++ {
			b.send(t, wire.NodeSubject(cluster, "forger"), fmt.Sprint("g", i), "", bytes.Repeat([]byte{7}, 500))
		}
	}
	one := b.collector(t, "one", limits)
	stop := start(t, one)
	garbage(0, 25)
	idle(t, one)
	stop()
	two := b.collector(t, "two", limits)
	start(t, two)
	garbage(25, 30)
	for s := uint64(1); s <= 15; s++ { // states its availability: refused, and believed
		w, frame := newFrame(t, 1, s, nil)
		b.publish(t, w, frame)
	}
	b.send(t, wire.NodeSubject(cluster, nodeName(2)), "other", "", []byte("no frame"))
	idle(t, two)
	whole, bare := map[string]int{}, map[string]int{}
	for _, m := range aside(t, b.store, true) {
		if m.Whole {
			whole[m.Who]++
		} else {
			bare[m.Who]++
		}
		if len(m.Bytes) > 0 != m.Whole || m.Digest == [32]byte{} || m.Size == 0 {
			t.Errorf("%+v", m)
		}
	}
	if whole["forger"] != 8 || bare["forger"] != 2 || whole[nodeName(1)]+bare[nodeName(1)] != 15 || bare[nodeName(1)] < 5 || whole[nodeName(2)] != 1 {
		t.Errorf("whole %v, without bytes %v", whole, bare)
	}
	dropped, err := b.store.QuarantineDropped(t.Context(), store.QuarantineFilter{Cluster: cluster, ClusterToken: wire.Token(cluster)})
	if err != nil || len(dropped) != 1 || dropped[0].Messages != 20 || dropped[0].Node != "forger" || dropped[0].Size != 20*500 || dropped[0].Reason != "decode" {
		t.Errorf("dropped %+v, %v", dropped, err)
	}
	st := two.Stats()
	if n := st.Aside[3]; n.Messages != 6 || n.Dropped != 5 { // decode
		t.Errorf("counted %+v", st.Aside)
	}
	handled, err := b.store.Handled(t.Context(), []store.SpoolKey{{Cluster: cluster, Node: nodeName(1), Spool: fmt.Sprintf("%x", spoolOf(1))}})
	if err != nil || fmt.Sprint(handled) == "map[]" {
		t.Fatal(handled, err)
	}
	for _, h := range handled {
		if len(h.Stored) != 1 || h.Stored[0].To != 15 {
			t.Errorf("the ledger lacks some: %+v", h)
		}
	}
}
