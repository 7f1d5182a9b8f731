package store

import (
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestPartPressure: parts are held to the table's own setting where it has one.
func TestPartPressure(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "parts_pressure"})
	closed(t, s, err)
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	tell := func(sql string) {
		t.Helper()
		if err := s.conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, lo, hi float64) {
		t.Helper()
		if share, err := s.PartPressure(t.Context()); err != nil || share < lo || share > hi {
			t.Errorf("%s: %g, want %g to %g (%v)", what, share, lo, hi, err)
		}
	}
	tell("TRUNCATE TABLE parts_pressure.gaps")
	tell("ALTER TABLE parts_pressure.gaps MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1") // no merges but those asked for
	for i := range uint64(3) {
		if err = s.Insert(t.Context(), TableGaps, "", GapBlock([]GapRow{{Cluster: "c", Node: "n", Spool: "s", FromSequence: i, ToSequence: i, Reason: "bytes"}})); err != nil {
			t.Fatal(err)
		}
	}
	want("3 parts, the server's limit", 0.0001, 0.1)
	tell("ALTER TABLE parts_pressure.gaps MODIFY SETTING parts_to_delay_insert = 4")
	want("3 of 4", 0.75, 0.75)
	tell("OPTIMIZE TABLE parts_pressure.gaps FINAL")
	want("merged: 1 of 4", 0.25, 0.25)
	tell("ALTER TABLE parts_pressure.gaps RESET SETTING parts_to_delay_insert")
	want("the server's limit again", 0.0001, 0.1)
}
