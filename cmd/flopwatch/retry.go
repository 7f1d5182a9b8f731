package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// retryOptions are those of `flopwatch quarantine retry`.
type retryOptions struct {
	quarantineOptions
	nats   broker.ConnectConfig
	dryRun bool
	force  bool
	wait   time.Duration
}

func newQuarantineRetryCommand() *cobra.Command {
	var o retryOptions
	cmd := &cobra.Command{
		Use:   "retry {STREAM/NUMBER... | --reason REASON | --node NODE | --all} --data DIR",
		Short: "Send messages of quarantine again, for a collector that can take them now",
		Long: `Retry publishes messages of quarantine again, byte for byte, on the subject that they came on, and waits for the
collector, which judges them anew: after it was upgraded (version, decode, size), or its limits were changed. A message
that is stored already is not stored twice; one that is refused again stays, and is listed anew where nothing of it can be read.

What this program itself cannot read, or what lies on another's subject, is not sent, but for --force.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return o.ask(cmd, func(ctx context.Context, a *asked, out io.Writer) error { return o.retry(ctx, a, args, out) })
		},
	}
	o.register(cmd)
	cmd.Args = cobra.ArbitraryArgs
	f := cmd.Flags()
	cmd.Flag("all").Usage = "all that is not stored"
	f.StringVar(&o.nats.URL, "nats", "", "URL of the broker, with --clickhouse: nats://HOST:PORT or tls://HOST:PORT")
	f.StringVar(&o.nats.TokenFile, "nats-token-file", "", "file with the token for --nats")
	f.StringVar(&o.nats.CredsFile, "nats-creds", "", "credentials file for --nats")
	f.StringVar(&o.nats.NKeyFile, "nats-nkey", "", "file with an nkey's seed for --nats")
	f.StringVar(&o.nats.InboxPrefix, "nats-inbox-prefix", "", "where answers come on --nats, for a user that may not listen everywhere (an operator's: _INBOX.operator)")
	f.StringVar(&o.nats.RootCAFile, "nats-ca", "", "authority that signs the broker of --nats")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be sent, and send nothing")
	f.BoolVar(&o.force, "force", false, "send what this program cannot read, too")
	f.DurationVar(&o.wait, "wait", time.Minute, "how long to wait for the collector; 0: not at all")
	return cmd
}

// check reads what can be read without a store.
func (o *retryOptions) check(args []string) error {
	for _, name := range args {
		if _, _, err := parseMessageName(name); err != nil {
			return err
		}
	}
	named := o.reason != "" || o.node != "" || o.since != ""
	switch {
	case len(args) == 0 && !named && !o.all:
		return usageError{Err: errors.New("say what to send again: messages by name, --reason, --node, --since or --all")}
	case len(args) > 0 && (named || o.all):
		return usageError{Err: errors.New("messages by name, and --reason, --node, --since or --all: leave one out")}
	case o.data != "" && (o.nats.URL != "" || o.nats.TokenFile != "" || o.nats.CredsFile != "" || o.nats.NKeyFile != "" || o.nats.RootCAFile != "" || o.nats.InboxPrefix != ""):
		return usageError{Err: errors.New("--nats and what goes with it are for --clickhouse: a data directory has its own broker")}
	case o.data == "" && o.clickhouse.URL != "" && o.nats.URL == "" && !o.dryRun:
		return usageError{Err: errors.New("--nats URL is required with --clickhouse")}
	case o.wait < 0:
		return usageError{Err: errors.New("--wait cannot be negative")}
	}
	return o.checkReason()
}

// retryLine is what became of a message, as --json prints it.
type retryLine struct {
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Outcome string `json:"outcome"` // stored, refused, waiting, would be sent, not sent
	Why     string `json:"why,omitempty"`
}

func (o *retryOptions) retry(ctx context.Context, a *asked, names []string, out io.Writer) error {
	meant, err := o.meant(ctx, a, names)
	if err != nil {
		return err
	}
	s := sender{o: o, a: a, started: a.now.UnixMilli(), reach: map[string]uint64{}}
	if !o.dryRun && len(meant) > 0 {
		if err = s.connect(); err != nil {
			return err
		}
		defer s.conn.Close()
	}
	lines := make([]retryLine, len(meant))
	for i := range meant {
		if lines[i], err = s.send(ctx, &meant[i]); err != nil {
			return fmt.Errorf("after %s: %w", plural(s.sent, "message"), err)
		}
	}
	if s.sent > 0 && o.wait > 0 {
		if err := s.settle(ctx, meant, lines); err != nil {
			return err
		}
	}
	return o.report(a, lines, out)
}

// meant are the messages to send, without their bytes: there may be many.
func (o *retryOptions) meant(ctx context.Context, a *asked, names []string) (out []store.QuarantineMessage, err error) {
	if len(names) == 0 {
		f := o.filter(a.cluster)
		f.Stored = false
		err = a.store.QuarantineMessages(ctx, f, false, func(m store.QuarantineMessage) error {
			if m.Reason != batch.ReasonRange && m.Reason != batch.ReasonConflict || o.reason != "" { // else it is stored, or another is in its place
				out = append(out, m)
			}
			return nil
		})
		return out, err
	}
	for _, name := range names {
		stream, seq, err := parseMessageName(name)
		if err != nil {
			return nil, err
		}
		n := len(out)
		err = a.store.QuarantineMessages(ctx, store.QuarantineFilter{Stream: stream, StreamSeq: seq, Stored: true}, false, func(m store.QuarantineMessage) error {
			out = append(out, m)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(out) == n {
			return nil, fmt.Errorf("message %s is not in quarantine: `flopwatch quarantine ls --messages --all` lists what is", name)
		}
	}
	return out, nil
}

// sender publishes messages again.
type sender struct {
	o       *retryOptions
	a       *asked
	started int64
	conn    *nats.Conn
	js      jetstream.JetStream
	sent    int
	reach   map[string]uint64 // last sequence sent, by stream
}

func (s *sender) connect() (err error) {
	cfg := s.o.nats
	if s.a.state != nil {
		cfg = broker.ConnectConfig{URL: s.a.state.NATSURL, TokenFile: s.a.state.NATSTokenFile}
	}
	cfg.Name = "flopwatch quarantine"
	if s.conn, err = broker.Connect(cfg); err != nil {
		return fmt.Errorf("--nats: %w", err)
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		s.conn.Close()
		return fmt.Errorf("open jetstream: %w", err)
	}
	return nil
}

// unsendable says why it is of no use to send a message again; "": it may be.
func unsendable(m *store.QuarantineMessage) (string, error) {
	d, err := wire.NewDecoder()
	if err != nil {
		return "", fmt.Errorf("make decoder: %w", err)
	}
	var b wire.Batch
	if derr := d.Decode(m.Bytes, &b); derr != nil {
		return derr.Error(), nil //nolint:nilerr // it is the answer
	}
	if want := wire.BatchSubject(&b); want != m.Subject {
		return "it belongs on " + want + ", and came on " + m.Subject, nil
	}
	return "", nil
}

func (s *sender) send(ctx context.Context, m *store.QuarantineMessage) (retryLine, error) {
	line := retryLine{Message: messageName(m.Stream, m.StreamSeq), Reason: m.Reason, Outcome: "not sent"}
	switch {
	case m.Reason == batch.ReasonRange:
		line.Why = "its rows are stored, with the impossible values absent"
		return line, nil
	case m.Stored:
		line.Why = "it is stored already"
		return line, nil
	case !m.Whole:
		line.Why = "its content was not kept"
		return line, nil
	}
	err := s.a.store.QuarantineMessages(ctx, store.QuarantineFilter{Stream: m.Stream, StreamSeq: m.StreamSeq, Reason: m.Reason, Stored: true}, true, func(whole store.QuarantineMessage) error {
		m.Bytes = whole.Bytes
		return nil
	})
	if err != nil {
		return line, err
	}
	defer func() { m.Bytes = nil }()
	if !s.o.force {
		if line.Why, err = unsendable(m); err != nil || line.Why != "" {
			line.Why += " (--force sends it)"
			return line, err
		}
	}
	if s.o.dryRun {
		line.Outcome = "would be sent"
		return line, nil
	}
	name := fmt.Sprintf("%s/%d", m.Stream, m.StreamSeq)
	ack, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Data: m.Bytes, Header: nats.Header{batch.HeaderRetry: {name}}},
		// An id of its own: by the first one the broker, and by the second try's it too, could know it.
		jetstream.WithMsgID(fmt.Sprintf("retry/%s/%d", name, s.started)))
	if err != nil {
		return line, fmt.Errorf("publish message %s: %w", name, err)
	}
	s.sent++
	s.reach[ack.Stream] = max(s.reach[ack.Stream], ack.Sequence)
	line.Outcome = "waiting"
	return line, nil
}

// settle waits until the collector has judged what was sent, and says how.
func (s *sender) settle(ctx context.Context, meant []store.QuarantineMessage, lines []retryLine) error {
	waiting, cancel := context.WithTimeout(ctx, s.o.wait)
	defer cancel()
	for name, last := range s.reach {
		if taken, err := s.taken(waiting, name, last); err != nil || !taken {
			if waiting.Err() != nil && ctx.Err() == nil {
				return nil // they stay "waiting"
			}
			return err
		}
	}
	for i := range lines {
		if lines[i].Outcome != "waiting" {
			continue
		}
		lines[i].Outcome = "refused"
		m := &meant[i]
		err := s.a.store.QuarantineMessages(ctx, store.QuarantineFilter{Stream: m.Stream, StreamSeq: m.StreamSeq, Reason: m.Reason, Stored: true}, false, func(now store.QuarantineMessage) error {
			if now.Stored {
				lines[i].Outcome = "stored"
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// taken waits until a stream has handed on everything up to last.
func (s *sender) taken(ctx context.Context, name string, last uint64) (bool, error) {
	for {
		stream, err := s.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) { // an operator's, on a fleet's server
			if s.js, err = jetstream.NewWithAPIPrefix(s.conn, broker.EdgeAPI); err == nil {
				stream, err = s.js.Stream(ctx, name)
			}
		}
		if err != nil {
			return false, fmt.Errorf("wait for the collector: %w", err)
		}
		if state := stream.CachedInfo().State; state.Msgs == 0 || state.FirstSeq > last {
			return true, nil
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return false, nil
		case <-t.C:
		}
	}
}

func (o *retryOptions) report(a *asked, lines []retryLine, out io.Writer) error {
	counts := map[string]int{}
	why := map[string]int{}
	for _, l := range lines {
		counts[l.Outcome]++
		if l.Outcome == "not sent" {
			why[l.Why]++
		}
		if o.json {
			if err := json.NewEncoder(out).Encode(l); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
	}
	if !o.json {
		p := &printer{w: out}
		if len(lines) == 0 {
			p.line("Nothing of cluster %s is in quarantine%s that is not stored.", a.cluster, o.narrowed())
		}
		var words []string
		for _, w := range []struct{ outcome, text string }{
			{"stored", "stored now"}, {"refused", "refused again: they stay in quarantine"}, {"waiting", "on their way: the collector has not taken them yet"}, {"would be sent", "would be sent"}, {"not sent", "not sent"},
		} {
			if n := counts[w.outcome]; n > 0 {
				words = append(words, fmt.Sprintf("%d %s", n, w.text))
			}
		}
		if len(words) > 0 {
			p.line("%s of quarantine: %s.", plural(len(lines), "message"), strings.Join(words, "; "))
		}
		reasons := make([]string, 0, len(why))
		for w := range why {
			reasons = append(reasons, w)
		}
		slices.Sort(reasons)
		for i, w := range reasons {
			if i == maxSaid {
				p.line("  and for other reasons: --json has each")
				break
			}
			p.line("  not sent, %d: %s", why[w], printable(w))
		}
		if p.err != nil {
			return p.err
		}
	}
	if n := counts["refused"]; n > 0 {
		return fmt.Errorf("%s refused again", plural(n, "message was", "messages were"))
	}
	return nil
}
