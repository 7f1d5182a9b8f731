package up

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// Run is where locks, state and the children's configurations lie.
func (l Layout) Run() string { return l.path("run") }

// State is the file that ReadState reads.
func (l Layout) State() string { return l.path("run", "state.json") }

// Log is where a child's output goes.
func (l Layout) Log(name string) string { return l.path("log", name+".log") }

// Config is a child's configuration.
func (l Layout) Config(name string) string { return l.path("run", name+".toml") }

// Token is what clients show to the broker.
func (l Layout) Token() string { return l.path("run", "nats.token") }

// NATS holds the broker's streams.
func (l Layout) NATS() string { return l.path("nats") }

// ClickHouse holds the engine's data.
func (l Layout) ClickHouse() string { return l.path("clickhouse") }

// ClickHousePassword is the file with the password of the user default.
func (l Layout) ClickHousePassword() string { return l.path("clickhouse", "password") }

// Agent holds the agent's spool.
func (l Layout) Agent() string { return l.path("agent") }

// Play holds the spools and the clock of a recording.
func (l Layout) Play() string { return l.path("play") }

// Reports holds a folder a finding.
func (l Layout) Reports() string { return l.path("reports") }

// Facts holds the spools of the provider's facts.
func (l Layout) Facts() string { return l.path("facts") }

// Key is the file of a key: site, officer, screening.
func (l Layout) Key(name string) string { return l.path(name + ".key") }

// FakeLibrary is the stub of NVIDIA's library; its made-up GPUs lie beside it.
func (l Layout) FakeLibrary() string { return l.path("fake", stubLibrary) }

// source is the file that says what the data are of.
func (l Layout) source() string { return l.path("source.json") }

// folders are made at each start.
func (l Layout) folders() []string {
	return []string{l.Run(), l.path("log"), l.Agent(), l.Play(), l.Facts(), l.ClickHouse(), l.NATS(), l.Reports()}
}

// foreign refuses a folder that holds something else: it is likely not the one that is meant.
// What a start leaves that came to nothing is no such thing.
func (l Layout) foreign() error {
	entries, err := os.ReadDir(l.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	own := append(l.folders(), filepath.Dir(l.FakeLibrary()), l.source(), l.Key("site"), l.Key("officer"), l.Key("screening"), l.path("lost+found"))
	for _, e := range entries {
		if !slices.Contains(own, strings.TrimSuffix(l.path(e.Name()), ".tmp")) { // a write that was cut off leaves .tmp
			return fmt.Errorf("data directory %s is not empty (%s is in it) and flopwatch up has never run on it: name a new or an empty one with --data", l.Root, e.Name())
		}
	}
	return nil
}

// create makes the folders that are missing.
func (l Layout) create() error {
	for _, dir := range append([]string{l.Root}, l.folders()...) {
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
