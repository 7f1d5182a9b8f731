//go:build linux && cgo

package nvml

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// inspected runs Inspect on the stub that this process has loaded.
func inspected(t *testing.T, timeout time.Duration, s nvmlstub.Scenario) *Inspection {
	t.Helper()
	newTalk(t, training()).close() // builds the stub
	mem, err := nvmlstub.Create(filepath.Join(stub.dir, nvmlstub.Shared), s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mem.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	found, err := Inspect(ctx, Config{Library: stub.lib})
	if err != nil || found.Code != 0 || found.Library != stub.lib {
		t.Fatalf("%+v, %v", found, err)
	}
	for g := range mem.GPUs() {
		if n := mem.Snapshot().Total(g); n > uint64(maxCalls*(2+found.ElapsedMs/1000)) {
			t.Errorf("GPU %d: %d calls in %d ms", g, n, found.ElapsedMs)
		}
	}
	return found
}

func TestInspect(t *testing.T) {
	s := partitioned()
	s.Unprivileged = false
	found := inspected(t, time.Minute, s)
	if len(found.GPUs) != 2 || found.TimedOut || len(found.Unheard) != 0 || len(found.Faults) != 0 || found.Facts["library_inode"] == "" || found.Facts["functions_missing"] != "0" {
		t.Fatalf("%d GPUs, %v, %v, faults %+v, %d ms, %+v", len(found.GPUs), found.TimedOut, found.Unheard, found.Faults, found.ElapsedMs, found.GPUs)
	}
	for i, g := range found.GPUs {
		if g.Index != i || !g.Whole || !strings.HasPrefix(g.UUID, "GPU-") || g.Architecture != "hopper" || i == 0 && g.Numbers["sm_count"] != 132 || g.Processes == nil || !slices.Contains(g.Capabilities, "health") {
			t.Errorf("GPU %d: %+v", i, g)
		}
	}
	if p := found.GPUs[1].Instances; len(p) != 7 || p[6].GI != 13 || p[0].Profile != "1g.10gb" || *found.GPUs[1].Processes != 7 {
		t.Errorf("MIG devices: %+v", p)
	}
	text, err := json.Marshal(found)
	if err != nil || !strings.Contains(string(text), `"compute_capability":"9.0"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestInspectNothing(t *testing.T) {
	found, err := Inspect(t.Context(), Config{Library: "/nowhere/libnvidia-ml.so.1"})
	if err != nil || found.Code != 12 || found.Text == "" || len(found.GPUs) != 0 || found.TimedOut {
		t.Errorf("%+v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err = Inspect(ctx, Config{Library: "/nowhere/libnvidia-ml.so.1"}); err != nil && !errors.Is(err, context.Canceled) || found == nil {
		t.Errorf("%+v, %v", found, err)
	}
}
