package doctor

import (
	"encoding/json"
	"fmt"
	"io"
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

// Report is all that the doctor found.
type Report struct {
	Cluster     string       `json:"cluster"`
	Node        string       `json:"node"`
	Build       string       `json:"build"`
	Privileges  Privileges   `json:"privileges"`
	Instruments []Instrument `json:"instruments"`
	Checks      []Check      `json:"checks"`
	Bench       []string     `json:"bench,omitempty"`
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
	b.WriteString("What is seen, by which way\n")
	for _, i := range r.Instruments {
		fmt.Fprintf(&b, "  %-12s %s\n", i.State, i.Name)
		for _, s := range i.Seen {
			fmt.Fprintf(&b, "  %12s   %s by %s, %d rows: %s\n", "", s.Kind, s.Source, s.Rows, strings.Join(s.Fields, " "))
		}
		if i.Reason != "" && i.State != string(source.Active) {
			fmt.Fprintf(&b, "  %12s   why: %s\n", "", i.Reason)
		} else if i.Reason != "" {
			fmt.Fprintf(&b, "  %12s   note: %s\n", "", i.Reason)
		}
	}
	fmt.Fprintf(&b, "\nWith what privilege\n  uid %d, kernel %s, BTF %s%s\n", r.Privileges.UID, r.Privileges.Kernel, yes(r.Privileges.BTF, "yes", "no: programs cannot be fitted to this kernel"), lockdown(r.Privileges.Lockdown))
	for _, c := range r.Privileges.Capabilities {
		fmt.Fprintf(&b, "  %-4s %-20s %s\n", yes(c.Have, "has", "-"), c.Name, c.For)
	}
	b.WriteString("\nWhat is around\n")
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "  %-4s %-10s %s\n", c.Status, c.What, c.Text)
		if c.Remedy != "" {
			fmt.Fprintf(&b, "  %4s %-10s what helps: %s\n", "", "", c.Remedy)
		}
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
