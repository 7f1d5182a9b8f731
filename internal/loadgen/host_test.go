package loadgen

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// fleet is one without broker.
func fleet(tb testing.TB, cfg Config) *Fleet {
	tb.Helper()
	cfg.Broker.URL = "nats://nobody"
	if err := cfg.Validate(); err != nil {
		tb.Fatal(err)
	}
	cfg.defaults()
	privacy, err := agent.NewPrivacy([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		tb.Fatal(err)
	}
	return &Fleet{cfg: cfg, privacy: privacy}
}

// frames are what a host's spool has.
func frames(tb testing.TB, sp *spool.Spool) [][]byte {
	tb.Helper()
	var all [][]byte
	for r := sp.ReadUnacked(1, 0); ; {
		_, frame, err := r.Next(nil)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, frame)
	}
}

// TestFrames: what a host seals is what agents seal: frames that the decoder takes, chained,
// signed, with every kind, rows of every tick, names hidden.
func TestFrames(t *testing.T) {
	const minutes = 12
	f := fleet(t, Config{GPUs: 8, Seed: 3})
	at := time.UnixMilli(1_770_000_000_000)
	n, err := newNode(f, "lg-000001", at)
	if err != nil {
		t.Fatal(err)
	}
	n.host.job.work, n.host.job.ends = training, 400
	n.host.rng = 7
	tabs := newTables()
	for range minutes * 3 {
		if err = n.seal(tabs); err != nil {
			t.Fatal(err)
		}
		n.due = n.due.Add(20 * time.Second)
	}
	dec, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[wire.Kind]int{}
	var prev [32]byte
	seen := map[int64]bool{}
	for i, frame := range frames(t, n.spool) {
		var b wire.Batch
		if err = dec.Decode(frame, &b); err != nil {
			t.Fatal(err)
		}
		if b.Sequence != uint64(i+1) || b.PrevDigest != prev || b.Node != "lg-000001" || b.Cluster != "loadgen" || b.Ticks != uint64(20*(i+1)) || b.BootID == "" || b.SealedWallMs == 0 {
			t.Fatalf("frame %d: %+v", i+1, b)
		}
		prev = sha256.Sum256(frame)
		head := b.Head()
		if err = head.Verify(b.Key, b.Signature); err != nil {
			t.Fatal(err)
		}
		for j := range b.Tables {
			tab := &b.Tables[j]
			rows[tab.Kind] += tab.Rows
			if j > 0 && tab.Kind < b.Tables[j-1].Kind {
				t.Error("tables are not in the agent's order")
			}
			switch tab.Kind {
			case wire.KindGPU:
				for r := range tab.Rows {
					if tab.Column(3).Int[r] == 0 {
						seen[tab.Column(1).Int[r]] = true
					}
				}
			case wire.KindProcess:
				if user := tab.Column(16).Str(0); len(user) != 18 || user[:2] != "u-" {
					t.Errorf("a user in clear: %s", user)
				}
			default:
			}
		}
	}
	ticks := minutes * 60
	if rows[wire.KindGPU] != 8*ticks || len(seen) != ticks || rows[wire.KindFabric] != 9*ticks {
		t.Errorf("rows %v of %d ticks, %d times", rows, ticks, len(seen))
	}
	for _, k := range []wire.Kind{wire.KindHost, wire.KindProcess, wire.KindCollective, wire.KindDevice, wire.KindStatus, wire.KindHealth, wire.KindHold, wire.KindTCP, wire.KindCheckpoint, wire.KindRDMA, wire.KindFact} {
		if rows[k] == 0 {
			t.Errorf("no rows of %s", k)
		}
	}
	t.Logf("rows of %d minutes: %v", minutes, rows)
}

// TestSameSeed: the same seed makes the same rows, another makes others.
func TestSameSeed(t *testing.T) {
	digest := func(seed uint64) [32]byte {
		cfg := Config{Seed: seed}
		cfg.defaults()
		h := newHost(&cfg, "a", 1_770_000_000_000)
		tabs := newTables()
		if err := h.draw(tabs, 1, 60, 1_770_000_060_000); err != nil {
			t.Fatal(err)
		}
		out, _, _ := tabs.build()
		frame, err := wire.AppendBatch(nil, &wire.Batch{Cluster: "c", Node: "a", Spool: [16]byte{1}, Sequence: 1, Tables: out})
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(frame)
	}
	if one, again, two := digest(1), digest(1), digest(2); one != again || one == two {
		t.Error("rows do not depend on the seed alone")
	}
}

// TestSize: a sample of a GPU takes on the wire what make bench-agent measures of the real agent,
// 24 to 28 bytes for 25 values; here with some room, as idle GPUs take less.
func TestSize(t *testing.T) {
	f := fleet(t, Config{GPUs: 8, Seed: 5, Plain: true})
	values, bytes := 0, 0
	tabs := newTables()
	for i := range 40 {
		n, err := newNode(f, f.cfg.Node(i), time.UnixMilli(1_770_000_000_000))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err = n.seal(tabs); err != nil {
				t.Fatal(err)
			}
			n.due = n.due.Add(20 * time.Second)
		}
		for _, frame := range frames(t, n.spool) {
			bytes += len(frame)
			values += 8 * 20 * 28
		}
	}
	if per := 25 * float64(bytes) / float64(values); per < 20 || per > 34 {
		t.Errorf("%.1f bytes for 25 values of a GPU", per)
	} else {
		t.Logf("%.1f bytes for 25 values of a GPU", per)
	}
}

