package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// PartyRow is one line of parties.jsonl: a person or entity of the identification
// program. Everything in it is personal data: it goes to detector/identity alone.
type PartyRow struct {
	Line                int               `json:"-"`
	ID                  string            `json:"id"`
	Kind                string            `json:"kind"` // individual, entity
	Name                string            `json:"name"`
	USPerson            *bool             `json:"us_person"` // nil: unknown
	Country             string            `json:"country"`   // ISO 3166-1 alpha-2, of residence or formation
	HeadquartersCountry string            `json:"headquarters_country"`
	Addresses           []string          `json:"addresses"`
	Emails              []string          `json:"emails"`
	Phones              []string          `json:"phones"`
	Payment             []Payment         `json:"payment"`
	AccessIPs           []Access          `json:"access_ips"`
	BeneficialOwners    []BeneficialOwner `json:"beneficial_owners"`
	Parent              *string           `json:"parent"`
	Reseller            *string           `json:"reseller"` // party of the reseller it buys through
	Accounts            []string          `json:"accounts"`
	Verification        *Verification     `json:"verification"` // nil: not stated
}

// Payment is a means of payment.
type Payment struct {
	Means     string `json:"means"`
	Source    string `json:"source"`
	Reference string `json:"reference"`
}

// Access is an address from which a party came, and when.
type Access struct {
	IP   string `json:"ip"`
	AtMs int64  `json:"at_ms"`
}

// BeneficialOwner is an edge to an owner. Share is 0 to 1; nil: not stated.
type BeneficialOwner struct {
	Party string   `json:"party"`
	Share *float64 `json:"share"`
}

// Verification says how far the party's identity was verified.
type Verification struct {
	Status string `json:"status"` // verified, unverified, refused
	Method string `json:"method"` // documentary, non-documentary; empty: none
	AtMs   *int64 `json:"at_ms"`
	Note   string `json:"note"`
}

// Parties gives the lines of parties.jsonl, as the readers of the CSV files do.
func (b *Bundle) Parties(yield func(PartyRow) error) error {
	src, rep, err := b.open(partiesFile)
	if err != nil || src == nil {
		return err
	}
	defer src.close()
	in := newLineReader(src)
	var seen window
	for {
		text, err := in.next()
		if errors.Is(err, errLong) {
			rep.add(Issue{File: rep.File, Line: in.line, Problem: err.Error(), Wanted: "one JSON object a line"})
			continue
		}
		if err != nil {
			return src.end(err, in.line, rep)
		}
		text = bytes.TrimSpace(text)
		if len(text) == 0 {
			continue
		}
		row, bad := parseParty(text)
		if bad != nil {
			bad.File, bad.Line = rep.File, in.line
			rep.add(*bad)
			continue
		}
		if !seen.add(digest([][]byte{text})) {
			rep.Repeats++
			continue
		}
		row.Line = in.line
		rep.Rows++
		if err := yield(row); err != nil {
			return err
		}
	}
}

// parseParty reads one line. An Issue never quotes the line: it is personal data.
func parseParty(text []byte) (PartyRow, *Issue) {
	var r PartyRow
	if err := json.Unmarshal(text, &r); err != nil {
		_, column := jsonPlace(text, err)
		if typed, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return r, &Issue{Column: column, Problem: "a JSON " + typed.Value, Wanted: typed.Type.String()}
		}
		return r, &Issue{Column: column, Problem: "bad JSON", Wanted: "one JSON object a line"}
	}
	if r.ID == "" {
		return r, &Issue{Column: "id", Problem: "empty", Wanted: "a party id"}
	}
	for i, o := range r.BeneficialOwners {
		column := fmt.Sprintf("beneficial_owners[%d]", i)
		if o.Party == "" {
			return r, &Issue{Column: column + ".party", Problem: "empty", Wanted: "a party id"}
		}
		if o.Share != nil && !(*o.Share >= 0 && *o.Share <= 1) {
			return r, &Issue{Column: column + ".share", Problem: fmt.Sprintf("%g", *o.Share), Wanted: "0 to 1"}
		}
	}
	return r, nil
}
