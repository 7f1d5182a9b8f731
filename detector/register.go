package detector

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/internal/store"
)

// Register is where sealed parties are kept.
type Register interface {
	PutParties(ctx context.Context, rows []store.PartyRow) error
	PutPartyAccounts(ctx context.Context, rows []store.PartyAccountRow) error
	Parties(ctx context.Context, availableToMs int64) ([]store.PartyRow, error)
	PartyAccounts(ctx context.Context, availableToMs int64) ([]store.PartyAccountRow, error)
}

// ImportParties reads a register (one JSON object a line), seals every party at the door
// and stores the envelopes as versions that hold from availableMs on. Lines that cannot
// be used are left out and listed. It returns how many parties were stored.
func ImportParties(ctx context.Context, to Register, r io.Reader, recipients identity.Recipients, availableMs int64) (int, []identity.Issue, error) {
	parties, issues := identity.Import(r)
	sealed, err := identity.Seal(parties, recipients, nil)
	if err != nil {
		return 0, issues, err
	}
	rows := make([]store.PartyRow, 0, len(sealed))
	var accounts []store.PartyAccountRow
	for i := range sealed {
		c := &sealed[i].Clear
		envelope, err := json.Marshal(sealed[i])
		if err != nil {
			return 0, issues, fmt.Errorf("encode envelope of party %s: %w", c.ID, err)
		}
		leads, err := json.Marshal(edges{c.Owners, c.Parent, c.Reseller, c.Country, c.HeadquartersCountry})
		if err != nil {
			return 0, issues, fmt.Errorf("encode edges of party %s: %w", c.ID, err)
		}
		countries := slices.DeleteFunc([]string{c.Country, c.HeadquartersCountry}, func(s string) bool { return s == "" })
		slices.Sort(countries)
		version := uint64(max(availableMs, 0))
		rows = append(rows, store.PartyRow{
			PartyID: c.ID, Version: version, Envelope: string(envelope), Status: c.Status, Kind: c.Kind, USPerson: c.USPerson,
			Countries: slices.Compact(countries), Edges: string(leads), AvailableMs: availableMs,
		})
		for _, account := range c.Accounts {
			accounts = append(accounts, store.PartyAccountRow{Account: account, PartyID: c.ID, Version: version, AvailableMs: availableMs})
		}
	}
	if len(rows) == 0 {
		return 0, issues, nil
	}
	if err := to.PutParties(ctx, rows); err != nil {
		return 0, issues, fmt.Errorf("store sealed parties: %w", err)
	}
	if err := to.PutPartyAccounts(ctx, accounts); err != nil {
		return 0, issues, fmt.Errorf("store accounts of parties: %w", err)
	}
	return len(rows), issues, nil
}

// LoadParties builds the graph of parties from what is stored in clear. No key is needed,
// no envelope is read, and a party whose envelope was shredded stays what it was to the
// rules: its status, countries and edges.
func LoadParties(ctx context.Context, from Register) (*identity.Graph, error) {
	rows, err := from.Parties(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("read sealed parties: %w", err)
	}
	held, err := from.PartyAccounts(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("read accounts of parties: %w", err)
	}
	accounts := map[string][]string{} // by party
	for _, h := range held {
		if !h.Removed {
			accounts[h.PartyID] = append(accounts[h.PartyID], h.Account)
		}
	}
	parts := make([]identity.Clear, 0, len(rows))
	for _, r := range rows {
		var e edges
		if err := json.Unmarshal([]byte(r.Edges), &e); err != nil {
			return nil, fmt.Errorf("read edges of party %s: %w", r.PartyID, err)
		}
		parts = append(parts, identity.Clear{
			ID: r.PartyID, Kind: r.Kind, USPerson: r.USPerson, Status: r.Status, Country: e.Country, HeadquartersCountry: e.HeadquartersCountry,
			Owners: e.Owners, Parent: e.Parent, Reseller: e.Reseller, Accounts: accounts[r.PartyID],
		})
	}
	return identity.NewGraph(parts), nil
}

// edges is what leads from a party to others, and to countries, as it is stored.
type edges struct {
	Owners              []identity.Owner `json:"owners"`
	Parent              string           `json:"parent"`
	Reseller            string           `json:"reseller"`
	Country             string           `json:"country"`
	HeadquartersCountry string           `json:"headquarters_country"`
}
