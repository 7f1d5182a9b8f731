package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/flopwatch/flopwatch/agent/playback"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// factsDrain bounds how long an import waits until what it published is stored.
const factsDrain = time.Minute

// factsFiles are what a provider states, as a recording has it.
var factsFiles = []string{"nodes.csv", "allocations.csv", "orders.csv", "parties.jsonl"}

// factsFS shows the provider's files of a folder, and nothing else, as a recording of cluster.
type factsFS struct {
	dir      fs.FS
	manifest []byte
}

// newFacts opens a folder of facts.
func newFacts(dir, cluster string) (*bundle.Bundle, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read --facts: %w", err)
	}
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return slices.Contains(factsFiles, strings.TrimSuffix(e.Name(), ".gz")) }) {
		return nil, fmt.Errorf("read --facts %s: it has none of %s", dir, strings.Join(factsFiles, ", "))
	}
	// The times bound nothing: facts carry their own.
	manifest, err := json.Marshal(bundle.Manifest{Format: bundle.Format, Cluster: cluster, StartMs: 1_000_000_000_000, EndMs: 7_000_000_000_000})
	if err != nil {
		return nil, fmt.Errorf("make manifest of facts: %w", err)
	}
	return bundle.OpenFS(factsFS{os.DirFS(dir), manifest}, filepath.Base(dir))
}

