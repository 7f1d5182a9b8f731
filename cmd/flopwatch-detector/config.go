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
	"path/filepath"
	"regexp"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/store"
)

// defaultFile is the commented file: it documents every key. A test holds it to the defaults
// below, and to the copy in deploy/config.
//
//go:embed flopwatch-detector.toml
var defaultFile string

// config is the file. Unknown and duplicate keys are errors.
type config struct {
	Cluster              string        `toml:"cluster"`
	Wait                 time.Duration `toml:"wait"`
	Step                 time.Duration `toml:"step"`
	Horizon              time.Duration `toml:"horizon"`
	MaxCells             int           `toml:"max_cells"`
	ProfilesFile         string        `toml:"profiles_file"`
	SpecialJurisdictions []string      `toml:"special_jurisdictions"`
	ReportsDir           string        `toml:"reports_dir"`
	Instance             string        `toml:"instance"`
	Lease                string        `toml:"lease"`
	PasswordFile         string        `toml:"store_password_file"`
	NATS                 natsConfig    `toml:"nats"`
	Store                store.Config  `toml:"store"`
	Metrics              metricsConfig `toml:"metrics"`
	Log                  logConfig     `toml:"log"`
}

type natsConfig struct {
	URL         string `toml:"url"`
	CredsFile   string `toml:"creds_file"`
	NKeyFile    string `toml:"nkey_file"`
	TokenFile   string `toml:"token_file"`
	InboxPrefix string `toml:"inbox_prefix"`
	RootCAFile  string `toml:"root_ca_file"`
	CertFile    string `toml:"cert_file"`
	KeyFile     string `toml:"key_file"`
}

type metricsConfig struct {
	Listen string `toml:"listen"`
}

type logConfig struct {
	Format string     `toml:"format"`
	Level  slog.Level `toml:"level"`
}

func defaults() config {
	return config{
		Wait: detector.WaitMs * time.Millisecond, Step: time.Minute, Horizon: detector.HorizonMs * time.Millisecond, MaxCells: detector.MaxCells,
		SpecialJurisdictions: []string{}, ReportsDir: "/var/lib/flopwatch-detector/reports", Lease: "detector",
		NATS:    natsConfig{URL: "nats://127.0.0.1:4222"},
		Store:   store.Config{URL: "http://127.0.0.1:8123", User: "default", Database: "flopwatch", Timeout: 2 * time.Minute},
		Metrics: metricsConfig{Listen: "127.0.0.1:9471"},
		Log:     logConfig{Format: "text", Level: slog.LevelInfo},
	}
}

// loadConfig reads a file. Errors name the file and the key, and say what would be right.
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
		return cfg, "", fmt.Errorf("read configuration %s: unknown key %s (flopwatch-detector -print-config lists all)", path, unknown[0])
	}
	if err := cfg.validate(); err != nil {
		return cfg, "", fmt.Errorf("configuration %s: %w", path, err)
	}
	sum := sha256.Sum256(text)
	return cfg, hex.EncodeToString(sum[:]), nil
}

var (
	countryCode = regexp.MustCompile(`^[A-Z]{2}$`)
	leaseName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func (c config) validate() error {
	switch {
	case c.Cluster == "":
		return errors.New("cluster is missing: the name that the agents of the cluster have in their configuration")
	case c.Wait < 0 || c.Wait > 24*time.Hour:
		return fmt.Errorf("wait %s: from 0s to 24h", c.Wait)
	case c.Step < time.Minute || c.Step > 15*time.Minute || c.Step%time.Minute != 0:
		return fmt.Errorf("step %s: whole minutes, from 1m to 15m", c.Step)
	case c.Horizon < 24*time.Hour:
		return fmt.Errorf("horizon %s: at least 24h", c.Horizon)
	case c.MaxCells < 10_000:
		return fmt.Errorf("max_cells %d: at least 10000", c.MaxCells)
	case !leaseName.MatchString(c.Lease):
		return fmt.Errorf("lease %q: letters, digits, _ and -, at most 64", c.Lease)
	case c.NATS.URL == "":
		return errors.New("nats.url is missing")
	case c.ReportsDir != "" && !filepath.IsAbs(c.ReportsDir):
		return fmt.Errorf("reports_dir %q: an absolute path", c.ReportsDir)
	}
	for _, country := range c.SpecialJurisdictions {
		if !countryCode.MatchString(country) {
			return fmt.Errorf("special_jurisdictions %q: two capital letters (ISO 3166-1)", country)
		}
	}
	if c.Metrics.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Metrics.Listen); err != nil {
			return fmt.Errorf(`metrics.listen %q: an address and a port, such as "127.0.0.1:9471", or "": %w`, c.Metrics.Listen, err)
		}
	}
	return c.Store.Validate() // it names the setting
}

// wait is the configuration's, at least a millisecond: nothing means the default elsewhere.
func (c config) waitMs() int64 { return max(c.Wait.Milliseconds(), 1) }

func (c config) stepMs() int64 { return feature.MinuteOf(c.Step.Milliseconds()) }

// profiles are those of the file, or the built-in ones, and the digest of the set.
func (c config) profiles() ([]threshold.Profile, string, error) {
	read := threshold.Builtin
	if c.ProfilesFile != "" {
		read = func() ([]threshold.Profile, error) {
			text, err := os.ReadFile(c.ProfilesFile)
			if err != nil {
				return nil, fmt.Errorf("read: %w", err)
			}
			return threshold.Parse(c.ProfilesFile, text)
		}
	}
	profiles, err := read()
	if err != nil {
		return nil, "", fmt.Errorf("read profiles_file: %w", err) // it names file, line, profile and field
	}
	digest, err := threshold.Digest(profiles)
	if err != nil {
		return nil, "", err // it says what failed
	}
	return profiles, digest, nil
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
