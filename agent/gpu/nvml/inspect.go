package nvml

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// Inspection is what a look at a host finds out: the library, its GPUs, and what can be read of
// them.
type Inspection struct {
	Protocol  uint32            `json:"protocol"`
	Code      int               `json:"code"` // of the library's refusal; 0: it answers
	Text      string            `json:"text,omitempty"`
	Driver    string            `json:"driver_version,omitempty"`
	Library   string            `json:"library_path,omitempty"`
	NVML      string            `json:"nvml_version,omitempty"`
	GPM       bool              `json:"gpm"`
	Missing   []string          `json:"missing_functions,omitempty"`
	Facts     map[string]string `json:"facts,omitempty"`
	GPUs      []Inspected       `json:"gpus"`
	Faults    []InspectedFault  `json:"faults,omitempty"`
	Unheard   []int             `json:"not_answered,omitempty"` // GPUs that did not answer in time
	TimedOut  bool              `json:"timed_out,omitempty"`
	ElapsedMs int64             `json:"elapsed_ms"`
}

// Inspected is a GPU. What is not known is absent.
type Inspected struct {
	Index        int                 `json:"index"`
	UUID         string              `json:"uuid"`
	Name         string              `json:"name,omitempty"`
	PCIBusID     string              `json:"pci_bus_id,omitempty"`
	Serial       string              `json:"serial,omitempty"`
	BoardPart    string              `json:"board_part,omitempty"`
	VBIOS        string              `json:"vbios_version,omitempty"`
	GSP          string              `json:"gsp_version,omitempty"`
	Architecture string              `json:"architecture,omitempty"`
	Capability   string              `json:"compute_capability,omitempty"`
	CCMode       string              `json:"cc_mode,omitempty"`
	Fabric       string              `json:"fabric_cluster_uuid,omitempty"`
	Numbers      map[string]int64    `json:"numbers,omitempty"`
	GPM          bool                `json:"gpm"`
	Whole        bool                `json:"whole"` // all was asked
	Capabilities []string            `json:"capabilities"`
	Instances    []InspectedInstance `json:"mig_devices,omitempty"`
	Processes    *int                `json:"processes,omitempty"` // how many
	SlowCall     string              `json:"slowest_call,omitempty"`
	SlowUs       int64               `json:"slowest_call_us,omitempty"`
}

// InspectedInstance is a MIG device.
type InspectedInstance struct {
	UUID    string `json:"uuid"`
	Profile string `json:"profile,omitempty"`
	GI      int    `json:"gi_id"`
	CI      int    `json:"ci_id"`
}

// InspectedFault is a call that failed.
type InspectedFault struct {
	GPU      int    `json:"gpu"` // -1: the library as a whole
	Function string `json:"function,omitempty"`
	Code     int    `json:"code"`
	Text     string `json:"text"`
}

// inspectEvery is the time between requests: an inspection keeps to the budget of calls too.
const inspectEvery = time.Second

// inspectMost is how many requests it takes at most.
const inspectMost = 30

// Inspect looks at the host once, as an agent would in its first seconds. It ends when all is
// known, or when ctx does: then what has come is what there is.
func Inspect(ctx context.Context, cfg Config) (*Inspection, error) {
	start := time.Now()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	served := make(chan error, 1)
	go func() { // ends with the pipes, or, hung in the driver, with the process
		err := Serve(ctx, inR, outW, cfg)
		_ = inR.Close()  // whoever still writes gets to know
		_ = outW.Close() // and whoever reads
		served <- err
	}()
	i := &inspector{i: &Inspection{GPUs: []Inspected{}}, in: inW, answers: make(chan answer), quit: ctx.Done()}
	go i.read(outR) // ends with the pipe, or with ctx
	err := i.run(ctx, start)
	_ = inW.Close()
	_ = outR.Close()
	i.i.ElapsedMs = time.Since(start).Milliseconds()
	select {
	case serr := <-served:
		if i.i.Protocol == 0 && serr != nil {
			return nil, serr // it says what is wrong
		}
	case <-time.After(inspectEvery): // it hangs, and is left behind
	}
	return i.i, err
}

// answer is a frame.
type answer struct {
	typ  frame.Type
	body []byte
}

type inspector struct {
	i       *Inspection
	in      io.Writer
	answers chan answer
	quit    <-chan struct{}
	devices map[int]*Inspected
	waiting uint64 // GPUs that were asked and have not answered
	done    uint64 // GPUs of which all is known
}

// read passes frames on.
func (i *inspector) read(out io.Reader) {
	defer close(i.answers)
	r := frame.NewReader(bufio.NewReader(out))
	for {
		t, body, err := r.Next()
		if err != nil {
			return
		}
		select {
		case i.answers <- answer{t, slices.Clone(body)}:
		case <-i.quit:
			return
		}
	}
}

func (i *inspector) send(q *frame.Request) error {
	if _, err := i.in.Write(frame.AppendRequest(nil, q)); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("inspect GPUs: %w", err)
	}
	return nil
}

