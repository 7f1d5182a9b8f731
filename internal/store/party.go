package store

import (
	"context"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// PartyRow is one version of a party, sealed. No field holds a name in clear.
type PartyRow struct {
	PartyID     string
	Version     uint64
	Envelope    string   // the sealed record; empty after shredding
	Status      string   // verified, unverified, refused
	Kind        string   // individual, entity, or empty
	USPerson    *bool    // nil: not known
	Countries   []string // ISO 3166-1 alpha-2
	Edges       string   // owners, parents, resellers by party id, JSON
	VerifiedMs  int64    // 0: it was not
	AvailableMs int64
}

// PartyAccountRow says that a party holds an account.
type PartyAccountRow struct {
	Account, PartyID string
	Version          uint64
	Removed          bool
	AvailableMs      int64
}

// PutParties adds versions of parties.
func (s *Store) PutParties(ctx context.Context, rows []PartyRow) error {
	var w writer
	id, version, envelope, status, kind, edges := w.text("party_id"), w.u64("version"), w.text("envelope"), w.text("status"), w.text("kind"), w.text("edges")
	us := proto.NewColNullable[bool](new(proto.ColBool))
	countries := proto.NewArray[string](new(proto.ColStr))
	verified := proto.NewColNullable[int64](new(proto.ColInt64))
	w.put("us_person", us)
	w.put("countries", countries)
	w.put("verified_ms", verified)
	available := w.int("available_ms")
	for _, r := range rows {
		id.Append(r.PartyID)
		version.Append(r.Version)
		envelope.Append(r.Envelope)
		status.Append(r.Status)
		kind.Append(r.Kind)
		edges.Append(r.Edges)
		if r.USPerson == nil {
			us.Append(proto.Null[bool]())
		} else {
			us.Append(proto.NewNullable(*r.USPerson))
		}
		countries.Append(r.Countries)
		if r.VerifiedMs == 0 {
			verified.Append(proto.Null[int64]())
		} else {
			verified.Append(proto.NewNullable(r.VerifiedMs))
		}
		available.Append(r.AvailableMs)
	}
	return s.Insert(ctx, TableParties, "", &columnsBlock{in: w.in})
}

// PutPartyAccounts adds versions of who holds which account.
func (s *Store) PutPartyAccounts(ctx context.Context, rows []PartyAccountRow) error {
	var w writer
	account, id, version, removed, available := w.text("account"), w.text("party_id"), w.u64("version"), new(proto.ColBool), w.int("available_ms")
	w.put("removed", removed)
	for _, r := range rows {
		account.Append(r.Account)
		id.Append(r.PartyID)
		version.Append(r.Version)
		removed.Append(r.Removed)
		available.Append(r.AvailableMs)
	}
	return s.Insert(ctx, TablePartyAccounts, "", &columnsBlock{in: w.in})
}

// Parties returns the latest version of each party known by availableToMs (0: no bound),
// sorted by id.
func (s *Store) Parties(ctx context.Context, availableToMs int64) ([]PartyRow, error) {
	var sel selection
	id, envelope, status, kind, edges := sel.text("party_id"), sel.text("envelope"), sel.text("status"), sel.text("kind"), sel.text("edges")
	verified, available := sel.optionalInt("verified_ms", 0), sel.int("available_ms")
	version, us := new(proto.ColUInt64), new(proto.ColInt8)
	sel.add("version", "version", version)
	sel.add("us_person_", "ifNull(toInt8(us_person), toInt8(-1))", us)
	countries := proto.NewArray[string](new(proto.ColStr))
	sel.add("countries_", "CAST(countries, 'Array(String)')", countries)
	sql := sel.sql() + " FROM " + s.table(TableParties) + upTo(availableToMs) + " ORDER BY party_id, version DESC LIMIT 1 BY party_id"
	var out []PartyRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := PartyRow{
				PartyID: id.at(i), Version: (*version)[i], Envelope: envelope.at(i), Status: status.at(i), Kind: kind.at(i),
				Countries: append([]string(nil), countries.Row(i)...), Edges: edges.at(i), VerifiedMs: (*verified)[i], AvailableMs: (*available)[i],
			}
			if v := (*us)[i]; v >= 0 {
				is := v == 1
				r.USPerson = &is
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read parties: %w", err)
	}
	return out, nil
}

// PartyAccounts returns who holds which account, by the latest version known by
// availableToMs (0: no bound), sorted by account and party. Removed ones are left out.
func (s *Store) PartyAccounts(ctx context.Context, availableToMs int64) ([]PartyAccountRow, error) {
	var sel selection
	account, id, available := sel.text("account"), sel.text("party_id"), sel.int("available_ms")
	version, removed := new(proto.ColUInt64), new(proto.ColUInt8)
	sel.add("version", "version", version)
	sel.add("removed_", "toUInt8(removed)", removed)
	sql := sel.sql() + " FROM " + s.table(TablePartyAccounts) + upTo(availableToMs) + " ORDER BY account, party_id, version DESC LIMIT 1 BY account, party_id"
	var out []PartyAccountRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			if (*removed)[i] == 0 {
				out = append(out, PartyAccountRow{Account: account.at(i), PartyID: id.at(i), Version: (*version)[i], AvailableMs: (*available)[i]})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read accounts of parties: %w", err)
	}
	return out, nil
}

// PartiesMark changes when parties or their accounts do.
func (s *Store) PartiesMark(ctx context.Context) (string, error) {
	var mark textColumn
	latest := func(table string) string {
		return "(SELECT concat(toString(count()), ' ', toString(max(version)), ' ', toString(max(inserted_at))) FROM " + s.table(table) + ")"
	}
	out := ""
	err := s.native.query(ctx, "SELECT ifNull(concat("+latest(TableParties)+", ', ', "+latest(TablePartyAccounts)+"), '') AS mark", proto.Results{{Name: "mark", Data: &mark}}, func(rows int) error {
		for i := range rows {
			out = mark.at(i)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("look for changes of parties: %w", err)
	}
	return out, nil
}

func upTo(availableToMs int64) string {
	if availableToMs == 0 {
		return ""
	}
	return fmt.Sprintf(" WHERE available_ms <= %d", availableToMs)
}
