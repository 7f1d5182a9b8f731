package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Check is one thing beside the instruments that was looked at.
type Check struct {
	What string `json:"what"`
	// Status: ok, info, warn or fail.
	Status string `json:"status"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Statuses of a Check. Info is neither good nor bad.
const (
	OK   = "ok"
	Info = "info"
	Warn = "warn"
	Fail = "fail"
)

// Version of the report's JSON. Fields may be added; one that is there never changes its name
// or meaning under the same number.
const Version = 1

// Report is all that the doctor found. With -json it is one object. Values of what is measured
// are not in it, only which were measured.
type Report struct {
	Version    int        `json:"version"`
	Cluster    string     `json:"cluster"`
	Node       string     `json:"node"`
	Build      string     `json:"build"`
	Privileges Privileges `json:"privileges"`
	// Instruments are what is seen, and by which way: sources, and their parts as SOURCE/PART.
	Instruments []Instrument `json:"instruments"`
	// GPUs are how much of what could be known of each was measured.
	GPUs []Coverage `json:"gpus"`
	// Driver is what the library says in a look of its own; absent where [gpu] is not enabled.
	Driver *Driver `json:"driver,omitempty"`
	// Controllers are the [[bmc.target]] of the configuration.
	Controllers []Controller `json:"controllers,omitempty"`
	// Spools are what waits on disk, of this cluster and node first.
	Spools []Spool  `json:"spools,omitempty"`
	Checks []Check  `json:"checks"`
	Bench  []string `json:"bench,omitempty"`
}

// Take puts in what a look found. Privileges are set before, and Driver, if there is one.
func (r *Report) Take(f *Found) {
	r.Instruments = f.Instruments
	for i := range r.Instruments {
		in := &r.Instruments[i]
		in.Remedy = Remedy(in.Name, source.State(in.State), in.Reason, &r.Privileges)
	}
	r.GPUs = coverage(f.subjects, r.Driver)
	r.Controllers = controllers(f.Instruments, f.subjects)
	facts := f.facts
	if r.Driver != nil {
		r.Driver.Facts = maps.Clone(facts)
		r.Checks = append(append(r.Checks, r.Driver.check()), r.Driver.migRights()...)
	}
	r.Checks = append(r.Checks, integrity(facts)...)
}

// Failed reports whether something has to be mended before the agent is of use. What an
// instrument cannot see is told, and no failure: hosts differ.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Status == Fail })
}

// PrintJSON writes the report as one object.
func (r *Report) PrintJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s of cluster %s, flopwatch-agent %s\n\n", r.Node, r.Cluster, r.Build)
	r.instruments(&b)
	r.gpus(&b)
	r.driver(&b)
	r.controllers(&b)
	fmt.Fprintf(&b, "\nWith what privilege\n  uid %d, kernel %s, BTF %s%s\n", r.Privileges.UID, r.Privileges.Kernel, yes(r.Privileges.BTF, "yes", "no: programs cannot be fitted to this kernel"), lockdown(r.Privileges.Lockdown))
	for _, c := range r.Privileges.Capabilities {
		fmt.Fprintf(&b, "  %-4s %-20s %s\n", yes(c.Have, "has", "-"), c.Name, c.For)
	}
	b.WriteString("\nWhat is around\n")
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "  %-4s %-10s %s\n", c.Status, c.What, c.Text)
		helps(&b, "                  ", c.Remedy)
	}
	if len(r.Bench) > 0 {
		b.WriteString("\nWhat probes cost here\n")
		for _, l := range r.Bench {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

func (r *Report) instruments(b *strings.Builder) {
	b.WriteString("What is seen, by which way\n")
	for _, i := range r.Instruments {
		fmt.Fprintf(b, "  %-12s %s\n", i.State, i.Name)
		for _, s := range i.Seen {
			fmt.Fprintf(b, "%17s%s by %s, %d rows: %s\n", "", s.Kind, s.Source, s.Rows, strings.Join(s.Fields, " "))
		}
		if i.Reason != "" {
			fmt.Fprintf(b, "%17s%s: %s\n", "", yes(i.State == string(source.Active), "note", "why"), i.Reason)
		}
		helps(b, "                 ", i.Remedy)
	}
}

func (r *Report) gpus(b *strings.Builder) {
	if len(r.GPUs) == 0 {
		return
	}
	b.WriteString("\nHow much of each GPU is seen\n")
	said := map[string]int{}
	for i := range r.GPUs {
		g := &r.GPUs[i]
		fmt.Fprintf(b, "  GPU %-2d %s %s; GPM %s%s%s\n", g.GPU, g.UUID, g.Name, g.GPM, after("; MIG ", g.MIG), after("; confidential computing ", g.CC))
		// What is the same as of an earlier GPU is not told again.
		var rest strings.Builder
		for _, k := range g.Kinds {
			fmt.Fprintf(&rest, "%9s%-10s %2d of %2d fields%s%s\n", "", k.Kind, k.Measured, k.Known, after("; not: ", strings.Join(k.Missing, " ")), after("; ", k.Why))
		}
		if len(g.Refused) > 0 {
			fmt.Fprintf(&rest, "%9sthe driver refused: %s\n", "", strings.Join(g.Refused, "; "))
		}
		if first, ok := said[rest.String()]; ok {
			fmt.Fprintf(b, "%9sthe same as of GPU %d\n", "", first)
			continue
		}
		said[rest.String()] = g.GPU
		b.WriteString(rest.String())
	}
}

func (r *Report) driver(b *strings.Builder) {
	d := r.Driver
	if d == nil {
		return
	}
	b.WriteString("\nThe driver\n")
	if d.Error != "" {
		fmt.Fprintf(b, "  not known: %s\n", d.Error)
		return
	}
	if d.Code != 0 {
		fmt.Fprintf(b, "  refuses with code %d: %s\n", d.Code, d.Text)
	}
	if d.Driver != "" {
		fmt.Fprintf(b, "  driver %s, NVML %s, library %s%s\n", d.Driver, d.NVML, d.Library, after(", inode ", d.Facts["library_inode"]))
	}
	if len(d.Missing) > 0 {
		fmt.Fprintf(b, "  functions that the library lacks: %s\n", strings.Join(d.Missing, " "))
	}
	if refused := d.refused(-1); len(refused) > 0 {
		fmt.Fprintf(b, "  refused: %s\n", strings.Join(refused, "; "))
	}
	if len(d.Unheard) > 0 {
		fmt.Fprintf(b, "  GPUs that did not answer: %v\n", d.Unheard)
	}
}

func (r *Report) controllers(b *strings.Builder) {
	if len(r.Controllers) == 0 {
		return
	}
	b.WriteString("\nManagement controllers\n")
	for i := range r.Controllers {
		c := &r.Controllers[i]
		fmt.Fprintf(b, "  %-12s %s: reachable %s, account %s%s, %d parts in %d rows\n", c.State, c.Target, c.Reachable, c.Credentials, after(", by ", strings.Join(c.Methods, " ")), c.Parts, c.Rows)
	}
}

func helps(b *strings.Builder, indent, text string) {
	if text != "" {
		fmt.Fprintf(b, "%swhat helps: %s\n", indent, text)
	}
}

// after is text behind a word, if there is a text.
func after(word, text string) string {
	if text == "" {
		return ""
	}
	return word + text
}

func yes(v bool, a, b string) string {
	if v {
		return a
	}
	return b
}

func lockdown(mode string) string {
	if mode == "" {
		return ""
	}
	return ", lockdown " + mode
}
