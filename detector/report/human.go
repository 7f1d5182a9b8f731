package report

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/threshold"
)

// renderHuman writes report.md: what a person needs to judge the finding by hand.
func renderHuman(f *Folder, digests []fileDigest) []byte {
	b := &bytes.Buffer{}
	p := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	x := &f.Finding
	p("# %s: %s\n", title(x.Limb), cell(x.Subject()))
	if f.marking() != "" {
		p("> **%s.** %s\n", strings.ToUpper(Marking[:1])+Marking[1:], whyInternal(f))
	}
	p("%s\n", cell(x.Explanation))
	p("| | |\n|---|---|")
	p("| finding | `%s` |", x.Finding)
	p("| cluster | %s |", cell(f.Cluster))
	p("| state | %s, severity %s |", x.State, x.Severity)
	p("| evidence sufficed from | %s |", utc(x.KnownAtMs))
	p("| judged at | %s |", utc(f.AtMs))
	for _, row := range []struct {
		name string
		ids  []string
	}{{"runs", x.Runs}, {"orders", x.Orders}, {"accounts", x.Accounts}, {"parties", x.Parties}} {
		if len(row.ids) > 0 {
			p("| %s | %s |", row.name, cell(strings.Join(row.ids, ", ")))
		}
	}
	p("\nParties are given by id. Names are sealed; reading them needs a compliance officer's key.\n")
	legal(p, f)
	computed(p, f)
	timeline(p, f)
	evidence(p, f, digests)
	coverage(p, f)
	p("## What else could explain it\n")
	for _, line := range alternatives(f) {
		p("- %s", cell(line))
	}
	p("\n## What was not assessed\n")
	notAssessed := append(slices.Clone(x.ConditionsNotAssessed), "intent and knowledge of anybody involved")
	for _, line := range notAssessed {
		p("- %s", cell(line))
	}
	recompute(p, f, digests)
	return b.Bytes()
}

type printer func(format string, args ...any)

// cell keeps a foreign string from breaking a line or a table.
func cell(s string) string {
	return strings.NewReplacer("\n", " ", "\r", " ", "|", "\\|", "<", "&lt;").Replace(s)
}

func title(limb string) string {
	switch limb {
	case Actual:
		return "Limit exceeded by a run"
	case Projected:
		return "Run projected beyond a limit"
	case Capacity:
		return "Order that could result in a run beyond a limit"
	case ChangedArrangement:
		return "Amendment that makes a run beyond a limit possible"
	case Cluster:
		return "Cluster held beyond a limit"
	case RedFlag:
		return "Red flag"
	case Telemetry:
		return "Telemetry that is missing or contradicts itself"
	}
	return limb
}

func whyInternal(f *Folder) string {
	if f.Profile == nil {
		return "No rule makes this finding reportable."
	}
	return fmt.Sprintf("Profile %s is %s. Nothing is due; every date below is a hypothesis.", cell(f.Profile.Name), statusWords(&f.Profile.Profile, f.Finding.KnownAtMs))
}

func legal(p printer, f *Folder) {
	p("## Legal status\n")
	if f.Profile == nil {
		p("This finding belongs to no threshold profile: it asks for an inquiry, and no date follows from it. This report is no legal advice.\n")
		return
	}
	q := f.Profile
	p("| | |\n|---|---|")
	p("| profile | %s |", cell(titled(q)))
	p("| status | %s |", statusWords(&q.Profile, f.Finding.KnownAtMs))
	for _, row := range [][2]string{{"version", q.Version}, {"obligated party", q.ObligatedParty}, {"source", q.LegalSource}, {"counting rule", q.CountingRule}} {
		if row[1] != "" {
			p("| %s | %s |", row[0], cell(row[1]))
		}
	}
	if q.LimitFLOP > 0 {
		p("| limit | more than %s FLOP (%s basis) |", flop(q.LimitFLOP), cmp.Or(q.Counting.Basis, threshold.Model))
	}
	if q.Cluster != nil {
		joined := "a limb of its own"
		if q.JoinCluster {
			joined = "only together with the limit"
		}
		p("| cluster | network above %g Gbit/s and more than %s operations per second, %s |", q.Cluster.Gbps, flop(q.Cluster.OpsPerS), joined)
	}
	switch {
	case f.Finding.DueAtMs != nil:
		p("| due | %s |", utc(*f.Finding.DueAtMs))
	case f.Finding.WouldBeDueAtMs != nil:
		p("| would be due, if it were in force and bound this operator | %s |", utc(*f.Finding.WouldBeDueAtMs))
	}
	p("\nThis report is no legal advice.\n")
}

