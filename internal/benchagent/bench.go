package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// Limits of DESIGN.md 6 for the agent.
const (
	limitCPU, stretchCPU     = 0.35, 0.15 // % of a core
	limitRSS, stretchRSS     = 25.0, 15.0 // MiB, all processes
	limitCalls               = 12.0       // into NVML, a GPU and second
	limitBytes, stretchBytes = 30.0, 15.0 // a GPU sample of 25 values
	sampleValues             = 25
)

const (
	gpus        = 8
	memoryEvery = 2 * time.Second
	// shortest is the window from which on everything can be judged: the customer writes a
	// checkpoint a minute, and what is told of it comes with a frame up to 20 s later; bytes a
	// sample need several frames.
	shortest = 100 * time.Second
)

// figures of one contender over the window.
type figures struct {
	cpu, user, sys                   float64 // % of a core
	rssMax, rssMean, pssMax, anonMax float64 // MiB
	calls                            float64 // a GPU and second
	switches                         float64 // a second
	processes, threads               int
	servedBytes                      float64 // a second, by scrapes
}

type benchOptions struct {
	setup
	rivals         string
	perf           string // where a profile goes; empty: none is taken
	warmup, window time.Duration
}

func runBench(ctx context.Context, o benchOptions, out io.Writer) (err error) {
	g := &group{}
	defer func() { err = errors.Join(err, g.stop()) }()
	site, err := startSite(ctx, g, o.setup)
	if err != nil {
		return err
	}
	others, missing, err := startRivals(ctx, g, o.rivals, o.work, o.stub, site.users.pids)
	if err != nil {
		return err
	}
	all := append([]*contender{site.contender()}, others...)

	scrapeCtx, stopScrapes := context.WithCancel(ctx)
	var scrapes sync.WaitGroup
	defer scrapes.Wait()
	defer stopScrapes()
	for _, c := range all {
		if c.served != nil {
			scrapes.Go(func() { c.served.run(scrapeCtx) })
		}
	}
	if !wait(ctx, o.warmup) {
		return ctx.Err()
	}
	if o.perf != "" {
		if err = profile(g, o, site.agent.pid()); err != nil {
			return err
		}
	}
	before := site.commit.sofar()
	result, load, err := measure(ctx, all, o.window)
	if err != nil {
		return err
	}
	got := site.commit.sofar()
	stopScrapes()
	scrapes.Wait()
	for _, c := range all {
		if c.served != nil && c.served.err != nil {
			return c.served.err
		}
	}
	states, err := site.states(ctx)
	if err != nil {
		return err
	}
	return report(out, o, all, result, missing, load, before, got, site.users.note, states)
}

// profile samples the agent and its child over the window with Linux' perf. It costs CPU time
// that is counted as theirs: figures beside a profile are not to be kept.
func profile(g *group, o benchOptions, agent int) error {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return fmt.Errorf("profile (Debian: apt-get install linux-perf): %w", err)
	}
	pids, err := descendants(agent)
	if err != nil {
		return err
	}
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(pid))
	}
	p, err := start("perf", o.work, []string{"PATH=" + os.Getenv("PATH")}, perf, "record", "-F", "4999", "-g", "-o", o.perf,
		"-p", strings.Join(list, ","), "--", "sleep", strconv.FormatFloat(o.window.Seconds(), 'f', 0, 64))
	if err != nil {
		return err
	}
	g.add(func() error {
		_ = p.stop() // it says that it was interrupted, and has written all it had
		return nil
	})
	return nil
}

