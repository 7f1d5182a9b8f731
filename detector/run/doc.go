// Package run assembles GPUs into activities: in space (Episodes), then in time (Join).
//
// It owns what belongs together and why. Each GPU's telemetry, processes and rentals are
// cut into stretches of uninterrupted use (segment.go; power.go where watts of the host
// are all there is). What use is, each GPU is asked itself: a jump above the plateau of
// memory and the floor of watts that it shows at rest, or activity (baseline.go); what most
// GPUs of a host show of a short rest holds for those beside them (even.go). Stretches are
// joined into episodes by an evidence graph whose links keep kind, weight and reason
// (group.go, sync.go): communicators, processes, job ids, flows, and pace (pace.go): starts
// and ends over clocks that are off, levels, traffic, bursts, steps and stalls, each of which
// moves the odds. Episodes are joined into runs over restarts, moves, scale-ups and accounts
// by the odds of three explanations, going on, another try, other work (continuity.go): what
// they show of a model, against how usual that is among the fleet's other work (likeness.go,
// signature.go), and the manner of the hand-over. What telemetry cannot tell apart stays
// apart, and is named beside the run with its weight: restart or repeat (Run.Alternatives),
// twins (Episode.Beside, which become Alternatives), and what may add up to one training
// above runs (campaign.go): islands, split pools, work cut into many runs.
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
// A stage looks at a bounded number of candidates for each thing that two parts share (hosts,
// names, accounts, sizes, moments), so that the cost grows about as the fleet does.
//
// Parts of a GPU (Evidence.Instances) are not told apart in space: telemetry of a GPU is that
// of all its parts, and two programs on parts of one are two stretches where processes say so.
//
// Budget: 50 ms a call at 50,000 minute cells; go test -bench Assembly for 100,000 GPUs.
package run
