package threshold

import (
	"math"
	"strings"
	"testing"
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
		{`basis = "model"`, `basis = "executed"`, "counting.basis"}, {`[[profile]]`, `[[profil]]`, "profil"}, {good, "", "profile"},
		{`1e20`, `"much"`, "f.toml"},
	}
	for _, tt := range tests {
		_, err := Parse("f.toml", []byte(strings.Replace(good, tt.from, tt.to, 1)))
		if err == nil || !strings.Contains(err.Error(), "f.toml") || !strings.Contains(err.Error(), tt.field) {
			t.Errorf("%s -> %s: error %v does not name the file and %s", tt.from, tt.to, err, tt.field)
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