// TestGivenUp: a host whose spool is full gives the oldest up, counts them, and tells them in gap
// records.
func TestGivenUp(t *testing.T) {
	f := fleet(t, Config{GPUs: 8, SpoolBytes: 64 << 10})
	n, err := newNode(f, "lg-000001", time.UnixMilli(1_770_000_000_000))
	if err != nil {
		t.Fatal(err)
	}
	tabs := newTables()
	for range 60 {
		if err = n.seal(tabs); err != nil {
			t.Fatal(err)
		}
		n.due = n.due.Add(20 * time.Second)
	}
	s := n.spool.Stats()
	lost := f.count.lostFrames.Load()
	if s.Bytes > 64<<10 || lost == 0 || lost+uint64(s.Frames) != 60 || len(n.wait) != s.Frames || len(n.spool.Gaps()) == 0 {
		t.Errorf("%d lost, %d kept in %d bytes, %d awaited, gaps %v", lost, s.Frames, s.Bytes, len(n.wait), n.spool.Gaps())
	}
}

// TestMemFS holds the spool's files in memory to what it needs of a file system.
func TestMemFS(t *testing.T) {
	m := newMemFS()
	if _, err := m.List("/d"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := m.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	f, err := m.Create("/d/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = m.Create("/d/a"); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	write := func(at int64, b ...byte) {
		if n, werr := f.WriteAt(b, at); n != len(b) || werr != nil {
			t.Error(n, werr)
		}
	}
	write(2, 1, 0, 3, 0, 0)
	write(10, 0, 0) // a hole, and zeros at the end
	write(3, 9)
	got := make([]byte, 13)
	if n, rerr := f.ReadAt(got, 0); n != 12 || !errors.Is(rerr, io.EOF) {
		t.Error(n, rerr)
	}
	if want := [13]byte{2: 1, 3: 9, 4: 3}; [13]byte(got) != want {
		t.Errorf("got %v", got)
	}
	write(8, 7)
	if err = f.Truncate(3); err != nil {
		t.Error(err)
	}
	write(6, 5)
	if n, rerr := f.ReadAt(got[:7], 0); n != 7 || rerr != nil || [7]byte(got) != [7]byte{2: 1, 6: 5} {
		t.Error(n, rerr, got)
	}
	if err = m.Rename("/d/a", "/d/b"); err != nil {
		t.Error(err)
	}
	if names, lerr := m.List("/d"); lerr != nil || len(names) != 1 || names[0] != "b" {
		t.Error(names, lerr)
	}
	var _ durable.FS = m
}

// TestHist: quantiles are good to 3 %, the largest is exact.
func TestHist(t *testing.T) {
	var h hist
	for i := range 1000 {
		h.add(time.Duration(i+1) * 10 * time.Millisecond)
	}
	l := h.lag()
	for _, c := range []struct{ got, want float64 }{{l.P50Ms, 5000}, {l.P90Ms, 9000}, {l.P99Ms, 9900}} {
		if c.got < c.want*0.999 || c.got > c.want*1.031 {
			t.Errorf("got %g, want %g", c.got, c.want)
		}
	}
	if l.MaxMs != 10_000 || l.Frames != 1000 {
		t.Errorf("%+v", l)
	}
	h.add(0)
	h.add(time.Hour)
	h.add(100 * 365 * 24 * time.Hour)
}

// TestValidate: mistakes are told with what would be right.
func TestValidate(t *testing.T) {
	good := Config{}
	good.Broker.URL = "nats://127.0.0.1"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"url": func(c *Config) { c.Broker.URL = "" }, "nodes": func(c *Config) { c.Nodes = -1 }, "gpus": func(c *Config) { c.GPUs = 65 },
		"rate": func(c *Config) { c.Rate = 11 }, "seal": func(c *Config) { c.SealEvery = time.Millisecond }, "spool": func(c *Config) { c.SpoolBytes = 1 },
		"prefix": func(c *Config) { c.Prefix = "a b" }, "keys": func(c *Config) { c.NKeys, c.Connections = "d", 2 }, "lag": func(c *Config) { c.MaxLag = -1 },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// BenchmarkSeal is what a frame of 20 s of a host with eight GPUs costs the generator.
func BenchmarkSeal(b *testing.B) {
	f := fleet(b, Config{GPUs: 8, SpoolBytes: 1 << 20})
	n, err := newNode(f, "lg-000001", time.Now())
	if err != nil {
		b.Fatal(err)
	}
	tabs := newTables()
	for b.Loop() {
		if err := n.seal(tabs); err != nil {
			b.Fatal(err)
		}
		n.due = n.due.Add(20 * time.Second)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(f.count.rows.Load()), "µs/row")
}
