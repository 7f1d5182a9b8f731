package threshold

import (
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func ms(date string) int64 {
	v, err := dateMs(date)
	if err != nil {
		panic(err)
	}
	return v
}

func builtins(t *testing.T) map[string]Profile {
	t.Helper()
	ps, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Profile{}
	for _, p := range ps {
		out[p.Name] = p
		if !strings.Contains(p.Note, Note) || p.Source == "" {
			t.Errorf("%s: note %q, source %q", p.Name, p.Note, p.Source)
		}
	}
	return out
}

func TestBuiltin(t *testing.T) {
	t.Parallel()
	all := builtins(t)
	now := ms("2026-11-21")
	tests := []struct {
		name    string
		limit   float64
		inForce bool
		gbps    float64
	}{
		{"us-nprm-iaas-2024", 1e26, false, 100}, {"us-eo14110-iaas", 1e26, false, 100}, {"us-eo14110-biology", 1e23, false, 0},
		{"us-bis-2024-reporting", 1e26, false, 300}, {"us-ai-diffusion-4e091", 1e26, false, 0}, {"eu-ai-act-51", 1e25, true, 0},
		{"eu-gpai-17", 1e23, true, 0}, {"eu-gpai-modifier", 1e23 / 3, true, 0}, {"us-ca-sb53", 1e26, true, 0},
		{"us-ny-raise", 1e26, false, 0}, {"us-ca-sb1047-derivative", 3e25, false, 0}, {"us-eo14409", 0, true, 0},
	}
	for _, tt := range tests {
		p, ok := all[tt.name]
		if !ok || math.Abs(p.LimitFLOPs-tt.limit) > 1e-9*tt.limit || (p.StatusAt(now) == InForce) != tt.inForce {
			t.Errorf("%s: found %v, limit %g, status %s", tt.name, ok, p.LimitFLOPs, p.StatusAt(now))
		}
		if tt.gbps > 0 && (p.Cluster == nil || p.Cluster.Gbps != tt.gbps || p.Cluster.OpsPerS != 1e20) {
			t.Errorf("%s: cluster %+v", tt.name, p.Cluster)
		}
	}
}

// TestStatusAt: a rule is in force between its dates alone, and one that has been revoked
// makes nothing due any more, whenever it was known.
func TestStatusAt(t *testing.T) {
	t.Parallel()
	all := builtins(t)
	tests := []struct{ name, date, want string }{
		{"us-ny-raise", "2026-12-31", NotYetInForce}, {"us-ny-raise", "2027-01-01", InForce},
		{"eu-ai-act-51", "2024-05-09", NotYetInForce}, {"eu-ai-act-51", "2026-11-21", InForce},
		{"us-eo14110-iaas", "2024-06-01", Revoked}, {"us-eo14110-iaas", "2026-11-21", Revoked},
		{"us-nprm-iaas-2024", "2026-11-21", Proposed},
	}
	for _, tt := range tests {
		p := all[tt.name]
		if got := p.StatusAt(ms(tt.date)); got != tt.want {
			t.Errorf("%s on %s: %s, want %s", tt.name, tt.date, got, tt.want)
		}
	}
	ended := Profile{Status: InForce, ValidFrom: "2025-01-01", ValidTo: "2026-01-01"}
	if got := ended.StatusAt(ms("2026-01-01")); got != NoLongerInForce {
		t.Errorf("after its last day: %s, want %s", got, NoLongerInForce)
	}
}

// Nobody is told that a filing is due under a rule that is not in force or binds another.
func TestNothingIsDueToday(t *testing.T) {
	t.Parallel()
	for name, p := range builtins(t) {
		if p.BindsOperator && p.StatusAt(ms("2026-11-21")) == InForce && p.DeadlineDays > 0 {
			t.Errorf("%s: a filing is called due", name)
		}
	}
}

func TestFromManifest(t *testing.T) {
	t.Parallel()
	ps, err := FromManifest([]CustomLimit{{Name: "b", LimitFLOPs: 1e20, Cluster: &Cluster{Gbps: 300, OpsPerS: 1e16}}, {Name: "a", LimitFLOPs: 5e18}})
	if err != nil || len(ps) != 2 || ps[0].Name != "a" || ps[1].Cluster.Joined != Alone || !ps[1].Cluster.Colocated {
		t.Fatalf("%+v, %v", ps, err)
	}
	if ps[0].StatusAt(0) != Custom || ps[0].BindsOperator || ps[0].DeadlineDays != 15 {
		t.Errorf("custom deadline: %+v", ps[0])
	}
	one, err := Digest(ps)
	if err != nil || len(one) != 64 {
		t.Errorf("digest %q, %v", one, err)
	}
	ps[0].LimitFLOPs++
	ps[0].LimitFLOPs *= 2
	if two, _ := Digest(ps); two == one {
		t.Error("another limit, the same digest")
	}
	for _, bad := range [][]CustomLimit{
		{{Name: "", LimitFLOPs: 1}}, {{Name: "x", LimitFLOPs: -1}}, {{Name: "x", LimitFLOPs: math.NaN()}}, {{Name: "x"}},
		{{Name: "x", LimitFLOPs: 1}, {Name: "x", LimitFLOPs: 2}}, {{Name: "x", LimitFLOPs: 1, Cluster: &Cluster{Gbps: -1, OpsPerS: 1}}},
		{{Name: "x", LimitFLOPs: 1, Cluster: &Cluster{Gbps: 1}}},
	} {
		if _, err := FromManifest(bad); err == nil {
			t.Errorf("took %+v", bad)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := `[[profile]]
name = "x"
version = "1"
status = "in_force"
obligated_party = "provider"
source = "a law"
limit_flops = 1e20
comparison = "greater"
valid_from = "2026-01-01"
counting = { basis = "model" }
`
	if ps, err := Parse("f.toml", []byte(good)); err != nil || len(ps) != 1 {
		t.Fatalf("%v, %v", ps, err)
	}
	tests := []struct{ from, to, field string }{
		{`"in_force"`, `"maybe"`, "status"}, {`"provider"`, `"everyone"`, "obligated_party"}, {`"a law"`, `""`, "source"},
		{`1e20`, `-1e20`, "limit_flops"}, {`"greater"`, `"at least"`, "comparison"}, {`2026-01-01`, `1.1.2026`, "valid_from"},
		{`name = "x"`, `name = "x y"`, "name"}, {`version = "1"`, "version = \"1\"\nlimit_flop = 3", "limit_flop"},
		{`"in_force"`, `"revoked"`, "valid_to"}, {`version = "1"`, "version = \"1\"\ndeadline_days = 3", "deadline_event"},
		{`basis = "model"`, `basis = "measured"`, "counting.basis"}, {`[[profile]]`, `[[profil]]`, "profil"}, {good, "", "profile"},
		{`1e20`, `"much"`, "line 7"}, {`"greater"`, `"least"`, "line 8"}, {`basis = "model"`, `basis = "model", fine_tuning = "cumulative before deployment"`, "counting.fine_tuning"},
		{`basis = "model"`, `basis = "model", synthetic_data = "yes"`, "counting.synthetic_data"}, {`basis = "model"`, `basis = "model", aggregation = "firm"`, "run, lineage, party, owner"},
		{`basis = "model"`, `basis = "model", window_days = 365`, "counting.window_days"}, {`basis = "model"`, `basis = "model", precision = "fp8"`, "line 10"},
		{`basis = "model"`, `basis = "model", original_share = 2`, "counting.original_share"}, {"\n", "\n[profile.projection]\nmargin = 0.5\n", "line 13: profile 1 (x): field projection.margin"},
		{"\n", "\n[profile.projection]\nutilization = 1.5\n", "projection.utilization"}, {"\n", "\n[profile.projection]\nmargins = 2\n", "line 13: unknown field projection.margins"},
		{"\n", "\n[profile.cluster]\ngbps = 100\nops_per_s = 1e16\njoined = \"alone\"\nprecision = \"fp16\"\n", "line 16: profile 1 (x): field cluster.precision"},
		{"\n", "\n[[profile.original]]\nflops = 1e24\nsource = \"the customer\"\n", "nothing uses it"}, {"\n", "\n" + good, "another profile has it"},
		{`1e20`, "1e20\ninquire_probability = 0.9", "inquire_probability"},
	}
	for _, tt := range tests {
		text := strings.Replace(good, tt.from, tt.to, 1)
		if tt.from == "\n" { // at the end
			text = good + tt.to
		}
		_, err := Parse("f.toml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), "f.toml") || !strings.Contains(err.Error(), tt.field) {
			t.Errorf("%s -> %s: error %v does not name the file and %s", tt.from, tt.to, err, tt.field)
		}
	}
}

// TestTable2 holds every row of REGULATION.md's table 2 against the data.
func TestTable2(t *testing.T) {
	t.Parallel()
	all := builtins(t)
	rows := []struct {
		row              int
		name             string
		limit            float64
		comparison       string
		status, from, to string
		party            string
		fine, synthetic  string
		aggregation      string
		gbps             float64
		joined, sparsity string
		colocated        bool
		days             float64
	}{
		{1, "us-eo14110-developer", 1e26, Greater, Revoked, "2023-10-30", "2025-01-20", Developer, Silent, Silent, ByRun, 0, "", "", false, 0},
		{1, "us-eo14110-biology", 1e23, Greater, Revoked, "2023-10-30", "2025-01-20", Developer, Silent, Silent, ByRun, 0, "", "", false, 0},
		{2, "us-eo14110-iaas", 1e26, Greater, Revoked, "2023-10-30", "2025-01-20", Provider, Silent, Silent, ByRun, 100, And, NotStated, true, 0},
		{2, "us-nprm-iaas-2024", 1e26, Greater, Proposed, "", "", Provider, Silent, Silent, ByRun, 100, And, NotStated, true, 15},
		{3, "us-eo14110-cluster", 0, "", Revoked, "2023-10-30", "2025-01-20", ClusterOwner, Silent, Silent, ByRun, 100, Alone, NotStated, true, 0},
		{4, "us-bis-2024-reporting", 1e26, Greater, Proposed, "", "", Developer, Counted, Silent, ByRun, 300, Alone, Dense, false, 0},
		{5, "us-ai-diffusion-4e091", 1e26, Greater, NotEnforced, "2025-01-15", "", Exporter, Silent, Silent, ByRun, 0, "", "", false, 0},
		{6, "eu-ai-act-51", 1e25, Greater, InForce, "2025-08-02", "", Developer, Cumulative, Included, ByLineage, 0, "", "", false, 14},
		{7, "eu-gpai-17", 1e23, Greater, InForce, "2025-08-02", "", Developer, Counted, Excluded, ByRun, 0, "", "", false, 0},
		{8, "eu-gpai-modifier-systemic", 1e25 / 3, Greater, InForce, "2025-08-02", "", Modifier, AloneOnly, Silent, ByRun, 0, "", "", false, 0},
		{8, "eu-gpai-modifier", 1e23 / 3, Greater, InForce, "2025-08-02", "", Modifier, AloneOnly, Silent, ByRun, 0, "", "", false, 0},
		{9, "us-ca-sb53", 1e26, Greater, InForce, "2026-01-01", "", Developer, Cumulative, Silent, ByLineage, 0, "", "", false, 0},
		{10, "us-ny-raise", 1e26, Greater, Enacted, "2027-01-01", "", Developer, Cumulative, Silent, ByLineage, 0, "", "", false, 0},
		{11, "us-ca-sb1047", 1e26, Greater, NotEnacted, "", "", Developer, Excluded, Silent, ByRun, 0, "", "", false, 0},
		{11, "us-ca-sb1047-derivative", 3e25, AtLeast, NotEnacted, "", "", Developer, AloneOnly, Silent, ByRun, 0, "", "", false, 0},
		{12, "us-eo14409", 0, "", InForce, "2026-06-02", "", Developer, Silent, Silent, ByRun, 0, "", "", false, 0},
		{13, "us-remote-access-security-act", 0, "", Proposed, "", "", Provider, Silent, Silent, ByRun, 0, "", "", false, 0},
		{14, "us-bis-statement-2025", 0, "", InForce, "2025-05-13", "", Exporter, Silent, Silent, ByRun, 0, "", "", false, 0},
		{15, "us-s2938", 1e26, Greater, Proposed, "", "", Developer, Silent, Silent, ByRun, 0, "", "", false, 0},
	}
	seen := map[string]bool{}
	for _, w := range rows {
		p, ok := all[w.name]
		seen[w.name] = true
		c := p.Counting
		if !ok || math.Abs(p.LimitFLOPs-w.limit) > 1e-9*w.limit || p.Comparison != w.comparison || p.Status != w.status || p.ValidFrom != w.from || p.ValidTo != w.to ||
			p.ObligatedParty != w.party || c.FineTuning != w.fine || c.SyntheticData != w.synthetic || c.Aggregation != w.aggregation || p.DeadlineDays != w.days {
			t.Errorf("row %d, %s: %+v", w.row, w.name, p)
		}
		if w.limit > 0 && c.Basis != Model {
			t.Errorf("row %d, %s: basis %q", w.row, w.name, c.Basis)
		}
		if (p.Cluster != nil) != (w.gbps > 0) {
			t.Errorf("row %d, %s: cluster %+v", w.row, w.name, p.Cluster)
		} else if cl := p.Cluster; cl != nil && (cl.Gbps != w.gbps || cl.OpsPerS != 1e20 || cl.Joined != w.joined || cl.Sparsity != w.sparsity || cl.Colocated != w.colocated || cl.Precision != NotStated) {
			t.Errorf("row %d, %s: cluster %+v", w.row, w.name, cl)
		}
		if share := c.OriginalShare; (w.row == 8) != (math.Abs(share-1.0/3) < 1e-12) {
			t.Errorf("row %d, %s: share of the original %v", w.row, w.name, share)
		}
		if p.Projection != DefaultProjection() || p.InquireProbability != DefaultInquire {
			t.Errorf("row %d, %s: projection %+v, inquire %v", w.row, w.name, p.Projection, p.InquireProbability)
		}
	}
	for name := range all {
		if !seen[name] {
			t.Errorf("%s is no row of the table", name)
		}
	}
}

// TestWritten: profiles that the product writes, as for a recording, are read back as they were.
func TestWritten(t *testing.T) {
	t.Parallel()
	for name, p := range builtins(t) {
		p.Note = ""
		var b strings.Builder
		if err := toml.NewEncoder(&b).Encode(struct {
			Profile []Profile `toml:"profile"`
		}{[]Profile{p}}); err != nil {
			t.Fatal(err)
		}
		back, err := Parse(name, []byte(b.String()))
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		one, _ := Digest([]Profile{p})
		back[0].Note = ""
		if two, _ := Digest(back); one != two {
			t.Errorf("%s: %+v, read back %+v", name, p, back[0])
		}
	}
}

// TestExample: the file that explains profiles is one, and states every field.
func TestExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/config/profiles.toml")
	if err != nil {
		t.Fatal(err)
	}
	ps, err := Parse("profiles.toml", text)
	if err != nil || len(ps) != 1 || ps[0].Projection != DefaultProjection() || ps[0].InquireProbability != DefaultInquire {
		t.Fatalf("%+v, %v", ps, err)
	}
	var whole struct {
		Profile []Profile `toml:"profile"`
	}
	meta, err := toml.Decode(string(text), &whole)
	if err != nil {
		t.Fatal(err)
	}
	stated := map[string]bool{}
	for _, k := range meta.Keys() {
		stated[k.String()] = true
	}
	for table, of := range map[string]any{"profile": Profile{}, "profile.counting": Counting{}, "profile.original": Original{}, "profile.projection": Projection{}, "profile.cluster": Cluster{}} {
		for field := range reflect.TypeOf(of).Fields() {
			if key := table + "." + field.Tag.Get("toml"); !stated[key] && key != "profile.counting.note" {
				t.Errorf("%s is not explained", key)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("[[profile]]\nname = \"x\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ps, err := Parse("f", text)
		if err == nil && len(ps) == 0 {
			t.Error("no profile and no error")
		}
	})
}
