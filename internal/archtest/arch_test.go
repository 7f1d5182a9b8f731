package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/flopwatch/flopwatch"

// rooms says which of our packages a room may import. "x/..." is x and all below it; of
// several rows that fit a package, the longest counts.
var rooms = map[string][]string{
	"cmd/...":           {"cmd/flopwatch-agent/...", "agent/...", "collector/...", "detector/...", "internal/...", "deploy/nats"},
	"cmd/flopwatch/...": {"cmd/flopwatch/...", "agent/...", "collector/...", "detector/...", "internal/...", "deploy/nats", "deploy/clickhouse"},

	"deploy":            {}, // files; tests alone
	"deploy/clickhouse": {}, // the roles, as text
	"deploy/nats":       {"internal/wire", "internal/broker", "internal/durable"},

	"agent":              {"agent/...", "internal/wire", "internal/durable", "internal/unit"},
	"agent/source":       {"internal/wire"},
	"agent/host":         {"agent/source", "internal/wire", "internal/unit"},
	"agent/gpu":          {"agent/gpu/frame", "agent/source", "internal/wire", "internal/unit"},
	"agent/gpu/frame":    {},
	"agent/gpu/nvml":     {"agent/gpu/frame"},            // in the child's process
	"agent/gpu/nvmlstub": {},                             // fake GPUs: a driver library of our own
	"agent/exporter":     {"agent/...", "internal/wire"}, // the agent's own health, and its GPUs, for Prometheus
	"agent/fabric":       {"agent/source", "internal/wire", "internal/unit"},
	"agent/job":          {"agent/source", "internal/wire", "internal/unit"},
	"agent/kernel/...":   {"agent/kernel/...", "agent/source", "internal/wire", "internal/unit", "bpf/..."},
	"agent/bmc/...":      {"agent/bmc/...", "agent/source", "internal/wire", "internal/unit"},
	"agent/spool":        {"internal/durable", "internal/unit"}, // holds bytes: knows no version of the wire
	"agent/ship":         {"agent/spool", "internal/wire", "internal/broker"},
	"agent/playback":     {"internal/bundle", "internal/wire", "internal/unit"}, // an instrument that reads a recording
	"bpf/...":            {},
	"collector":          {"collector/batch", "collector/chain", "internal/wire", "internal/broker", "internal/store", "internal/durable", "internal/unit"},
	"collector/batch":    {"internal/wire", "internal/store", "internal/unit"},
	"collector/chain":    {"internal/wire", "internal/store"}, // heads in, faults out; the hourly check
	"detector":           {"detector/...", "internal/store", "internal/unit"},
	"detector/feature":   {"internal/unit"},
	"detector/parallel":  {},
	"detector/run":       {"detector/feature", "detector/parallel", "internal/unit"},
	"detector/workload":  {"detector/feature", "detector/parallel", "detector/run", "internal/unit"},
	"detector/flops":     {"detector/feature", "detector/run", "internal/unit"},
	"detector/forecast":  {"detector/flops", "internal/unit"}, // both read an estimate
	"detector/threshold": {"detector/flops", "internal/unit"},
	"detector/identity":  {"internal/unit", "internal/durable"},
	"detector/report": {"detector/feature", "detector/run", "detector/workload", "detector/flops", "detector/forecast",
		"detector/threshold", "detector/identity", "internal/durable", "internal/unit"},
	"detector/ledger":  {"internal/durable", "internal/unit"},
	"detector/console": {"detector/...", "internal/store", "internal/unit"},

	"internal/unit":               {},
	"internal/durable":            {},
	"internal/daemon":             {},
	"internal/supervise":          {}, // keeps processes running
	"internal/resident":           {}, // keeps a process small
	"internal/wire":               {"internal/wire/wirepb", "internal/unit"},
	"internal/wire/wirepb":        {},
	"internal/broker":             {"internal/wire", "internal/unit"},
	"internal/broker/natsd":       {"internal/durable"}, // the server: not in the agent's process
	"internal/store":              {"internal/unit"},
	"internal/store/embedded/...": {"internal/durable", "internal/unit"},
	"internal/store/benchstore":   {"internal/store", "internal/store/embedded"},                                                                    // measures bytes and queries
	"internal/loadgen":            {"agent", "agent/spool", "agent/ship", "internal/wire", "internal/broker", "internal/durable", "internal/store"}, // agents without hosts
	"internal/sizing":             {},                                                                                                               // arithmetic
	"internal/bundle":             {"internal/unit"},
	"internal/bundle/score":       {"internal/bundle"}, // judges the product, so it shares no code with it
	"internal/archtest":           {},
	"internal/testenv/...":        {"internal/..."},
	"internal/e2e/...":            {"agent/...", "collector/...", "detector/...", "internal/...", "deploy/nats"},
	"internal/chaos/...":          {"internal/chaos", "agent/gpu/nvmlstub", "agent/spool", "internal/store", "internal/wire"}, // breaks the commands' processes from outside
	"internal/benchagent":         {"agent/gpu/nvmlstub", "internal/broker/...", "internal/daemon", "internal/wire"},          // measures the agent's processes from outside
}

