package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the commented file
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// config is the file. Unknown and duplicate keys are errors.
type config struct {
	NATS natsConfig `toml:"nats"`
	// Store is where ClickHouse is.
	Store store.Config `toml:"store"`
	// PasswordFile holds the password of the store's user; empty: none.
	PasswordFile string `toml:"store_password_file"`
	// Migrate brings the store's tables up to date at the start. Default true.
	Migrate bool `toml:"migrate"`
	// Retention is how long rows stay; it is set at the start, where migrate is true.
	Retention store.Retention `toml:"retention"`
	// MaxMessages, MaxBytes and Linger bound what is inserted at once: whichever is reached
	// first. Defaults: 2,000 messages, 8 MiB, 1 s.
	MaxMessages int           `toml:"max_messages"`
	MaxBytes    int           `toml:"max_bytes"`
	Linger      time.Duration `toml:"linger"`
	// MaxLinger is how far linger is widened where the store has trouble with so many inserts.
	// Default: four times linger, 4 s.
	MaxLinger time.Duration `toml:"max_linger"`
	// Parallel is how many inserts are prepared at once, of all partitions. Default 4.
	Parallel int `toml:"parallel"`
	// QuarantineMessages and QuarantineBytes are what one sender may put into quarantine for one
	// reason in a day. Defaults: 10,000 messages, 64 MiB.
	QuarantineMessages uint64 `toml:"quarantine_messages"`
	QuarantineBytes    uint64 `toml:"quarantine_bytes"`
	// MaxAhead and MaxBehind are how far samples may be ahead of and behind the broker's clock: what
	// lies beyond goes to quarantine. Defaults: 5 minutes, 90 days.
	MaxAhead  time.Duration `toml:"max_ahead"`
	MaxBehind time.Duration `toml:"max_behind"`
	// CheckChains has this collector take its turn at verifying what hosts signed. Default true.
	CheckChains bool          `toml:"check_chains"`
	Metrics     metricsConfig `toml:"metrics"`
	Log         logConfig     `toml:"log"`
}

type metricsConfig struct {
	// Listen is where /metrics, /healthz and /readyz are served; empty: nowhere.
	Listen string `toml:"listen"`
}

type natsConfig struct {
	// URL of the broker, nats://host:4222 or tls://.
	URL string `toml:"url"`
	// CredsFile, NKeyFile, TokenFile, RootCAFile, CertFile and KeyFile are paths; empty: without.
	CredsFile  string `toml:"creds_file"`
	NKeyFile   string `toml:"nkey_file"`
	TokenFile  string `toml:"token_file"`
	RootCAFile string `toml:"root_ca_file"`
	CertFile   string `toml:"cert_file"`
	KeyFile    string `toml:"key_file"`
	// InboxPrefix is where answers come; empty: _INBOX.
	InboxPrefix string `toml:"inbox_prefix"`
	// Partitions is the number of streams of nodes. Default 16; 1 with an embedded broker.
	Partitions int `toml:"partitions"`
	// Replicas of streams and buckets. Default 1.
	Replicas int `toml:"replicas"`
	// StreamMaxBytes bounds each stream. Default 1 GiB.
	StreamMaxBytes int64 `toml:"stream_max_bytes"`
	// LeaseTTL is how long a collector that died keeps its partitions. Default 15 s.
	LeaseTTL time.Duration `toml:"lease_ttl"`
}

type logConfig struct {
	// Format is text or json. Default text.
	Format string `toml:"format"`
	// Level is debug, info, warn or error. Default info.
	Level string `toml:"level"`
}

// defaultFile is the commented file: it documents every key. A test holds it to the defaults
// below, and to the copy in deploy/config.
//
//go:embed flopwatch-collector.toml
var defaultFile string

// defaults are what the file need not say. Where broker and store are, it must.
func defaults() config {
	return config{
		Migrate: true, CheckChains: true, MaxMessages: 2000, MaxBytes: 8 << 20, Linger: time.Second, MaxLinger: 4 * time.Second, Parallel: 4, QuarantineMessages: 10_000, QuarantineBytes: 64 << 20, MaxAhead: 5 * time.Minute, MaxBehind: 90 * 24 * time.Hour,
		NATS:    natsConfig{Partitions: wire.Partitions, Replicas: 1, StreamMaxBytes: 1 << 30, LeaseTTL: 15 * time.Second},
		Store:   store.Config{User: "default", Database: "flopwatch", Timeout: 2 * time.Minute},
		Metrics: metricsConfig{Listen: "127.0.0.1:9470"}, Log: logConfig{Format: "text", Level: "info"},
	}
}

