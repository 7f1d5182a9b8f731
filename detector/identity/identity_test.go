package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

func us(id string, accounts ...string) Clear {
	return Clear{ID: id, Kind: Entity, USPerson: new(true), Status: Verified, Country: "US", HeadquartersCountry: "US", Accounts: accounts}
}

func foreign(id, country string) Clear {
	return Clear{ID: id, Kind: Individual, USPerson: new(false), Status: Verified, Country: country}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	with := func(c Clear, edit func(*Clear)) Clear { edit(&c); return c }
	chain := func(n int) []Clear {
		out := []Clear{us("p0", "a")}
		for i := range n {
			out[i].Parent = fmt.Sprintf("p%d", i+1)
			out = append(out, us(fmt.Sprintf("p%d", i+1)))
		}
		out[n] = foreign(fmt.Sprintf("p%d", n), "ZZ")
		return out
	}
	tests := []struct {
		name    string
		parties []Clear
		reached string
		inScope bool
		known   bool
		country string
		refused bool
	}{
		{name: "no party", inScope: true},
		{name: "U.S. alone", parties: []Clear{us("p", "a")}, reached: "p", known: true, country: "US"},
		{name: "unknown status", parties: []Clear{with(us("p", "a"), func(c *Clear) { c.USPerson = nil })}, reached: "p", known: true, inScope: true, country: "US"},
		{name: "unverified", parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Status = Unverified })}, reached: "p", known: true, inScope: true, country: "US"},
		{name: "refused", parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Status = Refused })}, reached: "p", known: true, inScope: true, country: "US", refused: true},
		{
			name:    "owner below a quarter is not followed",
			parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Owners = []Owner{{"q", new(0.2499)}} }), foreign("q", "DE")},
			reached: "p", known: true, country: "US",
		},
		{
			name:    "owner of a quarter is followed",
			parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Owners = []Owner{{"q", new(0.25)}} }), foreign("q", "DE")},
			reached: "p q", known: true, inScope: true, country: "DE US",
		},
		{
			name:    "owner of unstated share is followed",
			parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Owners = []Owner{{"q", nil}} }), foreign("q", "DE")},
			reached: "p q", known: true, inScope: true, country: "DE US",
		},
		{
			name: "shares are not multiplied",
			parties: []Clear{
				with(us("p", "a"), func(c *Clear) { c.Owners = []Owner{{"q", new(0.3)}} }),
				with(us("q"), func(c *Clear) { c.Owners = []Owner{{"r", new(0.3)}} }), foreign("r", "FR"),
			},
			reached: "p q r", known: true, inScope: true, country: "FR US",
		},
		{
			name:    "reseller",
			parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Reseller = "q" }), foreign("q", "DE")},
			reached: "p q", known: true, inScope: true, country: "DE US",
		},
		{
			name:    "headquarters",
			parties: []Clear{with(us("p", "a"), func(c *Clear) { c.HeadquartersCountry = "CN" })},
			reached: "p", known: true, country: "CN US",
		},
		{name: "five edges", parties: chain(5), reached: "p0 p1 p2 p3 p4 p5", known: true, inScope: true, country: "US ZZ"},
		{name: "six edges", parties: chain(6), reached: "p0 p1 p2 p3 p4 p5", known: true, country: "US"},
		{
			name: "circle",
			parties: []Clear{
				with(us("p", "a"), func(c *Clear) { c.Parent = "q" }), with(us("q"), func(c *Clear) { c.Owners = []Owner{{"p", new(1.0)}} }),
			},
			reached: "p q", known: true, country: "US",
		},
		{
			name:    "cited but missing",
			parties: []Clear{with(us("p", "a"), func(c *Clear) { c.Parent = "gone" })},
			reached: "gone p", known: true, inScope: true, country: "US",
		},
		{name: "two holders", parties: []Clear{us("p", "a"), us("b", "a")}, reached: "b p", known: true, country: "US"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := NewGraph(tc.parties).Resolve("a")
			if r := strings.Join(got.Parties, " "); r != tc.reached {
				t.Errorf("reached %q, want %q", r, tc.reached)
			}
			if c := strings.Join(got.Countries, " "); c != tc.country {
				t.Errorf("countries %q, want %q", c, tc.country)
			}
			if got.InScope != tc.inScope || got.Known != tc.known || got.Refused != tc.refused {
				t.Errorf("in scope %t known %t refused %t, want %t %t %t", got.InScope, got.Known, got.Refused, tc.inScope, tc.known, tc.refused)
			}
			if got.InScope != (len(got.Reasons) > 0) {
				t.Errorf("in scope %t with reasons %q", got.InScope, got.Reasons)
			}
		})
	}
}

