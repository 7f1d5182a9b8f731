// Package fakebmc is a management controller to try agent/bmc on: HTTPS with sessions, the
// metric reports of an HGX board, and the trees of several vendors. Its values come from a
// scenario function.
//
// It is no part of a product's path: tests use it, and whoever wants to see out-of-band rows
// without hardware. It must not know agent/bmc: it is written against what controllers
// document, not against what the reader expects. It makes its certificate anew at every
// start, keeps everything in memory, and serves the paths below /redfish/v1 that a reader
// needs; all else is 404. Besides sessions it takes nothing but GET, and counts what else is
// tried.
//
// Start owns one goroutine, and net/http's one a connection; Close ends them. Vendors:
//
//	supermicro  Systems/1 beside HGX_Baseboard_0; GPU_SXM_1..8; node power in Chassis/1/EnvironmentMetrics
//	dell        System.Embedded.1; GPU_SXM_1..8; node power in Chassis/System.Embedded.1/Power
//	hpe         Systems/1; GPU_0..7; node power in Chassis/1/Power
//	ami         Systems/Self; GPU_SXM_1..8; node power of power supplies alone
//	plain       no telemetry service: GPUs and node by sensors
package fakebmc
