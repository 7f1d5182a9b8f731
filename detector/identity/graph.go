package identity

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// ownerShare is the share from which on an owner is followed, edge by edge
	// (REGULATION.md 1B-6; shares are not multiplied along a chain).
	ownerShare = 0.25
	// maxEdges is how many edges up from the account's holder are followed.
	maxEdges = 5
)

// Resolution is who stands behind an account.
type Resolution struct {
	Holders   []string // ids of the parties that hold the account themselves, sorted
	Parties   []string // ids of all that were reached, sorted; a cited party that is missing is among them
	Known     bool     // a party of the register holds the account
	InScope   bool     // a foreign, unknown or unverified party stands behind it
	Reasons   []string // why it is in scope, sorted; party ids only
	Countries []string // of residence, formation or headquarters of all reached, sorted
	Refused   bool     // verification of somebody reached was refused
	// Unverified are those reached whose verification is not done, sorted; AccessCountries those
	// from which their accounts were reached, where that was derived.
	Unverified, AccessCountries []string
	Resellers                   []Reseller // that somebody reached buys through, sorted
}

// Reseller is one that stands behind an account.
type Reseller struct {
	Party, Status string
	Countries     []string // of its residence, formation or headquarters, sorted
}

// Graph is accounts, parties and the edges between them, from the clear part alone.
type Graph struct {
	party    map[string]Clear
	accounts map[string][]string
}

// NewGraph builds the graph. Of two parties with one id the later counts.
func NewGraph(parties []Clear) *Graph {
	g := &Graph{party: make(map[string]Clear, len(parties)), accounts: map[string][]string{}}
	for i := range parties {
		g.party[parties[i].ID] = parties[i]
	}
	for id, p := range g.party {
		for _, account := range p.Accounts {
			g.accounts[account] = append(g.accounts[account], id)
		}
	}
	for account, holders := range g.accounts {
		g.accounts[account] = sortedUnique(holders)
	}
	return g
}

// FromParties builds the graph from parties in clear.
func FromParties(parties []Party) *Graph {
	clearParts := make([]Clear, 0, len(parties))
	for i := range parties {
		clearParts = append(clearParts, parties[i].Clear(nil))
	}
	return NewGraph(clearParts)
}

// Resolve follows the account to its holder and from there owners (each edge of 25 %
// or more), parents and resellers, five edges up at most. Circles end where they
// close. A share that was not stated is followed, since nothing says that it is small.
func (g *Graph) Resolve(account string) Resolution {
	var res Resolution
	level := g.accounts[account]
	if len(level) == 0 {
		res.InScope = true
		res.Reasons = []string{"no party of the register holds the account"}
		return res
	}
	res.Known, res.Holders = true, level
	reached := map[string]bool{}
	for depth := 0; depth <= maxEdges && len(level) > 0; depth++ {
		var next []string
		for _, id := range level {
			if reached[id] {
				continue
			}
			reached[id] = true
			res.Parties = append(res.Parties, id)
			p, ok := g.party[id]
			if !ok {
				res.Reasons = append(res.Reasons, fmt.Sprintf("%s is cited but not in the register", id))
				continue
			}
			res.Reasons = append(res.Reasons, reasons(p)...)
			res.Refused = res.Refused || p.Status == Refused
			if p.Status != Verified {
				res.Unverified = append(res.Unverified, id)
			}
			res.AccessCountries = append(res.AccessCountries, p.AccessCountries...)
			if p.Reseller != "" {
				res.Resellers = append(res.Resellers, g.reseller(p.Reseller))
			}
			for _, c := range []string{p.Country, p.HeadquartersCountry} {
				if c != "" {
					res.Countries = append(res.Countries, c)
				}
			}
			next = append(next, edges(p)...)
		}
		level = sortedUnique(next)
	}
	slices.Sort(res.Parties)
	res.Reasons = sortedUnique(res.Reasons)
	res.Countries = sortedUnique(res.Countries)
	res.AccessCountries = sortedUnique(res.AccessCountries)
	slices.Sort(res.Unverified)
	slices.SortFunc(res.Resellers, func(a, b Reseller) int { return strings.Compare(a.Party, b.Party) })
	res.Resellers = slices.CompactFunc(res.Resellers, func(a, b Reseller) bool { return a.Party == b.Party })
	res.InScope = len(res.Reasons) > 0
	return res
}

func (g *Graph) reseller(id string) Reseller {
	p := g.party[id]
	out := Reseller{Party: id, Status: p.Status}
	for _, c := range []string{p.Country, p.HeadquartersCountry} {
		if c != "" {
			out.Countries = append(out.Countries, c)
		}
	}
	out.Countries = sortedUnique(out.Countries)
	return out
}

// Accounts lists the accounts of the register, sorted.
func (g *Graph) Accounts() []string {
	out := make([]string, 0, len(g.accounts))
	for account := range g.accounts {
		out = append(out, account)
	}
	slices.Sort(out)
	return out
}

func edges(p Clear) []string {
	var out []string
	for _, o := range p.Owners {
		if o.Share == nil || *o.Share >= ownerShare {
			out = append(out, o.Party)
		}
	}
	if p.Parent != "" {
		out = append(out, p.Parent)
	}
	if p.Reseller != "" {
		out = append(out, p.Reseller)
	}
	return out
}

func reasons(p Clear) []string {
	var out []string
	switch {
	case p.USPerson == nil:
		out = append(out, fmt.Sprintf("whether %s is a U.S. person is not known", p.ID))
	case !*p.USPerson:
		out = append(out, fmt.Sprintf("%s is not a U.S. person", p.ID))
	}
	if p.Status == Refused {
		out = append(out, fmt.Sprintf("verification of %s was refused", p.ID))
	} else if p.Status != Verified {
		out = append(out, fmt.Sprintf("%s is not verified", p.ID))
	}
	return out
}