// owners says which rooms may import an outside dependency, tests included. One heavy
// dependency, one room.
var owners = map[string][]string{
	"github.com/nats-io/":           {"agent/ship", "collector", "detector", "internal/broker/...", "internal/testenv/...", "internal/e2e/...", "internal/chaos", "internal/benchagent", "internal/loadgen", "deploy/...", "cmd/..."},
	"github.com/ClickHouse/":        {"internal/store/...", "internal/testenv/...", "internal/e2e"},
	"github.com/ebitengine/purego":  {"internal/store/embedded/..."},
	"github.com/NVIDIA/go-nvml":     {"agent/gpu/nvml"},
	"github.com/cilium/ebpf":        {"agent/kernel/...", "bpf/..."},
	"github.com/vishvananda/netl":   {"agent/fabric", "agent/kernel/..."},
	"github.com/bougou/go-ipmi":     {"agent/bmc"},
	"google.golang.org/grpc":        {"agent/job"},
	"k8s.io/":                       {"agent/job"},
	"github.com/stmcginnis/gofish":  {"agent/bmc"},
	"filippo.io/age":                {"detector/identity", "cmd/..."}, // commands read key files
	"github.com/spf13/cobra":        {"cmd/..."},
	"github.com/transparency-dev/":  {"detector/ledger"},
	"google.golang.org/protobuf":    {"internal/wire/..."},
	"github.com/prometheus/client_": {"internal/daemon", "agent/exporter", "cmd/..."},
	module + "/internal/testenv":    {"internal/testenv/..."}, // products; tests are let through below
	module + "/internal/wire/wirep": {"internal/wire"},
}

// pure rooms turn values into values: no clock, no files, no logger, no chance.
var (
	pure        = []string{"detector/feature", "detector/run", "detector/workload", "detector/flops", "detector/threshold", "detector/forecast", "internal/unit", "internal/sizing"}
	pureImports = []string{
		"bytes", "cmp", "container/heap", "crypto/sha256", "embed", "encoding/binary", "encoding/csv", "encoding/hex", "encoding/json", "errors",
		"fmt", "hash/fnv", "io", "iter", "maps", "math", "math/bits", "math/cmplx", "path", "regexp",
		"slices", "sort", "strconv", "strings", "sync", "time", "unicode", "unicode/utf8", "github.com/BurntSushi/toml",
	}
	clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
)

type pkg struct {
	ImportPath, Dir, Doc, Name         string
	GoFiles, CgoFiles                  []string
	Imports, TestImports, XTestImports []string
	Error                              *struct{ Err string }
}

func (p pkg) room() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// fits reports whether a room is one of the patterns, and by how long a pattern.
func fits(room string, patterns ...string) (length int, ok bool) {
	for _, p := range patterns {
		base, deep := strings.CutSuffix(p, "/...")
		if room == base || deep && strings.HasPrefix(room, base+"/") {
			length, ok = max(length, len(base)+1), true
		}
	}
	return length, ok
}

