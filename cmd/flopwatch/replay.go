package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/agent/playback"
	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
)

// replayOptions are the flags of `flopwatch replay`.
type replayOptions struct {
	out  string
	data string // working data; empty: a temporary folder that is removed at the end
	// fromCells judges what an earlier replay stored, from minute cells alone.
	fromCells bool
	profiles  string // file of threshold profiles in place of the recording's, or the built-in ones
	quiet     bool
	verbose   bool
	stack     stackConfig
}

func newReplayCommand() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay BUNDLE --out DIR",
		Short: "Run a recording through the whole product",
		Long: `Replay publishes a recording as its hosts' agents would have, over NATS, through the
collector into ClickHouse, lets the detector judge it minute by minute of event time, and
writes runs.jsonl, findings.jsonl, inquiries.jsonl (what is asked and not concluded), recording.json and one report folder a finding to DIR.

Servers are embedded unless --nats and --clickhouse name real ones. The same recording
gives the same files. With --data, a replay that was killed goes on where it stopped.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{Err: errors.New("replay takes one recording: flopwatch replay BUNDLE --out DIR")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.out == "" {
				return usageError{Err: errors.New("--out DIR is required")}
			}
			return replay(cmd.Context(), args[0], o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "folder for the answers (required)")
	o.register(cmd)
	return cmd
}

// register adds the flags that say where and how to run.
func (o *replayOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.fromCells, "from-cells", false, "publish nothing: judge again, from the minute cells alone, what an earlier replay stored in --data or --clickhouse")
	f.StringVar(&o.profiles, "profiles", "", "judge by the threshold profiles of this file (TOML, see deploy/config/profiles.toml) in place of the recording's own, or the built-in ones")
	f.StringVar(&o.data, "data", "", "folder for spools and embedded servers, kept for a later try (default: a temporary one)")
	f.StringVar(&o.stack.Engine, "engine", "", "the embedded engine's libchdb.so (default: engine/ beside the binary)")
	f.StringVar(&o.stack.NATS, "nats", "", "URL of a real NATS with JetStream: nats://HOST:PORT or tls://HOST:PORT")
	f.StringVar(&o.stack.NATSTokenFile, "nats-token-file", "", "file with the token for --nats")
	f.StringVar(&o.stack.NATSCreds, "nats-creds", "", "credentials file for --nats")
	f.StringVar(&o.stack.ClickHouse, "clickhouse", "", "URL of a real ClickHouse: http(s)://HOST:PORT or clickhouse://HOST:PORT")
	f.StringVar(&o.stack.ClickHouseUser, "clickhouse-user", "", "user for --clickhouse")
	f.StringVar(&o.stack.ClickHousePasswordFile, "clickhouse-password-file", "", "file with the password for --clickhouse")
	f.StringVar(&o.stack.Database, "database", "", "database for flopwatch's tables (default flopwatch)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress and no summary")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log what the servers and the collector say")
}

func replay(ctx context.Context, dir string, o replayOptions, stdout, stderr io.Writer) error {
	if err := o.stack.check(); err != nil {
		return err
	}
	if o.fromCells && o.data == "" && o.stack.ClickHouse == "" {
		return usageError{Err: errors.New("--from-cells wants the store of an earlier replay: name its --data folder, or --clickhouse")}
	}
	b, err := bundle.Open(dir)
	if err != nil {
		return err
	}
	profiles, version, err := profilesOf(b.Manifest, o.profiles)
	if err != nil {
		return err
	}
	warn := func(format string, args ...any) {
		_, _ = fmt.Fprintf(stderr, format+"\n", args...) // nothing depends on it
	}
	say := warn
	if o.quiet {
		say = func(string, ...any) {}
	}
	if err = os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("make output folder: %w", err)
	}
	digest, err := b.Digest() // a file that was corrected makes it another recording
	if err != nil {
		return err
	}
	work, err := workFolder(o.data, digest)
	if err != nil {
		return err
	}
	defer work.cleanup()
	o.stack.DataDir, o.stack.Resumed = work.dir, work.resumed
	o.stack.Claim = func(ctx context.Context, st *store.Store) error { return claim(ctx, st, b.Manifest.Cluster, digest) }
	o.stack.RecordedAvailability = true
	o.stack.Log = slog.New(slog.DiscardHandler)
	if o.verbose {
		o.stack.Log = slog.New(slog.NewTextHandler(stderr, nil))
	}

	say("start   servers")
	s, err := startStack(ctx, o.stack)
	if err != nil {
		return err
	}
	defer func() { _ = s.stop(context.WithoutCancel(ctx)) }() // a second stop does nothing
	if err = work.mark(); err != nil {
		return err
	}
	r := &replayer{b: b, s: s, o: o, digest: digest, profiles: profiles, profileVersion: version, say: say, warn: warn}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("replay %s: %w", dir, err)
	}
	if err := s.stop(ctx); err != nil {
		return fmt.Errorf("stop servers: %w", err)
	}
	if o.quiet {
		return nil
	}
	return printSummary(stdout, b.Manifest, r.parties > 0, r.runs, r.findings, profiles, o.out)
}

// profilesOf are those of the file, if one is named, else the manifest's own, or the built-in
// ones, with the digest of the set.
func profilesOf(m bundle.Manifest, file string) ([]threshold.Profile, string, error) {
	read := func() ([]threshold.Profile, error) { return up.Profiles(&m) }
	if file != "" {
		read = func() ([]threshold.Profile, error) { return up.ProfilesOf(file) }
	}
	profiles, err := read()
	if err != nil {
		return nil, "", err
	}
	digest, err := threshold.Digest(profiles)
	return profiles, digest, err
}

// workFolder is where spools and embedded servers keep their data. A named folder is
// kept, and belongs to one recording; resumed says that it was used before.
func workFolder(data, digest string) (workingFolder, error) {
	if data == "" {
		dir, err := os.MkdirTemp("", "flopwatch-replay-")
		if err != nil {
			return workingFolder{}, fmt.Errorf("make working folder: %w", err)
		}
		return workingFolder{
			dir: dir, mark: func() error { return nil },
			cleanup: func() { _ = os.RemoveAll(dir) }, // temporary: the system's own cleaning is the fallback
		}, nil
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return workingFolder{}, fmt.Errorf("make working folder: %w", err)
	}
	stamp := filepath.Join(data, "recording")
	w := workingFolder{dir: data, cleanup: func() {}, mark: func() error {
		if err := durable.WriteFile(durable.OS{}, stamp, []byte(digest+"\n")); err != nil {
			return fmt.Errorf("mark working folder: %w", err)
		}
		return nil
	}}
	got, err := os.ReadFile(stamp)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return w, nil
	case err != nil:
		return w, fmt.Errorf("read mark of working folder: %w", err)
	case strings.TrimSpace(string(got)) != digest:
		return w, fmt.Errorf("working folder %s holds another recording, or an earlier state of this one: name a new folder with --data", data)
	}
	w.resumed = true
	return w, nil
}

// workingFolder is a folder for one recording.
type workingFolder struct {
	dir     string
	resumed bool         // it was marked before
	mark    func() error // makes it this recording's, once its servers are
	cleanup func()
}

// replayer takes one recording through a running stack.
type replayer struct {
	b              *bundle.Bundle
	digest         string // of the recording
	s              *stack
	o              replayOptions
	profiles       []threshold.Profile
	profileVersion string
	say            func(format string, args ...any) // progress
	warn           func(format string, args ...any) // what a person has to know, said even when quiet

	parties  int
	register []identity.Issue
	read     bundle.Report
	runs     []detector.RunLine
	findings []report.Finding
}

func (r *replayer) run(ctx context.Context) error {
	if r.o.fromCells {
		return steadily(ctx, r.warn, "judge", r.judge)
	}
	if err := steadily(ctx, r.warn, "import parties", r.importParties); err != nil {
		return err
	}
	if err := r.publish(ctx); err != nil {
		return err
	}
	if err := steadily(ctx, r.warn, "judge", r.judge); err != nil {
		return err
	}
	// Last: what an earlier replay wrote stays whole until this one has its answers.
	return writeJSON(filepath.Join(r.o.out, "recording.json"), r.read)
}

// claim makes the database this recording's, if it holds nothing else.
func claim(ctx context.Context, st *store.Store, cluster, digest string) error {
	err := st.ClaimRecording(ctx, cluster, digest)
	if errors.Is(err, store.ErrNotAlone) {
		return fmt.Errorf("%w: a replay needs a database of its own, name one with --database", err)
	}
	return err
}

// stored makes sure that what was published is in this store: commit marks alone would not
// show that another collector took it elsewhere.
func (r *replayer) stored(ctx context.Context, published map[string]uint64) error {
	rows, err := r.s.store.BatchesAfter(ctx, r.b.Manifest.Cluster, math.MinInt64/4, 0)
	if err != nil {
		return err
	}
	got := map[string]uint64{}
	for i := range rows {
		got[rows[i].Spool]++
	}
	for spool, n := range published { // any one that lacks batches is an error
		if got[spool] != n {
			return fmt.Errorf("of %d batches that spool %s published, %d are in database %s: look at its table quarantine, and for another collector on this NATS",
				n, spool, got[spool], r.s.store.Database())
		}
	}
	return nil
}

// publish plays the recording and waits until the collector has stored all of it.
func (r *replayer) publish(ctx context.Context) error {
	started := time.Now()
	fleet, err := newFleet(ctx, fleetConfig{
		DataDir: r.o.stack.DataDir, Digest: r.digest, Cluster: r.b.Manifest.Cluster, Conn: r.s.nc, JetStream: r.s.js, Log: r.o.stack.Log,
	})
	if err != nil {
		return err
	}
	defer func() { _ = fleet.close() }() // a second close does nothing
	counts, err := playback.Play(ctx, r.b, fleet)
	if err != nil {
		return err
	}
	if err = fleet.drain(ctx); err != nil {
		return err
	}
	published := fleet.published()
	if err = fleet.close(); err != nil {
		return err
	}
	err = steadily(ctx, r.warn, "count batches", func(ctx context.Context) error { return r.stored(ctx, published) })
	if err != nil {
		return err
	}
	read := r.b.Report()
	st := r.s.collector.Stats()
	took := time.Since(started).Seconds()
	total := 0
	for _, n := range counts.Rows {
		total += n
	}
	r.addParties(&read)
	var disk int64
	err = steadily(ctx, r.warn, "measure tables", func(ctx context.Context) (err error) { disk, err = r.diskBytes(ctx); return err })
	if err != nil {
		return err
	}
	r.say("stored  %d rows (%d values) of %d hosts in %.1f s; %.2f bytes a value on the wire, %.2f on disk; %d rows of the recording could not be used",
		total, counts.Values, fleet.hosts(), took, perValue(fleet.wireBytes(), counts.Values), perValue(disk, counts.Values), read.Bad())
	if st.Quarantined > 0 {
		r.warn("        %d batches are in quarantine", st.Quarantined)
	}
	r.warnOf(read)
	r.read = read
	return nil
}

// diskBytes is what the raw tables take on disk.
func (r *replayer) diskBytes(ctx context.Context) (int64, error) {
	total := int64(0)
	for _, table := range store.RawTables() {
		n, err := r.s.store.DiskBytes(ctx, table)
		if err != nil {
			return 0, err
		}
		total += int64(n)
	}
	return total, nil
}

func perValue(bytes int64, values int) float64 {
	if values == 0 {
		return 0
	}
	return float64(bytes) / float64(values)
}

// judge runs the detector over the whole period and writes the answers.
func (r *replayer) judge(ctx context.Context) error {
	started := time.Now()
	parties, err := detector.LoadParties(ctx, r.s.store)
	if err != nil {
		return err
	}
	r.parties = len(parties.Accounts())
	m := r.b.Manifest
	// What an earlier replay into the same store said stays there, under its own epoch.
	epoch, err := r.s.store.LatestEpoch(ctx, m.Cluster)
	if err != nil {
		return err
	}
	epoch++
	lastSaid := started
	digest, err := detector.ConfigDigest(r.profiles, m.SpecialJurisdictions)
	if err != nil {
		return err
	}
	d := detector.New(detector.Config{
		Cluster: m.Cluster, Profiles: r.profiles, ProfileVersion: r.profileVersion, SpecialJurisdictions: m.SpecialJurisdictions,
		ConfigDigest: digest, Epoch: epoch, Now: time.Now,
		Progress: func(atMs int64) {
			if time.Since(lastSaid) > 2*time.Second {
				lastSaid = time.Now()
				r.say("judged  up to %s UTC", stamp(atMs))
			}
		},
	}, r.s.store, parties)
	judge := d.Backfill
	if r.o.fromCells {
		judge = d.Rejudge
	}
	if err = judge(ctx, m.StartMs, m.EndMs); err != nil {
		return err
	}
	runs, findings, err := detector.Lines(ctx, r.s.store, m.Cluster, epoch)
	if err != nil {
		return err
	}
	if err = writeLines(filepath.Join(r.o.out, "runs.jsonl"), runs); err != nil {
		return err
	}
	if err = writeLines(filepath.Join(r.o.out, "findings.jsonl"), findings); err != nil {
		return err
	}
	inquiries, err := detector.Inquiries(ctx, r.s.store, m.Cluster, epoch)
	if err != nil {
		return err
	}
	if err = writeLines(filepath.Join(r.o.out, "inquiries.jsonl"), inquiries); err != nil {
		return err
	}
	if err = r.writeReports(ctx, d); err != nil {
		return err
	}
	if r.runs, err = decode[detector.RunLine](runs); err != nil {
		return err
	}
	if r.findings, err = decode[report.Finding](findings); err != nil {
		return err
	}
	r.say("judged  %s, %s, %s, in %.1f s\n", plural(len(runs), "activity", "activities"), plural(len(findings), "finding"), plural(len(inquiries), "inquiry", "inquiries"), time.Since(started).Seconds())
	return nil
}

// writeReports replaces the report folders of an earlier replay: what was found then and
// is not found now must not lie beside what holds.
func (r *replayer) writeReports(ctx context.Context, d *detector.Detector) error {
	dir := filepath.Join(r.o.out, "reports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make reports folder: %w", err)
	}
	paths, err := d.WriteReports(ctx, dir, r.digest)
	if err != nil {
		return err
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list reports: %w", err)
	}
	for _, e := range old {
		if _, holds := paths[e.Name()]; holds || !strings.HasPrefix(e.Name(), "fnd-") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove the report of an earlier replay: %w", err)
		}
	}
	return nil
}

func decode[T any](lines []string) ([]T, error) {
	out := make([]T, len(lines))
	for i, l := range lines {
		if err := json.Unmarshal([]byte(l), &out[i]); err != nil {
			return nil, fmt.Errorf("read back an answer: %w", err)
		}
	}
	return out, nil
}

func writeLines(path string, lines []string) error {
	text := strings.Join(lines, "\n")
	if text != "" {
		text += "\n"
	}
	if err := durable.WriteFile(durable.OS{}, path, []byte(text)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := durable.WriteFile(durable.OS{}, path, append(text, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