// Open implements fs.FS.
func (f factsFS) Open(name string) (fs.File, error) {
	switch {
	case name == "manifest.json":
		return &memoryFile{bytes.NewReader(f.manifest), int64(len(f.manifest))}, nil
	case slices.Contains(factsFiles, strings.TrimSuffix(name, ".gz")):
		return f.dir.Open(name) //nolint:wrapcheck // a file system's errors are its own
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// memoryFile is the manifest that facts lack.
type memoryFile struct {
	*bytes.Reader
	size int64
}

func (*memoryFile) Close() error                 { return nil }
func (m *memoryFile) Stat() (fs.FileInfo, error) { return memoryInfo{m.size}, nil }

type memoryInfo struct{ size int64 }

func (memoryInfo) Name() string       { return "manifest.json" }
func (i memoryInfo) Size() int64      { return i.size }
func (memoryInfo) Mode() fs.FileMode  { return 0o400 }
func (memoryInfo) ModTime() time.Time { return time.Time{} }
func (memoryInfo) IsDir() bool        { return false }
func (memoryInfo) Sys() any           { return nil }

// importer brings what the provider states into a running tree: a recording's parties, and
// the folder of --facts. What was imported before, by its digest, is left alone.
type importer struct {
	facts string // folder; empty: none
	log   *slog.Logger
}

// imported is what DIR/facts/imported.json remembers.
type imported struct {
	Recording string `json:"recording,omitempty"` // digests
	Facts     string `json:"facts,omitempty"`
}

// run imports what is new, and says it.
func (i importer) run(ctx context.Context, s up.State) (said string, err error) {
	l, err := up.NewLayout(s.Data)
	if err != nil {
		return "", err
	}
	path := filepath.Join(l.Facts(), "imported.json")
	var was imported
	switch text, rerr := os.ReadFile(path); {
	case errors.Is(rerr, os.ErrNotExist):
	case rerr != nil:
		return "", fmt.Errorf("read what was imported: %w", rerr)
	default:
		if err = json.Unmarshal(text, &was); err != nil {
			return "", fmt.Errorf("read what was imported, %s: %w", path, err)
		}
	}
	var words []string
	now := was
	if s.Source.Kind == up.Recording && was.Recording != s.Source.Digest {
		if words, err = i.recorded(ctx, s, l); err != nil {
			return "", err
		}
		now.Recording = s.Source.Digest
	}
	if i.facts != "" {
		stated, digest, ferr := i.stated(ctx, s, l, was.Facts)
		if ferr != nil {
			return "", ferr
		}
		words, now.Facts = append(words, stated...), digest
	}
	if now == was {
		return "", nil
	}
	if err = writeJSON(path, now); err != nil {
		return "", err
	}
	return strings.Join(words, ", "), nil
}

// recorded imports the parties of the recording.
func (i importer) recorded(ctx context.Context, s up.State, l up.Layout) ([]string, error) {
	b, err := bundle.Open(s.Source.Recording)
	if err != nil {
		return nil, err
	}
	return i.parties(ctx, s, l, b)
}

// stated imports the folder of facts, unless it is as it was.
func (i importer) stated(ctx context.Context, s up.State, l up.Layout, was string) (words []string, digest string, err error) {
	b, err := newFacts(i.facts, s.Source.Cluster)
	if err != nil {
		return nil, "", err
	}
	if digest, err = b.Digest(); err != nil || digest == was {
		return nil, digest, err
	}
	if words, err = i.publish(ctx, s, l, b, digest); err != nil {
		return nil, "", err
	}
	sealed, err := i.parties(ctx, s, l, b)
	return append(words, sealed...), digest, err
}

// publish sends inventory, rentals and orders as the provider does. The digest numbers the
// batches, so that an import that was killed goes on where it stopped.
func (i importer) publish(ctx context.Context, s up.State, l up.Layout, b *bundle.Bundle, digest string) (words []string, err error) {
	nc, err := broker.Connect(broker.ConnectConfig{URL: s.NATSURL, Name: "flopwatch facts", TokenFile: s.NATSTokenFile, Log: i.log})
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := ship.JetStream(nc)
	if err != nil {
		return nil, err
	}
	f, err := newFleet(ctx, fleetConfig{
		DataDir: filepath.Join(l.Facts(), digest[:16]), Digest: digest, Cluster: s.Source.Cluster, Conn: nc, JetStream: js, Live: true, Log: i.log,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	counts, err := playback.Play(ctx, b, f)
	if err != nil {
		return nil, err
	}
	draining, cancel := context.WithTimeout(ctx, factsDrain)
	defer cancel()
	if err = f.drain(draining); err != nil {
		return nil, err
	}
	for _, k := range []struct {
		kind      wire.Kind
		one, many string
	}{{wire.KindInventory, "node", "nodes"}, {wire.KindAllocation, "statement on a rental", "statements on rentals"}, {wire.KindOrder, "order", "orders"}} {
		if n := counts.Rows[k.kind]; n > 0 {
			words = append(words, plural(n, k.one, k.many))
		}
	}
	if bad := b.Report().Bad(); bad > 0 {
		words = append(words, plural(bad, "line")+" could not be used")
		for _, file := range b.Report().Files {
			for _, issue := range file.Issues[:min(len(file.Issues), maxSaid)] {
				words = append(words, issue.String())
			}
		}
	}
	return words, nil
}

// parties seals the register and stores the envelopes.
func (i importer) parties(ctx context.Context, s up.State, l up.Layout, b *bundle.Bundle) (words []string, err error) {
	register, err := b.OpenParties()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // nobody is known: every account counts as unknown
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = register.Close() }() // it was only read
	officer, err := key(l.Key("officer"))
	if err != nil {
		return nil, err
	}
	screening, err := key(l.Key("screening"))
	if err != nil {
		return nil, err
	}
	st, err := openState(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	to := identity.Recipients{Officers: []age.Recipient{officer.Recipient()}, Screening: screening.Recipient()}
	n, issues, err := detector.ImportParties(ctx, st, register, to, time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	words = append(words, plural(n, "sealed party", "sealed parties"))
	if len(issues) > 0 {
		words = append(words, fmt.Sprintf("%s of the register (first: line %d, %s: %s)", plural(len(issues), "problem"), issues[0].Line, issues[0].Field, issues[0].Text))
	}
	return words, nil
}

// openState opens the store of a tree.
func openState(ctx context.Context, s up.State) (*store.Store, error) {
	password, err := os.ReadFile(s.ClickHousePasswordFile)
	if err != nil {
		return nil, fmt.Errorf("read the store's password: %w", err)
	}
	return store.Open(ctx, store.Config{URL: s.ClickHouseURL, User: s.ClickHouseUser, Password: strings.TrimSpace(string(password))})
}

// copyFile copies a file, whole or not at all.
func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if err := durable.WriteFile(durable.OS{}, to, text); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