// row finds a room's row in the table.
func row(room string) (allowed []string, ok bool) {
	best := -1
	for pattern, a := range rooms {
		if n, fit := fits(room, pattern); fit && n > best {
			best, allowed, ok = n, a, true
		}
	}
	return allowed, ok
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,Doc,Name,GoFiles,CgoFiles,Imports,TestImports,XTestImports,Error", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

func TestImportDirections(t *testing.T) {
	for _, p := range packages(t) {
		room := p.room()
		allowed, ok := row(room)
		if !ok {
			t.Errorf("%s has no row in the table of rooms", room)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if _, ok := fits(to, allowed...); !ok {
				t.Errorf("%s must not import %s", room, to)
			}
		}
	}
}

func TestOwnersOfDependencies(t *testing.T) {
	for _, p := range packages(t) {
		for prefix, own := range owners {
			imports := p.Imports
			if !strings.HasPrefix(prefix, module) {
				imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
			}
			for _, imp := range imports {
				if _, ok := fits(p.room(), own...); !ok && strings.HasPrefix(imp, prefix) {
					t.Errorf("%s must not import %s: only %v may", p.room(), imp, own)
				}
			}
		}
	}
}

// What runs on GPU hosts is small because of what it does not link.
func TestTheAgentIsSmall(t *testing.T) {
	byPath := map[string]pkg{}
	for _, p := range packages(t) {
		byPath[p.ImportPath] = p
	}
	heavy := []string{"github.com/nats-io/nats-server", "github.com/ClickHouse/", "github.com/ebitengine/purego", "net/http/pprof", module + "/internal/store"}
	for _, from := range []string{"flopwatch-agent", "flopwatch-nvml"} {
		linked := []string{module + "/cmd/" + from}
		for i := 0; i < len(linked); i++ {
			for _, imp := range byPath[linked[i]].Imports {
				if slices.ContainsFunc(heavy, func(h string) bool { return strings.HasPrefix(imp, h) }) {
					t.Errorf("%s must not link %s, which %s imports", from, imp, linked[i])
				}
				if strings.HasPrefix(imp, module) && !slices.Contains(linked, imp) {
					linked = append(linked, imp)
				}
			}
		}
		if len(linked) < 3 {
			t.Errorf("%s links %v only", from, linked)
		}
	}
}

func TestPureRooms(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.room()) {
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module+"/") && !slices.Contains(pureImports, imp) {
				t.Errorf("%s is pure and must not import %s", p.room(), imp)
			}
		}
		visit(t, p, func(file *token.FileSet, n ast.Node) {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, sel.Sel.Name) {
					t.Errorf("%s: %s is pure: no time.%s", file.Position(n.Pos()), p.room(), sel.Sel.Name)
				}
			}
		})
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if len(p.GoFiles)+len(p.CgoFiles) > 0 && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment is %q, wanted one that begins with %q", p.room(), p.Doc, want)
		}
	}
}

// Only the scorer and tests may name the file of labels.
func TestLabelsAreNamedByTheScorerAlone(t *testing.T) {
	const labels = "truth" + ".json"
	for _, p := range packages(t) {
		// Test machinery writes labels; no product may import it, which its row in the table holds.
		if p.room() == "internal/bundle/score" || strings.HasPrefix(p.room(), "internal/testenv/") {
			continue
		}
		visit(t, p, func(file *token.FileSet, n ast.Node) {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return
			}
			if s, err := strconv.Unquote(lit.Value); err == nil && strings.Contains(s, labels) {
				t.Errorf("%s: %s names %s", file.Position(n.Pos()), p.room(), labels)
			}
		})
	}
}

// visit walks the product files of a package.
func visit(t *testing.T, p pkg, f func(*token.FileSet, ast.Node)) {
	t.Helper()
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Errorf("parse: %v", err)
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			f(set, n)
			return true
		})
	}
}

// The table itself: the directions that matter most, so that a careless row fails here.
func TestTheTable(t *testing.T) {
	for _, c := range []struct{ from, to string }{
		{"agent", "detector"}, {"agent", "collector"}, {"agent", "internal/store"}, {"agent/ship", "internal/store"},
		{"collector", "agent"}, {"collector", "detector"}, {"detector", "agent"}, {"detector", "collector"}, {"detector", "internal/wire"},
		{"agent/spool", "internal/wire"}, {"internal/wire", "internal/store"}, {"internal/store", "internal/wire"},
		{"detector/flops", "detector/identity"}, {"detector/run", "detector/flops"}, {"detector/identity", "detector/report"},
		{"internal/bundle", "internal/bundle/score"}, {"internal/bundle/score", "detector/report"}, {"detector", "internal/testenv"},
	} {
		allowed, ok := row(c.from)
		if !ok {
			t.Errorf("%s has no row", c.from)
		}
		if _, ok := fits(c.to, allowed...); ok {
			t.Errorf("the table lets %s import %s", c.from, c.to)
		}
	}
}
