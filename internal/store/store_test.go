package store_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

var databases atomic.Int64

// openStore gives a test an engine of its own with an empty, migrated database.
func openStore(t *testing.T) *store.Store {
	t.Helper()
	url, user, password := testenv.ClickHouse(t)
	s, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password, Database: fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMigrateTwice(t *testing.T) {
	s := openStore(t)
	if err := s.Migrate(context.WithoutCancel(t.Context())); err != nil {
		t.Fatalf("migrate again: %v", err)
	}
}
