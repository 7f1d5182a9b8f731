package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
)

// Words for hours that the hourly check has not judged.
const (
	unchecked = "unchecked"
	nothing   = "nothing" // no batch of the host arrived in the hour
)

// hoursOptions are those of `flopwatch chain hours`.
type hoursOptions struct {
	chainOptions
	status []string
}

func newChainHoursCommand() *cobra.Command {
	var o hoursOptions
	known := append(slices.Clone(chain.Statuses[:]), unchecked, nothing)
	cmd := &cobra.Command{
		Use:   "hours --data DIR",
		Short: "For each host and hour: what was taken, stored, in quarantine, lost and why, and whether it was checked",
		Long: `Hours says what became of each host's telemetry, hour by hour (UTC): the sampling ticks that were due by the host's own
count, those that are stored, the batches that are in quarantine, and what is lost, with the reason:

  spool full, too old, disk full, damaged   the host's spool gave batches up, and says so in a signed head
  never sealed     ticks that did not come to the spool: it took nothing, or the agent was killed
  no sample        ticks that passed without one: the host was suspended, or overloaded
  in quarantine    refused; flopwatch quarantine ls says why
  other content    came under a number that was taken; it is in quarantine
  missing          nobody accounts for it: on its way, or taken out

and what the hourly check found of the batches that arrived in the hour: verified, unsigned, incomplete, broken. An hour that was
not checked yet says so: then what is not known to be lost may be. "nothing arrived" is an hour in which no batch of the host came.

With --node every hour of the host is listed, silent ones between others too. Without it those hosts' hours in which something is
lost, refused or does not hold, as far as it was checked; --all lists all hosts of which something arrived, and reads all their batches. Without
--from: the last 24 hours.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			if err := o.bounds(now); err != nil {
				return err
			}
			for _, s := range o.status {
				if !slices.Contains(known, s) {
					return usageError{Err: fmt.Errorf("--status %q: wanted one of %s", s, strings.Join(known, ", "))}
				}
			}
			if o.fromMs == 0 {
				o.fromMs = cmp.Or(o.toMs, now.UnixMilli()) - 24*store.HourMs
			}
			if o.toMs == 0 {
				o.toMs = now.UnixMilli()
			}
			if o.fromMs >= o.toMs {
				return usageError{Err: fmt.Errorf("--from %s lies in the future", cmp.Or(o.from, o.since))}
			}
			o.fromMs, o.toMs = o.fromMs/store.HourMs*store.HourMs, (o.toMs+store.HourMs-1)/store.HourMs*store.HourMs
			return o.ask(cmd, o.hours)
		},
	}
	o.register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.node, "node", "", "only this host's, every hour")
	f.StringVar(&o.from, "from", "", "from the hour on that has it: 90m, 24h, 7d ago, 2026-11-22 or 2026-11-22T15:04 (UTC) (default 24h)")
	f.StringVar(&o.to, "to", "", "up to the hour that has it (default now)")
	f.StringSliceVar(&o.status, "status", nil, "only hours of which the check says: "+strings.Join(known, ", "))
	cmd.Flag("all").Usage = "every hour of every host, not only those with something lost, refused or wrong"
	cmd.Flag("json").Usage = "one line of JSON each"
	cmd.Flag("since").Usage = "the same as --from"
	return cmd
}

// hourLine is an hour of a host, as --json prints it.
type hourLine struct {
	Cluster string       `json:"cluster"`
	Node    string       `json:"node"` // "": the provider
	HourMs  int64        `json:"hour_ms"`
	Status  string       `json:"status"` // that of the check; unchecked; nothing: no batch arrived in the hour
	Sealed  *sealedHour  `json:"sealed"` // null: nothing that the host sealed in the hour is known
	Arrived uint64       `json:"arrived"`
	Check   *checkedHour `json:"check"` // null: not checked
}

// sealedHour is what became of what the host sealed in the hour.
type sealedHour struct {
	BatchesStored uint64            `json:"batches_stored"`
	RowsStored    uint64            `json:"rows_stored"`
	TicksDue      int64             `json:"ticks_due"`
	TicksStored   int64             `json:"ticks_stored"`
	Lost          map[string]uint64 `json:"batches_lost"` // by reason; those of quarantine are kept
	// Of TicksDue: without a sample, never sealed, in batches that are not stored.
	TicksMissed  int64 `json:"ticks_missed"`
	TicksGivenUp int64 `json:"ticks_never_sealed"`
	TicksLost    int64 `json:"ticks_lost_with_batches"`
}

// checkedHour is what the check found of what arrived in the hour.
type checkedHour struct {
	Reasons   []string `json:"reasons"`
	Detail    string   `json:"detail,omitempty"`
	Batches   uint64   `json:"batches"`
	Verified  uint64   `json:"verified"`
	Unsigned  uint64   `json:"unsigned"`
	Broken    uint64   `json:"broken"`
	Missing   uint64   `json:"missing"`
	CheckedMs int64    `json:"checked_ms"`
	Since     uint64   `json:"arrived_since"` // and not checked yet
}

// lossWords are the reasons of batches that are not stored, in order.
var lossWords = []struct {
	reason, text string
	of           func(*store.NodeHour) uint64
}{
	{chain.LossBytes, "spool full", func(h *store.NodeHour) uint64 { return h.LostFull }},
	{chain.LossAge, "too old", func(h *store.NodeHour) uint64 { return h.LostAge }},
	{chain.LossDisk, "disk full", func(h *store.NodeHour) uint64 { return h.LostDisk }},
	{chain.LossCorrupt, "damaged", func(h *store.NodeHour) uint64 { return h.LostCorrupt }},
	{chain.LossQuarantine, "in quarantine", func(h *store.NodeHour) uint64 { return h.Quarantined }},
	{chain.LossConflict, "other content", func(h *store.NodeHour) uint64 { return h.Conflicting }},
	{chain.LossMissing, "missing", func(h *store.NodeHour) uint64 { return uint64(max(h.Missing, 0)) }},
}

func newSealedHour(h *store.NodeHour) *sealedHour {
	out := &sealedHour{BatchesStored: h.Stored, RowsStored: h.Rows, TicksDue: h.TicksDue, TicksStored: h.Ticks, TicksMissed: h.TicksMissed, TicksGivenUp: h.TicksGivenUp, TicksLost: h.TicksLost, Lost: map[string]uint64{}}
	for _, w := range lossWords {
		if n := w.of(h); n > 0 {
			out.Lost[w.reason] = n
		}
	}
	return out
}

// lost says what is lost of an hour; "": nothing is known to be.
func (l *hourLine) lost() string {
	if l.Sealed == nil {
		return ""
	}
	var words []string
	for _, w := range lossWords {
		if n := l.Sealed.Lost[w.reason]; n > 0 {
			words = append(words, plural(int(n), "batch", "batches")+" "+w.text)
		}
	}
	if n := l.Sealed.TicksLost; n > 0 && len(words) > 0 {
		words[len(words)-1] += fmt.Sprintf(" (%s in all)", plural(int(n), "tick"))
	}
	for _, w := range []struct {
		n    int64
		text string
	}{{l.Sealed.TicksGivenUp, "never sealed"}, {l.Sealed.TicksMissed, "no sample"}} {
		if w.n > 0 {
			words = append(words, plural(int(w.n), "tick")+" "+w.text)
		}
	}
	return strings.Join(words, ", ")
}

// well reports that nothing of an hour is lost, refused or wrong, as far as it is known.
func (l *hourLine) well() bool {
	return l.lost() == "" && l.Status != chain.StatusBroken && l.Status != chain.StatusIncomplete
}

// hourNodes are how many hosts are asked for at once: what they sent is sorted in the store's memory.
const hourNodes = 5

// everyHost reports that hosts are asked for of which nothing is known to be wrong.
func (o *hoursOptions) everyHost() bool {
	return o.all || slices.ContainsFunc(o.status, func(s string) bool { return s != chain.StatusBroken && s != chain.StatusIncomplete })
}

func (o *hoursOptions) hours(ctx context.Context, a *asked, out io.Writer) error {
	nodes := o.nodes()
	var err error
	switch {
	case nodes != nil:
	case o.everyHost():
		var arrived []store.ArrivedHour
		arrived, err = a.store.Arrived(ctx, a.cluster, nil, o.fromMs, o.toMs)
		for _, h := range arrived {
			nodes = append(nodes, h.Node)
		}
		nodes = slices.Compact(nodes) // they are in order
	default:
		nodes, err = a.store.TroubledNodes(ctx, a.cluster, o.fromMs, o.toMs)
	}
	if err != nil {
		return err
	}
	var lines []hourLine
	var failed error
	for some := range slices.Chunk(nodes, hourNodes) {
		all, lerr := o.linesOf(ctx, a, some)
		if lerr != nil {
			// One host whose hours are too much for the store, as a hostile one can make them, hides no other.
			all, lerr = o.eachOf(ctx, a, some)
		}
		if ctx.Err() != nil || lerr != nil && all == nil && len(some) > 1 { // the store is away
			return lerr
		}
		failed = errors.Join(failed, lerr)
		for i := range all {
			l := &all[i]
			if o.status != nil && !slices.Contains(o.status, l.Status) || o.status == nil && o.node == "" && !o.all && l.well() {
				continue
			}
			lines = append(lines, *l)
		}
	}
	if o.json {
		e := json.NewEncoder(out)
		for i := range lines {
			if err := e.Encode(&lines[i]); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return failed
	}
	if failed != nil && len(lines) == 0 {
		return failed
	}
	return errors.Join(o.printHours(a, lines, out), failed)
}

// eachOf asks for hosts one by one; the error names those that could not be told.
func (o *hoursOptions) eachOf(ctx context.Context, a *asked, nodes []string) (out []hourLine, err error) {
	for _, n := range nodes {
		lines, lerr := o.linesOf(ctx, a, []string{n})
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("host %s: %w", nodeName(n), lerr))
		}
		out = append(out, lines...)
	}
	return out, err
}

// linesOf puts together what is known of some hosts' hours, by host and hour.
func (o *hoursOptions) linesOf(ctx context.Context, a *asked, nodes []string) ([]hourLine, error) {
	sealed, err := a.store.NodeHours(ctx, a.cluster, nodes, o.fromMs, o.toMs)
	if err != nil {
		return nil, err
	}
	arrived, aerr := a.store.Arrived(ctx, a.cluster, nodes, o.fromMs, o.toMs)
	checks, cerr := a.store.HourChecks(ctx, a.cluster, nodes, o.fromMs, o.toMs)
	if err = errors.Join(aerr, cerr); err != nil {
		return nil, err
	}
	at := map[hourKey]*hourLine{}
	of := func(node string, hourMs int64) *hourLine {
		k := hourKey{node, hourMs}
		if at[k] == nil {
			at[k] = &hourLine{Cluster: a.cluster, Node: node, HourMs: hourMs}
		}
		return at[k]
	}
	for i := range sealed {
		of(sealed[i].Node, sealed[i].HourMs).Sealed = newSealedHour(&sealed[i])
	}
	for _, n := range arrived {
		of(n.Node, n.HourMs).Arrived = n.Batches
	}
	for i := range checks {
		c := &checks[i]
		l := of(c.Node, c.HourMs)
		l.Check = &checkedHour{Reasons: c.Reasons, Detail: c.Detail, Batches: c.Batches, Verified: c.Verified, Unsigned: c.Unsigned, Broken: c.Broken, Missing: c.Missing, CheckedMs: c.CheckedMs}
		l.Check.Since = l.Arrived - min(l.Arrived, c.Batches)
		l.Status = c.Status
	}
	// Silence is told up to the end of what was asked for.
	first := map[string]int64{}
	for k := range at {
		if ms, ok := first[k.node]; !ok || k.hourMs < ms {
			first[k.node] = k.hourMs
		}
	}
	for node, ms := range first {
		for ; ms < o.toMs; ms += store.HourMs {
			of(node, ms)
		}
	}
	out := make([]hourLine, 0, len(at))
	for _, l := range at {
		switch {
		case l.Status != "":
		case l.Arrived > 0:
			l.Status = unchecked
		default:
			l.Status = nothing
		}
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b hourLine) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.HourMs, b.HourMs)) })
	return out, nil
}

// checkText is what the check says of an hour.
func (l *hourLine) checkText() string {
	switch {
	case l.Status == unchecked:
		return "not checked"
	case l.Status == nothing && l.Sealed != nil:
		return "arrived in another hour"
	case l.Status == nothing:
		return "nothing arrived"
	case l.Check.Since > 0:
		return fmt.Sprintf("%s; %d arrived since, not checked", l.Status, l.Check.Since)
	}
	return l.Status
}

func (o *hoursOptions) printHours(a *asked, lines []hourLine, out io.Writer) error {
	p := &printer{w: out}
	window := fmt.Sprintf("from %s to %s UTC", stamp(o.fromMs), stamp(o.toMs))
	if len(lines) == 0 {
		switch {
		case o.status != nil:
			p.line("No hour%s of cluster %s is %s, %s.", ofHost(o.node), a.cluster, strings.Join(o.status, " or "), window)
		case o.node != "" || o.all:
			p.line("No batch%s of cluster %s is known, %s.", ofHost(o.node), a.cluster, window)
		default:
			p.line("Nothing of cluster %s is known to be lost, refused or wrong, %s. What was not checked yet is not known: --all lists every hour.", a.cluster, window)
		}
		return p.err
	}
	var rows, details []string
	var stored, unknown uint64
	hosts := map[string]bool{}
	for i := range lines {
		l := &lines[i]
		hosts[l.Node] = true
		counts := "-\t-\t-\t-"
		if s := l.Sealed; s != nil {
			counts = fmt.Sprintf("%d\t%d\t%d\t%d", s.TicksDue, s.TicksStored, s.BatchesStored, s.RowsStored)
			stored += s.BatchesStored
		}
		lost := l.lost()
		if l.Status == unchecked {
			unknown++
		}
		switch {
		case lost != "":
		case l.Status == unchecked:
			lost = "not checked"
		case l.Sealed == nil:
			lost = "-"
		case l.Status == nothing, l.Check.Since > 0:
			lost = "none known"
		default:
			lost = "none"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", nodeName(l.Node), stamp(l.HourMs), counts, l.checkText(), lost))
		if l.Check != nil && l.Check.Detail != "" {
			details = append(details, fmt.Sprintf("%s, %s: %s", nodeName(l.Node), stamp(l.HourMs), printable(l.Check.Detail)))
		}
	}
	p.line("Cluster %s, hours %s", a.cluster, window)
	p.table("host\thour\tticks due\tticks stored\tbatches\trows\tcheck\tlost", rows)
	for _, d := range details {
		p.line("  %s", d)
	}
	p.line("%s of %s, %s stored; %d not checked yet.", plural(len(rows), "hour"), plural(len(hosts), "host"), plural(int(stored), "batch", "batches"), unknown)
	if o.node == "" && !o.all && o.status == nil {
		p.line("Hours in which nothing is lost, refused or wrong are left out, and hosts that were not checked yet: --all lists them.")
	}
	return p.err
}