// titled is the profile's name, with its title where that says more.
func titled(q *ProfileText) string {
	if q.Title == "" || q.Title == q.Name {
		return q.Name
	}
	return q.Name + ": " + q.Title
}

func computed(p printer, f *Folder) {
	p("## What was computed\n")
	switch f.Finding.Limb {
	case Actual:
		p("The run's model FLOPs were added up minute by minute from the best signal that each GPU had. The limit counts as crossed from when the best value, the middle of the distribution, exceeded it.")
	case Projected:
		q := projectionOf(f)
		p("FLOP done + rate over the last %s (since the start, for a younger run) x time to the latest end of the accounts' orders for these GPUs, as the orders stood then; met from %.1f times the limit on, at the earliest %g minutes after the run's start.", span(q.WindowMinutes), q.Margin, q.AfterMinutes)
	case Capacity, ChangedArrangement:
		p("GPUs x dense 16-bit peak x %.3g x term, the term of an amended order counted from its amendment; met where that reaches the limit and the declared use does not exclude training.", projectionOf(f).Utilization)
	case Cluster:
		p("The dense 16-bit peaks of all GPUs that the account holds at once in one site, on nodes whose back-end network exceeds the profile's speed, added up.")
	case RedFlag:
		p("Who stands behind an account: its holder, owners with an edge of 25 %% or more each, parents and resellers, up to five edges; their countries against the list of special jurisdictions, their verification, and the accounts and declared uses behind a run.")
	case Telemetry:
		p("Stretches of %d minutes or more without a sample of a rented node while others reported, of %d minutes or more where nothing of the fleet came, and stretches in which power, activity, counters and the host's meter cannot all be true.", silenceMs/60000, outageMs/60000)
	}
	if f.Run != nil {
		r, e := &f.Run.Run, &f.Run.Est
		p("\n| | low | best | high |\n|---|---|---|---|")
		p("| executed FLOP | %s | %s | %s |", flop(e.Executed.Low), flop(e.Executed.Best), flop(e.Executed.High))
		p("| model FLOP | %s | %s | %s |", flop(e.Model.Low), flop(e.Model.Best), flop(e.Model.High))
		p("\n90 %% intervals, from %s. The activity is judged to be %s with probability %.2f.", words(e.Basis), cell(r.Class), r.ClassProb)
		for _, reason := range r.Reasons {
			p("- %s", cell(reason))
		}
		for _, l := range r.Links {
			p("- put together by %s (%.2f): %s", cell(l.Kind), l.Weight, cell(l.Reason))
		}
	}
	p("")
}

// projectionOf is how the profile of a report counts what is to come.
func projectionOf(f *Folder) threshold.Projection {
	if f.Profile == nil || f.Profile.Projection == (threshold.Projection{}) {
		return threshold.DefaultProjection()
	}
	return f.Profile.Projection
}

func timeline(p printer, f *Folder) {
	type event struct {
		atMs int64
		text string
	}
	events := []event{{f.Finding.KnownAtMs, "evidence sufficed"}, {f.AtMs, "judged last"}}
	if f.Run != nil {
		events = append(events, event{f.Run.Run.StartMs, "run started"})
		if f.Run.Run.Open {
			events = append(events, event{f.Run.Run.EndMs, "run last seen at work"})
		} else {
			events = append(events, event{f.Run.Run.EndMs, "run ended"})
		}
	}
	if f.Finding.DueAtMs != nil {
		events = append(events, event{*f.Finding.DueAtMs, "due"})
	}
	if f.Finding.WouldBeDueAtMs != nil {
		events = append(events, event{*f.Finding.WouldBeDueAtMs, "would be due (hypothesis)"})
	}
	slices.SortStableFunc(events, func(a, b event) int { return int(min(max(a.atMs-b.atMs, -1), 1)) })
	p("## Timeline\n\n| event time | |\n|---|---|")
	for _, e := range events {
		p("| %s | %s |", utc(e.atMs), e.text)
	}
	p("")
}