// measure watches all contenders over the same window.
func measure(ctx context.Context, all []*contender, window time.Duration) (result []figures, load string, err error) {
	type point struct {
		usage
		calls uint64
		bytes uint64
		at    time.Time
	}
	look := func(c *contender) (p point, err error) {
		if err = c.proc.ended(); err != nil {
			return p, err
		}
		if p.usage, err = readTree(c.proc.pid()); err != nil {
			return p, err
		}
		p.calls, p.at = c.stub.calls(), time.Now()
		return p, nil
	}
	first := make([]point, len(all))
	last := make([]point, len(all))
	result = make([]figures, len(all))
	looks := 0.0
	end := time.Now().Add(window)
	for i, c := range all {
		if first[i], err = look(c); err != nil {
			return nil, "", err
		}
		if c.served != nil {
			first[i].bytes = c.served.total()
		}
	}
	for time.Now().Before(end) {
		if !wait(ctx, min(memoryEvery, time.Until(end))) {
			return nil, "", ctx.Err()
		}
		looks++
		for i, c := range all {
			if last[i], err = look(c); err != nil {
				return nil, "", err
			}
			f, u := &result[i], last[i].usage
			f.rssMax = max(f.rssMax, mib(u.RSSBytes))
			f.rssMean += mib(u.RSSBytes)
			f.pssMax = max(f.pssMax, mib(u.PSSBytes))
			f.anonMax = max(f.anonMax, mib(u.AnonRSS))
			f.processes, f.threads = max(f.processes, u.Processes), max(f.threads, u.Threads)
		}
	}
	for i, c := range all {
		f, a, b := &result[i], first[i], last[i]
		s := b.at.Sub(a.at).Seconds()
		percent := func(from, to uint64) float64 { return 100 * float64(to-from) / clockTicks / s }
		f.user, f.sys = percent(a.UserTicks, b.UserTicks), percent(a.SysTicks, b.SysTicks)
		f.cpu = f.user + f.sys
		f.rssMean /= looks
		f.calls = float64(b.calls-a.calls) / gpus / s
		f.switches = float64(int64(b.Switches-a.Switches)) / s
		if c.served != nil {
			f.servedBytes = float64(c.served.total()-a.bytes) / s
		}
	}
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, "", fmt.Errorf("read load: %w", err)
	}
	return result, strings.Join(strings.Fields(string(text))[:2], ", "), nil
}

func mib(b int64) float64 { return float64(b) / (1 << 20) }

