package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// driver is a copy of the fake GPUs' library with load and counters of its own.
type driver struct {
	dir string
	mem *nvmlstub.Memory
}

// newDriver puts a copy of the library into dir, and the load beside it.
func newDriver(dir, library string, pids []uint32) (*driver, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a driver's folder: %w", err)
	}
	d := &driver{dir: dir}
	if err := copyFile(d.library(), library); err != nil {
		return nil, err
	}
	var err error
	if d.mem, err = nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), load(pids)); err != nil {
		return nil, fmt.Errorf("make a driver: %w", err)
	}
	return d, nil
}

func (d *driver) library() string { return filepath.Join(d.dir, nvmlstub.Library) }

func (d *driver) close() error { return d.mem.Close() }

// uuids are those of the GPUs.
func (d *driver) uuids() []string {
	var all []string
	for g := range gpus {
		all = append(all, d.mem.UUID(g))
	}
	return all
}

// calls is how many calls for a GPU, and for none, have been made.
func (d *driver) calls() uint64 { return d.mem.Snapshot().Total(-1) }

// hang lets every call for a GPU wait until it is told otherwise.
func (d *driver) hang(gpu int, on bool) error {
	var list []nvmlstub.Fault
	if on {
		list = append(list, nvmlstub.Fault{Function: "*", GPUs: []int{gpu}, Delay: nvmlstub.Hang})
	}
	return d.mem.SetFaults(list...)
}

// The load is a training run that wavers: stretches of a few seconds with levels of their
// own, so that values differ from second to second as measured ones do, and do not compress
// better than those would.
const (
	stretches   = 30
	stretchLong = 4 * time.Second
	stepLong    = 1237 * time.Millisecond
	waver       = 0.06
)

// load is the same for everybody and at every run.
func load(pids []uint32) nvmlstub.Scenario {
	s := nvmlstub.Scenario{Repeat: stretches * stretchLong}
	for g := range gpus {
		chance := rand.New(rand.NewPCG(uint64(g), 1))
		gpu := nvmlstub.GPU{Model: nvmlstub.H100SXM, EnergyStartMJ: 5e9 + uint64(g)*1e7}
		for i := range stretches {
			seg := nvmlstub.TrainSegment(nvmlstub.H100SXM, time.Duration(i)*stretchLong, stretchLong)
			seg.Step = stepLong
			for _, l := range []*nvmlstub.Level{&seg.Compute, &seg.Communicate} {
				for q := range nvmlstub.NumQuantities {
					switch q {
					case nvmlstub.MemUsedBytes, nvmlstub.MemClockMHz: // which stay as they are
						continue
					}
					l[q] *= 1 + waver*(chance.Float64()-0.5)
					if q == nvmlstub.SMClockMHz { // clocks come in steps
						l[q] = 15 * math.Round(l[q]/15)
					}
					if q <= nvmlstub.MemUtil { // a fraction
						l[q] = min(l[q], 1)
					}
				}
				l[nvmlstub.HMMA] = l[nvmlstub.Tensor] // all of it is bf16
			}
			gpu.Segments = append(gpu.Segments, seg)
		}
		s.GPUs = append(s.GPUs, gpu)
		if g < len(pids) {
			s.Processes = append(s.Processes, nvmlstub.Process{PID: pids[g], GPUs: []int{g}, UsedBytes: 60 << 30, Name: "train"})
		}
	}
	return s
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy the driver library (`make stub` builds it): %w", err)
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copy the driver library: %w", err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy the driver library to %s: %w", to, err)
	}
	return nil
}
