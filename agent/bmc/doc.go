// Package bmc measures hosts from outside: it asks their management controllers over HTTPS
// (Redfish) or IPMI what GPUs and nodes do, where no driver of the host can see it: GPUs that
// guests have, tenants' bare metal, and as a second witness of what a host says of itself.
//
// # What it owns
//
// Targets and their accounts, sessions, the reading of vendors' trees, what is stale, and
// whether this host's own GPUs are guests' (Passthrough). It must not know what becomes of
// its rows, nor trust a controller: its answers are bounded, its redirects not followed, its
// paths checked, and its words never repeated in a status. It changes nothing: a request that
// is neither GET nor of a session does not leave the process.
//
// # What is asked
//
//	redfish_report  TelemetryService/MetricReports: ProcessorGPMMetrics (tensor, SM, pipes),
//	                PlatformEnvironmentMetrics (power, energy, temperature), ProcessorMetrics (clock),
//	                ProcessorPortGPMMetrics (NVLink), MemoryMetrics. A row a GPU, as the controller
//	                names it (GPU_SXM_1, GPU_0, ProcessorModule_0_GPU_1, GPU.Slot.21-1), joined by the
//	                UUID of its Processor resource; one for the sum of all GPUs where it is told.
//	redfish_sensor  the GPUs' EnvironmentMetrics and ProcessorMetrics where there are no reports; the
//	                node's power from Chassis EnvironmentMetrics, Power or the power supplies' Metrics
//	dcmi            the node's power by IPMI over RMCP+ (suites 17 and 3, privilege User), or /dev/ipmi0
//
// Percent become e4, Gbit/s bytes per second, joules millijoules. NVLink is the payload before
// all bytes, and the GPU's own sum before that of its links. GPU_SXM_1 is a place on a board,
// not an index of the driver: the index is set only where the UUID is one of this host's.
//
// # Stale is not new
//
// A report has times of its own, one a value. A report whose newest time has not moved gives
// no row: its values were told. Values marked stale by the controller, or old beside their
// report, are left out, and so is a report that is old by the controller's own clock (the Date
// of its answer). After twelve intervals (five minutes at most) without a move it is told as
// stalled. report_ms is the controller's word, the oldest of a row's values; ts_ms is ours. A
// report that belongs to the board and is not there (GPM goes missing on some trays), or a GPU
// that was there and is not, is degraded, by name.
//
// # Accounts and trust
//
// A target without an account is refused at start, and so is a file that others can read. The
// account is read anew at every login. A controller that refuses it is left alone for five
// minutes, as controllers lock accounts. Certificates are checked against the system's
// authorities, a given one, or a pinned fingerprint; insecure must be said, and is told as
// degraded. IPMI authenticates both sides by the password alone and lets whoever pretends to
// be a client collect material to guess it: prefer redfish, and give IPMI an account of its own.
// Method auto takes a refused connection, which anybody on the network can make, as a reason to
// ask by IPMI only where there is such an account; else it says that it did not.
//
// # Why reports are read here, and the rest by gofish
//
// gofish v0.26.0 makes the session and the requests. Its MetricReport holds the answer, its
// raw copy and its decoded form at once: 2 MiB a round for a board of eight, requests
// included. readReport takes values as they come, by a walk over each that is fuzzed against
// encoding/json, and keeps those that are wanted: a third of the memory that decoding into
// gofish's type alone takes (BenchmarkReport, BenchmarkGofish).
//
// # Crash, buffers, goroutines, budget
//
// One goroutine a target, started by the first Sample and ended by Close, which gives the
// sessions back (three seconds at most); at most Concurrency of them ask at a time. Sample
// never waits: it hands over what arrived, at most eight answers a target, the oldest given
// up first. An answer has at most 4 MiB and 16,384 metrics, a target 256 parts; a report that
// is larger is left alone for a while. After a failure the wait doubles, to five minutes. A killed agent leaves a session, which the
// controller forgets by itself.
package bmc
