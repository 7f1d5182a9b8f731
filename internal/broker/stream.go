package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// Names of streams and buckets.
const (
	StreamPrefix   = "FLOPWATCH_" // of every stream
	ProviderStream = "FLOPWATCH_PROVIDER"
	CommitStream   = "FLOPWATCH_COMMIT"
	BucketLease    = "FLOPWATCH_LEASE"
	BucketCursor   = "FLOPWATCH_CURSOR"
)

// EdgeAPI is the JetStream API of the account that has the streams, as an operator's account has
// it (deploy/nats/flopwatch.conf): under $JS.API the server answers for the asking account itself.
const EdgeAPI = "flopwatch.api"

// NodeStream is the name of the stream of a partition.
func NodeStream(partition int) string { return "FLOPWATCH_" + strconv.Itoa(partition) }

// EmbeddedPartitions and ClusterPartitions are the usual numbers of partitions.
const (
	EmbeddedPartitions = 1
	ClusterPartitions  = 16
)

// messageOverhead is what subject and headers may add to a frame.
const messageOverhead = 2048

// StreamsConfig says how streams are set. Zero values mean the defaults.
type StreamsConfig struct {
	// Partitions divides wire.Partitions; default 1.
	Partitions int
	// Replicas of each stream and bucket; default 1.
	Replicas int
	// MaxBytes of each node stream and of the provider's, which the broker reserves; default 1 GiB.
	MaxBytes int64
	// DedupWindow is how long the broker knows a message by its id; default 2 minutes. Frames
	// are sent again after more than that, so that they arrive.
	DedupWindow time.Duration
	// LeaseTTL is how long a lease lives without renewal; default 15 s.
	LeaseTTL time.Duration
	// Patience is how long a broker that is electing, or lacks servers for the replicas, is asked
	// again; default 30 s, negative: not at all.
	Patience time.Duration
}

func (c *StreamsConfig) defaults() error {
	if c.Partitions == 0 {
		c.Partitions = EmbeddedPartitions
	}
	if c.Partitions < 0 || wire.Partitions%c.Partitions != 0 {
		return fmt.Errorf("%d partitions do not divide %d", c.Partitions, wire.Partitions)
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.DedupWindow == 0 {
		c.DedupWindow = 2 * time.Minute
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = 15 * time.Second
	}
	if c.Patience == 0 {
		c.Patience = 30 * time.Second
	}
	return nil
}

// streams lists what EnsureStreams makes.
func (c *StreamsConfig) streams() []jetstream.StreamConfig {
	queue := func(name, description string, subjects []string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: subjects,
			Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
			MaxBytes: c.MaxBytes, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxMsgSize: wire.MaxFrameBytes + messageOverhead,
			Duplicates: c.DedupWindow, Replicas: c.Replicas,
		}
	}
	var all []jetstream.StreamConfig
	for p := range c.Partitions {
		all = append(all, queue(NodeStream(p), "flopwatch: telemetry of nodes", wire.StreamSubjects(p, c.Partitions)))
	}
	all = append(all, queue(ProviderStream, "flopwatch: inventory, allocations and orders", []string{wire.ProviderSubjects}))
	return append(all, jetstream.StreamConfig{
		Name: CommitStream, Description: "flopwatch: the last commit mark of each node", Subjects: []string{wire.CommitSubjects},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxBytes: -1, MaxMsgs: -1, MaxMsgsPerSubject: 1, AllowDirect: true, Replicas: c.Replicas,
	})
}

// ErrFewerReplicas says that a stream has more replicas than the configuration wants. Who starts
// with an old file would take the others' copies away; it is done by hand, or not.
var ErrFewerReplicas = errors.New("it has more replicas than are configured (nats.replicas)")

// EnsureStreams makes the streams and buckets, or brings them to the configuration; it may
// be called by everyone at start. Replicas grow, and never shrink: ErrFewerReplicas.
func EnsureStreams(ctx context.Context, js jetstream.JetStream, cfg StreamsConfig) error {
	if err := cfg.defaults(); err != nil {
		return fmt.Errorf("ensure streams: %w", err)
	}
	until := time.Now().Add(cfg.Patience)
	for _, c := range cfg.streams() {
		err := patiently(ctx, until, func(ctx context.Context) error {
			if err := mayHave(ctx, js, c.Name, cfg.Replicas); err != nil {
				return err
			}
			_, err := js.CreateOrUpdateStream(ctx, c)
			return err
		})
		if err != nil {
			return fmt.Errorf("ensure stream %s: %w", c.Name, err)
		}
	}
	for _, c := range []jetstream.KeyValueConfig{
		{Bucket: BucketLease, Description: "flopwatch: who may do what; revisions are epochs", TTL: cfg.LeaseTTL},
		{Bucket: BucketCursor, Description: "flopwatch: ranges that the store has, and those that are being written to it"},
	} {
		c.History, c.Storage, c.Replicas = 1, jetstream.FileStorage, cfg.Replicas
		err := patiently(ctx, until, func(ctx context.Context) error {
			if err := mayHave(ctx, js, "KV_"+c.Bucket, cfg.Replicas); err != nil {
				return err
			}
			_, err := js.CreateOrUpdateKeyValue(ctx, c)
			return err
		})
		if err != nil {
			return fmt.Errorf("ensure bucket %s: %w", c.Bucket, err)
		}
	}
	return nil
}

// mayHave reports ErrFewerReplicas.
func mayHave(ctx context.Context, js jetstream.JetStream, stream string, replicas int) error {
	s, err := js.Stream(ctx, stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil
	case err != nil:
		return err
	}
	if n := s.CachedInfo().Config.Replicas; n > replicas {
		return fmt.Errorf("%w: %d, not %d", ErrFewerReplicas, n, replicas)
	}
	return nil
}

// patiently asks again until a time while the broker cannot answer yet.
func patiently(ctx context.Context, until time.Time, ask func(context.Context) error) error {
	for {
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := ask(asking)
		cancel()
		if err == nil || ctx.Err() != nil || !passing(err) || time.Now().After(until) {
			return err
		}
		if werr := wait(ctx, 500*time.Millisecond); werr != nil {
			return errors.Join(err, werr)
		}
	}
}

// passing reports whether an error may go by itself: nobody answers, or a cluster is electing.
func passing(err error) bool {
	const (
		clusterIncomplete = 10004
		noSuitablePeers   = 10005
		notAvailable      = 10008
		notLeader         = 10009
		offline           = 10118
	)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return slices.Contains([]jetstream.ErrorCode{clusterIncomplete, noSuitablePeers, notAvailable, notLeader, offline}, api.ErrorCode)
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}
