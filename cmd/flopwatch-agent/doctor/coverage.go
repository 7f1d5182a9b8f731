package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Coverage is how much of what could be known of a GPU was measured in the look.
type Coverage struct {
	GPU  int    `json:"gpu"`
	UUID string `json:"uuid"`
	// Name, GPM, MIG and CC are the driver's words; empty: not known.
	Name  string         `json:"name,omitempty"`
	GPM   string         `json:"gpm"`
	MIG   string         `json:"mig,omitempty"`
	CC    string         `json:"confidential_computing,omitempty"`
	Kinds []KindCoverage `json:"kinds"`
	// Refused are calls that the driver refused, with its code.
	Refused []string `json:"refused_calls,omitempty"`

	able []string // what the driver says that can be read
}

// KindCoverage is the same of one kind of rows.
type KindCoverage struct {
	Kind     string   `json:"kind"`
	Measured int      `json:"fields_measured"`
	Known    int      `json:"fields_known"`
	Missing  []string `json:"fields_missing,omitempty"`
	// Why is said where one thing explains most of what is missing.
	Why string `json:"why,omitempty"`
}

// ofGPU are the kinds that tell of a GPU, in the order in which they are shown.
var ofGPU = []wire.Kind{wire.KindGPU, wire.KindHealth, wire.KindDevice, wire.KindOutOfBand}

// gpm are fields of samples that the performance monitor alone has.
var gpm = []string{"sm_active_e4", "sm_occupancy_e4", "tensor_e4", "hmma_e4", "imma_e4", "dfma_e4", "fp64_e4", "fp32_e4", "fp16_e4", "int_e4", "dram_e4"}

// coverage puts together what rows said of each GPU, and what the driver says.
func coverage(rows []subject, d *Driver) []Coverage {
	byUUID := map[string]*Coverage{}
	if d != nil {
		for i := range d.GPUs {
			g := &d.GPUs[i]
			if g.UUID == "" {
				continue
			}
			c := &Coverage{GPU: g.Index, UUID: g.UUID, Name: g.Name, GPM: "yes", CC: g.CCMode, Refused: d.refused(g.Index), able: g.Capabilities}
			switch {
			case !d.GPM:
				c.GPM = "no: this driver's library does not have it (one of 2023 or later has)"
			case !g.GPM:
				c.GPM = "no: the GPU does not have it (Hopper or later), or the driver refuses it"
			}
			switch mig, ok := g.Numbers["mig_mode"]; {
			case ok && mig == 1:
				c.MIG = fmt.Sprintf("on, %d devices", len(g.Instances))
			case ok:
				c.MIG = "off"
			}
			byUUID[g.UUID] = c
		}
	}
	for i := range rows {
		s := &rows[i]
		if !slices.Contains(ofGPU, s.kind) || s.id == "" {
			continue
		}
		c := byUUID[s.id]
		if c == nil {
			if s.kind == wire.KindOutOfBand {
				continue // another host's
			}
			c = &Coverage{GPU: int(s.gpu), UUID: s.id, GPM: "not known"}
			byUUID[s.id] = c
		}
		c.Kinds = append(c.Kinds, fields(s, c))
	}
	out := make([]Coverage, 0, len(byUUID))
	for _, c := range byUUID {
		for _, kind := range []wire.Kind{wire.KindGPU, wire.KindHealth, wire.KindDevice} {
			if !slices.ContainsFunc(c.Kinds, func(k KindCoverage) bool { return k.Kind == kind.String() }) {
				k := fields(&subject{kind: kind}, c)
				k.Missing, k.Why = nil, "nothing came within the look (-seconds)"
				c.Kinds = append(c.Kinds, k)
			}
		}
		slices.SortFunc(c.Kinds, func(a, b KindCoverage) int { return place(a.Kind) - place(b.Kind) })
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Coverage) int {
		if a.GPU != b.GPU {
			return a.GPU - b.GPU
		}
		return strings.Compare(a.UUID, b.UUID)
	})
	return out
}

func place(kind string) int {
	return slices.IndexFunc(ofGPU, func(k wire.Kind) bool { return k.String() == kind })
}

