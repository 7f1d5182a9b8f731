package sizing

// Kind says how far a figure can be relied on.
type Kind string

// Kinds of figures.
const (
	Measured Kind = "measured"
	Assumed  Kind = "assumed"
	Set      Kind = "set" // a default of ours
)

// Figure is a number that the arithmetic uses.
type Figure struct {
	Name    string
	Value   float64
	Unit    string
	Kind    Kind
	Command string // that measured it, or why it is assumed
	Date    string
}

// provenBy is the run that most figures come from.
const provenBy = "flopwatch loadgen --local DIR --find-ceiling --nodes 2280"

// The figures. One that is measured was measured on two cores (Xeon) that others' builds and tests used too, at the
// lowest of priorities (load average 17 to 28, which makes CPU times longer than they need be), with the embedded
// engine and the NATS server as a library, each in a process of its own.
var (
	SealSeconds = Figure{"seconds between two frames of a host", 20, "s", Set, "seal_every, flopwatch-agent -print-config", "2026-11-22"}
	Proven      = Figure{"largest fleet that was held, every frame committed within 10 s", 61_560, "GPUs at 1 Hz", Measured, provenBy, "2026-11-22"}

	RowsPerSample  = Figure{"rows of all kinds for a sample of a GPU", 2.5, "", Measured, "the same: rows of all kinds over samples; nearly half are ports of the network", "2026-11-22"}
	BytesPerSample = Figure{"bytes on the wire for a sample of a GPU, with all that goes with it", 50, "B", Measured, "the same; the sample alone 27 B (make bench-agent WINDOW=100s)", "2026-11-22"}

	BrokerMicros      = Figure{"broker, CPU a frame: publish, store, deliver, ack", 350, "µs", Measured, "the same: nats, 2.2 µs a sample of which a frame has 160", "2026-11-22"}
	BrokerConnection  = Figure{"broker, memory a host: its connection, and what streams and marks keep", 280, "KiB", Measured, "flopwatch loadgen --local DIR: nats took 191 MiB with 600 hosts, 39 MiB with 50: the slope; with 7,695 hosts 1,013 MiB, 135 KiB a host", "2026-11-22"}
	BrokerConnections = Figure{"connections of a broker's server at most", 50_000, "", Assumed, "never run; a choice of ours", "2026-11-22"}

	CollectorMicros = Figure{"collector, CPU a row of any kind", 0.8, "µs", Measured, "the same: collector took 0.11 cores for 149,699 rows a second; samples of GPUs alone 0.8 to 1.1 µs (make bench-ingest)", "2026-11-22"}
	InsertBytes     = Figure{"bytes to the store a row, uncompressed columns", 250, "B", Assumed, "schema: 28 integer columns of a GPU's row, fewer of others", "2026-11-22"}

	EngineMicros = Figure{"store, CPU a row with merges", 6, "µs", Measured, "the same: clickhouse took 1.14 cores for 149,699 rows a second, and 0.53 for 44,291: the slope is 5.8; merges of days are not in it", "2026-11-22"}
	EngineInsert = Figure{"store, CPU of the inserts of a partition, however small", 0.075, "cores", Measured, "flopwatch loadgen --local DIR --nodes 50 --for 1m: what is left without rows, of four partitions that insert into a dozen tables every second or so", "2026-11-22"}
	QueryShare   = Figure{"store, CPU of queries over that of inserts", 0.5, "", Assumed, "detector and analysts; not measured", "2026-11-22"}

	DiskPerSample      = Figure{"disk a sample of a GPU", 21, "B", Measured, "the same, then bytes_on_disk of system.parts by table; values are invented, 28 of them", "2026-11-22"}
	OtherDiskPerSample = Figure{"disk of the other rows that go with a sample", 17, "B", Measured, "the same; most of it ports of the network", "2026-11-22"}
	CellBytes          = Figure{"disk a GPU's minute in features", 175, "B", Measured, "flopwatch replay deploy/recordings/clean-mix --data DIR, then system.parts: 7,504 minutes of a GPU at 164 B, with hosts' and communicators'", "2026-11-22"}
	LedgerBytes        = Figure{"disk a frame in the ledger of batches, which never goes", 175, "B", Measured, "200,000 rows with what agents write, digests and signatures by chance, merged: bytes_on_disk of system.parts", "2026-11-22"}
	DiskFill           = Figure{"share of a disk that is used, merges need the rest", 0.7, "", Assumed, "", "2026-11-22"}

	DetectorMinutes = Figure{"detector, a day of 100,000 GPUs judged on two cores", 10, "min", Assumed, "the bound of DESIGN.md 6; not measured", "2026-11-22"}
)

// Figures lists them all, in the order of the way that data takes.
func Figures() []Figure {
	return []Figure{
		Proven, SealSeconds, RowsPerSample, BytesPerSample, BrokerMicros, BrokerConnection, BrokerConnections, CollectorMicros, InsertBytes,
		EngineMicros, EngineInsert, QueryShare, DiskPerSample, OtherDiskPerSample, CellBytes, LedgerBytes, DiskFill, DetectorMinutes,
	}
}
