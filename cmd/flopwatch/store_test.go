package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

func runStore(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newRootCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"store"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestStoreSchema(t *testing.T) {
	want, err := os.ReadFile(filepath.Join(testenv.Root(t), "deploy", "clickhouse", "SCHEMA.md"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := runStore(t, "schema"); err != nil || got != string(want) {
		t.Errorf("what is built in differs from SCHEMA.md, %v", err)
	}
	url, user, password := testenv.ClickHouse(t)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := []string{"--clickhouse", url, "--clickhouse-user", user, "--clickhouse-password-file", secret}
	if _, err := runStore(t, append([]string{"schema"}, server...)...); err == nil || !strings.Contains(err.Error(), "database flopwatch has no tables") {
		t.Errorf("an empty server: %v", err)
	}
	for range 2 {
		if out, err := runStore(t, append([]string{"migrate"}, server...)...); err != nil || out != "Database flopwatch is up to date.\n" {
			t.Fatalf("%q, %v", out, err)
		}
	}
	if got, err := runStore(t, append([]string{"schema"}, server...)...); err != nil || got != string(want) {
		t.Errorf("the live schema differs from SCHEMA.md, %v", err)
	}
	var schema store.Schema
	out, err := runStore(t, append([]string{"schema", "--json"}, server...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &schema)
	}
	if err != nil || len(schema.Relations) < len(store.Views) {
		t.Errorf("%d tables and views, %v", len(schema.Relations), err)
	}
}

func TestStoreMistakes(t *testing.T) {
	for _, args := range [][]string{
		{"migrate"}, {"schema", "--database", "x"}, {"schema", "--data", "a", "--clickhouse", "http://h"}, {"schema", "x"}, {"nonsense"},
		{"migrate", "--data", "a", "--replicated"}, {"schema", "--clickhouse-password-file", "x"},
	} {
		if _, err := runStore(t, args...); !errors.As(err, new(usageError)) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
