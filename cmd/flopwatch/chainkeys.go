package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
)

func newChainKeysCommand() *cobra.Command {
	var o chainOptions
	cmd := &cobra.Command{
		Use:   "keys --data DIR",
		Short: "List the keys that hosts sign with, and what operators said of them",
		Long: `Keys lists each public key that a host has signed batches with, since when and how many, and whether it counts as
the host's own: trusted or withdrawn by an operator's word; "first" where nobody said anything of the host's keys and
a spool began with it; "other" where another key was vouched for. Keys of which no batch came are listed if an operator
spoke of them. Nothing is verified here: flopwatch chain verify does.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.ask(cmd, o.keys) },
	}
	o.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.cluster, "cluster", "", "cluster to ask for (needed with --clickhouse)")
	f.StringVar(&o.node, "node", "", "only this host's")
	f.BoolVar(&o.json, "json", false, "one line of JSON each")
	return cmd
}

// keyLine is a key of a host, as --json prints it.
type keyLine struct {
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Key         string `json:"key"`
	Word        string `json:"word"` // trusted, withdrawn, other, none
	Batches     uint64 `json:"batches"`
	Spools      uint64 `json:"spools"`
	FirstSeenMs *int64 `json:"first_seen_ms"` // null: no batch is signed with it
	LastSeenMs  *int64 `json:"last_seen_ms"`
	By          string `json:"by,omitempty"`
	FromMs      *int64 `json:"from_ms,omitempty"` // of the word
	NotedMs     *int64 `json:"noted_ms,omitempty"`
}

var keyWords = map[chain.Word]string{chain.NoWord: "none", chain.Trusted: "trusted", chain.Withdrawn: "withdrawn", chain.Other: "other"}

// keyLines puts together what was seen and what was said.
func (o *chainOptions) keyLines(ctx context.Context, a *asked) ([]keyLine, error) {
	seen, err := a.store.SeenKeys(ctx, a.cluster, o.node)
	if err != nil {
		return nil, err
	}
	said, err := a.store.KeyNotes(ctx, a.cluster, o.node)
	if err != nil {
		return nil, err
	}
	notes, nowMs := chain.NewNotes(said), a.now.UnixMilli()
	var out []keyLine
	line := func(node string, key [32]byte) *keyLine {
		l := keyLine{Cluster: a.cluster, Node: node, Key: hex.EncodeToString(key[:])}
		word, note := notes.Of(node, key, nowMs)
		l.Word = keyWords[word]
		if word != chain.NoWord {
			l.By, l.FromMs, l.NotedMs = note.By, &note.FromMs, &note.NotedMs
		}
		out = append(out, l)
		return &out[len(out)-1]
	}
	type nodeKey struct {
		node string
		key  [32]byte
	}
	have := map[nodeKey]bool{}
	for i := range seen {
		k := &seen[i]
		have[nodeKey{k.Node, k.Key}] = true
		l := line(k.Node, k.Key)
		l.Batches, l.Spools, l.FirstSeenMs, l.LastSeenMs = k.Batches, k.Spools, &k.FirstMs, &k.LastMs
	}
	for _, n := range said {
		if k := (nodeKey{n.Node, n.Key}); !have[k] {
			have[k] = true
			line(n.Node, n.Key)
		}
	}
	slices.SortStableFunc(out, func(a, b keyLine) int { return cmp.Compare(a.Node, b.Node) })
	return out, nil
}

func (o *chainOptions) keys(ctx context.Context, a *asked, out io.Writer) error {
	lines, err := o.keyLines(ctx, a)
	if err != nil {
		return err
	}
	if o.json {
		e := json.NewEncoder(out)
		for i := range lines {
			if err := e.Encode(&lines[i]); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return nil
	}
	p := &printer{w: out}
	if len(lines) == 0 {
		p.line("No batch of cluster %s is signed%s, and nobody spoke of a key.", a.cluster, ofHost(o.node))
		return p.err
	}
	when := func(ms *int64) string {
		if ms == nil {
			return "-"
		}
		return stamp(*ms)
	}
	var rows []string
	for _, l := range lines {
		word := l.Word
		switch l.Word {
		case "none":
			word = "first: nobody vouched for it"
		case "other":
			word = "other: " + printable(l.By) + " vouched for another"
		default:
			word += " from " + when(l.FromMs) + " on, says " + printable(l.By)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%s\t%s\t%s", nodeName(l.Node), l.Key, l.Batches, when(l.FirstSeenMs), when(l.LastSeenMs), word))
	}
	p.line("Keys of cluster %s (times in UTC)", a.cluster)
	p.table("host\tkey\tbatches\tfirst\tlast\tword", rows)
	return p.err
}

func ofHost(node string) string {
	if node == "" {
		return ""
	}
	return " by host " + printable(node)
}

// noteOptions are those of `flopwatch chain trust` and revoke.
type noteOptions struct {
	chainOptions
	by, moment string
	trusted    bool
}

func newChainTrustCommand() *cobra.Command {
	o := noteOptions{trusted: true}
	cmd := &cobra.Command{
		Use:   "trust HOST KEY --data DIR",
		Short: "Vouch for a host's key: batches under any other are a fault from then on",
		Long: `Trust notes that a key is the host's own. KEY is the public key as 64 hex digits, or the first 8 or more of one that
the host has signed with. Compare it with what the host itself says: flopwatch-agent logs it at its start.

It holds from the first batch that is signed with the key, or from now on if there is none; --from says otherwise. A
host may have several trusted keys at a time: when one is replaced, trust the new one and revoke the old one. What was
noted stays noted; a later word on the same key from the same moment on takes its place.`,
		RunE: o.run,
	}
	o.registerNote(cmd)
	return cmd
}

func newChainRevokeCommand() *cobra.Command {
	var o noteOptions
	cmd := &cobra.Command{
		Use:   "revoke HOST KEY --data DIR",
		Short: "Withdraw a host's key: batches under it are a fault from then on",
		Long: `Revoke notes that a key is not the host's, or no more: it was replaced, or fell into other hands. KEY is the public
key as 64 hex digits, or the first 8 or more of one that the host has signed with. It holds from now on; --from says
since when the key cannot be believed.`,
		RunE: o.run,
	}
	o.registerNote(cmd)
	return cmd
}

func (o *noteOptions) registerNote(cmd *cobra.Command) {
	o.registerStore(cmd)
	f := cmd.Flags()
	f.StringVar(&o.cluster, "cluster", "", "cluster of the host (needed with --clickhouse)")
	f.StringVar(&o.moment, "from", "", "when it begins to hold, by the broker's clock: 90m, 24h, 7d ago, 2026-11-22 or 2026-11-22T15:04 (UTC)")
	f.StringVar(&o.by, "by", "", "who says so (default: the user who runs this)")
	f.BoolVar(&o.json, "json", false, "a line of JSON")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usageError{Err: fmt.Errorf("%s takes a host and a key, got %d arguments", cmd.CommandPath(), len(args))}
		}
		return nil
	}
}

// leastKey is how many hex digits of a key are asked for where the host has signed with it.
const leastKey = 8

func (o *noteOptions) run(cmd *cobra.Command, args []string) error {
	node, text := args[0], strings.ToLower(args[1])
	if node == "" {
		return usageError{Err: errors.New("the provider's batches are not signed: name a host")}
	}
	whole := len(text) == 64
	if _, err := hex.DecodeString(text + strings.Repeat("0", len(text)%2)); err != nil || len(text) < leastKey || len(text) > 64 {
		return usageError{Err: fmt.Errorf("%q is no key: wanted 64 hex digits, or the first %d or more of a key that the host has signed with", args[1], leastKey)}
	}
	fromMs, err := parseSince(o.moment, time.Now())
	if err != nil {
		return usageError{Err: fmt.Errorf("--from %q: wanted 90m, 24h, 7d, 2026-11-22 or 2026-11-22T15:04", o.moment)}
	}
	if o.by = strings.TrimSpace(o.by); o.by == "" {
		u, err := user.Current()
		if err != nil {
			return usageError{Err: fmt.Errorf("--by NAME is needed: %w", err)}
		}
		o.by = cmp.Or(u.Username, u.Uid)
	}
	return o.ask(cmd, func(ctx context.Context, a *asked, out io.Writer) error {
		seen, err := a.store.SeenKeys(ctx, a.cluster, node)
		if err != nil {
			return err
		}
		matching := slices.DeleteFunc(slices.Clone(seen), func(k store.SeenKey) bool { return !strings.HasPrefix(hex.EncodeToString(k.Key[:]), text) })
		note := store.KeyNote{Node: node, Trusted: o.trusted, FromMs: fromMs, By: o.by}
		switch {
		case whole:
			b, err := hex.DecodeString(text)
			if err != nil {
				return usageError{Err: err}
			}
			note.Key = [32]byte(b)
		case len(matching) == 0:
			return fmt.Errorf("host %s of cluster %s has signed with no key that begins with %s: `flopwatch chain keys --node %s` lists its keys; give all 64 digits of one that is not there yet", printable(node), a.cluster, text, printable(node))
		case len(matching) > 1:
			return fmt.Errorf("%d keys of host %s begin with %s: give more digits", len(matching), printable(node), text)
		default:
			note.Key = matching[0].Key
		}
		if fromMs == 0 {
			note.FromMs = a.now.UnixMilli()
			if o.trusted && len(matching) == 1 {
				note.FromMs = matching[0].FirstMs
			}
		}
		if err := a.store.PutKeyNote(ctx, a.cluster, note); err != nil {
			return err
		}
		if o.json {
			word := chain.Withdrawn
			if o.trusted {
				word = chain.Trusted
			}
			l := keyLine{Cluster: a.cluster, Node: node, Key: hex.EncodeToString(note.Key[:]), Word: keyWords[word], By: note.By, FromMs: &note.FromMs}
			if len(matching) == 1 {
				l.Batches, l.Spools, l.FirstSeenMs, l.LastSeenMs = matching[0].Batches, matching[0].Spools, &matching[0].FirstMs, &matching[0].LastMs
			}
			if err := json.NewEncoder(out).Encode(l); err != nil {
				return fmt.Errorf("print: %w", err)
			}
			return nil
		}
		p := &printer{w: out}
		verb, what := "trusted", "batches of it under keys that nobody vouched for are a fault"
		if !o.trusted {
			verb, what = "withdrawn", "batches under it are a fault"
		}
		p.line("Key %x of host %s is %s from %s UTC on: %s. Noted by %s.", note.Key, printable(node), verb, stamp(note.FromMs), what, printable(o.by))
		if len(matching) == 0 {
			p.line("No batch of the host is signed with it so far.")
		}
		return p.err
	})
}
