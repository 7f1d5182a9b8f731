package probe_test

import (
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

// TestSelfTest holds an order of magnitude, not a figure: a probe behind the landing pad
// must not be single-stepped.
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
