package store

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestFullDisk: on a disk that fills up the store refuses before it is full, says so, goes on answering, and takes the refused
// insert once there is room: once, under its token.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("flopwatch", dir, "tmpfs", 0, "size=128m"); err != nil {
		testenv.Need(t, "root", fmt.Errorf("a file system of 128 MiB: %w", err))
	}
	t.Cleanup(func() { // after the engine's own
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	server := testenv.ClickHouseServer(t, dir)
	user, password := server.Auth()
	s, err := Open(t.Context(), Config{URL: server.URL(), User: user, Password: password, Database: "full"})
	closed(t, s, err)
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := NewRawBlock(TableGPUSamples)
	if err != nil {
		t.Fatal(err)
	}
	const rows = 50_000
	rng := rand.New(rand.NewPCG(1, 2))
	ts, noise, ref := make([]int64, rows), make([]int64, rows), make([]uint32, rows)
	fill := func(n int) {
		b.Reset()
		b.Begin(RawMeta{Cluster: "c", Node: fmt.Sprint("n", n), Spool: "s", Sequence: uint64(n), Sources: "nvml", AvailableMs: 1}, rows)
		for i := range rows {
			ts[i] = int64(i)
		}
		b.Ints(b.Column("ts_ms"), ts, nil)
		b.Strings(b.Column("gpu_uuid"), []string{"GPU-0"}, ref, nil)
		for _, column := range []string{"mem_used_bytes", "clocks_event_reasons", "temp_c", "boot_ms"} {
			for i := range rows {
				noise[i] = rng.Int64()
			}
			b.Ints(b.Column(column), noise, nil)
		}
		b.End()
	}
	n := 0
	for ; err == nil; n++ {
		if n > 100 {
			t.Fatal("it takes more than the disk holds")
		}
		fill(n)
		err = s.Insert(t.Context(), TableGPUSamples, fmt.Sprint("token ", n), b)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("insert %d of a full disk: %v", n, err)
	}
	space, err := s.Space(t.Context())
	if err != nil || len(space.Disks) != 1 || space.Disks[0].KeepFree == 0 || space.StoredBytes < 20<<20 {
		t.Fatalf("space %+v, %v", space, err)
	}
	d := space.Disks[0]
	t.Logf("refused insert %d: %s has %.1f of %.1f MiB free, and keeps %.1f", n, d.Name, mib(d.FreeBytes), mib(d.TotalBytes), mib(d.KeepFree))
	if d.FreeBytes == 0 {
		t.Error("the disk is full to the last byte")
	}
	if raw, distinct, err := s.Count(t.Context(), TableGPUSamples); err != nil || raw != distinct || raw != uint64(n-1)*rows {
		t.Errorf("%d rows, %d distinct, %v, want those of %d inserts", raw, distinct, err, n-1)
	}
	// What an operator does: the oldest day of raw rows goes. Whole partitions need no room to go.
	var day string
	if err = s.conn.QueryRow(t.Context(), "SELECT min(partition) FROM system.parts WHERE active AND database = ? AND table = ?", s.cfg.Database, TableGPUSamples).Scan(&day); err != nil {
		t.Fatal(err)
	}
	if err = s.conn.Exec(t.Context(), "ALTER TABLE "+s.table(TableGPUSamples)+" DROP PARTITION "+day); err != nil {
		t.Fatal(err)
	}
	for range 2 { // parts that were dropped leave the disk some moments later; the insert is tried until then, as a collector does
		for err = s.Insert(t.Context(), TableGPUSamples, fmt.Sprint("token ", n-1), b); errors.Is(err, ErrNoSpace); {
			err = s.Insert(t.Context(), TableGPUSamples, fmt.Sprint("token ", n-1), b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if raw, _, err := s.Count(t.Context(), TableGPUSamples); err != nil || raw != rows {
		t.Errorf("%d rows, %v", raw, err)
	}
}

// TestMigrateOnFullDisk: on a full disk migrations are refused, with the statement and the reason, and go on from there once there is room, to the same schema.
func TestMigrateOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("flopwatch", dir, "tmpfs", 0, "size=128m"); err != nil {
		testenv.Need(t, "root", fmt.Errorf("a file system of 128 MiB: %w", err))
	}
	t.Cleanup(func() { // after the engine's own
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	others, err := os.Create(filepath.Join(dir, "others"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = others.Close() })
	hold := func(left uint64) {
		for {
			var st syscall.Statfs_t
			if err := errors.Join(others.Truncate(0), syscall.Statfs(dir, &st)); err != nil {
				t.Fatal(err)
			}
			free := st.Bavail * uint64(st.Bsize)
			if free <= left || syscall.Fallocate(int(others.Fd()), 0, 0, int64(free-left)) == nil {
				return
			}
		}
	}
	server := testenv.ClickHouseServer(t, filepath.Join(dir, "data"))
	user, password := server.Auth()
	open := func(name string) *Store {
		s, err := Open(t.Context(), Config{URL: server.URL(), User: user, Password: password, Database: name})
		return closed(t, s, err)
	}
	const all, inserts, nothing = 128 << 20, 12 << 20, 1 << 20 // of 16 MiB that inserts leave, and 8 that other statements do
	hold(nothing)
	s := open("cut")
	if err = s.Migrate(t.Context()); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "create database cut") {
		t.Errorf("a full disk: %v", err)
	}
	files, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 9, 10, len(files)} {
		statements, err := s.cfg.statements(files[n-1])
		if err != nil {
			t.Fatal(err)
		}
		left, at := uint64(nothing), min(1+n%2, len(statements))
		if n == 9 { // statements run, their migration cannot be recorded
			left = inserts
		}
		hold(all)
		err = s.migrate(t.Context(), files[:n], func(m migration, statement int) error {
			if m.number == n && statement == at {
				hold(left)
			}
			return nil
		})
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), files[n-1].name) {
			t.Errorf("%s, with %d bytes left behind statement %d: %v", files[n-1].name, left, at, err)
		}
		hold(all)
		if applied, err := s.applied(t.Context()); err != nil || len(applied) != n-1 {
			t.Errorf("%d migrations count as applied, %v, want %d", len(applied), err, n-1)
		}
		if err = s.migrate(t.Context(), files[:n], nil); err != nil {
			t.Fatal(err)
		}
	}
	fresh := open("whole")
	if err = errors.Join(s.Migrate(t.Context()), fresh.Migrate(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got, want := reference(t, s), reference(t, fresh); got != want {
		t.Errorf("the schema differs from a fresh one:\n%s", difference(want, got))
	}
	if err = ingest(t.Context(), s, "c"); err != nil {
		t.Error(err)
	}
	hold(nothing)
	if _, err = s.Retain(t.Context(), Retention{RawDays: 7}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("retention on a full disk: %v", err)
	}
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// TestRetention: how long rows stay is configuration, and is changed only where it differs.
func TestRetention(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "retention"})
	closed(t, s, err)
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.Retain(t.Context(), Retention{}); err != nil || changed != nil {
		t.Errorf("the default changes %v, %v", changed, err)
	}
	r := Retention{RawDays: 7, AnnouncementDays: 500, MinuteDays: 90, HourDays: 3000}
	changed, err := s.Retain(t.Context(), r)
	if err != nil || len(changed) < 15 {
		t.Errorf("changed %v, %v", changed, err)
	}
	if changed, err = s.Retain(t.Context(), r); err != nil || changed != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
	if err = ingest(t.Context(), s, "c"); err != nil {
		t.Error(err)
	}
	var days float64
	if err = s.conn.QueryRow(t.Context(), "SELECT dateDiff('hour', now(), max(expires)) / 24 FROM "+s.table(TableGPUSamples)).Scan(&days); err != nil || days < 6.9 || days > 7.1 {
		t.Errorf("samples stay %v days, %v", days, err)
	}
	schema, err := s.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, rel := range schema.Relations {
		for _, c := range rel.Columns {
			if c.Name == "expires" && !rel.View && (c.Codec == "" || c.Comment == "") {
				t.Errorf("%s.expires lost codec or comment: %+v", rel.Name, c)
			}
		}
	}
	if changed, err = s.Retain(t.Context(), Retention{RawDays: 60}); err != nil || len(changed) < 5 {
		t.Errorf("raw rows alone: %v, %v", changed, err)
	}
	for _, bad := range []Retention{{RawDays: -1}, {HourDays: maxDays + 1}, {RawDays: 100, MinuteDays: 50}} {
		if _, err = s.Retain(t.Context(), bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestPrecision: what is kept of a number is within the bound that its column's comment states.
func TestPrecision(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range uint64(100_000) {
		v := rng.Uint64() >> (1 + rng.IntN(63))
		if i < 2000 {
			v = i
		}
		for column, p := range precisions {
			got := p.round(v)
			off := max(got, v) - min(got, v)
			if p.digits > 0 && off > v>>p.digits || p.digits == 0 && off > 1<<(p.step-1) {
				t.Fatalf("%s: %d becomes %d", column, v, got)
			}
			if got == 0 && v != 0 {
				t.Fatalf("%s: %d is kept as 0", column, v)
			}
			if p.round(got) != got {
				t.Fatalf("%s: %d is kept as %d, and that as %d", column, v, got, p.round(got))
			}
		}
	}
	// Whoever reads rows is told, table by table and view by view, what the code does.
	schema, err := ShippedSchema()
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]struct {
		column, unit string
		per          float64
	}{"power_w": {"power_mw", " W", 1000}, "energy_j_total": {"energy_mj", " J", 1000}, "mma_cycles_total": {"mma_cycles", " cycles", 1}, "sm_cycles_elapsed_total": {"sm_cycles_elapsed", " cycles", 1},
		"power_mw": {"power_mw", " mW", 1}, "energy_mj": {"energy_mj", " mJ", 1}, "mma_cycles": {"mma_cycles", " cycles", 1}, "sm_cycles_elapsed": {"sm_cycles_elapsed", " cycles", 1}}
	told := 0
	for _, name := range []string{TableGPUSamples, TableEvidenceGPU, "v_gpu_samples", "v_fleet_now"} {
		r := schema.Relations[slices.IndexFunc(schema.Relations, func(r Relation) bool { return r.Name == name })]
		for _, c := range r.Columns {
			at, known := read[c.Name]
			if !known {
				at.column = c.Name
			}
			p, rounded := precisions[at.column]
			if !rounded {
				if strings.Contains(c.Comment, "kept to") {
					t.Errorf("%s.%s is kept as it comes: %q", name, c.Name, c.Comment)
				}
				continue
			}
			want := fmt.Sprintf("kept to %d significant bits: off by %.2f %% at most", p.digits, math.Exp2(-float64(p.digits))*100)
			if p.digits == 0 {
				number := func(n int) string {
					text := strconv.FormatFloat(float64(n)/at.per, 'f', -1, 64)
					if n >= 1000 && at.per == 1 {
						text = fmt.Sprintf("%d,%03d", n/1000, n%1000)
					}
					return text
				}
				want = fmt.Sprintf("kept to %s%s: off by %s", number(1<<p.step), at.unit, number(1<<(p.step-1)))
			}
			told++
			if !strings.Contains(c.Comment, want) {
				t.Errorf("%s.%s: %q does not say %q", name, c.Name, c.Comment, want)
			}
		}
	}
	if told != 8+7+8+3 {
		t.Errorf("%d columns are rounded", told)
	}
	b, err := NewRawBlock(TableGPUSamples)
	if err != nil {
		t.Fatal(err)
	}
	b.Begin(RawMeta{}, 2)
	if outside := b.Ints(b.Column("power_mw"), []int64{69_345, 1<<32 - 1}, nil); outside != 0 {
		t.Errorf("%d outside", outside)
	}
	c := b.columns[b.Column("power_mw")].(*intColumn[uint32])
	if c.vals[0] != 69_376 || c.vals[1] != 1<<32-1 {
		t.Errorf("kept %d", c.vals)
	}
}
