// Package up runs the whole product on one machine: embedded NATS and ClickHouse, collector,
// detector, and the agent or a recording in its place, as one supervised process tree on a
// data directory. It also tells others about a tree: where it serves, and how it is.
//
// It owns: which source of telemetry is used, the ports, the configuration files of the
// children, the order in which they start, how they are asked for their health, and what is
// said about all that to people (on the terminal, /healthz, state.json). It must not know SQL,
// the wire, or what a child does with its configuration.
//
// # Files under the data directory
//
//	source.json        what the data are of; another source needs another directory
//	site.key           key of the hashes of names
//	officer.key, screening.key   open the sealed parties, made when there are any
//	run/lock, run/tree.lock      see internal/supervise
//	run/state.json     where everything is and how it is, for the commands that ask
//	run/*.toml         configuration of the children, written at each start
//	run/nats.token     what clients show to the broker
//	log/NAME.log       what each child says
//	nats/ clickhouse/ agent/ play/ facts/ reports/   data of each
//
// # Crash
//
// Every file is written whole or not at all. Of a tree that was killed nothing survives (the
// kernel kills its children), and the next start goes on with the data that are there.
//
// # Goroutines
//
// Run owns the supervisor's, the health server's and the one that handles SIGHUP; all end
// before it returns.
package up
