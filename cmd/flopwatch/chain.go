package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
)

func newChainCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "chain", Short: "Verify what hosts signed of their telemetry, and vouch for their keys", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newChainVerifyCommand(), newChainHoursCommand(), newChainKeysCommand(), newChainTrustCommand(), newChainRevokeCommand())
	return cmd
}

// chainOptions are those of `flopwatch chain verify`.
type chainOptions struct {
	askOptions
	node         string
	from, to     string
	fromMs, toMs int64 // 0: not bounded
}

func newChainVerifyCommand() *cobra.Command {
	var o chainOptions
	cmd := &cobra.Command{
		Use:   "verify --data DIR",
		Short: "Show that no batch was left out, put in or changed since its host sealed it",
		Long: `Verify reads the heads of all batches that are stored and holds them against each other, against the hosts'
signatures, against the keys that operators vouched for (flopwatch chain trust), and against what the store had when
each hour was checked, without the telemetry itself. Of each spool it says how many batches are stored, signed, in
quarantine and given up by the host, and what is wrong:

  signature  a head was changed, or was never signed with that key
  unsigned   batches come without a signature, of a spool that signs or a host whose key is known
  key        signed with a key that is not the host's: not the one that an operator vouched for, one that was withdrawn,
             or, where nobody said anything, another than the spool's first
  link       a batch does not follow the one before it
  content    another message came under a sequence that was taken: a spool that was put back to an earlier state, or a forger
  altered    the store has fewer batches of an hour, or others, than when the hour was checked
  missing    neither stored, nor in quarantine, nor given up: on its way from a host that was offline, or taken out

--from and --to narrow it to what became available in that time; each chain then begins with the batch before.
The exit code is 1 if anything is wrong, or nothing was there to verify; what is missing alone is no fault yet, and is
one with --all.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.bounds(time.Now()); err != nil {
				return err
			}
			return o.ask(cmd, o.verify)
		},
	}
	o.register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.node, "node", "", "only this host's")
	f.StringVar(&o.from, "from", "", "only what became available from then on: 90m, 24h, 7d ago, 2026-11-22 or 2026-11-22T15:04 (UTC)")
	f.StringVar(&o.to, "to", "", "only what became available before then")
	cmd.Flag("all").Usage = "every spool, not only those with faults; what is missing is a fault too"
	cmd.Flag("since").Usage = "the same as --from"
	return cmd
}

// bounds reads --from and --to.
func (o *chainOptions) bounds(now time.Time) (err error) {
	if o.from != "" && o.since != "" {
		return usageError{Err: errors.New("--since and --from mean the same: leave one out")}
	}
	for _, b := range []struct {
		flag, text string
		ms         *int64
	}{{"--from", cmp.Or(o.from, o.since), &o.fromMs}, {"--to", o.to, &o.toMs}} {
		if *b.ms, err = parseSince(b.text, now); err != nil {
			return usageError{Err: fmt.Errorf("%s %q: wanted 90m, 24h, 7d, 2026-11-22 or 2026-11-22T15:04", b.flag, b.text)}
		}
	}
	if o.toMs != 0 && o.toMs <= o.fromMs {
		return usageError{Err: fmt.Errorf("--to %s does not lie behind --from %s", o.to, cmp.Or(o.from, o.since))}
	}
	return nil
}

// chainLine is a spool's summary as --json prints it. Without a spool it is about hours of a host that
// are not as they were when they were checked.
type chainLine struct {
	Cluster     string      `json:"cluster"`
	Node        string      `json:"node"`
	Spool       string      `json:"spool"`
	First       uint64      `json:"first"`
	Last        uint64      `json:"last"`
	Stored      uint64      `json:"stored"`
	Signed      uint64      `json:"signed"`
	Quarantined uint64      `json:"quarantined"`
	GivenUp     uint64      `json:"given_up"`
	Missing     uint64      `json:"missing"`
	Conflicts   uint64      `json:"conflicts"`
	Whole       bool        `json:"whole"`
	Key         string      `json:"key,omitempty"`
	FaultCount  int         `json:"fault_count"`
	Faults      []faultLine `json:"faults,omitempty"`
}

type faultLine struct {
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
	HourMs int64  `json:"hour_ms,omitempty"`
}

func (o *chainOptions) verify(ctx context.Context, a *asked, out io.Writer) error {
	said, err := a.store.KeyNotes(ctx, a.cluster, o.node)
	if err != nil {
		return err
	}
	checks, err := a.store.ChainHours(ctx, a.cluster, o.node, o.fromMs, o.toMs)
	if err != nil {
		return err
	}
	now := hourHeads{at: map[hourKey]*hourSum{}}
	var all []chain.Spool
	if o.fromMs == 0 && o.toMs == 0 {
		all, err = o.whole(ctx, a, chain.NewNotes(said), &now)
	} else {
		all, err = o.between(ctx, a, chain.NewNotes(said), &now)
	}
	if err != nil {
		return err
	}
	altered := o.altered(checks, &now)
	if o.json {
		err = printChainJSON(out, a.cluster, all, altered)
	} else {
		err = o.printChain(a.cluster, all, altered, out)
	}
	if err != nil {
		return err
	}
	wrong := len(altered)
	for _, s := range all {
		wrong += o.wrong(&s)
	}
	if len(all) == 0 && wrong == 0 { // a misspelt name must not pass for a chain that holds
		return o.nothing(a.cluster)
	}
	if wrong > 0 {
		return fmt.Errorf("%s in the chains of cluster %s", plural(wrong, "fault"), a.cluster)
	}
	return nil
}

// nothing says that no batch was there to be verified.
func (o *chainOptions) nothing(cluster string) error {
	whose := ""
	if o.node != "" {
		whose = " of host " + o.node
	}
	if o.fromMs != 0 || o.toMs != 0 {
		whose += " from that time"
	}
	return fmt.Errorf("nothing was verified: no batch%s is stored of cluster %s", whose, cluster)
}

// nodes is what a question is narrowed to.
func (o *chainOptions) nodes() []string {
	if o.node == "" {
		return nil
	}
	return []string{o.node}
}

type spoolKey struct{ node, spool string }

// whole verifies everything that is stored, one head after the other.
func (o *chainOptions) whole(ctx context.Context, a *asked, notes *chain.Notes, now *hourHeads) ([]chain.Spool, error) {
	quarantined, err := a.store.QuarantinedFrames(ctx, a.cluster, o.nodes())
	if err != nil {
		return nil, err
	}
	aside := map[spoolKey]map[uint64][32]byte{}
	for k, digest := range quarantined {
		at := spoolKey{k.Node, k.Spool}
		if aside[at] == nil {
			aside[at] = map[uint64][32]byte{}
		}
		aside[at][k.Sequence] = digest
	}
	conflicts, err := a.store.Conflicts(ctx, a.cluster, o.nodes(), 0, 0)
	if err != nil {
		return nil, err
	}
	others := map[spoolKey][]store.Conflict{}
	for _, c := range conflicts {
		at := spoolKey{c.Node, c.Spool}
		others[at] = append(others[at], c)
	}
	var all []chain.Spool
	v := chain.Verifier{Notes: notes, Whole: true, Each: func(s chain.Spool) error { all = append(all, s); return nil }}
	var last spoolKey
	err = a.store.Heads(ctx, store.HeadQuery{Cluster: a.cluster, Nodes: o.nodes()}, func(h store.HeadRow) error {
		if at := (spoolKey{h.Node, h.Spool}); at != last {
			if berr := v.Begin(aside[at], others[at]); berr != nil {
				return berr
			}
			last = at
		}
		now.add(&h)
		return v.Add(h)
	})
	return all, errors.Join(err, v.End())
}

// between verifies what became available in a time, host by host.
func (o *chainOptions) between(ctx context.Context, a *asked, notes *chain.Notes, now *hourHeads) ([]chain.Spool, error) {
	nodes := o.nodes()
	if nodes == nil {
		var err error
		if nodes, err = a.store.HeadNodes(ctx, a.cluster, o.fromMs, o.toMs); err != nil {
			return nil, err
		}
	}
	to := o.toMs
	if to == 0 {
		to = math.MaxInt64
	}
	var all []chain.Spool
	for _, node := range nodes {
		loaded, err := chain.Load(ctx, a.store, a.cluster, []string{node}, o.fromMs, to, notes)
		if err != nil {
			return nil, err
		}
		for i := range loaded {
			spools, err := loaded[i].Spools()
			if err != nil {
				return nil, err
			}
			all = append(all, spools...)
			for k := range loaded[i].Heads {
				now.add(&loaded[i].Heads[k])
			}
		}
	}
	return all, nil
}

// hourHeads sums up the heads of hosts by the hour, as the hourly check does.
type hourHeads struct {
	at map[hourKey]*hourSum
}

type hourKey struct {
	node   string
	hourMs int64
}

type hourSum struct {
	batches uint64
	digest  hash.Hash
}

func (t *hourHeads) add(h *store.HeadRow) {
	k := hourKey{h.Node, h.AvailableMs / store.HourMs * store.HourMs}
	s := t.at[k]
	if s == nil {
		s = &hourSum{digest: sha256.New()}
		t.at[k] = s
	}
	s.batches++
	chain.AddHead(s.digest, h)
}

// altered are the hours that are not as they were when they were checked. Those that begin or end
// outside of what was asked for are left out.
func (o *chainOptions) altered(checks []store.ChainHour, now *hourHeads) (out []chainFault) {
	for i := range checks {
		was := &checks[i]
		if o.toMs != 0 && was.HourMs+store.HourMs > o.toMs {
			continue
		}
		var batches uint64
		var digest [32]byte
		if s := now.at[hourKey{was.Node, was.HourMs}]; s != nil {
			batches, digest = s.batches, [32]byte(s.digest.Sum(nil))
		}
		if f, ok := chain.Altered(was, batches, digest); ok {
			f.Detail += ", at " + stamp(was.CheckedMs) + " UTC"
			out = append(out, chainFault{f, was.HourMs})
		}
	}
	return out
}

// chainFault is one of an hour.
type chainFault struct {
	chain.Fault
	hourMs int64
}

// wrong counts the faults of a spool: missing batches are not, but for --all.
func (o *chainOptions) wrong(s *chain.Spool) int {
	if o.all {
		return s.FaultCount
	}
	return s.FaultCount - s.ByKind[chain.Missing]
}

func printChainJSON(out io.Writer, cluster string, all []chain.Spool, altered []chainFault) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	var err error
	for _, s := range all {
		l := chainLine{Cluster: s.Cluster, Node: s.Node, Spool: s.Spool, First: s.First, Last: s.Last, Stored: s.Stored, Signed: s.Signed, Quarantined: s.Quarantined,
			GivenUp: s.GivenUp, Missing: s.Missing, Conflicts: s.Conflicts, Whole: s.Whole, FaultCount: s.FaultCount}
		if s.Key != [32]byte{} {
			l.Key = hex.EncodeToString(s.Key[:])
		}
		for _, f := range s.Faults {
			l.Faults = append(l.Faults, faultLine{f.From, f.To, string(f.Kind), f.Detail, 0})
		}
		err = errors.Join(err, e.Encode(l))
	}
	for i := 0; i < len(altered); {
		l := chainLine{Cluster: cluster, Node: altered[i].Node}
		for ; i < len(altered) && altered[i].Node == l.Node; i++ {
			f := &altered[i]
			l.Faults = append(l.Faults, faultLine{f.From, f.To, string(f.Kind), f.Detail, f.hourMs})
		}
		l.FaultCount = len(l.Faults)
		err = errors.Join(err, e.Encode(l))
	}
	if _, werr := out.Write(b.Bytes()); err != nil || werr != nil {
		return fmt.Errorf("print: %w", errors.Join(err, werr))
	}
	return nil
}

func (o *chainOptions) printChain(cluster string, all []chain.Spool, altered []chainFault, out io.Writer) error {
	var sum chain.Spool
	nodes := map[string]bool{}
	p := &printer{w: out}
	var rows []string
	faults := len(altered)
	for _, s := range all {
		nodes[s.Node] = true
		sum.Stored, sum.Signed, sum.Quarantined = sum.Stored+s.Stored, sum.Signed+s.Signed, sum.Quarantined+s.Quarantined
		sum.GivenUp, sum.Missing, sum.Conflicts = sum.GivenUp+s.GivenUp, sum.Missing+s.Missing, sum.Conflicts+s.Conflicts
		faults += o.wrong(&s)
		if !o.all && s.FaultCount == 0 {
			continue
		}
		key := "-"
		if s.Key != [32]byte{} {
			key = hex.EncodeToString(s.Key[:6])
		}
		rows = append(rows, fmt.Sprintf("%s\t%.8s\t%d-%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s", nodeName(s.Node), s.Spool, s.First, s.Last, s.Stored, s.Signed, s.Quarantined, s.GivenUp, s.Missing, s.Conflicts, key))
	}
	if rows != nil {
		p.table("host\tspool\tsequences\tstored\tsigned\tquarantine\tgiven up\tmissing\tother content\tkey", rows)
	}
	for _, s := range all {
		for _, f := range s.Faults {
			p.line("%s, spool %.8s, %s: %s: %s", nodeName(f.Node), f.Spool, sequences(f.From, f.To), f.Kind, printable(f.Detail))
		}
		if more := s.FaultCount - len(s.Faults); more > 0 {
			p.line("%s, spool %.8s: and %d more", nodeName(s.Node), s.Spool, more)
		}
	}
	for _, f := range altered {
		p.line("%s, hour of %s UTC: %s: %s", nodeName(f.Node), stamp(f.hourMs), f.Kind, printable(f.Detail))
	}
	p.line("Cluster %s: %d batches of %d hosts in %d spools, %d signed; %d in quarantine, %d given up by their hosts, %d missing; %d faults.",
		cluster, sum.Stored, len(nodes), len(all), sum.Signed, sum.Quarantined, sum.GivenUp, sum.Missing, faults)
	return p.err
}

func sequences(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("batch %d", from)
	}
	return fmt.Sprintf("batches %d to %d", from, to)
}