func (i *inspector) run(ctx context.Context, start time.Time) error {
	i.devices = map[int]*Inspected{}
	defer i.finish()
	if err := i.send(&frame.Request{Type: frame.TypeHello, Version: frame.Version}); err != nil {
		return err
	}
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	var seq uint64
	for {
		select {
		case <-ctx.Done():
			i.i.TimedOut = true
			return nil
		case a, ok := <-i.answers:
			if !ok {
				return nil
			}
			if err := i.take(&a); err != nil {
				return err
			}
			if a.typ == frame.TypeWelcome {
				if i.i.Code != 0 || i.waiting == 0 {
					return nil
				}
				i.waiting = 0
				tick.Reset(0)
			}
		case <-tick.C:
			all := uint64(1)<<len(i.devices) - 1
			if i.done == all || seq == inspectMost {
				return nil
			}
			seq++
			q := frame.Request{Type: frame.TypeSample, Seq: seq, BootMs: time.Since(start).Milliseconds() + 1}
			ask := all &^ i.waiting
			if seq == 1 {
				q.Type = frame.TypeDescribe
			}
			switch seq {
			case 1, 3: // what a pass gives; it leaves few calls for all else
				q.Sample = ask
			case 2:
				q.Processes, q.Health = ask, ask
			default:
				q.Processes = ask
			}
			i.waiting |= ask
			if ask != 0 {
				if err := i.send(&q); err != nil {
					return err
				}
			}
			tick.Reset(inspectEvery)
		}
	}
}

// finish puts together what was found.
func (i *inspector) finish() {
	for n := range len(i.devices) {
		d := i.devices[n]
		if d.UUID == "" || i.waiting>>n&1 == 1 {
			i.i.Unheard = append(i.i.Unheard, n)
		}
		i.i.GPUs = append(i.i.GPUs, *d)
	}
}

func (i *inspector) take(a *answer) error {
	switch a.typ {
	case frame.TypeWelcome:
		var w frame.Welcome
		if err := frame.DecodeWelcome(a.body, &w); err != nil {
			return err // it says what was read
		}
		i.meet(&w)
	case frame.TypeDevice:
		var d frame.Device
		if err := frame.DecodeDevice(a.body, &d); err != nil {
			return err
		}
		if to := i.devices[d.Index]; to != nil {
			to.from(&d)
			if d.Whole && (d.MIGMode != 1 || to.Instances != nil) {
				i.done |= 1 << d.Index
			}
		}
	case frame.TypeInstances:
		var p frame.Instances
		if err := frame.DecodeInstances(a.body, &p); err != nil {
			return err
		}
		if to := i.devices[p.GPU]; to != nil {
			to.Instances = []InspectedInstance{}
			if to.Whole {
				i.done |= 1 << p.GPU
			}
			for _, v := range p.List {
				to.Instances = append(to.Instances, InspectedInstance{UUID: v.UUID, Profile: v.Profile, GI: v.GI, CI: v.CI})
			}
		}
	case frame.TypeProcesses:
		var p frame.Processes
		if err := frame.DecodeProcesses(a.body, &p); err != nil {
			return err
		}
		if to := i.devices[p.GPU]; to != nil && p.Known {
			n := len(p.List)
			to.Processes = &n
		}
	case frame.TypeFault:
		var f frame.Fault
		if err := frame.DecodeFault(a.body, &f); err != nil {
			return err
		}
		v := InspectedFault{GPU: f.GPU, Function: f.Function, Code: f.Code, Text: f.Text}
		if !slices.Contains(i.i.Faults, v) && len(i.i.Faults) < 256 {
			i.i.Faults = append(i.i.Faults, v)
		}
	case frame.TypeDone:
		var d frame.Done
		if err := frame.DecodeDone(a.body, &d); err != nil {
			return err
		}
		i.waiting &^= 1 << d.GPU
		if to := i.devices[d.GPU]; to != nil && d.SlowUs > to.SlowUs {
			to.SlowCall, to.SlowUs = d.Slow.String(), d.SlowUs
		}
	default: // a reading, or vitals: an inspection asks what can be read, not what it is
	}
	return nil
}

func (i *inspector) meet(w *frame.Welcome) {
	v := i.i
	v.Protocol, v.Code, v.Text, v.Driver, v.Library, v.NVML, v.GPM, v.Missing = w.Version, w.Code, w.Text, w.DriverVersion, w.LibraryPath, w.NVMLVersion, w.GPM, w.Missing
	if len(w.Facts) > 0 {
		v.Facts = map[string]string{}
	}
	for _, f := range w.Facts {
		v.Facts[f.Name] = f.Value
	}
	for n := range w.GPUs {
		i.devices[n] = &Inspected{Index: n, Capabilities: []string{}}
		i.waiting |= 1 << n
	}
}

// from takes a description over.
func (v *Inspected) from(d *frame.Device) {
	v.UUID, v.Name, v.PCIBusID, v.Serial, v.BoardPart = d.UUID, d.Name, d.PCIBusID, d.Serial, d.BoardPart
	v.VBIOS, v.GSP, v.Architecture, v.Capability = d.VBIOSVersion, d.GSPVersion, d.Architecture, d.ComputeCapability
	v.CCMode, v.Fabric, v.GPM, v.Whole = d.CCMode, d.FabricClusterUUID, d.GPM, d.Whole
	v.Capabilities = append([]string{}, d.Capabilities...)
	v.Numbers = map[string]int64{}
	for name, n := range map[string]int64{
		"mem_total_bytes": d.MemTotalBytes, "power_limit_mw": d.PowerLimitMW, "sm_clock_max_mhz": d.SMClockMaxMHz, "mig_mode": int64(d.MIGMode),
		"nvlink_count": int64(d.NVLinks), "sm_count": int64(d.SMs), "fabric_clique": d.FabricClique, "ecc_mode": int64(d.ECCMode),
		"pcie_gen_max": int64(d.PCIeGenMax), "pcie_width_max": int64(d.PCIeWidthMax), "module_id": int64(d.ModuleID), "minor": int64(d.Minor),
	} {
		if n >= 0 {
			v.Numbers[name] = n
		}
	}
}
