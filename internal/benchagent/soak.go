package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type soakOptions struct {
	setup
	csv    string
	length time.Duration
}

// Every sampleEvery the soak looks; for settle it looks only, and begins to judge then.
const (
	sampleEvery = 10 * time.Second
	settle      = time.Minute
)

// quantity is something that must not grow.
type quantity struct {
	name, unit string
	bound      bound
	read       func(s sample) float64
}

// sample is one look at both processes.
type sample struct {
	at            time.Duration // since the start
	agent, child  usage
	heap, objects float64 // bytes in use by the Go heap of the agent, and objects on it
	goroutines    float64
	faults        string // those in force
}

// A soak of half an hour cannot show a leak of a kilobyte an hour; these bounds, over half
// an hour, would let 1 MiB of heap pass at most. Threads and goroutines may be one or two more while
// a fault lasts.
var quantities = []quantity{
	{"agent: Go heap in use", "MiB", bound{0.15, 1}, func(s sample) float64 { return s.heap / (1 << 20) }},
	{"agent: objects on the heap", "k", bound{0.15, 2}, func(s sample) float64 { return s.objects / 1000 }},
	{"agent: goroutines", "", bound{0, 2}, func(s sample) float64 { return s.goroutines }},
	{"agent: RSS", "MiB", bound{0.10, 1}, func(s sample) float64 { return mib(s.agent.RSSBytes) }},
	{"agent: anonymous memory", "MiB", bound{0.15, 1}, func(s sample) float64 { return mib(s.agent.AnonRSS) }},
	{"agent: descriptors", "", bound{0, 1}, func(s sample) float64 { return float64(s.agent.FDs) }},
	{"agent: BPF programs, maps and links", "", bound{0, 1}, func(s sample) float64 { return float64(s.agent.BPF) }},
	{"agent: threads", "", bound{0, 2}, func(s sample) float64 { return float64(s.agent.Threads) }},
	{"child: RSS", "MiB", bound{0.10, 1}, func(s sample) float64 { return mib(s.child.RSSBytes) }},
	{"child: anonymous memory", "MiB", bound{0.15, 1}, func(s sample) float64 { return mib(s.child.AnonRSS) }},
	{"child: descriptors", "", bound{0, 1}, func(s sample) float64 { return float64(s.child.FDs) }},
	{"child: threads", "", bound{0, 3}, func(s sample) float64 { return float64(s.child.Threads) }},
}

func runSoak(ctx context.Context, o soakOptions, out io.Writer) (err error) {
	g := &group{}
	defer func() { err = errors.Join(err, g.stop()) }()
	s, err := startSite(ctx, g, o.setup)
	if err != nil {
		return err
	}
	file, err := os.Create(o.csv)
	if err != nil {
		return fmt.Errorf("make CSV: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := csv.NewWriter(file)
	header := []string{"seconds", "faults"}
	for _, q := range quantities {
		header = append(header, strings.TrimSpace(q.name+" "+q.unit))
	}
	if err = w.Write(header); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}

	faultCtx, stopFaults := context.WithCancel(ctx)
	faults := &faults{site: s, out: out}
	ended := make(chan error, 2)
	go func() { ended <- faults.run(faultCtx, o.length) }() // ends with stopFaults
	g.add(func() error {
		stopFaults()
		return <-ended
	})

	began := time.Now()
	var all []sample
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for time.Since(began) < o.length {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ferr := <-ended:
			ended <- nil // for the group
			return errors.Join(errors.New("faults ended early"), ferr)
		case <-tick.C:
		}
		x, serr := s.sample(ctx)
		if serr != nil {
			return serr
		}
		x.at, x.faults = time.Since(began), faults.inForce()
		all = append(all, x)
		record := []string{strconv.FormatFloat(x.at.Seconds(), 'f', 0, 64), x.faults}
		for _, q := range quantities {
			record = append(record, strconv.FormatFloat(q.read(x), 'f', 3, 64))
		}
		if err = errors.Join(w.Write(record), flush(w)); err != nil {
			return fmt.Errorf("write CSV: %w", err)
		}
	}
	stopFaults()
	if err = <-ended; err != nil {
		return err
	}
	ended <- nil // for the group
	return s.verdict(ctx, o, out, all, faults)
}

func flush(w *csv.Writer) error {
	w.Flush()
	return w.Error()
}

