package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// The oracle reads every frame off a spool's segments, as they grow, and so knows what was taken
// without asking agent, broker, collector or store. The layout is agent/spool's, written down here a
// second time, as what judges shares no code with what it judges.
const (
	segmentHead = 68
	frameHead   = 32
	frameMagic  = 0x4652_5746
)

// tables is where the rows of a kind go.
var tables = map[wire.Kind]string{
	wire.KindGPU: store.TableGPUSamples, wire.KindHost: store.TableHostSamples, wire.KindFabric: store.TableFabricSamples, wire.KindFlow: store.TableFlowSamples,
	wire.KindProcess: store.TableProcessEvents, wire.KindCollective: store.TableCollectiveSamples, wire.KindDevice: store.TableGPUDevices, wire.KindStatus: store.TableInstrumentStatus,
	wire.KindHealth: store.TableGPUHealth, wire.KindEvent: store.TableGPUEvents, wire.KindInstance: store.TableGPUInstances, wire.KindHold: store.TableGPUHolds,
	wire.KindTCP: store.TableTCPSamples, wire.KindCheckpoint: store.TableCheckpoints, wire.KindRDMA: store.TableRDMAObjects, wire.KindOutOfBand: store.TableBMCSamples, wire.KindFact: store.TableNodeFacts,
}

// frameKey is a frame's identity.
type frameKey struct {
	node, spool string
	seq         uint64
}

// taken is what the oracle knows of a frame.
type taken struct {
	digest string
	rows   map[string]int
}

// spot is where a frame lies on disk.
type spot struct {
	path     string
	off, len int64
}

// oracle watches the spools of all nodes.
type oracle struct {
	mu     sync.Mutex
	frames map[frameKey]taken
	last   map[string]uint64   // by spool
	spools map[string][]string // by node
	spots  map[frameKey]spot
	rows   map[string]int
	faults []string
	seen   uint64
}

func newOracle() *oracle {
	return &oracle{frames: map[frameKey]taken{}, last: map[string]uint64{}, spools: map[string][]string{}, spots: map[frameKey]spot{}, rows: map[string]int{}}
}

// tail is a segment that is being read.
type tail struct {
	f     *os.File
	path  string
	off   int64
	spool string
	gone  bool
}

// watch reads a node's spool until ctx ends, and then a last time.
func (o *oracle) watch(ctx context.Context, node, dir string) error {
	open := map[uint64]*tail{} // by inode
	defer func() {
		for _, t := range open {
			_ = t.f.Close() // it was only read
		}
	}()
	dec, err := wire.NewDecoder()
	if err != nil {
		return fmt.Errorf("watch spool: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for last := false; ; {
		if err := o.look(node, dir, open, dec); err != nil {
			return err
		}
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true
		}
	}
}

func (o *oracle) look(node, dir string, open map[uint64]*tail, dec *wire.Decoder) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		return fmt.Errorf("watch spool: %w", err)
	}
	there := map[uint64]bool{}
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("watch spool: %w", err)
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(fmt.Errorf("watch spool: %w", err), f.Close())
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.Join(errors.New("watch spool: no inodes here"), f.Close())
		}
		there[st.Ino] = true
		if _, ok := open[st.Ino]; ok {
			_ = f.Close() // it was not read
			continue
		}
		open[st.Ino] = &tail{f: f, path: name}
	}
	for ino, t := range open {
		t.gone = !there[ino]
		if err := o.read(node, t, dec); err != nil {
			return err
		}
		if t.gone { // freed: what it had has just been read for the last time
			_ = t.f.Close()
			delete(open, ino)
		}
	}
	return nil
}

// read takes what is whole behind the last frame.
func (o *oracle) read(node string, t *tail, dec *wire.Decoder) error {
	info, err := t.f.Stat()
	if err != nil {
		return fmt.Errorf("watch spool: %w", err)
	}
	size := info.Size()
	if size < t.off {
		t.off = 0 // cut and written anew
	}
	if t.off == 0 {
		var head [segmentHead]byte
		if _, err := t.f.ReadAt(head[:], 0); err != nil || binary.LittleEndian.Uint32(head[64:]) != crc(head[:64]) {
			return nil //nolint:nilerr // not written yet, or damaged by a fault
		}
		t.spool, t.off = hex.EncodeToString(head[8:24]), segmentHead
	}
	for t.off+frameHead <= size {
		var head [frameHead]byte
		if _, err := t.f.ReadAt(head[:], t.off); err != nil || binary.LittleEndian.Uint32(head[:]) != frameMagic || binary.LittleEndian.Uint32(head[28:]) != crc(head[:28]) {
			return nil //nolint:nilerr // being written, or damaged by a fault
		}
		seq, n := binary.LittleEndian.Uint64(head[4:]), int64(binary.LittleEndian.Uint32(head[12:]))
		payload := make([]byte, n)
		if _, err := io.ReadFull(io.NewSectionReader(t.f, t.off+frameHead, n), payload); err != nil || crc(payload) != binary.LittleEndian.Uint32(head[24:]) {
			return nil //nolint:nilerr // the same
		}
		o.note(frameKey{node, t.spool, seq}, payload, spot{t.path, t.off + frameHead, n}, dec)
		t.off += frameHead + n
	}
	return nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (o *oracle) note(k frameKey, payload []byte, at spot, dec *wire.Decoder) {
	sum := sha256.Sum256(payload)
	f := taken{digest: hex.EncodeToString(sum[:]), rows: map[string]int{}}
	var b wire.Batch
	if err := dec.Decode(payload, &b); err != nil {
		o.fault("frame %d of %s cannot be read: %v", k.seq, k.node, err)
		return
	}
	for i := range b.Tables {
		f.rows[tables[b.Tables[i].Kind]] += b.Tables[i].Rows
	}
	if b.Node != k.node || b.Sequence != k.seq || hex.EncodeToString(b.Spool[:]) != k.spool {
		o.fault("frame %d of %s says to be %d of %s", k.seq, k.node, b.Sequence, b.Node)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if was, ok := o.frames[k]; ok {
		if was.digest != f.digest {
			o.faults = append(o.faults, fmt.Sprintf("frame %d of %s, spool %.8s, has been two frames: %s, %s", k.seq, k.node, k.spool, was.digest, f.digest))
		}
		o.spots[k] = at
		return
	}
	if !slices.Contains(o.spools[k.node], k.spool) {
		o.spools[k.node] = append(o.spools[k.node], k.spool)
	}
	o.frames[k], o.spots[k] = f, at
	o.last[k.spool] = max(o.last[k.spool], k.seq)
	for t, n := range f.rows {
		o.rows[t] += n
	}
	o.seen++
}

func (o *oracle) fault(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults = append(o.faults, fmt.Sprintf(format, args...))
}

// cut is what was taken by now.
func (o *oracle) cut() map[string]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.last)
}

// newest returns where the last frames of a node lie, newest first.
func (o *oracle) newest(node string, n int) (keys []frameKey, spots []spot) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.spools[node]
	if len(list) == 0 {
		return nil, nil
	}
	spool := list[len(list)-1]
	for seq := o.last[spool]; seq > 0 && len(keys) < n; seq-- {
		k := frameKey{node, spool, seq}
		if s, ok := o.spots[k]; ok {
			keys, spots = append(keys, k), append(spots, s)
		}
	}
	return keys, spots
}
