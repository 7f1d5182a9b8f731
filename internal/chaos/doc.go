// Package chaos breaks a small fleet of real processes again and again, and holds what is stored to
// what was taken.
//
// # What it owns
//
// Worlds of three nodes: flopwatch-agent with flopwatch-nvml over the stub of the driver's library,
// `flopwatch nats`, two flopwatch-collector that contend, `flopwatch clickhouse`, all as they ship,
// each in a network namespace of its own behind one router, spools, streams and tables each on a
// disk of a size; faults, each drawn from a number; and the verdict. It must not know how any of
// them works inside. Without root there are no namespaces and no sizes, and the faults that need
// them are left out.
//
//	make chaos                              200 faults, three worlds at a time
//	make chaos SEED=17 FAULTS=1             fault 17 alone, in a new world
//	make chaos ONLY="clock"                 of kinds that begin so (other faults than without)
//	make chaos PICK="3:kill broker,9:stall" these, by number and kind
//	make chaos LIST=1                       says which there would be
//
// A fault, with its kind, victim, lengths and how often, is drawn from its number, from ONLY or the
// kind it is picked by, from AGENTS (3) and from APART (root or not), and from nothing else:
// WORLDS, ROUND and where the numbers begin change none (TestDraw). What a failure prints has
// all of that (TestAgain). Not from its number comes the moment at which it meets the others' work,
// which is the machine's; so a failure may take several tries, or what went before it, which is
// printed too. After each fault the world goes on; every 25 faults, and behind a failure, a new one
// begins. A run ends after CHAOS_MINUTES (45) at the latest, whatever is left counts as not survived;
// each wait of a fault is bounded by three minutes.
//
// At its end a run appends to OUT/chaos/summary.md what it was of, each kind with how many were
// survived, where what was taken went, and commit, machine and load; what is left of a failure is
// beside it. `make test` has one fault of each kind but the stall, from seeds in chaos_test.go: as
// root in two minutes; what only root can make is told as skipped.
//
// # Faults
//
//   - kill -9 of an agent, its NVML child, the broker, a collector, the engine, several or all at once,
//     up to three times in a row, down for up to four seconds; SIGTERM
//   - SIGSTOP of each, briefly; of collectors past their lease (5 s here); of the engine for 40 s and
//     more, while streams of 96 KiB fill and frames pile up in the spools
//   - partitions agent-broker, collector-broker, collector-engine: both ways or one, silent or answered
//     by "unreachable", with and without all connections reset
//   - no room: on the broker's disk, a spool's (with and without the broker out of reach), the engine's
//   - the wall clock of one process, its children with it, an hour or seven seconds forward or back, or
//     to the seventies, several times to and fro
//   - bytes flipped in frames that lie in a spool alone, with and without a restart
//   - forged messages: noise, frames cut short, with a bit changed, on another node's subject
//   - messages again, up to 220 at once, in another order, under their id, another or none, also while
//     collectors stand still, so that a range has both
//   - inserts refused by a limit of parts, also while the engine's disk is full
//   - a fourth of all: two of these at once
//
// # Verdict
//
// After each fault, once every spool is free up to what was taken when the fault ended:
//
//   - every frame taken since the world began is stored once, with its digest, and in each table with
//     as many rows of one key as it had; or in quarantine because its own or the broker's clock was wrong;
//     or given up for a reason that a fault explains, and told. Messages that a clock of the broker
//     had put aside are stored after `flopwatch quarantine retry`
//   - nothing is stored that was not taken; of a frame without a row in batches there is no row at all
//   - quarantine has the intruder's messages, and no other
//   - no sequence has ever been two frames
//   - `flopwatch chain verify --all` finds nothing, but beside frames that were damaged on disk
//   - no process has passed its bound of memory, none has panicked
//
// At the end of a round agents are stopped by SIGTERM, and all of it holds of the last frame too.
//
// What was taken the package knows from the spools' files, which it reads beside the agents every
// 20 ms with code of its own, and from nothing else.
//
// # Not covered
//
// Loss of what the kernel has and the disk has not (agent/spool's power tests do that for the spool;
// the broker's stream, which is synced every two minutes, relies on sending again after ten, which
// agent/ship tests and this package does not wait for). Clusters of brokers (internal/e2e/cluster) and
// of ClickHouse. Media errors. A clock that changes its rate. A clock of the kernel: what is stepped is
// the clock that a process reads (clock.go), on amd64 alone. Spools that age. Compression bombs and
// newer versions (collector's tests). Rows lost in memory before a frame was made: they were never
// taken; up to seal_every of samples go with a killed agent.
//
// # Goroutines and buffers
//
// A world owns a goroutine a process, which holds the thread that started it, and one a spool. close
// ends all of them. The oracle keeps a digest and row counts of each frame of a world.
package chaos
