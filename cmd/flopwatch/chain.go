package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
)

func newChainCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "chain", Short: "Verify what hosts signed of their telemetry", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newChainVerifyCommand())
	return cmd
}

// chainOptions are those of `flopwatch chain verify`.
type chainOptions struct {
	askOptions
	node string
}

func newChainVerifyCommand() *cobra.Command {
	var o chainOptions
	cmd := &cobra.Command{
		Use:   "verify --data DIR",
		Short: "Show that no batch was left out, put in or changed since its host sealed it",
		Long: `Verify reads the heads of all batches that are stored and holds them against each other and against the hosts'
signatures, without the telemetry itself. Of each spool it says how many batches are stored, signed, in quarantine and
given up by the host, and what is wrong:

  signature  a head was changed, or was never signed with that key
  unsigned   batches of a spool that signs come without
  key        signed with another key than the spool's first
  link       a batch does not follow the one before it
  missing    neither stored, nor in quarantine, nor given up: on its way from a host that was offline, or taken out

The exit code is 1 if anything is wrong; what is missing alone is no fault yet, and is one with --all.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(cmd, o.verify)
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&o.node, "node", "", "only this host's")
	cmd.Flag("all").Usage = "every spool, not only those with faults; what is missing is a fault too"
	cmd.Flag("since").Usage += "; chains then begin in the middle"
	return cmd
}

// chainLine is a spool's summary as --json prints it.
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
}

func (o *chainOptions) verify(ctx context.Context, a *asked, out io.Writer) error {
	quarantined, err := a.store.QuarantinedFrames(ctx, a.cluster, o.node)
	if err != nil {
		return err
	}
	type spoolKey struct{ node, spool string }
	aside := map[spoolKey]map[uint64][32]byte{}
	for k, digest := range quarantined {
		at := spoolKey{k.Node, k.Spool}
		if aside[at] == nil {
			aside[at] = map[uint64][32]byte{}
		}
		aside[at][k.Sequence] = digest
	}
	var all []chain.Spool
	v := chain.Verifier{Each: func(s chain.Spool) error { all = append(all, s); return nil }}
	var last spoolKey
	err = a.store.Heads(ctx, a.cluster, o.node, o.sinceMs, 0, func(h store.HeadRow) error {
		if at := (spoolKey{h.Node, h.Spool}); at != last {
			if berr := v.Begin(aside[at]); berr != nil {
				return berr
			}
			last = at
		}
		return v.Add(h)
	})
	if err == nil {
		err = v.End()
	}
	if err != nil {
		return err
	}
	if o.json {
		err = printChainJSON(out, all)
	} else {
		err = o.printChain(a.cluster, all, out)
	}
	if err != nil {
		return err
	}
	wrong := 0
	for _, s := range all {
		wrong += o.wrong(&s)
	}
	if wrong > 0 {
		return fmt.Errorf("%d faults in the chains of cluster %s", wrong, a.cluster)
	}
	return nil
}

// wrong counts the faults of a spool: missing batches are not, but for --all.
func (o *chainOptions) wrong(s *chain.Spool) int {
	n := s.FaultCount
	if !o.all {
		for _, f := range s.Faults {
			if f.Kind == chain.Missing {
				n--
			}
		}
	}
	return n
}

func printChainJSON(out io.Writer, all []chain.Spool) error {
	e := json.NewEncoder(out)
	for _, s := range all {
		l := chainLine{Cluster: s.Cluster, Node: s.Node, Spool: s.Spool, First: s.First, Last: s.Last, Stored: s.Stored, Signed: s.Signed, Quarantined: s.Quarantined,
			GivenUp: s.GivenUp, Missing: s.Missing, Whole: s.Whole, FaultCount: s.FaultCount}
		if s.Key != [32]byte{} {
			l.Key = hex.EncodeToString(s.Key[:])
		}
		for _, f := range s.Faults {
			l.Faults = append(l.Faults, faultLine{f.From, f.To, string(f.Kind), f.Detail})
		}
		if err := e.Encode(l); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	return nil
}

func (o *chainOptions) printChain(cluster string, all []chain.Spool, out io.Writer) error {
	var sum chain.Spool
	nodes, shown := map[string]bool{}, 0
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var err error
	line := func(format string, args ...any) {
		_, werr := fmt.Fprintf(w, format+"\n", args...)
		err = errors.Join(err, werr)
	}
	for _, s := range all {
		nodes[s.Node] = true
		sum.Stored, sum.Signed, sum.Quarantined = sum.Stored+s.Stored, sum.Signed+s.Signed, sum.Quarantined+s.Quarantined
		sum.GivenUp, sum.Missing, sum.FaultCount = sum.GivenUp+s.GivenUp, sum.Missing+s.Missing, sum.FaultCount+o.wrong(&s)
		if !o.all && s.FaultCount == 0 {
			continue
		}
		if shown++; shown == 1 {
			line("NODE\tSPOOL\tSEQUENCES\tSTORED\tSIGNED\tQUARANTINE\tGIVEN UP\tMISSING\tKEY")
		}
		key := "-"
		if s.Key != [32]byte{} {
			key = hex.EncodeToString(s.Key[:6])
		}
		line("%s\t%.8s\t%d-%d\t%d\t%d\t%d\t%d\t%d\t%s", s.Node, s.Spool, s.First, s.Last, s.Stored, s.Signed, s.Quarantined, s.GivenUp, s.Missing, key)
	}
	err = errors.Join(err, w.Flush())
	print := func(format string, args ...any) {
		_, werr := fmt.Fprintf(out, format+"\n", args...)
		err = errors.Join(err, werr)
	}
	for _, s := range all {
		for _, f := range s.Faults {
			print("%s, spool %.8s, %s: %s: %s", f.Node, f.Spool, sequences(f.From, f.To), f.Kind, f.Detail)
		}
		if more := s.FaultCount - len(s.Faults); more > 0 {
			print("%s, spool %.8s: and %d more", s.Node, s.Spool, more)
		}
	}
	print("Cluster %s: %d batches of %d hosts in %d spools, %d signed; %d in quarantine, %d given up by their hosts, %d missing; %d faults.",
		cluster, sum.Stored, len(nodes), len(all), sum.Signed, sum.Quarantined, sum.GivenUp, sum.Missing, sum.FaultCount)
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func sequences(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("batch %d", from)
	}
	return fmt.Sprintf("batches %d to %d", from, to)
}
