package gpu_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/source"
)

// A GPU whose processes the driver does not list is none without any: that is said, for as long
// as it lasts, and the others' processes are listed all the same.
func TestUnlistedGPU(t *testing.T) {
	for name, code := range map[string]int32{"not supported": nvmlstub.CodeNotSupported, "no permission": nvmlstub.CodeNoPermission, "unknown error": nvmlstub.CodeUnknown} {
		t.Run(name, func(t *testing.T) {
			s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, 2*time.Hour)
			s.Processes = []nvmlstub.Process{{PID: uint32(os.Getpid()), GPUs: []int{0}, UsedBytes: 1 << 30}, {PID: uint32(os.Getppid()), GPUs: []int{1}, UsedBytes: 1 << 30}}
			r := newRig(t, nvmlstub.Options{}, s, gpu.Config{ProcessInterval: 5 * time.Second})
			refuse := func() {
				if err := r.mem.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetComputeRunningProcesses*", GPUs: []int{1}, Code: code}); err != nil {
					t.Fatal(err)
				}
			}
			instrument := "gpu/" + r.mem.UUID(1)
			refuse()
			for n := range 150 { // longer than a fault makes a GPU degraded
				r.step()
				list, _, ok := r.src.GPUProcesses()
				if ok || n > 30 && (len(list) != 1 || list[0].PID != int32(os.Getpid())) {
					t.Fatalf("step %d: %v, all known: %v", n, list, ok)
				}
				if st := r.out.status[instrument]; n > 30 && (st.State != source.Degraded || !strings.Contains(st.Reason, name)) {
					t.Fatalf("step %d: %+v", n, st)
				}
			}
			if st := r.out.status[instrument]; code != nvmlstub.CodeUnknown && !strings.Contains(st.Reason, "it is not known which processes are on it: nvmlDeviceGetComputeRunningProcesses_v3: "+name) {
				t.Errorf("status: %+v", st)
			}
			if st := r.out.status["gpu"]; st.State != source.Degraded || !strings.Contains(st.Reason, "of 2 GPUs 1 do not say which processes are on them") {
				t.Errorf("status: %+v", st)
			}
			if st := r.state(0); st != source.Active {
				t.Errorf("the other GPU: %s", st)
			}
			if err := r.mem.SetFaults(); err != nil {
				t.Fatal(err)
			}
			r.steps(700) // what was refused is tried again every ten minutes
			if list, _, ok := r.src.GPUProcesses(); !ok || len(list) != 2 {
				t.Errorf("it lists again: %v, all known: %v", list, ok)
			}
			if st := r.out.status[instrument]; st.State != source.Active {
				t.Errorf("it lists again: %+v", st)
			}
			refuse()
			r.steps(30)
			if list, _, ok := r.src.GPUProcesses(); ok || len(list) != 2 {
				t.Errorf("who was there may be there still: %v, all known: %v", list, ok)
			}
		})
	}
}

// Of a GPU that is lost nobody knows who is on it.
func TestProcessesOfALostGPU(t *testing.T) {
	s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, 2*time.Hour)
	s.Processes = []nvmlstub.Process{{PID: uint32(os.Getpid()), GPUs: []int{0}, UsedBytes: 1 << 30}}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{ProcessInterval: 5 * time.Second})
	r.steps(30)
	if list, _, ok := r.src.GPUProcesses(); !ok || len(list) != 1 {
		t.Fatalf("%v, all known: %v", list, ok)
	}
	if err := r.mem.SetFaults(nvmlstub.Fault{Function: "*", GPUs: []int{1}, Code: nvmlstub.CodeGPULost}); err != nil {
		t.Fatal(err)
	}
	r.until("lost", func() bool { return r.state(1) == source.Lost })
	r.steps(10)
	if list, _, ok := r.src.GPUProcesses(); ok || len(list) != 1 {
		t.Errorf("%v, all known: %v", list, ok)
	}
}
