package drawn

import (
	"fmt"
	"slices"
)

// party is a line of parties.jsonl.
type party struct {
	ID           string       `json:"id"`
	Kind         string       `json:"kind"`
	Name         string       `json:"name"`
	USPerson     *bool        `json:"us_person"`
	Country      string       `json:"country"`
	Headquarters string       `json:"headquarters_country"`
	Addresses    []string     `json:"addresses"`
	Emails       []string     `json:"emails"`
	Phones       []string     `json:"phones"`
	Payment      []any        `json:"payment"`
	AccessIPs    []any        `json:"access_ips"`
	Owners       []share      `json:"beneficial_owners"`
	Parent       *string      `json:"parent"`
	Reseller     *string      `json:"reseller"`
	Accounts     []string     `json:"accounts"`
	Verification verification `json:"verification"`
}

type share struct {
	Party string  `json:"party"`
	Share float64 `json:"share"`
}

type verification struct {
	Status string  `json:"status"`
	Method *string `json:"method"`
	AtMs   int64   `json:"at_ms"`
	Note   string  `json:"note"`
}

func (w *world) party(r *rng, kind, country string, us bool) *party {
	method := "documentary"
	p := &party{
		ID: fmt.Sprintf("pty-%03d", len(w.parties)+1), Kind: kind, USPerson: &us, Country: country, Headquarters: country, Owners: []share{}, Accounts: []string{}, Addresses: []string{},
		Emails: []string{}, Phones: []string{}, Payment: []any{}, AccessIPs: []any{},
		Verification: verification{Status: "verified", Method: &method, AtMs: w.startMs - int64(r.between(10, 400))*86400_000},
	}
	stem := pick(r, "Bra", "Tel", "Mor", "Vin", "Kos", "Ald") + pick(r, "ven", "tor", "lin", "gar", "mes", "rix")
	if kind == "entity" {
		p.Name = stem + " " + pick(r, "Compute", "Data", "Systems", "Labs") + " " + pick(r, "Ltd", "Inc.", "GmbH", "BV", "SA")
	} else {
		p.Name = stem + " " + pick(r, "Orden", "Hale", "Mirek", "Sorel")
	}
	w.parties = append(w.parties, p)
	return p
}

// shapes of ownership, and whether a foreign, unknown or unverified party stands behind.
var shapes = []string{
	"us-person", "us-entity", "us-owned", "us-minority", "us-deep", // out of scope
	"foreign", "foreign-person", "foreign-parent", "foreign-owner", "foreign-layers", "reseller", "unknown-person", "unverified", "refused", "nobody", "jurisdiction",
}

