package bundle_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

const manifest = `{"format": "flopwatch-bundle/1", "cluster": "c", "start_ms": 1700000000000, "end_ms": 1700036000000, "description": "", "source": ""}`

// memory is a bundle of the named files; "manifest.json" is there unless given.
func memory(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{"manifest.json": {Data: []byte(manifest)}}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func open(t *testing.T, fsys fs.FS) *bundle.Bundle {
	t.Helper()
	b, err := bundle.OpenFS(fsys, "b")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// report of the one file that was read.
func reportOf(t *testing.T, b *bundle.Bundle, file string) bundle.FileReport {
	t.Helper()
	for _, f := range b.Report().Files {
		if f.File == file {
			return f
		}
	}
	t.Fatalf("no report of %s in %+v", file, b.Report())
	return bundle.FileReport{}
}

func packed(t *testing.T, text string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func gpuRows(t *testing.T, b *bundle.Bundle) []bundle.GPURow {
	t.Helper()
	var rows []bundle.GPURow
	if err := b.GPU(func(r bundle.GPURow) error { rows = append(rows, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

// Columns come by name; an empty cell and a missing column are not measured, a zero is.
func TestAbsentIsNotZero(t *testing.T) {
	b := open(t, memory(map[string]string{
		"gpu.csv": "\ufeffnode,gpu,later,power_w,ts_ms,util_frac\r\nn1,3,x,,1700000001000,0\r\n\r\n\"n1\",4,\"a \"\"b\"\", c\",70.5,1700000002000,",
	}))
	rows := gpuRows(t, b)
	if len(rows) != 2 {
		t.Fatalf("got %d rows, want 2: %+v", len(rows), b.Report())
	}
	r := rows[0]
	if r.Node != "n1" || r.GPU != 3 || r.TsMs != 1700000001000 || r.Value[bundle.UtilFrac] != 0 {
		t.Errorf("first row: got %+v", r)
	}
	for v := range bundle.NumGPUValues {
		if v != bundle.UtilFrac && !math.IsNaN(r.Value[v]) {
			t.Errorf("%s: got %g, want NaN", bundle.GPUColumns[v], r.Value[v])
		}
	}
	if r = rows[1]; r.Value[bundle.PowerW] != 70.5 || !math.IsNaN(r.Value[bundle.UtilFrac]) || r.Line != 4 {
		t.Errorf("second row: got %+v", r)
	}
	rep := reportOf(t, b, "gpu.csv")
	if !slices.Equal(rep.UnknownColumns, []string{"later"}) || len(rep.MissingColumns) != int(bundle.NumGPUValues)-2 || rep.Bad != 0 {
		t.Errorf("report: got %+v", rep)
	}
}

func TestAbsentOfOtherKinds(t *testing.T) {
	b := open(t, memory(map[string]string{
		"nodes.csv":       "node,site,gpu_model,gpu_count,fabric_gbps,vantage,tdp_w\nsw,,,0,,,\nn1,,,,,outofband,700\n",
		"processes.csv":   "start_ms,end_ms,node,gpus,pid,exe,world_size,rank\n1700000001000,,n1,3 1 1,,python,,0\n",
		"collectives.csv": "ts_ms,node,calls\n1700000001000,n1,5\n",
		"orders.csv":      "order,account,amended_ms,gpu_count,start_ms\no1,a1,1699990000000,,\n",
		"allocations.csv": "account,node,gpus,start_ms,end_ms\na1,n1,,1699990000000,\n",
	}))
	if n := b.Listed; len(n) != 2 || n[0].GPUCount != 0 || !math.IsNaN(n[0].FabricGbps) || n[1].GPUCount != bundle.Absent || n[1].TDPW != 700 {
		t.Errorf("nodes: got %+v", n)
	}
	err := errors.Join(
		b.Processes(func(r bundle.ProcessRow) error {
			if r.EndMs != 0 || r.EndArrivalMs != 0 || !slices.Equal(r.GPUs, []int{1, 3}) || r.WorldSize != bundle.Absent || r.Rank != 0 || r.PID != -2 {
				t.Errorf("process: got %+v", r)
			}
			return nil
		}),
		b.Collectives(func(r bundle.CollectiveRow) error {
			if r.PID != bundle.Absent || r.GPU != bundle.Absent || r.Comm != "" || r.Op != "" || r.Calls != 5 || !math.IsNaN(r.Bytes) {
				t.Errorf("collective: got %+v", r)
			}
			return nil
		}),
		b.Orders(func(r bundle.OrderRow) error {
			if r.GPUCount != bundle.Absent || !math.IsNaN(r.FabricGbps) || r.StartMs != 0 || r.EndMs != 0 || r.ArrivalMs != 1699990000000 {
				t.Errorf("order: got %+v", r)
			}
			return nil
		}),
		b.Allocations(func(r bundle.AllocationRow) error {
			if r.GPUs != nil || r.EndMs != 0 {
				t.Errorf("allocation: got %+v", r)
			}
			return nil
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	if rep := b.Report(); rep.Bad() != 0 || len(rep.Unlisted) != 0 {
		t.Errorf("report: got %+v", rep)
	}
}

// Each bad row is an issue that names file, line and column; the row behind it is used.
func TestIssues(t *testing.T) {
	read := map[string]func(*bundle.Bundle) error{
		"gpu.csv":         func(b *bundle.Bundle) error { return b.GPU(func(bundle.GPURow) error { return nil }) },
		"host.csv":        func(b *bundle.Bundle) error { return b.Host(func(bundle.HostRow) error { return nil }) },
		"fabric.csv":      func(b *bundle.Bundle) error { return b.Fabric(func(bundle.FabricRow) error { return nil }) },
		"flows.csv":       func(b *bundle.Bundle) error { return b.Flows(func(bundle.FlowRow) error { return nil }) },
		"collectives.csv": func(b *bundle.Bundle) error { return b.Collectives(func(bundle.CollectiveRow) error { return nil }) },
		"processes.csv":   func(b *bundle.Bundle) error { return b.Processes(func(bundle.ProcessRow) error { return nil }) },
		"allocations.csv": func(b *bundle.Bundle) error { return b.Allocations(func(bundle.AllocationRow) error { return nil }) },
		"orders.csv":      func(b *bundle.Bundle) error { return b.Orders(func(bundle.OrderRow) error { return nil }) },
	}
	const gpu = "ts_ms,node,gpu,util_frac,power_w"
	const good = "1700000001000,n1,0,0.5,70"
	for _, c := range []struct{ file, header, bad, good, column, value, problem string }{
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,N/A", good, "power_w", "N/A", "not a number"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,NaN", good, "power_w", "NaN", "not a number"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,0x1p3", good, "power_w", "0x1p3", "not a number"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,1e999", good, "power_w", "1e999", "too large"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,1e30", good, "power_w", "1e30", "too large"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,-1", good, "power_w", "-1", "negative"},
		{"gpu.csv", gpu, "1700000001000,n1,0,87,70", good, "util_frac", "87", "not a fraction"},
		{"gpu.csv", gpu, "1700000001,n1,0,0.5,70", good, "ts_ms", "1700000001", "no plausible time"},
		{"gpu.csv", gpu, "1800000000000,n1,0,0.5,70", good, "ts_ms", "1800000000000", "more than a day after"},
		{"gpu.csv", gpu, "soon,n1,0,0.5,70", good, "ts_ms", "soon", "not an integer"},
		{"gpu.csv", gpu, ",n1,0,0.5,70", good, "ts_ms", "", "empty"},
		{"gpu.csv", gpu, "1700000001000,,0,0.5,70", good, "node", "", "empty"},
		{"gpu.csv", gpu, "1700000001000,n1,-1,0.5,70", good, "gpu", "-1", "negative"},
		{"gpu.csv", gpu, "1700000001000,n1,0.5,0.5,70", good, "gpu", "0.5", "not an integer"},
		{"gpu.csv", gpu, "1700000001000,n1,5000,0.5,70", good, "gpu", "5000", "too large"},
		{"gpu.csv", gpu, "1700000001000,n\xff,0,0.5,70", good, "node", "n?", "not UTF-8"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5", good, "", "", "4 fields"},
		{"gpu.csv", gpu, "1700000001000,n1,0,0.5,70,8", good, "", "", "6 fields"},
		{"gpu.csv", gpu, `1700000001000,"n1,0,0.5,70`, good, "", "", "a quote"},
		{"gpu.csv", gpu, `1700000001000,"n1"x,0,0.5,70`, good, "", "", "a quote"},
		{"gpu.csv", gpu, strings.Repeat("x", 2<<20), good, "", "", "longer than 1 MiB"},
		{"host.csv", "ts_ms,node,cpu_frac", "1700000001000,n1,x", "1700000001000,n1,1", "cpu_frac", "x", "not a number"},
		{"fabric.csv", "ts_ms,node,port,tx_bytes_total", "1700000001000,n1,,1", "1700000001000,n1,p,1", "port", "", "empty"},
		{"flows.csv", "ts_ms,node,peer,tx_bytes", "1700000001000,n1,n2,-5", "1700000001000,n1,n2,5", "tx_bytes", "-5", "negative"},
		{"collectives.csv", "ts_ms,node,pid,gpu,comm,nranks,rank,op,calls,bytes", "1700000001000,n1,1,0,c,-8,0,allreduce,1,1", "1700000001000,n1,1,0,c,8,0,allreduce,1,1", "nranks", "-8", "negative"},
		{"processes.csv", "start_ms,end_ms,node,gpus,pid", "1700000002000,1700000001000,n1,0,1", "1700000001000,1700000001000,n1,0,1", "end_ms", "1700000001000", "ends before it starts"},
		{"processes.csv", "start_ms,end_ms,node,gpus,pid", "1700000001000,,n1,0;1,1", "1700000001000,,n1,0 1,1", "gpus", "0;1", "not a list"},
		{"allocations.csv", "account,node,gpus,start_ms,end_ms", "a,n1,0,1700000002000,1700000001000", "a,n1,0,1700000002000,", "end_ms", "1700000001000", "ends before it starts"},
		{"orders.csv", "order,account,amended_ms,gpu_count,start_ms,end_ms", "o,a,1700000002000,-4,,", "o,a,1700000002000,4,,", "gpu_count", "-4", "negative"},
	} {
		t.Run(c.file+" "+c.problem, func(t *testing.T) {
			b := open(t, memory(map[string]string{c.file: c.header + "\n" + c.bad + "\n" + c.good + "\n"}))
			if err := read[c.file](b); err != nil {
				t.Fatal(err)
			}
			rep := reportOf(t, b, c.file)
			if rep.Rows != 1 || rep.Bad != 1 || len(rep.Issues) != 1 {
				t.Fatalf("got %+v, want one good and one bad row", rep)
			}
			got := rep.Issues[0]
			if got.File != c.file || got.Line != 2 || got.Column != c.column || got.Value != c.value || !strings.Contains(got.Problem, c.problem) {
				t.Errorf("got %+v", got)
			}
			if s := got.String(); !strings.HasPrefix(s, c.file+":2: ") {
				t.Errorf("got %q", s)
			}
		})
	}
}

// An unclosed quote costs its own line, also where a later one closes it by accident.
func TestStrayQuotes(t *testing.T) {
	var text strings.Builder
	text.WriteString("ts_ms,node,gpu\n")
	for i := range 100 {
		node := "n1"
		if i%40 == 7 {
			node = `"n1`
		}
		fmt.Fprintf(&text, "%d,%s,0\n", 1700000001000+i, node)
	}
	b := open(t, memory(map[string]string{"gpu.csv": text.String()}))
	rows := gpuRows(t, b)
	rep := reportOf(t, b, "gpu.csv")
	if len(rows) != 97 || rep.Bad != 3 || rep.Issues[2].Line != 89 || rows[96].Line != 101 {
		t.Errorf("got %d rows, %+v", len(rows), rep)
	}
}

// A quoted field may hold a line end, and the lines behind it keep their numbers.
func TestQuotedLineEnd(t *testing.T) {
	b := open(t, memory(map[string]string{"orders.csv": "order,account,amended_ms,declared_use\no1,a,1700000001000,\"x\ny\"\no2,a,bad,\n"}))
	var uses []string
	if err := b.Orders(func(r bundle.OrderRow) error { uses = append(uses, r.DeclaredUse); return nil }); err != nil {
		t.Fatal(err)
	}
	if rep := reportOf(t, b, "orders.csv"); !slices.Equal(uses, []string{"x\ny"}) || rep.Bad != 1 || rep.Issues[0].Line != 4 {
		t.Errorf("got %q, %+v", uses, rep)
	}
}

// Issues are counted beyond what is listed.
func TestIssuesAreCapped(t *testing.T) {
	b := open(t, memory(map[string]string{"gpu.csv": "ts_ms,node,gpu\n" + strings.Repeat("x,n1,0\n", 500)}))
	gpuRows(t, b)
	gpuRows(t, b) // reading again starts the count afresh
	if rep := reportOf(t, b, "gpu.csv"); rep.Bad != 500 || len(rep.Issues) != bundle.MaxListed || b.Report().Bad() != 500 {
		t.Errorf("got %d issues, %d listed", rep.Bad, len(rep.Issues))
	}
}

// A late row is used, an identical repeat counts once, rows before the start and of
// unlisted nodes are used; arrival is the running maximum of event time.
func TestLegalOddities(t *testing.T) {
	b := open(t, memory(map[string]string{
		"nodes.csv": "node\nn1\n",
		"gpu.csv":   "ts_ms,node,gpu,power_w\n1699999999000,n1,0,1\n1700000005000,n1,0,2\n1700000003000,n1,0,3\n1700000003000,n1,0,3\n1700000006000,n9,0,4\n",
		"flows.csv": "ts_ms,node,peer,tx_bytes\n1700000005000,n1,n2,10\n1700000005000,n1,n2,11\n1700000005000,n1,n2,10\n",
		"allocations.csv": "account,node,gpus,start_ms,end_ms\na,n1,0,1700000009000,\na,n1,1,1700000001000,1700000004000\n" +
			"a,n1,2,1700000001000,1700000012000\n",
	}))
	var arrivals []int64
	for _, r := range gpuRows(t, b) {
		arrivals = append(arrivals, r.ArrivalMs)
	}
	if want := []int64{1699999999000, 1700000005000, 1700000005000, 1700000006000}; !slices.Equal(arrivals, want) {
		t.Errorf("arrivals: got %v, want %v", arrivals, want)
	}
	if rep := reportOf(t, b, "gpu.csv"); rep.Repeats != 1 || rep.Late != 1 || rep.Bad != 0 {
		t.Errorf("gpu.csv: got %+v", rep)
	}
	sum := 0.0
	if err := b.Flows(func(r bundle.FlowRow) error { sum += r.TxBytes; return nil }); err != nil || sum != 21 {
		t.Errorf("flows: got %g, %v, want 21: only identical rows are repeats", sum, err)
	}
	var ends []int64
	if err := b.Allocations(func(r bundle.AllocationRow) error { ends = append(ends, r.EndArrivalMs); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []int64{0, 1700000009000, 1700000012000}; !slices.Equal(ends, want) {
		t.Errorf("ends known: got %v, want %v", ends, want)
	}
	if u := b.Report().Unlisted; !slices.Equal(u, []string{"n9"}) || !b.Lists("n1") || b.Lists("n9") {
		t.Errorf("unlisted: got %v", u)
	}
}

// Of a stream that breaks off, the complete lines are used and the torn one is not, at
// whatever byte it breaks.
func TestTruncatedGzip(t *testing.T) {
	var text strings.Builder
	text.WriteString("ts_ms,node,gpu,power_w\n")
	for i := range 200 {
		fmt.Fprintf(&text, "%d,n1,0,%d\n", 1700000001000+i*1000, 100_000+i)
	}
	whole := packed(t, text.String())
	for cut := range len(whole) {
		b := open(t, memory(map[string]string{"gpu.csv.gz": whole[:cut]}))
		rows := gpuRows(t, b)
		rep := reportOf(t, b, "gpu.csv.gz")
		if rep.Bad != 1 || !strings.Contains(rep.Issues[0].Problem, "truncated") {
			t.Fatalf("cut at %d: got %+v", cut, rep)
		}
		for i, r := range rows {
			if r.Value[bundle.PowerW] != float64(100_000+i) {
				t.Fatalf("cut at %d: row %d is torn: %+v", cut, i, r)
			}
		}
		if line := rep.Issues[0].Line; len(rows) > 0 && line != len(rows)+2 {
			t.Fatalf("cut at %d: line %d behind %d rows", cut, line, len(rows))
		}
	}
	if rows := gpuRows(t, open(t, memory(map[string]string{"gpu.csv.gz": whole}))); len(rows) != 200 {
		t.Errorf("whole: got %d rows", len(rows))
	}
}

func TestDamagedGzip(t *testing.T) {
	whole := []byte(packed(t, "ts_ms,node,gpu\n1700000001000,n1,0\n"))
	whole[len(whole)-6] ^= 1 // the checksum
	b := open(t, memory(map[string]string{"gpu.csv.gz": string(whole)}))
	if rows := gpuRows(t, b); len(rows) != 1 {
		t.Errorf("got %d rows", len(rows))
	}
	if rep := reportOf(t, b, "gpu.csv.gz"); rep.Bad != 1 || !strings.Contains(rep.Issues[0].Problem, "damaged") {
		t.Errorf("got %+v", rep)
	}
	b = open(t, memory(map[string]string{"gpu.csv.gz": "ts_ms,node,gpu\n"}))
	if rows, rep := gpuRows(t, b), reportOf(t, b, "gpu.csv.gz"); len(rows) != 0 || rep.Bad != 1 {
		t.Errorf("plain text as .gz: got %d rows, %+v", len(rows), rep)
	}
}

func TestManifestErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"missing", "", "manifest.json: missing"},
		{"no JSON", "{\n \"format\": \"flopwatch-bundle/1\",\n oops\n}", "manifest.json:3: byte 2: bad JSON"},
		{"wrong type", "{\n\"format\": \"flopwatch-bundle/1\",\n\"start_ms\": \"now\"\n}", "manifest.json:3: column start_ms: a JSON string, wanted an integer"},
		{"format", strings.Replace(manifest, "bundle/1", "bundle/2", 1), `manifest.json:1: column format: wrong format "flopwatch-bundle/2"`},
		{"no cluster", strings.Replace(manifest, `"c"`, `""`, 1), "column cluster"},
		{"no end", strings.Replace(manifest, `"end_ms"`, `"stop_ms"`, 1), "column end_ms"},
		{"reversed", strings.Replace(manifest, "1700036000000", "1600000000000", 1), "ends (1600000000000) before it starts"},
		{"seconds", strings.Replace(manifest, "1700000000000", "1700000000", 1), "column start_ms"},
		{"no limit", strings.Replace(manifest, "{", `{"profiles":[{"name":"p"}],`, 1), "column profiles[0].limit_flops"},
		{"same name", strings.Replace(manifest, "{", `{"profiles":[{"name":"p","limit_flops":1},{"name":"p","limit_flops":1}],`, 1), "named twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := memory(map[string]string{"manifest.json": c.text})
			if c.text == "" {
				delete(fsys, "manifest.json")
			}
			_, err := bundle.OpenFS(fsys, "b")
			var e *bundle.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	b := open(t, memory(map[string]string{"manifest.json": "\ufeff" + strings.Replace(manifest, "{", `{"zeta":1,"profiles":[{"name":"p","limit_flops":1e20,"cluster":{"gbps":300,"ops_per_s":1e16}}],"alpha":[],"special_jurisdictions":["XX"],`, 1)}))
	m := b.Manifest
	if !slices.Equal(m.UnknownKeys, []string{"alpha", "zeta"}) || len(m.Profiles) != 1 || m.Profiles[0].Cluster.Gbps != 300 || !slices.Equal(m.SpecialJurisdictions, []string{"XX"}) {
		t.Errorf("got %+v", m)
	}
	if _, err := bundle.Open(t.TempDir() + "/none"); err == nil {
		t.Error("a missing directory passed")
	}
}

// What cannot be read at all is an error that names the file; the other files still read.
func TestUnreadableFiles(t *testing.T) {
	b := open(t, memory(map[string]string{"gpu.csv": "ts_ms,node,gpu\n", "gpu.csv.gz": packed(t, "ts_ms,node,gpu\n")}))
	err := b.GPU(func(bundle.GPURow) error { return nil })
	var e *bundle.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "gpu.csv: is there twice") {
		t.Errorf("twice: got %v", err)
	}
	fsys := memory(nil)
	fsys["host.csv/x"] = &fstest.MapFile{}
	b = open(t, fsys)
	if err := b.Host(func(bundle.HostRow) error { return nil }); !errors.As(err, &e) || e.File != "host.csv" {
		t.Errorf("a directory: got %v", err)
	}
	failing := failFS{memory(map[string]string{"gpu.csv": "ts_ms,node,gpu\n1700000001000,n1,0\n"})}
	b = open(t, failing)
	if err := b.GPU(func(bundle.GPURow) error { return nil }); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "gpu.csv:") {
		t.Errorf("a failing disk: got %v", err)
	}
	b = open(t, memory(map[string]string{"gpu.csv": "ts_ms,\"node,gpu\n1700000001000,n1,0\n"}))
	if err := b.GPU(func(bundle.GPURow) error { return nil }); !errors.As(err, &e) || !strings.Contains(err.Error(), "gpu.csv:1: the header") {
		t.Errorf("a header that cannot be read: got %v", err)
	}
	b = open(t, memory(map[string]string{"gpu.csv": "1700000000000,n1,0\n1700000001000,n1,0\n"}))
	if rows, rep := gpuRows(t, b), reportOf(t, b, "gpu.csv"); len(rows) != 0 || rep.Issues[0].String() != "gpu.csv:2: column ts_ms: the header lacks this column (wanted Unix time in milliseconds)" {
		t.Errorf("no header: got %+v", rep)
	}
	stop := errors.New("stop")
	b = open(t, memory(map[string]string{"gpu.csv": "ts_ms,node,gpu\n1700000001000,n1,0\n"}))
	if err := b.GPU(func(bundle.GPURow) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("yield's error: got %v", err)
	}
}

// failFS fails with EIO where gpu.csv ends.
type failFS struct{ fstest.MapFS }

func (f failFS) Open(name string) (fs.File, error) {
	file, err := f.MapFS.Open(name)
	if err == nil && name == "gpu.csv" {
		return failFile{file}, nil
	}
	return file, err
}

type failFile struct{ fs.File }

func (f failFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if errors.Is(err, io.EOF) {
		err = &fs.PathError{Op: "read", Path: "gpu.csv", Err: syscall.EIO}
	}
	return n, err
}

// spy records what is opened or asked about.
type spy struct {
	fs.FS
	names map[string]bool
}

func (s spy) Open(name string) (fs.File, error) {
	s.names[name] = true
	return s.FS.Open(name)
}

func (s spy) Stat(name string) (fs.FileInfo, error) {
	s.names[name] = true
	return fs.Stat(s.FS, name)
}

// The product never opens the labels, nor anything else that the format does not name.
func TestLabelsStayClosed(t *testing.T) {
	known := []string{"manifest.json"}
	for _, f := range []string{"nodes.csv", "gpu.csv", "host.csv", "fabric.csv", "flows.csv", "processes.csv", "collectives.csv", "allocations.csv", "orders.csv", "parties.jsonl"} {
		known = append(known, f, f+".gz")
	}
	s := spy{memory(map[string]string{"truth.json": "{}", "truth.json.gz": "", "notes.txt": ""}), map[string]bool{}}
	readAll(t, open(t, s))
	for name := range s.names {
		if !slices.Contains(known, name) {
			t.Errorf("%s was opened", name)
		}
	}
	if len(s.names) != len(known) {
		t.Errorf("asked for %d names, want %d", len(s.names), len(known))
	}
}

// A named pipe in place of a file must not hang the reader.
func TestPipeIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(dir+"/manifest.json", 0o600); err != nil {
		t.Skipf("no named pipes here: %v", err)
	}
	done := make(chan error, 1)
	go func() { _, err := bundle.Open(dir); done <- err }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a pipe passed for a manifest")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("opening hangs")
	}
}