// report prints the table, and returns an error if a limit is broken.
func report(out io.Writer, o benchOptions, all []*contender, result []figures, missing []string, load string, before, got shipped, users string, states []string) error {
	rows := got.GPURows - before.GPURows
	if rows == 0 {
		return errors.New("no GPU sample arrived in the window")
	}
	wantRows := uint64(o.window.Seconds()) * gpus
	bytes := float64(got.GPUBytes-before.GPUBytes) / float64(rows)
	values := float64(got.GPUValues-before.GPUValues) / float64(rows)

	var b strings.Builder
	fmt.Fprintf(&b, "%d fake H100s at 1 Hz, one run side by side: %s behind %s of warm-up; load of the machine (1, 5 min) %s\n\n", gpus, o.window, o.warmup, load)
	for _, c := range all {
		fmt.Fprintf(&b, "  %s %s: %s\n", c.name, c.version, c.note)
	}
	fmt.Fprintf(&b, "  on the GPUs: %s\n", users)
	for _, m := range missing {
		fmt.Fprintf(&b, "  left out: %s\n", m)
	}
	b.WriteByte('\n')
	w := newTable(&b)
	line := func(name, limit, stretch string, value func(i int) string) {
		cells := []string{name, limit, stretch}
		for i := range all {
			cells = append(cells, value(i))
		}
		w.row(cells...)
	}
	number := func(format string, f func(figures) float64) func(int) string {
		return func(i int) string { return fmt.Sprintf(format, f(result[i])) }
	}
	mine := func(v float64) func(int) string {
		return func(i int) string {
			if all[i].ours {
				return fmt.Sprintf("%.1f", v)
			}
			return ""
		}
	}
	line("", "hold", "stretch", func(i int) string { return all[i].name })
	line("CPU, % of a core", fmt.Sprint(limitCPU), fmt.Sprint(stretchCPU), number("%.2f", func(f figures) float64 { return f.cpu }))
	line("user", "", "", number("%.2f", func(f figures) float64 { return f.user }))
	line("system", "", "", number("%.2f", func(f figures) float64 { return f.sys }))
	line("RSS of all processes, MiB, max", fmt.Sprint(limitRSS), fmt.Sprint(stretchRSS), number("%.1f", func(f figures) float64 { return f.rssMax }))
	line("mean", "", "", number("%.1f", func(f figures) float64 { return f.rssMean }))
	line("PSS, MiB, max", "", "", number("%.1f", func(f figures) float64 { return f.pssMax }))
	line("of RSS anonymous, MiB, max", "", "", number("%.1f", func(f figures) float64 { return f.anonMax }))
	line("NVML calls a GPU and second", fmt.Sprint(limitCalls), "", number("%.2f", func(f figures) float64 { return f.calls }))
	line("context switches a second", "", "", number("%.0f", func(f figures) float64 { return f.switches }))
	line("processes / threads", "", "", func(i int) string { return fmt.Sprintf("%d / %d", result[i].processes, result[i].threads) })
	line("bytes a GPU sample", "", "", mine(bytes))
	line("values a GPU sample", "", "", mine(values))
	line(fmt.Sprintf("bytes a sample of %d values", sampleValues), fmt.Sprint(limitBytes), fmt.Sprint(stretchBytes), mine(bytes*sampleValues/values))
	line("bytes of everything, a GPU and second", "", "", mine(float64(got.Bytes-before.Bytes)/gpus/o.window.Seconds()))
	line("bytes a GPU and second, served", "", "", func(i int) string {
		if all[i].served == nil {
			return ""
		}
		return fmt.Sprintf("%.0f", result[i].servedBytes/gpus)
	})
	if err := w.end(); err != nil {
		return err
	}
	b.WriteString("\nbytes a GPU sample: of frames that hold nothing else, with all of their heads. ")
	b.WriteString("PSS shares pages out among who maps them: contenders that run one program look smaller for it.\n")
	fmt.Fprintf(&b, "shipped in the window: %d frames, %d bytes, %d GPU samples (%d expected, give or take a batch), %d repeats, %d doubled rows, %d sequences missing\n",
		got.Frames-before.Frames, got.Bytes-before.Bytes, rows, wantRows, got.Repeats, got.Doubled, got.MissingSequences)

	b.WriteString("instruments of the agent: " + strings.Join(states, ", ") + "\n")
	b.WriteString("rows that arrived (bytes by which their frames would be smaller without them):")
	for i, kind := range slices.Sorted(maps.Keys(got.Rows)) {
		if n := got.Rows[kind] - before.Rows[kind]; n > 0 {
			fmt.Fprintf(&b, "%s %s %d (%d)", map[bool]string{true: "", false: ","}[i == 0], kind, n, got.Less[kind]-before.Less[kind])
		}
	}
	b.WriteByte('\n')

	var broken []string
	hold := func(what string, value, limit float64) {
		if !(value <= limit) {
			broken = append(broken, fmt.Sprintf("%s: %.2f, at most %g", what, value, limit))
		}
	}
	for i, f := range result {
		if all[i].ours {
			hold("CPU, % of a core", f.cpu, limitCPU)
			hold("RSS, MiB", f.rssMax, limitRSS)
			hold("NVML calls a GPU and second", f.calls, limitCalls)
		}
	}
	if o.window >= shortest {
		hold(fmt.Sprintf("bytes a GPU sample of %d values", sampleValues), bytes*sampleValues/values, limitBytes)
	} else {
		fmt.Fprintf(&b, "the window is shorter than %s: bytes a sample (of %d frames) and rows of checkpoints are not judged\n", shortest, got.Frames-before.Frames)
	}
	if got.Doubled > 0 || got.MissingSequences > 0 {
		broken = append(broken, "rows doubled or missing")
	}
	if !o.plain { // what cost nothing as it saw nothing is no result
		for _, kind := range []wire.Kind{wire.KindHealth, wire.KindCollective, wire.KindTCP, wire.KindCheckpoint} {
			if got.Rows[kind] == 0 && (kind != wire.KindCheckpoint || o.window >= shortest) {
				broken = append(broken, fmt.Sprintf("no row of %s arrived", kind))
			}
		}
	}
	// A batch at either end of the window may lie in it or not: seal_every is 20 s.
	if slack := uint64(22 * gpus); rows+slack < wantRows {
		broken = append(broken, fmt.Sprintf("%d GPU samples of %d", rows, wantRows))
	}
	switch {
	case len(broken) > 0:
	case o.window < shortest:
		b.WriteString("\nall limits that were judged hold\n")
	default:
		b.WriteString("\nall limits hold\n")
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.work, "bench-agent.txt"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("keep table: %w", err)
	}
	if len(broken) > 0 {
		return fmt.Errorf("limits broken: %s", strings.Join(broken, "; "))
	}
	return nil
}
