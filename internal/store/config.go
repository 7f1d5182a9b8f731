package store

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Config says where ClickHouse is and how to use it.
type Config struct {
	// URL is http://host:8123, https://host:8443 or clickhouse://host:9000. Several servers with the
	// same data stand behind each other with commas: the next is asked where one cannot be reached.
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
	// Cluster is the name of the cluster in the servers' remote_servers; "": one server, or one whose
	// database replicates itself. See cluster.go.
	Cluster string `toml:"cluster"`
	// Shards are the servers of each shard, as in URL, in a fixed order and with spaces between: where
	// collectors insert. "": the servers of URL are the one shard.
	Shards string `toml:"shards"`
	// Timeout bounds one statement. Default 2 minutes.
	Timeout time.Duration `toml:"timeout"`

	// Settled is for a reader that looks at what came once and never again, the detector: see settled.go.
	Settled bool `toml:"-"`

	here bool `toml:"-"` // statements go to this server alone, for tests
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
	if _, _, err := servers(c.URL); err != nil {
		return fmt.Errorf("store url: %w", err)
	}
	for shard := range strings.FieldsSeq(c.Shards) {
		if _, _, err := servers(shard); err != nil {
			return fmt.Errorf("store shards: %w", err)
		}
	}
	if c.Cluster != "" && !databaseName.MatchString(c.Cluster) {
		return fmt.Errorf("store cluster %q: letters, digits and _ only", c.Cluster)
	}
	if c.Cluster == "" && c.Shards != "" {
		return errors.New("store shards: of a cluster only (store.cluster)")
	}
	if !databaseName.MatchString(c.Database) {
		return fmt.Errorf("store database %q: letters, digits and _ only", c.Database)
	}
	if c.Quorum < 0 || (c.Quorum > 0 && !c.Replicated) {
		return errors.New("store quorum: for replicated tables only")
	}
	return nil
}

// servers takes a URL of one or several servers apart; u is that of the first.
func servers(text string) (u *url.URL, addrs []string, err error) {
	scheme, rest, _ := strings.Cut(text, "://")
	hosts, rest, _ := strings.Cut(rest, "/")
	for i, host := range strings.Split(hosts, ",") {
		one, err := url.Parse(scheme + "://" + strings.TrimSpace(host) + "/" + rest)
		if err != nil {
			return nil, nil, errors.New("not a url") // the library's error tells all of it, a password too
		}
		var port string
		switch one.Scheme {
		case "http":
			port = "8123"
		case "https":
			port = "8443"
		case "clickhouse", "tcp":
			port = "9000"
		default:
			return nil, nil, fmt.Errorf("scheme %q is none of http, https, clickhouse", one.Scheme)
		}
		if one.Host == "" || one.Hostname() == "" {
			return nil, nil, errors.New("host is missing")
		}
		if one.User != nil {
			return nil, nil, errors.New("sign in by user and password file, not within the url")
		}
		if i == 0 {
			u = one
		}
		if one.Port() != "" {
			port = one.Port()
		}
		addrs = append(addrs, net.JoinHostPort(one.Hostname(), port))
	}
	return u, addrs, nil
}

// settings go with every statement.
func (c Config) settings() map[string]string {
	// A real server queues inserts unless told not to; an ack must mean stored.
	set := map[string]string{"async_insert": "0"}
	if c.Cluster != "" {
		set["distributed_product_mode"] = "global" // a subquery over all shards is asked once, not by each shard
		set["distributed_foreground_insert"] = "1" // stored means stored on the shard
		set["prefer_localhost_replica"] = "1"
	}
	if c.Cluster != "" && c.settled() { // of the servers behind the one that is asked
		set["max_replica_delay_for_distributed_queries"] = strconv.Itoa(int(maxReplicaDelay.Seconds()))
		set["fallback_to_stale_replicas_for_distributed_queries"] = "0"
	}
	return set
}