func fields(s *subject, c *Coverage) KindCoverage {
	k := KindCoverage{Kind: s.kind.String()}
	byGPM := 0
	for _, f := range wire.Schema[s.kind] {
		if f.Key {
			continue
		}
		k.Known++
		if s.fields[f.ID] {
			k.Measured++
			continue
		}
		k.Missing = append(k.Missing, f.Name)
		if slices.Contains(gpm, f.Name) || strings.HasSuffix(f.Name, "_cycles") || strings.HasPrefix(f.Name, "sm_cycles_") {
			byGPM++
		}
	}
	switch {
	case s.kind != wire.KindOutOfBand && strings.HasPrefix(c.GPM, "no:") && byGPM*2 > len(k.Missing):
		k.Why = "no GPM" + strings.TrimPrefix(c.GPM, "no")
	case byGPM > 0 && s.kind == wire.KindGPU && strings.HasPrefix(c.MIG, "on"):
		k.Why = "MIG is on: activity is told of its instances"
	case byGPM > 0 && s.kind != wire.KindOutOfBand && c.able != nil && !slices.Contains(c.able, "cycles"):
		k.Why = "cycles are counted by later drivers alone"
	}
	return k
}

// integrity makes checks of what was said of the library and the driver.
func integrity(facts Facts) []Check {
	var out []Check
	if v, ok := facts["library_matches_kernel"]; ok {
		c := Check{What: "integrity", Status: OK, Text: "the library and the kernel's driver are of one version" + in(facts["kernel_version"])}
		if v != "yes" {
			c.Status, c.Text = Warn, "the library and the kernel's driver are not of one version: "+strings.TrimPrefix(v, "no: ")
			c.Remedy = "after an upgrade of the driver: restart the host, or reload its modules; else ask where the library comes from"
		}
		out = append(out, c)
	}
	if facts["library_replaced"] == "yes" {
		out = append(out, Check{What: "integrity", Status: Warn, Text: "the library's file was replaced since it was loaded", Remedy: "restart the agent when the driver's upgrade is done"})
	}
	if v, ok := facts["library_root_only"]; ok {
		c := Check{What: "integrity", Status: OK, Text: "root alone can replace the library" + in(facts["library_path"])}
		if v != "yes" {
			c.Status, c.Text = Warn, "others than root can replace the library"+in(facts["library_path"])
			c.Remedy = "give it and the folders above it to root, without a right to write for others: whoever can replace it, can make readings up"
		}
		out = append(out, c)
	}
	return out
}

func in(what string) string {
	if what == "" {
		return ""
	}
	return " (" + what + ")"
}

// controllers are what was seen of management controllers, by target.
func controllers(instruments []Instrument, rows []subject) []Controller {
	var out []Controller
	for i := range instruments {
		in := &instruments[i]
		target, ok := strings.CutPrefix(in.Name, "bmc/")
		if !ok {
			continue
		}
		c := Controller{Target: target, State: in.State, Reason: in.Reason, Remedy: in.Remedy, Reachable: "yes", Credentials: "accepted"}
		for j := range rows {
			if rows[j].kind == wire.KindOutOfBand && rows[j].target == target {
				c.Rows += rows[j].rows
				c.Methods = append(c.Methods, slices.Sorted(maps.Keys(rows[j].methods))...)
				c.Parts++
			}
		}
		slices.Sort(c.Methods)
		c.Methods = slices.Compact(c.Methods)
		switch {
		case strings.Contains(in.Reason, wordsNotAsked):
			c.Reachable, c.Credentials = "not asked", "not asked"
		case strings.Contains(in.Reason, wordsRefused):
			c.Credentials = "refused"
		case c.Rows == 0 && (in.State == string(source.Stalled) || in.State == string(source.Lost) || strings.Contains(in.Reason, wordsCannotBeRead)):
			c.Reachable, c.Credentials = "no", "not known"
		}
		out = append(out, c)
	}
	return out
}

// Controller is a management controller that is asked.
type Controller struct {
	Target      string   `json:"target"`
	State       string   `json:"state"`
	Reason      string   `json:"reason,omitempty"`
	Remedy      string   `json:"remedy,omitempty"`
	Reachable   string   `json:"reachable"`   // yes, no, not asked
	Credentials string   `json:"credentials"` // accepted, refused, not known, not asked
	Methods     []string `json:"methods,omitempty"`
	Parts       int      `json:"parts"` // GPUs and nodes that it tells of
	Rows        int      `json:"rows"`
}
