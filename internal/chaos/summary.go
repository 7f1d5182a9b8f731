package chaos

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Survived counts the faults that were.
func (r *Report) Survived() int {
	n := 0
	for i := range r.Outcomes {
		if len(r.Outcomes[i].Wrong) == 0 {
			n++
		}
	}
	return n
}

// Print writes what a reader has to know of a run: of what it was, on which machine, what became of
// each kind, where what was taken went, and how to make again what failed. It is Markdown.
func (r *Report) Print(out io.Writer, p *Plan, commit string) {
	type line struct{ n, survived int }
	byKind := map[string]*line{}
	var failed strings.Builder
	for i := range r.Outcomes {
		x := &r.Outcomes[i]
		l := byKind[x.Kind]
		if l == nil {
			l = &line{}
			byKind[x.Kind] = l
		}
		if l.n++; len(x.Wrong) == 0 {
			l.survived++
			continue
		}
		first, _, _ := strings.Cut(x.Wrong[0], "\n")
		fmt.Fprintf(&failed, "- FAILED: seed %d, %s: %s: %s (`%s`)\n", x.Seed, x.Kind, x.What, first, x.Again)
	}
	var b strings.Builder
	picks := p.picks()
	fmt.Fprintf(&b, "\n## Faults of %s: %d of %d survived\n\n", r.Began.UTC().Format("2006-01-02 15:04 MST"), r.Survived(), len(picks))
	fmt.Fprintf(&b, "`%s WORLDS=%d`, commit %s, in %s", p.command(picks, cmp.Or(p.Round, defaultRound)), cmp.Or(p.Worlds, 1), commit, r.Took.Round(time.Second))
	if n := len(picks) - len(r.Outcomes); n > 0 {
		fmt.Fprintf(&b, "; **%d were not made**, the run was ended before", n)
	}
	fmt.Fprintf(&b, "; %s; %s, %d cores, load average %.1f at the beginning and up to %.1f.\n\n",
		map[bool]string{true: "network namespaces and disks of a size", false: "NOT root: no partitions, no full disks, no corruption"}[p.Apart], runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(), r.Load[0], r.Load[1])
	b.WriteString("| kind | faults | survived |\n|---|---|---|\n")
	for _, k := range slices.Sorted(maps.Keys(byKind)) {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", k, byKind[k].n, byKind[k].survived)
	}
	fmt.Fprintf(&b, "| all | %d | %d |\n\n", len(r.Outcomes), r.Survived())
	t := &r.Totals
	b.WriteString("| | frames | rows |\n|---|---|---|\n")
	fmt.Fprintf(&b, "| taken | %d | %d |\n| stored | %d | %d |\n| in quarantine for a clock | %d | |\n| given up and told %v | %d | |\n", t.Frames, t.Rows, t.Stored, t.StoredRows, t.Aside, t.LostReasons, t.Lost)
	fmt.Fprintf(&b, "\nOf intruders in quarantine: %d messages. Batches written twice, seen once: %d.\n", t.Injected, t.Repeats)
	if len(r.Peaks) > 0 {
		b.WriteString("Most memory:")
		for i, name := range slices.Sorted(maps.Keys(r.Peaks)) {
			fmt.Fprintf(&b, "%s %s %d MiB", map[bool]string{false: ",", true: ""}[i == 0], name, r.Peaks[name]>>20)
		}
		b.WriteString(".\n")
	}
	if b.WriteString("\n"); len(r.Notes) > 0 {
		fmt.Fprintf(&b, "- %s\n", strings.Join(r.Notes, "\n- "))
	}
	b.WriteString(failed.String())
	_, _ = io.WriteString(out, b.String()) // the same as in show
}

// loadAverage is the machine's of the last minute; 0 where there is none.
func loadAverage() (load float64) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	if err != nil {
		return 0
	}
	return load
}
