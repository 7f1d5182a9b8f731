package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

// Status of a check.
type Status string

// Statuses. Info is neither good nor bad.
const (
	OK   Status = "ok"
	Info Status = "info"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	What   string `json:"what"`
	Status Status `json:"status"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // what helps; empty where all is well
}

// Options of a visit. Data and Exe are needed.
type Options struct {
	Data string // data directory
	Exe  string // this binary
	Now  func() time.Time
}

// visit is one look at everything.
type visit struct {
	o       Options
	l       up.Layout
	state   up.State
	ran     bool // a tree has run there
	known   bool // state was read
	running bool
	checks  []Check
}

func (v *visit) add(what string, status Status, remedy, format string, args ...any) {
	v.checks = append(v.checks, Check{what, status, fmt.Sprintf(format, args...), remedy})
}

func (v *visit) ok(what, format string, args ...any)   { v.add(what, OK, "", format, args...) }
func (v *visit) info(what, format string, args ...any) { v.add(what, Info, "", format, args...) }

// Look looks at everything, in the order in which things depend on each other.
func Look(ctx context.Context, o Options) ([]Check, error) {
	l, err := up.NewLayout(o.Data)
	if err != nil {
		return nil, err
	}
	v := &visit{o: o, l: l}
	v.tree()
	v.binaries()
	v.driver()
	v.disk()
	v.clock()
	v.ports(ctx)
	if v.running {
		v.components(ctx)
		v.broker(ctx)
		v.store(ctx)
	}
	v.spools()
	return v.checks, ctx.Err()
}

// Failed reports whether anything failed.
func Failed(checks []Check) bool {
	for _, c := range checks {
		if c.Status == Fail {
			return true
		}
	}
	return false
}

// PrintJSON writes one check a line.
func PrintJSON(w io.Writer, checks []Check) error {
	e := json.NewEncoder(w)
	for _, c := range checks {
		if err := e.Encode(c); err != nil {
			return fmt.Errorf("print checks: %w", err)
		}
	}
	return nil
}

// Print writes the checks for people, remedies below what is not well.
func Print(w io.Writer, checks []Check) error {
	var b strings.Builder
	width, count := 0, map[Status]int{}
	for _, c := range checks {
		width = max(width, len(c.What))
		count[c.Status]++
	}
	for _, c := range checks {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", c.Status, width, c.What, strings.ReplaceAll(c.Text, "\n", " "))
		if c.Remedy != "" && (c.Status == Warn || c.Status == Fail) {
			fmt.Fprintf(&b, "      %-*s  -> %s\n", width, "", c.Remedy)
		}
	}
	switch {
	case count[Fail] > 0:
		fmt.Fprintf(&b, "\n%d failed, %d to look at\n", count[Fail], count[Warn])
	case count[Warn] > 0:
		fmt.Fprintf(&b, "\nIt works; %d to look at\n", count[Warn])
	default:
		b.WriteString("\nAll is well\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print checks: %w", err)
	}
	return nil
}

// asUser helps where files cannot be read.
const asUser = "run doctor as the user that runs flopwatch up"

// tree looks whether the tree runs.
func (v *visit) tree() {
	start := "flopwatch up --data " + v.o.Data
	state, err := up.ReadState(v.l)
	v.ran = !errors.Is(err, up.ErrNeverUp)
	if errors.Is(err, fs.ErrPermission) {
		v.add("up", Fail, asUser, "%v", err)
		return
	}
	if err != nil {
		v.add("up", Fail, start, "%v", err)
		return
	}
	v.state, v.known = state, true
	pid, err := supervise.Holder(v.l.Run())
	switch {
	case err != nil:
		v.add("up", Fail, asUser, "%v", err)
	case pid == 0 && state.Stopped:
		v.add("up", Fail, start, "not running: it was stopped at %s", stamp(state.UpdatedAt))
	case pid == 0:
		v.add("up", Fail, start+" (it goes on with what it had)", "not running: it ended without a stop, last heard of at %s", stamp(state.UpdatedAt))
	default:
		v.running = true
		v.ok("up", "process %d since %s, cluster %s: %s", pid, stamp(state.StartedAt), state.Source.Cluster, state.Source)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") + " UTC" }

// ago writes how long something was before now.
func (v *visit) ago(ms int64) string { return length(v.o.Now().Sub(time.UnixMilli(ms))) }

// length writes a duration as people say it.
func length(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// size writes a number of bytes as people say it.
func size(bytes uint64) string {
	switch {
	case bytes < 10<<10:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 10<<20:
		return fmt.Sprintf("%d KiB", bytes>>10)
	case bytes < 10<<30:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d GiB", bytes>>30)
}
