package collector

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
)

// consumerName is the durable consumer on each stream. The holder of the lease makes it
// anew, which ends the deliveries to whoever held the lease before.
const consumerName = "collector"

// Partition is a stream that one collector at a time reads.
type Partition struct {
	Name   string // [A-Za-z0-9_-]+, the key of its lease
	Stream string
	Shard  int // of the store, modulo their number: the same for the same nodes for ever
}

// Partitions lists what a broker with n streams of nodes has to be read, the provider's
// facts included.
func Partitions(n int) []Partition {
	all := []Partition{{Name: "collector-provider", Stream: broker.ProviderStream}}
	for p := range n {
		all = append(all, Partition{Name: "collector-" + strconv.Itoa(p), Stream: broker.NodeStream(p), Shard: p})
	}
	return all
}

// Config is what a collector needs. The streams and buckets are broker.EnsureStreams'. Conn and Store belong to the caller, who closes them
// after Run has returned.
type Config struct {
	Conn       *nats.Conn
	Store      *store.Store
	Partitions []Partition // see Partitions
	// Instance names this process in leases, for people.
	Instance string
	Log      *slog.Logger

	// MaxMessages, MaxBytes and Linger bound a range: whichever is reached first.
	// Defaults: 2,000 messages, 8 MiB, 1 s.
	MaxMessages int
	MaxBytes    int
	Linger      time.Duration
	// MaxLinger is how far Linger is widened where storing takes a third of the time or more, or
	// the store has too many parts. Default: 4 times Linger: no sample is to be older than ten seconds for it.
	MaxLinger time.Duration
	// Parallel is how many ranges may be built and stored at once: it bounds memory, with some
	// 100 MiB each at most. Default 4, or the number of partitions where that is less.
	Parallel int
	// Quarantine bounds what a sender may put there. Defaults: 10,000 messages, 64 MiB.
	Quarantine batch.Limits
	// Survey is how often backlog and the store's parts are looked at. Default 15 s.
	Survey time.Duration

	Batch batch.Config

	// CheckEvery is how often what hosts signed is verified, off the way of any ack, by one of all
	// collectors. Default an hour; negative: never.
	CheckEvery time.Duration
}

func (c Config) withDefaults() Config {
	if c.MaxMessages == 0 {
		c.MaxMessages = 2000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 8 << 20
	}
	if c.Linger == 0 {
		c.Linger = time.Second
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = time.Hour
	}
	if c.MaxLinger == 0 {
		c.MaxLinger = 4 * c.Linger
	}
	c.MaxLinger = max(c.MaxLinger, c.Linger)
	if c.Parallel == 0 {
		c.Parallel = min(4, len(c.Partitions))
	}
	if c.Quarantine.Messages == 0 {
		c.Quarantine.Messages = 10_000
	}
	if c.Quarantine.Bytes == 0 {
		c.Quarantine.Bytes = 64 << 20
	}
	if c.Survey == 0 {
		c.Survey = 15 * time.Second
	}
	return c
}

// Validate reports the first setting that cannot be used.
func (c Config) Validate() error {
	switch {
	case c.Conn == nil:
		return errors.New("collector: no connection to the broker")
	case c.Store == nil:
		return errors.New("collector: no store")
	case c.Log == nil:
		return errors.New("collector: no logger")
	case len(c.Partitions) == 0:
		return errors.New("collector: no partitions")
	case c.MaxMessages < 0 || c.MaxBytes < 0 || c.Linger < 0 || c.MaxLinger < 0 || c.Parallel < 0 || c.Survey < 0:
		return errors.New("collector: negative limit")
	}
	for _, p := range c.Partitions {
		if p.Name == "" || p.Stream == "" {
			return errors.New("collector: partition without name or stream")
		}
	}
	return nil
}
