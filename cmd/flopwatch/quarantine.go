package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

func newQuarantineCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "quarantine", Short: "See what the collector could not take, and send it again", Args: noArgs,
		Long: `The collector keeps every message that it cannot take at face value, byte for byte, with a reason:

  size       beyond the limits of the contract, a bomb of compression among them
  subject    it came on another subject than its body says: a forged node, or a misconfigured one
  version    of a newer contract than the collector's, or with a newer kind of record
  decode     no batch, or one that breaks the contract
  future     samples, or the host's clock at the seal, more than 5 minutes ahead of the broker's
  past       the same more than 90 days behind: a host that believes it is 1970
  available  it states its own availability, as recordings do
  range      stored, without values that no instrument can show
  conflict   another message has its host, spool and number: a spool that was put back to an earlier state, or a forger

What one sender puts there is bounded by day and reason: beyond so many bytes messages are kept without their content, and
beyond so many messages they are counted alone (quarantine_messages, quarantine_bytes in the collector's configuration).
Content is kept for 90 days.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newQuarantineListCommand(), newQuarantineShowCommand(), newQuarantineRetryCommand())
	return cmd
}

// quarantineOptions are those of `flopwatch quarantine` ls and retry.
type quarantineOptions struct {
	askOptions
	reason, node string
	messages     bool
	limit        int
}

func (o *quarantineOptions) register(cmd *cobra.Command) {
	o.askOptions.register(cmd)
	cmd.Flags().StringVar(&o.reason, "reason", "", "only of this reason: "+strings.Join(batch.Reasons[:], ", "))
	cmd.Flags().StringVar(&o.node, "node", "", "only this host's, by its word or else by its subject")
	cmd.Flag("all").Usage = "those too that came again and are stored since"
	cmd.Flag("json").Usage = "one line of JSON each"
}

// filter says which messages of a cluster are meant.
func (o *quarantineOptions) filter(cluster string) store.QuarantineFilter {
	return store.QuarantineFilter{Cluster: cluster, ClusterToken: wire.Token(cluster), Node: o.node, NodeToken: wire.Token(o.node), Reason: o.reason, SinceMs: o.sinceMs, Stored: o.all}
}

func (o *quarantineOptions) checkReason() error {
	if o.reason != "" && !slices.Contains(batch.Reasons[:], o.reason) {
		return usageError{Err: fmt.Errorf("--reason %q: wanted one of %s", o.reason, strings.Join(batch.Reasons[:], ", "))}
	}
	return nil
}

func newQuarantineListCommand() *cobra.Command {
	var o quarantineOptions
	cmd := &cobra.Command{
		Use:   "ls --data DIR",
		Short: "List what is in quarantine, by reason and host",
		Long: `Ls counts the messages in quarantine by reason and host, or lists them one by one with --messages, the oldest first.
