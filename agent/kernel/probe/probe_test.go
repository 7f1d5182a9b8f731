package probe_test

import (
	"runtime"
	"testing"

	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
)

func TestMechanisms(t *testing.T) {
	for _, m := range probe.Mechanisms {
		t.Run(m, func(t *testing.T) { kerneltest.Require(t, m) })
	}
	if err := probe.Try("telepathy"); err == nil {
		t.Error("a mechanism that nobody knows works")
	}
}

// TestNotStepped holds a ratio, not a figure: a probe behind the landing pad must not be
// single-stepped. What that costs is measured beside it, on an instruction that no kernel
// emulates; newer ones may do so with the landing pad too. It is 4 times as much on metal, and 30
// times in a virtual machine.
func TestNotStepped(t *testing.T) {
	kerneltest.Require(t, probe.UprobeMulti)
	if runtime.GOARCH != "amd64" {
		t.Skip("the function has no such instruction here")
	}
	const push, mov = 4, 5
	ns, err := probe.Costs(t.Context(), []uint64{push, mov}, 12, 2000)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f ns emulated, %.0f ns stepped over", ns[0], ns[1])
	if ns[1] < 2*ns[0] {
		t.Errorf("%.0f ns behind the landing pad, no half of %.0f ns: it is single-stepped", ns[0], ns[1])
	}
}

// TestSelfTest: probes are attached and measured.
func TestSelfTest(t *testing.T) {
	kerneltest.Require(t, probe.UprobeMulti, probe.Uprobe)
	costs, err := probe.SelfTest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]probe.Cost{}
	for _, c := range costs {
		t.Logf("%-16s %10.1f ns a call %v", c.Probe, c.Ns, c.Err)
		byName[c.Probe] = c
		if c.Err != nil || c.Ns <= 0 {
			t.Errorf("%s: %v ns, %v", c.Probe, c.Ns, c.Err)
		}
	}
	if a, b := byName["none"].Ns, byName["uprobe_multi +4"].Ns; b <= a {
		t.Errorf("a probe costs nothing (%.1f ns without, %.1f with): it was not attached", a, b)
	}
}
