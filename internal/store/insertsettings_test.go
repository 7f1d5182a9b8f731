package store

import (
	"maps"
	"testing"
)

// TestInsertSettings: an insert is answered when it is stored, by a quorum where tables are replicated, and carries its token.
func TestInsertSettings(t *testing.T) {
	for _, c := range []struct {
		cfg    Config
		token  string
		quorum string
	}{
		{Config{}, "t", ""},
		{Config{}, "", ""},
		{Config{Replicated: true}, "t", "2"},
		{Config{Replicated: true, Quorum: 3}, "t", "3"},
		{Config{Replicated: true, Cluster: "fleet"}, "", "2"},
	} {
		want := map[string]string{"async_insert": "0", "max_partitions_per_insert_block": "0"}
		if c.token != "" {
			want["insert_deduplication_token"] = c.token
		}
		if c.quorum != "" {
			want["insert_quorum"] = c.quorum
		}
		s := &Store{cfg: c.cfg.withDefaults()}
		if got := s.insertSettings(c.token); !maps.Equal(got, want) {
			t.Errorf("%+v: %v, want %v", c.cfg, got, want)
		}
	}
}