// owner makes the party behind n accounts, and gives the accounts.
func (w *world) owner(shape string, n int) []string {
	r := w.stream(fmt.Sprint("party ", len(w.parties), w.nextAcc))
	accounts := make([]string, n)
	for i := range accounts {
		accounts[i] = fmt.Sprintf("acct-%04d", w.nextAcc)
		w.nextAcc += r.between(1, 7)
	}
	if shape == "" {
		shape = pick(r, shapes...)
		if r.chance(0.5) {
			shape = pick(r, "foreign", "foreign-parent", "foreign-owner")
		}
	}
	abroad := func() string { return pick(r, "DE", "FR", "SG", "KR", "IN", "BR", "NO", "JP") }
	own := func(p *party, o *party, s float64) { p.Owners = append(p.Owners, share{o.ID, s}) }
	var p *party
	switch shape {
	case "nobody":
		return accounts
	case "us-person":
		p = w.party(r, "individual", "US", true)
	case "us-entity":
		p = w.party(r, "entity", "US", true)
	case "us-owned":
		p = w.party(r, "entity", "US", true)
		own(p, w.party(r, "individual", "US", true), r.uniform(0.3, 1))
	case "us-minority": // a foreigner below the edge
		p = w.party(r, "entity", "US", true)
		own(p, w.party(r, "individual", "US", true), 0.7)
		own(p, w.party(r, "entity", abroad(), false), r.uniform(0.02, 0.22))
	case "us-deep": // a foreigner beyond five edges
		p = w.party(r, "entity", "US", true)
		at := p
		for range 5 {
			up := w.party(r, "entity", "US", true)
			own(at, up, r.uniform(0.3, 1))
			at = up
		}
		own(at, w.party(r, "entity", abroad(), false), 0.9)
	case "foreign":
		p = w.party(r, "entity", abroad(), false)
	case "foreign-person":
		p = w.party(r, "individual", abroad(), false)
	case "foreign-parent":
		p = w.party(r, "entity", "US", true)
		id := w.party(r, "entity", abroad(), false).ID
		p.Parent = &id
	case "foreign-owner":
		p = w.party(r, "entity", "US", true)
		own(p, w.party(r, "entity", abroad(), false), r.uniform(0.26, 1))
	case "foreign-layers": // four or five edges up
		p = w.party(r, "entity", "US", true)
		at := p
		for range r.between(3, 4) {
			up := w.party(r, "entity", "US", true)
			if r.chance(0.3) {
				at.Parent = &up.ID
			} else {
				own(at, up, r.uniform(0.26, 0.6))
			}
			at = up
		}
		own(at, w.party(r, "individual", abroad(), false), r.uniform(0.26, 0.9))
	case "reseller":
		p = w.party(r, "entity", "US", true)
		id := w.party(r, "entity", abroad(), false).ID
		p.Reseller = &id
	case "unknown-person":
		p = w.party(r, "entity", "US", true)
		p.USPerson = nil
	case "unverified":
		p = w.party(r, "entity", "US", true)
		p.Verification.Status, p.Verification.Method = "unverified", nil
	case "refused":
		p = w.party(r, "entity", abroad(), false)
		p.Verification.Status, p.Verification.Method, p.Verification.Note = "refused", nil, "documents refused"
	case "jurisdiction":
		c := pick(r, "QX", "QZ", "XZ")
		if w.special == nil {
			w.special = []string{}
		}
		if !slices.Contains(w.special, c) {
			w.special = append(w.special, c)
		}
		p = w.party(r, "entity", abroad(), false)
		if r.chance(0.5) {
			p.Headquarters = c
		} else {
			own(p, w.party(r, "entity", c, false), r.uniform(0.3, 1))
		}
	}
	p.Accounts = accounts
	return accounts
}

// behind is who stands behind accounts: all that are reached, whether a foreign, unknown
// or unverified one is among them, and what about them raises a flag.
func (w *world) behind(accounts []string) (ids []string, inScope bool, flags []string) {
	byID := map[string]*party{}
	for _, p := range w.parties {
		byID[p.ID] = p
	}
	for _, a := range accounts {
		var level []*party
		for _, p := range w.parties {
			if slices.Contains(p.Accounts, a) {
				level = append(level, p)
			}
		}
		inScope = inScope || len(level) == 0
		for depth := 0; depth <= 5 && len(level) > 0; depth++ {
			var next []*party
			for _, p := range level {
				if slices.Contains(ids, p.ID) {
					continue
				}
				ids = append(ids, p.ID)
				inScope = inScope || p.USPerson == nil || !*p.USPerson || p.Verification.Status != "verified"
				if p.Verification.Status == "refused" {
					flags = append(flags, "refused verification")
				}
				if slices.Contains(w.special, p.Country) || slices.Contains(w.special, p.Headquarters) {
					flags = append(flags, "special jurisdiction")
				}
				for _, o := range p.Owners {
					if o.Share >= 0.25 {
						next = append(next, byID[o.Party])
					}
				}
				for _, up := range []*string{p.Parent, p.Reseller} {
					if up != nil {
						next = append(next, byID[*up])
					}
				}
			}
			level = next
		}
	}
	slices.Sort(ids)
	return ids, inScope, flags
}
