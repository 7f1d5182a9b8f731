// Package sizing is arithmetic: what a fleet of GPUs needs of machines, from measured figures.
//
// Every figure says where it comes from (Figures): the command that measured it and the day, or
// that it is assumed, or that nobody has run it at such a size. Whoever measures one anew changes
// it there, and the page deploy/SIZING.md with FLOPWATCH_UPDATE=TestPage go test ./internal/sizing.
//
// It imports nothing of ours and knows no clock; it is pure.
package sizing

import (
	"errors"
	"fmt"
	"math"
)

// Fleet is what is asked. Zero values mean the defaults.
type Fleet struct {
	GPUs        int
	GPUsPerHost int     // default 8
	Hz          float64 // samples a second; default 1
	// RawDays is how long raw rows stay; default 30. CellDays how long minutes do; default 800. These are
	// the store's own defaults. Years is for how long the disks are to do: the ledger of batches stays; default 5.
	RawDays, CellDays, Years int
	// Replicas of the store and of the broker's streams; default: 1 each up to 1,000 GPUs, else 2
	// of the store and 3 of the streams.
	StoreReplicas, BrokerReplicas int
	// Outage is for how many hours the broker is to hold what no collector takes; default 6.
	OutageHours float64
	// Cores, DiskTB and Load are of a machine: default 16, 8 (usable NVMe) and 0.5, the share of its
	// processors that is used at most, so that a backlog can be made good.
	Cores  int
	DiskTB float64
	Load   float64
}

func (f Fleet) withDefaults() Fleet {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	share := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	large := f.GPUs > smallFleet
	def(&f.GPUsPerHost, 8)
	def(&f.RawDays, 30)
	def(&f.CellDays, 800)
	def(&f.Years, 5)
	def(&f.StoreReplicas, map[bool]int{false: 1, true: 2}[large])
	def(&f.BrokerReplicas, map[bool]int{false: 1, true: 3}[large])
	def(&f.Cores, 16)
	share(&f.Hz, 1)
	share(&f.OutageHours, 6)
	share(&f.DiskTB, 8)
	share(&f.Load, 0.5)
	return f
}

// smallFleet is what one machine without replicas is for.
const smallFleet = 1000

// Check reports the first value that makes no sense.
func (f Fleet) Check() error {
	f = f.withDefaults()
	switch {
	case f.GPUs < 1 || f.GPUs > 100_000_000:
		return errors.New("GPUs: wanted 1 to 100,000,000")
	case f.GPUsPerHost < 1 || f.GPUsPerHost > 256:
		return errors.New("GPUs of a host: wanted 1 to 256")
	case !(f.Hz >= 0.01 && f.Hz <= 10):
		return errors.New("samples a second: wanted 0.01 to 10")
	case f.RawDays < 1 || f.RawDays > 3650 || f.CellDays < 1 || f.CellDays > 36_500:
		return errors.New("retention: wanted 1 to 3650 days of raw rows, 1 to 36500 of minutes")
	case f.Years < 1 || f.Years > 100:
		return errors.New("years: wanted 1 to 100")
	case f.StoreReplicas < 1 || f.StoreReplicas > 5:
		return errors.New("replicas of the store: wanted 1 to 5")
	case f.BrokerReplicas != 1 && f.BrokerReplicas != 3 && f.BrokerReplicas != 5:
		return errors.New("replicas of streams: wanted 1, 3 or 5")
	case !(f.OutageHours > 0 && f.OutageHours <= 168):
		return errors.New("outage: wanted up to 168 hours")
	case f.Cores < 1 || f.Cores > 1024 || !(f.DiskTB > 0 && f.DiskTB <= 10_000):
		return errors.New("a machine: wanted 1 to 1024 cores and up to 10000 TB of disk")
	case !(f.Load > 0 && f.Load <= 1):
		return errors.New("load: wanted a share of more than 0 and at most 1")
	}
	return nil
}

// Need is what a fleet needs. Sizes are decimal bytes, processors are cores of the machine on which
// the figures were measured.
type Need struct {
	Fleet Fleet
	Hosts int

	FramesPerS, SamplesPerS, RowsPerS float64
	WireBytesPerS                     float64 // agents to broker

	BrokerCores     float64 // of all servers
	BrokerServers   int
	BrokerMemory    float64 // bytes, of all servers
	BrokerDisk      float64 // bytes, of one server
	StreamBytes     float64 // of one stream: the collector's nats.stream_max_bytes
	BrokerNetPerS   float64 // bytes, in and out of all servers
	CollectorCores  float64
	Collectors      int
	Partitions      int     // streams: the collector's nats.partitions
	PartitionRows   float64 // rows a second of one of them
	StoreNetPerS    float64 // bytes, collectors to store, and between replicas
	EngineCores     float64 // of one replica of everything: inserts and merges
	Shards          int
	ShardsBy        string // what decided it
	StoreMachines   int
	RawBytes        float64 // of one replica
	CellBytes       float64
	LedgerBytes     float64 // after so many years
	ReplicaBytes    float64 // these three
	StoreBytes      float64 // of all replicas
	ShardBytes      float64 // on one machine
	DetectorCores   float64
	DetectorMinutes float64 // for a day judged again, on two cores
	Notes           []string
}

