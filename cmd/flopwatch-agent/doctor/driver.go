package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec" //nolint:depguard // the driver is asked in a process of its own, as it may hang
	"slices"
	"strings"
	"time"
)

// Driver is what the program that reads GPUs finds out in a look of its own
// (flopwatch-nvml -describe): NVIDIA's library, the driver, and what can be read of each GPU.
type Driver struct {
	Code     int           `json:"code"` // of the library's refusal; 0: it answers
	Text     string        `json:"text,omitempty"`
	Driver   string        `json:"driver_version,omitempty"`
	NVML     string        `json:"nvml_version,omitempty"`
	Library  string        `json:"library_path,omitempty"`
	GPM      bool          `json:"gpm"` // the library has the performance monitor
	Missing  []string      `json:"missing_functions,omitempty"`
	Facts    Facts         `json:"facts,omitempty"`
	GPUs     []DriverGPU   `json:"gpus"`
	Faults   []DriverFault `json:"faults,omitempty"`
	Unheard  []int         `json:"not_answered,omitempty"`
	TimedOut bool          `json:"timed_out,omitempty"`
	Error    string        `json:"error,omitempty"` // why nothing is known

	unstarted bool // the program itself is not there, or cannot be run
}

// Facts are by name.
type Facts map[string]string

// DriverGPU is a GPU, as the driver tells it.
type DriverGPU struct {
	Index        int              `json:"index"`
	UUID         string           `json:"uuid"`
	Name         string           `json:"name,omitempty"`
	Architecture string           `json:"architecture,omitempty"`
	PCIBusID     string           `json:"pci_bus_id,omitempty"`
	CCMode       string           `json:"cc_mode,omitempty"` // confidential computing
	GPM          bool             `json:"gpm"`
	Whole        bool             `json:"whole"`
	Numbers      map[string]int64 `json:"numbers,omitempty"` // mig_mode and others
	Capabilities []string         `json:"capabilities"`
	Instances    []DriverInstance `json:"mig_devices,omitempty"`
	SlowCall     string           `json:"slowest_call,omitempty"`
	SlowUs       int64            `json:"slowest_call_us,omitempty"`
}

// DriverInstance is a MIG device.
type DriverInstance struct {
	UUID    string `json:"uuid"`
	Profile string `json:"profile,omitempty"`
}

// DriverFault is a call that the driver refused.
type DriverFault struct {
	GPU      int    `json:"gpu"` // -1: the library as a whole
	Function string `json:"function,omitempty"`
	Code     int    `json:"code"`
	Text     string `json:"text"`
}

// maxDescription is more than 64 GPUs take.
const maxDescription = 4 << 20

// ReadDriver runs child for at most wait. What hangs in the kernel is left behind: the process
// of the doctor ends soon.
func ReadDriver(ctx context.Context, child, library string, wait time.Duration) *Driver {
	ctx, cancel := context.WithTimeout(ctx, wait+2*time.Second)
	defer cancel()
	args := []string{"-describe", "-timeout", wait.String()}
	if library != "" {
		args = append(args, "-library", library)
	}
	cmd := exec.CommandContext(ctx, child, args...) //nolint:gosec // G204: its path is the operator's
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	var out, errs limited
	out.left, errs.left = maxDescription, 4<<10
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return &Driver{Error: fmt.Sprintf("start %s: %v", child, err), unstarted: true}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process, or, where that hangs in the kernel, with this one
	late := time.NewTimer(wait + 5*time.Second)
	defer late.Stop()
	var err error
	select {
	case err = <-ended:
	case <-late.C:
		return &Driver{Error: fmt.Sprintf("%s hangs in the driver and cannot be ended", child)}
	}
	d := &Driver{}
	if jerr := json.Unmarshal(out.Bytes(), d); jerr != nil {
		said := bytes.TrimSpace(errs.Bytes())
		return &Driver{Error: fmt.Sprintf("%s says nothing that can be understood (%v): %s", child, errors.Join(err, jerr), said)}
	}
	return d
}

// limited keeps the beginning of what is written.
type limited struct {
	bytes.Buffer
	left int
}

var _ io.Writer = (*limited)(nil)

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, _ = l.Buffer.Write(p[:n]) // a buffer's Write does not fail
	return len(p), nil
}

// refused are the calls that the driver refused for a GPU, by function.
func (d *Driver) refused(gpu int) []string {
	var out []string
	for i := range d.Faults {
		if f := &d.Faults[i]; f.GPU == gpu && f.Function != "" {
			out = append(out, fmt.Sprintf("%s (%d, %s)", f.Function, f.Code, f.Text))
		}
	}
	return out
}

// check judges the driver as a whole.
func (d *Driver) check() Check {
	c := Check{What: "driver", Status: OK, Text: fmt.Sprintf("%s answers for %d GPUs", d.Driver, len(d.GPUs))}
	switch {
	case d.unstarted: // no host is meant to be so, with or without GPUs
		c.Status, c.Text = Fail, d.Error
		c.Remedy = "put flopwatch-nvml beside flopwatch-agent, or name it in gpu.child; a host without GPUs: [gpu] enabled = false"
	case d.Error != "":
		c.Status, c.Text = Warn, d.Error
		c.Remedy = "put flopwatch-nvml beside flopwatch-agent, or name it in gpu.child"
	case d.Code != 0:
		c.Status, c.Text = Warn, d.Text
		c.Remedy = "install NVIDIA's driver, or name its library in gpu.library; a host without GPUs: [gpu] enabled = false"
	case d.TimedOut || len(d.Unheard) > 0:
		c.Status, c.Text = Warn, fmt.Sprintf("%s does not answer for %d of %d GPUs in time", d.Driver, len(d.Unheard), len(d.GPUs))
		c.Remedy = "look at the kernel's log (Xid); the agent goes on with the others"
	case len(d.GPUs) == 0:
		c.Status, c.Text = Warn, d.Driver+" lists no GPU"
		c.Remedy = "look at passthrough: GPUs that are bound to vfio-pci are guests'; in a container, give it the device files (NVIDIA_VISIBLE_DEVICES=all)"
	}
	return c
}

// noPermission is NVML's code for want of a right.
const noPermission = 4

// migRights are checks of calls that the driver refuses of GPUs that are split by MIG: it asks
// for a capability file there that the unit does not open by itself.
func (d *Driver) migRights() []Check {
	var refused []string
	for i := range d.GPUs {
		g := &d.GPUs[i]
		if g.Numbers["mig_mode"] != 1 {
			continue
		}
		for j := range d.Faults {
			if f := &d.Faults[j]; f.GPU == g.Index && f.Code == noPermission && !slices.Contains(refused, f.Function) {
				refused = append(refused, f.Function)
			}
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return []Check{{What: "mig", Status: Warn, Text: "the driver refuses calls of GPUs that MIG splits, for want of a right: " + strings.Join(refused, " "),
		Remedy: "systemd: the drop-in mig.conf beside the programs, which opens MIG's monitor capability (its head says how); else leave it: what is refused is absent"}}
}
