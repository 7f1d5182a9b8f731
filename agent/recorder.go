package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// RecorderConfig of one node. Cluster, Spool and Privacy are needed.
type RecorderConfig struct {
	Cluster string
	Node    string // "": the provider
	Spool   *spool.Spool
	Privacy *Privacy
	BootID  string
	// Key signs the heads of batches; nil: they are not signed.
	Key ed25519.PrivateKey
	// Clock returns both clocks: Unix milliseconds and milliseconds since boot. nil: batches
	// carry no clock, as in a replay, whose bytes must not depend on when it runs.
	Clock func() (wallMs, bootMs int64)
	// SyncEvery is the number of batches after which the spool is made durable; default 1.
	// Batches are shipped after that; Flush makes the rest durable.
	SyncEvery int
	// Ticks keeps their count across agents of a boot; nil: each begins at 0.
	Ticks *TickFile
	// Replay numbers batches from 1, whatever the spool has, and skips those it has.
	Replay bool
}

// Recorder seals tables into the spool of one node.
type Recorder struct {
	cfg      RecorderConfig
	sealed   uint64 // batches of a replay so far
	ticks    uint64
	first    uint64 // tick of what is sealed; 0: not stated
	missed   uint64 // of ticks
	bytes    uint64 // of the frames sealed since NewRecorder
	unsynced int
	frame    []byte
	batch    wire.Batch
	hide     hider
}

// NewRecorder returns a recorder. It does not own the spool.
func NewRecorder(cfg RecorderConfig) (*Recorder, error) {
	if cfg.Cluster == "" || cfg.Spool == nil || cfg.Privacy == nil {
		return nil, errors.New("make recorder: cluster, spool and privacy are needed")
	}
	if cfg.SyncEvery <= 0 {
		cfg.SyncEvery = 1
	}
	r := &Recorder{cfg: cfg, hide: hider{privacy: cfg.Privacy, memo: map[string]string{}}}
	if cfg.Ticks != nil {
		r.ticks, r.missed = cfg.Ticks.before.ticks, cfg.Ticks.before.missed
	}
	return r, nil
}

// Tick counts a sampling tick, whether it gave rows or not.
func (r *Recorder) Tick() { r.ticks++ }

// TickTo counts all ticks up to the n-th of this agent. What is sealed from here on is of first and later ones;
// missed of the n passed without a sample.
func (r *Recorder) TickTo(first, n, missed uint64) {
	if f := r.cfg.Ticks; f != nil {
		all := f.sealing(n, missed)
		first, n, missed = first+f.before.ticks, all.ticks, all.missed
	}
	r.ticks, r.first, r.missed = max(r.ticks, n), first, missed
}

// Seal makes a batch of the tables and puts it into the spool. It returns the batch's
// sequence, and 0 if there was nothing to seal. The tables stay the caller's and are not
// changed. availableMs is the time at which a replay's rows were known, 0 live. After an
// error nothing was taken, and the caller may seal the same tables again; wire.ErrTooLarge
// says that they have to be split first.
func (r *Recorder) Seal(availableMs int64, tables ...wire.Table) (uint64, error) {
	rows := 0
	for i := range tables {
		rows += tables[i].Rows
	}
	if rows == 0 {
		return 0, nil
	}
	sp := r.cfg.Spool
	seq := sp.NextSequence()
	if r.cfg.Replay {
		if r.sealed+1 < seq {
			r.sealed++
			return r.sealed, nil
		}
		if r.sealed+1 > seq {
			return 0, fmt.Errorf("seal batch %d: the spool expects %d", r.sealed+1, seq)
		}
	}
	if err := r.encode(seq, availableMs, tables); err != nil {
		return 0, fmt.Errorf("seal batch %d: %w", seq, err)
	}
	if err := sp.Append(seq, r.frame); err != nil {
		return 0, fmt.Errorf("seal batch: %w", err)
	}
	r.sealed++
	r.bytes += uint64(len(r.frame))
	if r.unsynced++; r.unsynced >= r.cfg.SyncEvery {
		// The batch is taken whatever becomes of the sync: Flush, or the next Seal's, tries
		// again, and until then it is not shipped.
		if err := r.Flush(); err != nil {
			return seq, err
		}
	}
	return seq, nil
}

// SealedBytes is the size of the frames that Seal put into the spool.
func (r *Recorder) SealedBytes() uint64 { return r.bytes }

// Flush makes all sealed batches durable, so that they can be shipped.
func (r *Recorder) Flush() error {
	if r.unsynced == 0 {
		return nil
	}
	if err := r.cfg.Spool.Sync(); err != nil {
		return fmt.Errorf("flush batches: %w", err)
	}
	r.unsynced = 0
	return nil
}

func (r *Recorder) encode(seq uint64, availableMs int64, tables []wire.Table) error {
	b := &r.batch
	*b = wire.Batch{
		Version: wire.Version, Cluster: r.cfg.Cluster, Node: r.cfg.Node, Spool: r.cfg.Spool.ID(), Sequence: seq,
		BootID: r.cfg.BootID, Ticks: r.ticks, FirstTick: r.first, MissedTicks: r.missed, AvailableMs: availableMs, PrevDigest: r.cfg.Spool.LastDigest(), Tables: b.Tables[:0],
	}
	if r.cfg.Clock != nil {
		b.SealedWallMs, b.SealedBootMs = r.cfg.Clock()
	}
	for _, g := range r.cfg.Spool.Gaps() {
		b.Gaps = append(b.Gaps, wire.Gap{From: g.From, To: g.To, Reason: wire.GapReason(g.Reason), Digest: g.Digest})
	}
	for i := range tables {
		if tables[i].Rows == 0 {
			continue
		}
		t, err := r.hide.table(tables[i])
		if err != nil {
			return err
		}
		b.Tables = append(b.Tables, t)
	}
	var err error
	if r.cfg.Key != nil {
		r.frame, err = wire.AppendSigned(r.frame[:0], b, r.cfg.Key)
	} else {
		r.frame, err = wire.AppendBatch(r.frame[:0], b)
	}
	clear(b.Tables) // nothing of the caller's is kept
	return err
}