func evidence(p printer, f *Folder, digests []fileDigest) {
	p("## Evidence\n")
	if len(f.Finding.Evidence) > 0 {
		p("| kind | node | GPU | from | to | strength |\n|---|---|---|---|---|---|")
		for _, e := range f.Finding.Evidence {
			gpu := ""
			if e.GPU != nil {
				gpu = fmt.Sprint(*e.GPU)
			}
			p("| %s | %s | %s | %s | %s | %s |", cell(e.Kind), cell(e.Node), gpu, utc(e.FromMs), utc(e.ToMs), e.Strength)
		}
		p("")
	}
	if len(f.Finding.Evidence) == maxEvidence {
		p("The list ends at %d lines; the rows hold more.\n", maxEvidence)
	}
	if len(digests) == 0 {
		p("No rows were copied for this finding.\n")
		return
	}
	p("| file | bytes | SHA-256 |\n|---|---|---|")
	for _, d := range digests {
		p("| `%s` | %d | `%s` |", d.Name, d.Bytes, d.SHA256)
	}
	p("")
}

func coverage(p printer, f *Folder) {
	p("## Coverage\n")
	switch {
	case f.Run == nil:
		p("The finding rests on what was stated (orders, rentals, the register) or on what is missing; a share of GPU-time does not apply.\n")
	case f.Profile != nil && f.Run.Est.CoverageFrac < f.Profile.MinCoverageFrac:
		p("A signal that some tier can use covers %.0f %% of the run's GPU-time, less than the %.0f %% that the profile asks for: the finding is put as a question, with its bounds.\n", 100*f.Run.Est.CoverageFrac, 100*f.Profile.MinCoverageFrac)
	default:
		p("A signal that some tier can use covers %.0f %% of the run's GPU-time. What was not measured is not counted as idle: it widens the interval.\n", 100*f.Run.Est.CoverageFrac)
	}
	if f.Run != nil {
		if text := lostText(f.Run.Est.Lost); text != "" {
			p("%s\n", text)
		}
	}
}

func alternatives(f *Folder) []string {
	out := []string{}
	if f.Run != nil {
		out = append(out,
			fmt.Sprintf("The activity is no training: probability %.2f by the classifier.", max(0, 1-f.Run.Run.ClassProb)),
			"Parts that were put together are trainings of different models, or one of them belongs to another run.")
	}
	switch f.Finding.Limb {
	case Actual:
		out = append(out, "The true value lies below the limit inside the 90 % interval; recomputed activations, evaluation or filler were taken for the model's own work.")
	case Projected:
		out = append(out, "The run ends before its orders do, or slows down.")
	case Capacity, ChangedArrangement:
		out = append(out, "The capacity is used for something other than training, or is not used.")
	case Cluster:
		out = append(out, "The inventory states a faster network, or another site, than the nodes have; the GPUs are rented but not joined.")
	case RedFlag:
		out = append(out, "The register is out of date; the accounts cooperate openly; a declared use was never updated.")
	case Telemetry:
		out = append(out, "Maintenance, a broken meter or a lost network path on the provider's side. The account is named because it held the GPUs.")
	}
	return out
}

func recompute(p printer, f *Folder, digests []fileDigest) {
	p("\n## How to recompute\n")
	if f.Recording != "" {
		p("    flopwatch replay BUNDLE --out DIR\n")
		p("of the recording with the SHA-256 `%s` gives this finding again under the same id, byte for byte, with detector %s and configuration %s.", cell(f.Recording), cell(f.Detector), cell(f.Config))
	} else {
		p("Judge cluster %s again at %s from the stored rows, with detector %s and configuration %s.", cell(f.Cluster), utc(f.AtMs), cell(f.Detector), cell(f.Config))
	}
	if len(digests) > 0 {
		p("The rows in `%s` are what the finding rests on; `%s` holds their digests and every number above at full precision.", evidenceDir, machineFile)
	}
}