func loadConfig(path string) (cfg config, digest string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return cfg, "", fmt.Errorf("read configuration: %w", err)
	}
	cfg = defaults()
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&cfg)
	if err != nil {
		return cfg, "", fmt.Errorf("read configuration %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return cfg, "", fmt.Errorf("read configuration %s: unknown key %s", path, unknown[0])
	}
	if err := cfg.validate(); err != nil {
		return cfg, "", fmt.Errorf("configuration %s: %w", path, err)
	}
	sum := sha256.Sum256(text)
	return cfg, hex.EncodeToString(sum[:]), nil
}

// minStreamBytes is what a stream must hold: a few usual messages. Tests that fill streams do with little.
const minStreamBytes = 64 << 10

// maxQuarantine is far beyond what a day brings; a negative number, which TOML lets through, is beyond it.
const maxQuarantine = 1 << 50

func (c config) validate() error {
	if c.NATS.URL == "" {
		return errors.New("nats.url is missing")
	}
	if c.NATS.Partitions <= 0 || wire.Partitions%c.NATS.Partitions != 0 {
		return fmt.Errorf("nats.partitions %d does not divide %d", c.NATS.Partitions, wire.Partitions)
	}
	if c.NATS.Replicas < 1 || c.NATS.Replicas > 5 || c.NATS.Replicas%2 == 0 {
		return fmt.Errorf("nats.replicas %d: 1, 3 or 5", c.NATS.Replicas)
	}
	if c.NATS.LeaseTTL < time.Second || c.NATS.LeaseTTL > 10*time.Minute {
		return fmt.Errorf("nats.lease_ttl %s: from 1s to 10m", c.NATS.LeaseTTL)
	}
	if c.NATS.StreamMaxBytes < minStreamBytes {
		return fmt.Errorf("nats.stream_max_bytes %d: at least %d, or a stream does not hold a few messages", c.NATS.StreamMaxBytes, minStreamBytes)
	}
	if c.MaxMessages < 1 || c.MaxBytes < 1 || c.Linger <= 0 {
		return errors.New("max_messages, max_bytes and linger: more than 0")
	}
	if c.MaxLinger < c.Linger || c.MaxLinger > 5*time.Minute {
		return fmt.Errorf("max_linger %s: at least linger, and at most 5 minutes, as the detector waits for 10", c.MaxLinger)
	}
	if c.Parallel < 1 || c.Parallel > 64 {
		return fmt.Errorf("parallel %d: 1 to 64", c.Parallel)
	}
	if c.QuarantineMessages < 1 || c.QuarantineMessages > maxQuarantine || c.QuarantineBytes < 1 || c.QuarantineBytes > maxQuarantine {
		return fmt.Errorf("quarantine_messages and quarantine_bytes: from 1 to %d", uint64(maxQuarantine))
	}
	if c.MaxAhead < time.Second || c.MaxBehind < time.Hour {
		return errors.New("max_ahead is at least a second, max_behind at least an hour")
	}
	if c.Metrics.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Metrics.Listen); err != nil {
			return fmt.Errorf(`metrics.listen %q: an address and a port, such as "127.0.0.1:9470", or "": %w`, c.Metrics.Listen, err)
		}
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(c.Log.Level)); err != nil {
		return fmt.Errorf("log.level %q: debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format %q: text or json", c.Log.Format)
	}
	if c.Store.Timeout <= 0 {
		return fmt.Errorf("store.timeout %s: more than 0", c.Store.Timeout)
	}
	if err := c.Retention.Validate(); err != nil {
		return err // it names the setting
	}
	return c.Store.Validate() // it names the setting
}

// files says what is wrong with files that the configuration names, as this user sees them now: no
// mistake in the configuration, which may be checked before they are there, or elsewhere.
func (c *config) files() (notes []string) {
	for _, f := range []struct{ key, path string }{
		{"store_password_file", c.PasswordFile}, {"nats.creds_file", c.NATS.CredsFile}, {"nats.nkey_file", c.NATS.NKeyFile}, {"nats.token_file", c.NATS.TokenFile},
		{"nats.root_ca_file", c.NATS.RootCAFile}, {"nats.cert_file", c.NATS.CertFile}, {"nats.key_file", c.NATS.KeyFile},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.ReadFile(f.path); err != nil {
			notes = append(notes, fmt.Sprintf("%s: %v", f.key, err))
		}
	}
	return notes
}

// readSecret reads a file that holds nothing but a secret and, perhaps, a line's end.
func readSecret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read store_password_file: %w", err)
	}
	return string(bytes.TrimRight(b, "\r\n")), nil
}
