// Package run assembles GPUs into activities: in space (Episodes), then in time (Join).
//
// It owns what belongs together and why. Each GPU's telemetry, processes and rentals are
// cut into stretches of uninterrupted use (segment.go; power.go where watts of the host
// are all there is). Stretches are joined into episodes by an evidence graph whose links
// keep kind, weight and reason (group.go, sync.go): communicators, processes, job ids,
// flows, synchronous starts and ends. Episodes are joined into runs over restarts, moves,
// scale-ups and accounts by a score of declared continuity, the model's signature
// (bytes per collective call, memory plateau, load) and the manner of the hand-over
// (join.go). What telemetry cannot tell apart stays apart.
//
// It must not know classes beyond what Join is told, FLOPs, thresholds or parties, and it
// has no clock, no I/O and no logger. It allocates what it returns and keeps nothing;
// Evidence is only read. There is nothing to recover after a crash: the same evidence
// gives the same episodes, runs and ids.
//
// Starts are decided causally: whether a minute counts as in use depends on that minute
// and earlier ones alone. So a start, and the run id that is minted from it, stays as
// evidence grows. Late rows of the past may still add an earlier start; the caller keeps
// the id first seen and lists the other in Supersedes.
//
// Budget: 50 ms a call at 50,000 minute cells.
package run
