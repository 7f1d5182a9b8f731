package up

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// Layout are the paths under one data directory, which is absolute.
type Layout struct{ Root string }

// NewLayout makes the path absolute.
func NewLayout(dir string) (Layout, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Layout{}, fmt.Errorf("resolve data directory: %w", err)
	}
	return Layout{abs}, nil
}

func (l Layout) path(parts ...string) string {
	return filepath.Join(append([]string{l.Root}, parts...)...)
}

// Folders and files that others use too.
func (l Layout) Run() string                { return l.path("run") }
func (l Layout) State() string              { return l.path("run", "state.json") }          // see State
func (l Layout) Log(name string) string     { return l.path("log", name+".log") }           // of a child
func (l Layout) Config(name string) string  { return l.path("run", name+".toml") }          // of a child
func (l Layout) Token() string              { return l.path("run", "nats.token") }          // of the broker
func (l Layout) NATS() string               { return l.path("nats") }                       // the broker's data
func (l Layout) ClickHouse() string         { return l.path("clickhouse") }                 // the engine's data
func (l Layout) ClickHousePassword() string { return l.path("clickhouse", "password") }     // of the user default
func (l Layout) Agent() string              { return l.path("agent") }                      // the agent's data
func (l Layout) Play() string               { return l.path("play") }                       // a recording's spools and clock
func (l Layout) Reports() string            { return l.path("reports") }                    // of findings
func (l Layout) Facts() string              { return l.path("facts") }                      // spools of the provider's facts
func (l Layout) Key(name string) string     { return l.path(name + ".key") }                // site, officer, screening
func (l Layout) source() string             { return l.path("source.json") }                // what the data are of
func (l Layout) fake() string               { return l.path("fake") }                       // the stub library and its scenario
func (l Layout) FakeLibrary() string        { return filepath.Join(l.fake(), stubLibrary) } // the stub library

// create makes the folders that are missing.
func (l Layout) create() error {
	for _, dir := range []string{l.Root, l.Run(), l.path("log"), l.Agent(), l.Play(), l.Facts(), l.ClickHouse(), l.NATS(), l.Reports()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	return nil
}

// secret reads a file that holds nothing but a secret of hexadecimal digits, or mints one
// that only the owner may read.
func secret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if s := strings.TrimSpace(string(text)); s != "" {
			return s, nil
		}
		return "", fmt.Errorf("read secret: %s is empty", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read secret: %w", err)
	}
	raw := make([]byte, 32)
	if _, err = rand.Read(raw); err != nil {
		return "", fmt.Errorf("make secret: %w", err)
	}
	s := hex.EncodeToString(raw)
	if err = write(path, []byte(s+"\n")); err != nil {
		return "", err
	}
	return s, nil
}

// write replaces a file, mode 0600, as a whole.
func write(path string, data []byte) error {
	if err := durable.WriteFile(durable.OS{}, path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
