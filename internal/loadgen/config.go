package loadgen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Store is asked what it has; *store.Store is one.
type Store interface {
	Handled(ctx context.Context, spools []store.SpoolKey) (map[store.SpoolKey]store.Handled, error)
}

// Config of a fleet. Zero values mean the defaults, but for Broker.
type Config struct {
	// Broker is how hosts sign in, all as one user, who may do what any node may: an administrator
	// of the account, for tests.
	Broker broker.ConnectConfig
	// NKeys is a folder with one seed a host, HOST.nk, of users that `flopwatch nats-user` makes:
	// then each host is itself alone, as agents are. "": Broker says who signs in.
	NKeys string
	// Connections that the hosts share; 0: one each, as agents have.
	Connections int

	Cluster string // default loadgen
	Prefix  string // of hosts' names; default lg
	Nodes   int    // default 10
	GPUs    int    // of a host; default 8
	Rate    float64
	// SealEvery is how long rows wait for their frame; default 20 s, as in the agent's configuration.
	SealEvery time.Duration
	// Ramp is the time over which hosts start; default SealEvery, so that the fleet's frames are
	// spread evenly. Together: all hosts seal at the same moments, as no fleet should.
	Ramp     time.Duration
	Together bool
	Seed     uint64
	// Plain hosts send samples of GPUs alone.
	Plain bool
	// SpoolBytes bounds what a host keeps in memory; default 1 MiB. What passes it is given up, and
	// told in gap records.
	SpoolBytes int64
	// Workers that invent and seal; default one a processor.
	Workers int
	// MaxLag is what a frame may take from its seal to its commit mark; default 10 s.
	MaxLag time.Duration
	// For is how long hosts seal; default 1 minute. Drain bounds the wait for the rest; default 1
	// minute.
	For, Drain time.Duration
	// Store, if set, is asked whether rows are visible, every ProbeEvery; default 1 s.
	Store      Store
	ProbeEvery time.Duration
	// Watch names processes of this machine whose CPU is told too.
	Watch []Process
	Log   *slog.Logger // nil: none
}

// Process of this machine.
type Process struct {
	Name string
	PID  int
}

const (
	// maxNodes and maxGPUs bound what one process is asked for.
	maxNodes = 200_000
	maxGPUs  = 64
	// sealRows is when an agent seals a table before its time.
	sealRows = 6000
)

var hostPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

func (c *Config) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Cluster == "" {
		c.Cluster = "loadgen"
	}
	if c.Prefix == "" {
		c.Prefix = "lg"
	}
	if c.Nodes == 0 {
		c.Nodes = 10
	}
	if c.GPUs == 0 {
		c.GPUs = 8
	}
	if c.Rate == 0 {
		c.Rate = 1
	}
	if c.SpoolBytes == 0 {
		c.SpoolBytes = 1 << 20
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	def(&c.SealEvery, 20*time.Second)
	def(&c.Ramp, c.SealEvery)
	def(&c.MaxLag, 10*time.Second)
	def(&c.For, time.Minute)
	def(&c.Drain, time.Minute)
	def(&c.ProbeEvery, time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Validate reports the first setting that cannot be used.
func (c Config) Validate() error {
	c.defaults()
	switch {
	case c.Broker.URL == "":
		return errors.New("the broker's URL is missing")
	case c.Nodes < 1 || c.Nodes > maxNodes:
		return fmt.Errorf("%d nodes: wanted 1 to %d", c.Nodes, maxNodes)
	case c.GPUs < 1 || c.GPUs > maxGPUs:
		return fmt.Errorf("%d GPUs a node: wanted 1 to %d", c.GPUs, maxGPUs)
	case !(c.Rate >= 0.01 && c.Rate <= 10):
		return fmt.Errorf("a rate of %g Hz: wanted 0.01 to 10", c.Rate)
	case c.SealEvery < c.tick() || c.SealEvery > 5*time.Minute:
		return fmt.Errorf("sealing every %s: wanted from one tick, %s, to 5m", c.SealEvery, c.tick())
	case c.Connections < 0 || c.Workers < 0:
		return errors.New("connections and workers cannot be negative")
	case c.NKeys != "" && c.Connections > 0:
		return errors.New("hosts with a key each cannot share connections")
	case c.Ramp < 0 || c.MaxLag <= 0 || c.For <= 0 || c.Drain <= 0 || c.ProbeEvery <= 0:
		return errors.New("durations must be positive")
	case c.SpoolBytes < 64<<10:
		return fmt.Errorf("a spool of %d bytes: wanted at least %d", c.SpoolBytes, 64<<10)
	case !hostPrefix.MatchString(c.Prefix):
		return fmt.Errorf("prefix %q of the hosts' names: wanted %s", c.Prefix, hostPrefix)
	case len(c.Cluster) > wire.MaxStringBytes:
		return errors.New("the cluster's name is too long")
	}
	return nil
}

// tick is the time between two samples.
func (c *Config) tick() time.Duration {
	return time.Duration(1000/c.Rate+0.5) * time.Millisecond
}

// ticks is how many go into a frame: an agent's largest table is sealed at 6,000 rows.
func (c *Config) ticks() uint64 {
	n := max(int64(c.SealEvery/c.tick()), 1)
	return uint64(max(min(n, sealRows/int64(c.GPUs+1)), 1))
}

// Node is the name of host i, from 0.
func (c *Config) Node(i int) string { return c.Prefix + "-" + fmt.Sprintf("%06d", i) }

// SeedFile is where the seed of a host's user is.
func SeedFile(dir, node string) string { return filepath.Join(dir, node+".nk") }

// connect is how a host signs in; "": whoever shares connections.
func (c *Config) connect(node string) broker.ConnectConfig {
	at := c.Broker
	at.Name, at.Log = "flopwatch-loadgen", nil
	if node != "" {
		at.Name += " " + node
	}
	if c.NKeys != "" && node != "" {
		at.CredsFile, at.TokenFile, at.NKeyFile = "", "", SeedFile(c.NKeys, node)
		at.InboxPrefix = wire.NodeInbox(c.Cluster, node)
	}
	return at
}

// String is the fleet in a line.
func (c *Config) String() string {
	return strconv.Itoa(c.Nodes) + " hosts with " + strconv.Itoa(c.GPUs) + " GPUs at " + strconv.FormatFloat(c.Rate, 'g', -1, 64) + " Hz"
}