// sample looks at the agent and at its child, which may be missing for a moment.
func (s *site) sample(ctx context.Context) (x sample, err error) {
	if err = s.agent.ended(); err != nil {
		return x, err
	}
	if x.agent, err = readProcess(s.agent.pid()); err != nil {
		return x, fmt.Errorf("look at the agent: %w", err)
	}
	x.child.RSSBytes = -1
	if child, ok := s.child(); ok {
		if u, uerr := readProcess(child); uerr == nil { // else it has just ended
			x.child = u
		}
	}
	var text bytes.Buffer
	if _, err = fetch(ctx, s.metrics, &text); err != nil {
		return x, fmt.Errorf("ask the agent for its metrics: %w", err)
	}
	for name, to := range map[string]*float64{
		"go_memstats_heap_inuse_bytes": &x.heap, "go_memstats_heap_objects": &x.objects, "go_goroutines": &x.goroutines,
	} {
		if *to, err = metric(text.String(), name); err != nil {
			return x, err
		}
	}
	return x, nil
}

// child finds the agent's child.
func (s *site) child() (pid int, ok bool) {
	pids, err := descendants(s.agent.pid())
	if err != nil || len(pids) < 2 {
		return 0, false
	}
	return pids[1], true
}

// metric finds a number without labels in Prometheus' text format.
func metric(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return 0, fmt.Errorf("read metric %s: %w", name, err)
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("the agent has no metric %s", name)
}

// verdict prints the table; an error says what is not flat, or lost.
func (s *site) verdict(ctx context.Context, o soakOptions, out io.Writer, all []sample, f *faults) error {
	judged := slices.DeleteFunc(slices.Clone(all), func(x sample) bool { return x.at < min(settle, o.length/5) })
	if len(judged) < 9 {
		return fmt.Errorf("%d samples are too few to judge: soak for longer", len(judged))
	}
	third := len(judged) / 3
	var b strings.Builder
	fmt.Fprintf(&b, "\nsoak of %s: a look each %s, %d judged; %s\nmedian of the first and of the last third; rise of a robust line through all (Theil-Sen) over the whole time, and what it may be\n\n",
		o.length, sampleEvery, len(judged), f.summary())
	w := newTable(&b)
	w.row("", "first third", "last third", "lowest", "highest", "rise", "allowed", "", "")
	number := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	var broken []string
	for _, q := range quantities {
		var x, y []float64
		for _, p := range judged {
			if strings.HasPrefix(q.name, "child") && p.child.RSSBytes < 0 {
				continue // it was not there
			}
			x, y = append(x, p.at.Seconds()), append(y, q.read(p))
		}
		if len(y) < len(judged)/2 {
			broken = append(broken, q.name+": seldom measured")
			continue
		}
		rise, allowed, flat := q.bound.flat(x, y)
		word := "flat"
		if !flat {
			word = "RISES"
			broken = append(broken, fmt.Sprintf("%s rises by %.2f %s, at most %.2f", q.name, rise, q.unit, allowed))
		}
		w.row(strings.TrimSuffix(q.name+", "+q.unit, ", "), number(median(y[:min(third, len(y))])), number(median(y[max(0, len(y)-third):])),
			number(slices.Min(y)), number(slices.Max(y)), fmt.Sprintf("%+.2f", rise), number(allowed), q.unit, word)
	}
	if err := w.end(); err != nil {
		return err
	}
	// What was taken has to arrive: the broker is there, and the agent ships.
	if err := s.drain(ctx); err != nil {
		broken = append(broken, err.Error())
	}
	got := s.commit.sofar()
	states, err := s.states(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "\non the GPUs: %s\ninstruments of the agent: %s\n", s.users.note, strings.Join(states, ", "))
	fmt.Fprintf(&b, "%d batches arrived, %d GPU samples of %d ticks (%.1f %% of %d GPUs; hangs and restarts are gaps, bursts come on top), %d repeats recognised, %d rows doubled, %d sequences missing\n",
		got.Frames, got.GPURows, got.Ticks, 100*float64(got.GPURows)/float64(got.Ticks*gpus), gpus, got.Repeats, got.Doubled, got.MissingSequences)
	if got.Doubled > 0 || got.MissingSequences > 0 {
		broken = append(broken, "rows doubled or sequences missing")
	}
	verdict := "flat\n"
	if len(broken) > 0 {
		verdict = "NOT FLAT: " + strings.Join(broken, "; ") + "\n"
	}
	fmt.Fprintf(&b, "%s\n%s", o.csv, verdict)
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.work, "soak-agent.txt"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("keep table: %w", err)
	}
	if len(broken) > 0 {
		return errors.New("not flat")
	}
	return nil
}

// drain waits until something has come in that was taken after now.
func (s *site) drain(ctx context.Context) error {
	from := s.commit.sofar()
	for range 60 {
		if got := s.commit.sofar(); got.Frames > from.Frames && got.MissingSequences == 0 {
			return nil
		}
		if !wait(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return errors.New("nothing arrives within a minute of the end")
}

// killChild ends the child as the kernel would.
func (s *site) killChild() error {
	pid, ok := s.child()
	if !ok {
		return errors.New("kill the child: there is none")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the child: %w", err)
	}
	return nil
}
