package store

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// Config says where ClickHouse is and how to use it.
type Config struct {
	// URL is http://host:8123, https://host:8443 or clickhouse://host:9000.
	URL string `toml:"url"`
	// User and Password sign in. Password is filled from a file by the command.
	User     string `toml:"user"`
	Password string `toml:"-"`
	// Database holds all tables; it is created by Migrate. Default: flopwatch.
	Database string `toml:"database"`
	// Replicated makes tables ReplicatedReplacingMergeTree and inserts wait for Quorum
	// replicas. For real clusters alone.
	Replicated bool `toml:"replicated"`
	// Quorum is the number of replicas that must hold an insert. Default 2 where replicated.
	Quorum int `toml:"quorum"`
	// Timeout bounds one statement. Default 2 minutes.
	Timeout time.Duration `toml:"timeout"`
}

var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

func (c Config) withDefaults() Config {
	if c.Database == "" {
		c.Database = "flopwatch"
	}
	if c.User == "" {
		c.User = "default"
	}
	if c.Replicated && c.Quorum == 0 {
		c.Quorum = 2
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	return c
}

// Validate reports the first setting that cannot be used.
func (c Config) Validate() error {
	c = c.withDefaults()
	u, err := url.Parse(c.URL)
	if err != nil {
		return errors.New("parse store url: not a url")
	}
	switch u.Scheme {
	case "http", "https", "clickhouse", "tcp":
	default:
		return fmt.Errorf("store url: scheme %q is none of http, https, clickhouse", u.Scheme)
	}
	if u.Host == "" {
		return errors.New("store url: host is missing")
	}
	if u.User != nil {
		return errors.New("store url: sign in by user and password file, not within the url")
	}
	if !databaseName.MatchString(c.Database) {
		return fmt.Errorf("store database %q: letters, digits and _ only", c.Database)
	}
	if c.Quorum < 0 || (c.Quorum > 0 && !c.Replicated) {
		return errors.New("store quorum: for replicated tables only")
	}
	return nil
}