const goodLine = `{"id":"p1","kind":"entity","name":"Ulros Ltd","us_person":null,"country":"gb","headquarters_country":"GB","addresses":["1 Zan Street"],` +
	`"emails":["a@b.example"],"phones":["+1"],"payment":[{"means":"card","source":"Bank","reference":"1"}],"access_ips":[{"ip":"192.0.2.1","at_ms":5}],` +
	`"beneficial_owners":[{"party":"p2","share":0.5}],"parent":null,"reseller":"p3","accounts":["a1"],"verification":{"status":"verified","method":"documentary","at_ms":7,"note":""}}`

func TestImport(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		parties  int
		issues   []string
	}{
		{name: "good", in: goodLine + "\n", parties: 1},
		{name: "byte order mark, blank lines, no end", in: "\xef\xbb\xbf" + goodLine + "\n\n", parties: 1},
		{name: "not an object", in: "[1]\n" + goodLine, parties: 1, issues: []string{"parties.jsonl line 1: not a JSON object"}},
		{name: "cut off", in: goodLine[:80], issues: []string{"parties.jsonl line 1: not valid JSON"}},
		{name: "two objects", in: goodLine + goodLine, issues: []string{"parties.jsonl line 1: something follows the object"}},
		{name: "field twice", in: `{"id":"a","id":"b"}`, issues: []string{"parties.jsonl line 1 field id: stated twice"}},
		{name: "no id", in: strings.Replace(goodLine, `"p1"`, `""`, 1), issues: []string{"parties.jsonl line 1 field id: empty or missing; the line is not used"}},
		{
			name: "bad cells are left absent", parties: 1,
			in: strings.NewReplacer(`"gb"`, `"Ruritania"`, `"share":0.5`, `"share":1.5`, `"us_person":null`, `"us_person":"no"`, `"at_ms":7`, `"at_ms":7.5`).Replace(goodLine),
			issues: []string{
				"parties.jsonl line 1 field us_person: neither true, false nor null; status not known",
				"parties.jsonl line 1 field country: not a two-letter country code; left absent",
				"parties.jsonl line 1 field beneficial_owners[0].share: not a number from 0 to 1; share not known",
				"parties.jsonl line 1 field verification.at_ms: not whole milliseconds; left absent",
			},
		},
		{
			name: "unknown field and no verification", in: `{"id":"p","kind":"entity","odd":1}`, parties: 1,
			issues: []string{"parties.jsonl line 1 field odd: not a field of the format; ignored", "parties.jsonl line 1 field verification: missing; counts as unverified"},
		},
		{
			name: "later version", in: goodLine + "\n" + strings.Replace(goodLine, "null", "true", 1), parties: 1,
			issues: []string{"parties.jsonl line 2 field id: comes again with other content; this later version is used"},
		},
		{name: "identical repeat", in: goodLine + "\n" + goodLine, parties: 1},
		{name: "long line", in: strings.Repeat("x", maxLineBytes+1) + "\n" + goodLine, parties: 1, issues: []string{"parties.jsonl line 1: longer than 1048576 bytes"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			parties, issues := Import(strings.NewReader(tc.in))
			if len(parties) != tc.parties {
				t.Errorf("%d parties, want %d", len(parties), tc.parties)
			}
			var got []string
			for _, i := range issues {
				got = append(got, i.Error())
			}
			if !slices.Equal(got, tc.issues) {
				t.Errorf("issues %q, want %q", got, tc.issues)
			}
		})
	}
	parties, _ := Import(strings.NewReader(goodLine))
	p := parties[0]
	if p.Country != "GB" || p.USPerson != nil || *p.Reseller != "p3" || p.Parent != nil || *p.BeneficialOwners[0].Share != 0.5 || *p.Verification.AtMs != 7 {
		t.Errorf("party %+v", p)
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(goodLine))
	f.Add([]byte("{}\n[]\nnull"))
	f.Add([]byte(`{"id":"a","beneficial_owners":[{"party":"a","share":1e999}],"verification":{"status":1}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		parties, issues := Import(strings.NewReader(string(in)))
		seen := map[string]bool{}
		for i := range parties {
			if parties[i].ID == "" || seen[parties[i].ID] {
				t.Fatalf("party %d has an empty or repeated id", i)
			}
			seen[parties[i].ID] = true
		}
		for _, i := range issues {
			if i.Line < 1 || i.Text == "" {
				t.Fatalf("issue without a place: %+v", i)
			}
		}
		g := FromParties(parties)
		for _, a := range g.Accounts() {
			g.Resolve(a)
		}
	})
}

func keys(t *testing.T) (officer, screening *age.X25519Identity) {
	t.Helper()
	officer, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if screening, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	return officer, screening
}

func TestSealOpenShred(t *testing.T) {
	t.Parallel()
	parties, issues := Import(strings.NewReader(goodLine + "\n" + strings.Replace(goodLine, "p1", "p9", 1)))
	if len(issues) != 0 {
		t.Fatal(issues)
	}
	officer, screening := keys(t)
	to := Recipients{Officers: []age.Recipient{officer.Recipient()}, Screening: screening.Recipient()}
	sealed, err := Seal(parties, to, func(string) string { return "GB" })
	if err != nil {
		t.Fatal(err)
	}
	stored, err := json.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Ulros", "Zan Street", "a@b.example", "192.0.2.1", "Bank"} {
		if strings.Contains(string(stored), secret) {
			t.Errorf("%q stands in clear", secret)
		}
	}
	for _, id := range []age.Identity{officer, screening} {
		p, oerr := Open(sealed[0], id)
		if oerr != nil || p.Name != "Ulros Ltd" {
			t.Errorf("open: %v, %q", oerr, p.Name)
		}
	}
	if got := sealed[0].Clear.AccessCountries; !slices.Equal(got, []string{"GB"}) {
		t.Errorf("access countries %q", got)
	}
	var read []Sealed
	if err = json.Unmarshal(stored, &read); err != nil {
		t.Fatal(err)
	}
	if p, oerr := Open(read[1], officer); oerr != nil || p.ID != "p9" {
		t.Errorf("open what was stored and read again: %v", oerr)
	}
	stranger, _ := keys(t)
	if _, err = Open(sealed[0], stranger); err == nil {
		t.Error("a stranger's key opens the envelope")
	}
	mixed := sealed[0]
	mixed.Body = sealed[1].Body
	if _, err = Open(mixed, officer); err == nil {
		t.Error("one data key opens two parties")
	}
	if sealed[0].Commitment == sealed[1].Commitment {
		t.Error("commitments are equal")
	}
	moved := sealed[0]
	moved.Clear.Country = "US"
	if _, err = Open(moved, officer); !errors.Is(err, ErrTampered) {
		t.Errorf("changed clear part: %v", err)
	}
	sealed[0].Shred()
	if _, err = Open(sealed[0], officer); !errors.Is(err, ErrShredded) {
		t.Errorf("shredded: %v", err)
	}
	if _, err = Seal(parties, Recipients{Officers: to.Officers}, nil); err == nil {
		t.Error("sealed without a screening recipient")
	}
}

// TestSharedBundles compares scope and parties with the labels of the shared recordings.
func TestSharedBundles(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "bundles", "*", "parties.jsonl"))
	if err != nil || len(dirs) == 0 {
		t.Skip("no shared bundles beside the checkout")
	}
	for _, path := range dirs {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			parties, issues := Import(f)
			if len(issues) != 0 {
				t.Fatal(issues)
			}
			text, err := os.ReadFile(filepath.Join(dir, "truth.json"))
			if err != nil {
				t.Fatal(err)
			}
			var truth struct {
				Expect struct {
					Findings []struct {
						Limb              string
						Accounts, Parties []string
					}
				}
			}
			if err = json.Unmarshal(text, &truth); err != nil {
				t.Fatal(err)
			}
			g := FromParties(parties)
			for _, want := range truth.Expect.Findings {
				if len(want.Accounts) == 0 {
					continue
				}
				var got []string
				inScope := false
				for _, a := range want.Accounts {
					r := g.Resolve(a)
					got = append(got, r.Parties...)
					inScope = inScope || r.InScope
				}
				if got = sortedUnique(got); !slices.Equal(got, want.Parties) {
					t.Errorf("%s of %v: parties %v, want %v", want.Limb, want.Accounts, got, want.Parties)
				}
				if !inScope && want.Limb != "red_flag" && want.Limb != "telemetry" {
					t.Errorf("%s of %v: not in scope", want.Limb, want.Accounts)
				}
			}
		})
	}
}