What was sent again and is stored since is left out, but for --all.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.checkReason(); err != nil {
				return err
			}
			if o.limit < 0 {
				return usageError{Err: errors.New("--limit cannot be negative")}
			}
			return o.ask(cmd, func(ctx context.Context, a *asked, out io.Writer) error {
				if o.messages {
					return o.list(ctx, a, out)
				}
				return o.groups(ctx, a, out)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVar(&o.messages, "messages", false, "list single messages, by the names that show and retry take")
	cmd.Flags().IntVar(&o.limit, "limit", 100, "how many messages at most; 0: all")
	return cmd
}

// quarantineGroupLine is what one host has in quarantine for one reason, as --json prints it.
type quarantineGroupLine struct {
	Reason   string `json:"reason"`
	Node     string `json:"node,omitempty"` // absent: the provider
	Messages uint64 `json:"messages"`
	Stored   uint64 `json:"stored"` // of them, since
	Rows     uint64 `json:"rows"`
	Bytes    uint64 `json:"bytes"`
	FirstMs  int64  `json:"first_ms"`
	LastMs   int64  `json:"last_ms"`
	Last     string `json:"last"`
}

// quarantineDroppedLine is what was only counted, as its sender was beyond the limit of the day: a line of its own.
type quarantineDroppedLine struct {
	Reason  string `json:"reason"`
	Node    string `json:"node,omitempty"` // by the subject
	Dropped uint64 `json:"dropped"`
	Bytes   uint64 `json:"bytes"`
}

func (o *quarantineOptions) groups(ctx context.Context, a *asked, out io.Writer) error {
	groups, err := a.store.QuarantineGroups(ctx, o.filter(a.cluster))
	if err != nil {
		return err
	}
	dropped, err := a.store.QuarantineDropped(ctx, o.filter(a.cluster))
	if err != nil {
		return err
	}
	if o.json {
		e := json.NewEncoder(out)
		for _, g := range groups {
			if err = e.Encode(quarantineGroupLine{g.Reason, g.Node, g.Messages, g.Stored, g.Rows, g.Bytes, g.FirstMs, g.LastMs, messageName(g.LastStream, g.LastStreamSeq)}); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		for _, d := range dropped {
			if err = e.Encode(quarantineDroppedLine{d.Reason, d.Node, d.Messages, d.Size}); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return nil
	}
	p := &printer{w: out}
	if len(groups) == 0 && len(dropped) == 0 {
		p.line("Nothing of cluster %s is in quarantine%s.", a.cluster, o.narrowed())
		return o.elsewhere(ctx, a, 0, p)
	}
	var rows []string
	var messages, size uint64
	for _, g := range groups {
		stored := ""
		if g.Stored > 0 {
			stored = fmt.Sprintf(" (%d stored since)", g.Stored)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d%s\t%d\t%s\t%s\t%s\t%s", g.Reason, nodeName(g.Node), g.Messages, stored, g.Rows, byteSize(g.Bytes), stamp(g.FirstMs), stamp(g.LastMs), messageName(g.LastStream, g.LastStreamSeq)))
		messages, size = messages+g.Messages, size+g.Bytes
	}
	p.line("In quarantine of cluster %s: %s, %s (times in UTC, by the broker)", a.cluster, plural(int(messages), "message"), byteSize(size))
	p.table("reason\thost\tmessages\trows\tsize\tfirst\tlast\tthe last is", rows)
	for _, d := range dropped {
		p.line("  and %s of %s for reason %s, %s, beyond the limit of the day: counted, not kept", plural(int(d.Messages), "message"), nodeName(d.Node), d.Reason, byteSize(d.Size))
	}
	return o.elsewhere(ctx, a, messages, p)
}

// elsewhere says that there are messages of other clusters, by their word or their subject: a forger
// chooses a name that nobody asks for.
func (o *quarantineOptions) elsewhere(ctx context.Context, a *asked, own uint64, p *printer) error {
	f := o.filter(a.cluster)
	f.Cluster, f.ClusterToken = "", ""
	groups, err := a.store.QuarantineGroups(ctx, f)
	if err != nil {
		return err
	}
	var all uint64
	for _, g := range groups {
		all += g.Messages
	}
	if all > own {
		p.line("Of other clusters, by their own word or subject: %s. v_quarantine names the clusters, --cluster NAME asks for one.", plural(int(all-own), "message"))
	}
	return p.err
}

// narrowed says that the filters may be why there is nothing.
func (o *quarantineOptions) narrowed() string {
	if o.reason != "" || o.node != "" || o.since != "" {
		return " that --reason, --node and --since let through"
	}
	return ""
}

// quarantineLine is a message as --json prints it.
type quarantineLine struct {
	Message  string `json:"message"`
	Reason   string `json:"reason"`
	Detail   string `json:"detail"`
	Subject  string `json:"subject"`
	Node     string `json:"node,omitempty"`
	Spool    string `json:"spool,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"` // absent: the message's word is not to be believed
	Rows     uint64 `json:"rows"`
	Bytes    uint64 `json:"bytes"`
	AtMs     int64  `json:"at_ms"`
	SHA256   string `json:"sha256"`
	Stored   bool   `json:"stored"`
	Whole    bool   `json:"whole"` // its bytes are there
}

func newQuarantineLine(m *store.QuarantineMessage) quarantineLine {
	return quarantineLine{messageName(m.Stream, m.StreamSeq), m.Reason, m.Detail, m.Subject, m.Who, m.Spool, m.Sequence, m.Rows, m.Size, m.BrokerMs, hex.EncodeToString(m.Digest[:]), m.Stored, m.Whole}
}

func (o *quarantineOptions) list(ctx context.Context, a *asked, out io.Writer) error {
	f := o.filter(a.cluster)
	if f.Most = o.limit; f.Most > 0 {
		f.Most++ // to know whether there are more
	}
	p, e := &printer{w: out}, json.NewEncoder(out)
	var rows []string
	more := false
	err := a.store.QuarantineMessages(ctx, f, false, func(m store.QuarantineMessage) error {
		if more = o.limit > 0 && len(rows) == o.limit; more {
			return nil
		}
		sequence := "-"
		if m.Sequence > 0 {
			sequence = fmt.Sprintf("%.8s %d", m.Spool, m.Sequence)
		}
		reason := m.Reason
		if m.Stored {
			reason += " (stored since)"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s", messageName(m.Stream, m.StreamSeq), stamp(m.BrokerMs), reason, nodeName(m.Who), m.Rows, byteSize(m.Size), sequence, printable(m.Detail)))
		if o.json {
			if err := e.Encode(newQuarantineLine(&m)); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return nil
	})
	if err != nil || o.json {
		return err
	}
	if len(rows) == 0 {
		p.line("Nothing of cluster %s is in quarantine%s.", a.cluster, o.narrowed())
		return p.err
	}
	p.table("message\tat (UTC)\treason\thost\trows\tsize\tspool, batch\tdetail", rows)
	if more {
		p.line("  and more: --limit 0 lists all.")
	}
	return p.err
}

// messageName is how a message is named on the command line.
func messageName(stream string, seq uint64) string { return printable(stream) + "/" + fmt.Sprint(seq) }

func parseMessageName(text string) (stream string, seq uint64, err error) {
	stream, number, ok := strings.Cut(text, "/")
	if ok && stream != "" {
		if seq, err = strconv.ParseUint(number, 10, 64); err == nil && seq > 0 {
			return stream, seq, nil
		}
	}
	return "", 0, usageError{Err: fmt.Errorf("%q names no message: wanted STREAM/NUMBER, as `flopwatch quarantine ls --messages` lists them", text)}
}

func nodeName(node string) string {
	if node == "" {
		return "provider"
	}
	return printable(node)
}

// printable is a text of a stranger that does nothing to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func byteSize(n uint64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}

func newQuarantineShowCommand() *cobra.Command {
	var o askOptions
	var file string
	cmd := &cobra.Command{
		Use:   "show STREAM/NUMBER --data DIR",
		Short: "Show one message: why it is there, and what can be read of it",
		RunE: func(cmd *cobra.Command, args []string) error {
			stream, seq, err := parseMessageName(args[0])
			if err != nil {
				return err
			}
			return o.ask(cmd, func(ctx context.Context, a *asked, out io.Writer) error {
				var found []store.QuarantineMessage
				err := a.store.QuarantineMessages(ctx, store.QuarantineFilter{Stream: stream, StreamSeq: seq, Stored: true}, true, func(m store.QuarantineMessage) error {
					found = append(found, m)
					return nil
				})
				if err != nil {
					return err
				}
				if len(found) == 0 {
					return fmt.Errorf("message %s is not in quarantine: `flopwatch quarantine ls --messages --all` lists what is", args[0])
				}
				if file != "" && !found[0].Whole {
					return fmt.Errorf("message %s: its content was not kept", args[0])
				}
				if file != "" {
					if err := writeNew(file, found[0].Bytes); err != nil {
						return err
					}
				}
				return showMessage(out, &found[0], o.json, file)
			})
		},
	}
	o.register(cmd)
	_ = cmd.Flags().MarkHidden("since") // one message is one message
	_ = cmd.Flags().MarkHidden("all")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{Err: fmt.Errorf("%s takes one message: STREAM/NUMBER", cmd.CommandPath())}
		}
		return nil
	}
	cmd.Flags().StringVar(&file, "out", "", "`file` that gets the message's bytes; it must not be there yet")
	return cmd
}

// writeNew writes a file that is not there yet.
func writeNew(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write --out: %w", err)
	}
	defer func() {
		if cerr := f.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("write --out: %w", cerr)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return fmt.Errorf("write --out: %w", err)
	}
	return nil
}

// reading is what can be read of a message by this program.
type reading struct {
	quarantineLine
	Error    string         `json:"error,omitempty"` // why this program does not understand it
	Version  uint32         `json:"version,omitempty"`
	Cluster  string         `json:"says_cluster,omitempty"`
	Node     string         `json:"says_node,omitempty"`
	Spool    string         `json:"says_spool,omitempty"`
	Sequence uint64         `json:"says_sequence,omitempty"`
	SealedMs int64          `json:"sealed_ms,omitempty"`
	Tables   []tableReading `json:"tables,omitempty"`
}

type tableReading struct {
	Kind    string `json:"kind"`
	Rows    int    `json:"rows"`
	FirstMs *int64 `json:"first_ms,omitempty"`
	LastMs  *int64 `json:"last_ms,omitempty"`
}

func read(m *store.QuarantineMessage) (reading, error) {
	r := reading{quarantineLine: newQuarantineLine(m)}
	d, err := wire.NewDecoder()
	if err != nil {
		return r, fmt.Errorf("make decoder: %w", err)
	}
	var b wire.Batch
	if err := d.Decode(m.Bytes, &b); err != nil {
		r.Error, b.Tables = err.Error(), nil
	}
	if b.Sequence > 0 {
		r.Cluster, r.Node, r.Sequence, r.SealedMs, r.Version, r.Spool = b.Cluster, b.Node, b.Sequence, b.SealedWallMs, b.Version, hex.EncodeToString(b.Spool[:])
	}
	for i := range b.Tables {
		t := &b.Tables[i]
		line := tableReading{Kind: t.Kind.String(), Rows: t.Rows}
		if f, ok := wire.FieldOf(t.Kind, 1); ok && strings.HasSuffix(f.Name, "_ms") {
			if c := t.Column(1); c != nil && len(c.Int) > 0 {
				first, last := slices.Min(c.Int), slices.Max(c.Int)
				line.FirstMs, line.LastMs = &first, &last
			}
		}
		r.Tables = append(r.Tables, line)
	}
	return r, nil
}

// shownBytes is how much of a message is shown.
const shownBytes = 256

func showMessage(out io.Writer, m *store.QuarantineMessage, asJSON bool, file string) error {
	r, err := read(m)
	if err != nil {
		return err
	}
	if asJSON {
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	}
	p := &printer{w: out}
	p.line("Message    %s, %d bytes, SHA-256 %s", r.Message, r.Bytes, r.SHA256)
	p.line("Came       %s UTC on %s", time.UnixMilli(m.BrokerMs).UTC().Format(time.DateTime), printable(m.Subject))
	p.line("Reason     %s: %s", m.Reason, printable(m.Detail))
	switch {
	case m.Reason == batch.ReasonRange:
		p.line("Now        its rows are stored, with those values absent")
	case m.Stored:
		p.line("Now        stored: it came again")
	default:
		p.line("Now        in quarantine alone")
	}
	switch {
	case m.Sequence > 0:
		p.line("Identity   host %s, spool %s, batch %d", nodeName(m.Node), printable(m.QuarantineRow.Spool), m.Sequence)
	case r.Sequence > 0:
		p.line("Identity   not to be believed: it says host %s of cluster %s, spool %s, batch %d", nodeName(r.Node), printable(r.Cluster), r.Spool, r.Sequence)
	default:
		p.line("Identity   none that could be read")
	}
	if r.SealedMs != 0 {
		p.line("Sealed     %s", instant(r.SealedMs))
	}
	switch {
	case !m.Whole:
		p.line("Content    not kept: its sender was beyond the limit of the day, or its 90 days are over")
	case r.Error != "":
		p.line("Content    this program cannot read it: %s", printable(r.Error))
	default:
		p.line("Content    version %d, %s", r.Version, plural(len(r.Tables), "table"))
		var rows []string
		for _, t := range r.Tables {
			first, last := "-", "-"
			if t.FirstMs != nil {
				first, last = instant(*t.FirstMs), instant(*t.LastMs)
			}
			rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s", t.Kind, t.Rows, first, last))
		}
		p.table("kind\trows\tfirst\tlast", rows)
	}
	if !m.Whole {
		return p.err
	}
	if file != "" {
		p.line("The bytes are in %s.", file)
		return p.err
	}
	p.line("")
	for l := range strings.Lines(hex.Dump(m.Bytes[:min(len(m.Bytes), shownBytes)])) {
		p.line("%s", strings.TrimSuffix(l, "\n"))
	}
	if n := len(m.Bytes) - shownBytes; n > 0 {
		p.line("and %d bytes more: --out FILE writes all.", n)
	}
	return p.err
}

// instant writes a time that a stranger states: as a date where it is one.
func instant(ms int64) string {
	if t := time.UnixMilli(ms).UTC(); t.Year() >= 1 && t.Year() <= 9999 {
		return t.Format("2006-01-02 15:04:05.000")
	}
	return fmt.Sprintf("%d ms", ms)
}