// partitions is the number of streams of a fleet, and so of collectors that work at a time: a part
// of the wire contract. A small fleet has one.
const partitions = 16

// streamSlack is for hosts' names that do not spread evenly over partitions.
const streamSlack = 1.25

// Compute does the arithmetic.
func Compute(f Fleet) (Need, error) {
	if err := f.Check(); err != nil {
		return Need{}, fmt.Errorf("size a fleet: %w", err)
	}
	f = f.withDefaults()
	n := Need{Fleet: f, Hosts: int(math.Ceil(float64(f.GPUs) / float64(f.GPUsPerHost)))}
	n.Partitions = map[bool]int{false: 1, true: partitions}[f.GPUs > smallFleet]
	n.SamplesPerS = float64(f.GPUs) * f.Hz
	n.RowsPerS = n.SamplesPerS * RowsPerSample.Value
	n.FramesPerS = float64(n.Hosts) / SealSeconds.Value
	n.WireBytesPerS = n.SamplesPerS * BytesPerSample.Value
	capacity := float64(f.Cores) * f.Load

	// Each replica stores what it gets, and sends nothing but acks.
	n.BrokerCores = n.FramesPerS * BrokerMicros.Value / 1e6 * float64(f.BrokerReplicas)
	n.BrokerMemory = float64(n.Hosts) * BrokerConnection.Value * 1024
	n.BrokerNetPerS = n.WireBytesPerS * float64(f.BrokerReplicas+1) // in, to the other replicas, out to the collector
	servers := math.Max(float64(f.BrokerReplicas), math.Ceil(n.BrokerCores/capacity))
	servers = math.Max(servers, math.Ceil(float64(n.Hosts)/BrokerConnections.Value))
	n.BrokerServers = int(servers)
	n.BrokerDisk = n.WireBytesPerS * f.OutageHours * 3600 * float64(f.BrokerReplicas) / servers

	n.StreamBytes = n.WireBytesPerS * f.OutageHours * 3600 / float64(n.Partitions) * streamSlack

	n.CollectorCores = n.RowsPerS * CollectorMicros.Value / 1e6
	n.Collectors = max(int(math.Ceil(n.CollectorCores/capacity)), min(f.StoreReplicas, 2))
	n.PartitionRows = n.RowsPerS / float64(n.Partitions)
	n.StoreNetPerS = n.RowsPerS * InsertBytes.Value * float64(f.StoreReplicas)

	// Every replica inserts, or fetches, and merges: that it merges as much as the first is assumed.
	n.EngineCores = (n.RowsPerS*EngineMicros.Value/1e6 + float64(n.Partitions)*EngineInsert.Value) * (1 + QueryShare.Value)
	perDay := 86_400.0
	n.RawBytes = perDay * float64(f.RawDays) * n.SamplesPerS * (DiskPerSample.Value + OtherDiskPerSample.Value)
	n.CellBytes = perDay / 60 * float64(f.CellDays) * float64(f.GPUs) * CellBytes.Value
	n.LedgerBytes = perDay * 365 * float64(f.Years) * n.FramesPerS * LedgerBytes.Value
	n.ReplicaBytes = n.RawBytes + n.CellBytes + n.LedgerBytes
	n.StoreBytes = n.ReplicaBytes * float64(f.StoreReplicas)
	disk := f.DiskTB * 1e12 * DiskFill.Value
	byCPU, byDisk := math.Ceil(n.EngineCores/capacity), math.Ceil(n.ReplicaBytes/disk)
	n.Shards, n.ShardsBy = int(math.Max(byCPU, byDisk)), "processors"
	if byDisk > byCPU {
		n.ShardsBy = "disk"
	}
	n.StoreMachines = n.Shards * f.StoreReplicas
	n.ShardBytes = n.ReplicaBytes / float64(n.Shards)

	n.DetectorMinutes = DetectorMinutes.Value * float64(f.GPUs) / 100_000
	n.DetectorCores = n.DetectorMinutes * 2 / (24 * 60)
	n.note()
	return n, nil
}

// note says what of it was never run.
func (n *Need) note() {
	say := func(format string, args ...any) { n.Notes = append(n.Notes, fmt.Sprintf(format, args...)) }
	if n.SamplesPerS > Proven.Value {
		say("never run at this size: the largest fleet that was loaded had %s GPUs at 1 Hz (%s)", group(Proven.Value), provenBy)
	}
	if n.Fleet.BrokerReplicas > 1 || n.Fleet.StoreReplicas > 1 {
		say("replicas multiply what one server was measured to take; a replicated store was never run, a broker of three was run as a test, not measured")
	}
	if n.Collectors > n.Partitions && n.Partitions > 1 {
		say("%d collectors are more than the %d partitions: the rest wait", n.Collectors, n.Partitions)
	}
	if n.PartitionRows*CollectorMicros.Value/1e6 > 0.5 {
		say("a partition is read by one goroutine, and %s rows a second are more than half of what one core does: divide the fleet into clusters with a broker each", group(n.PartitionRows))
	}
	if float64(n.Hosts) > BrokerConnections.Value {
		say("%s connections are shared out over %d servers; leaf nodes near the hosts are the other way", group(float64(n.Hosts)), n.BrokerServers)
	}
}
