// Package kerneltest is for tests that load programs into the running kernel. It must not
// be imported by products.
package kerneltest

import (
	"os"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
)

// Require loads and attaches the least that shows whether a mechanism (probe.Uprobe, ...)
// works. Where it does not, the test is skipped with the kernel's error; it fails where
// FLOPWATCH_REQUIRE lists "bpf", as on machines whose kernel and privileges are known.
func Require(tb testing.TB, mechanisms ...string) {
	tb.Helper()
	raiseMemlock(tb)
	for _, m := range mechanisms {
		err := probe.Try(m)
		if err == nil {
			continue
		}
		if required() {
			tb.Fatalf("bpf is required by FLOPWATCH_REQUIRE and %s does not work: errno %d, %v", m, kernel.Errno(err), err)
		}
		tb.Skipf("%s does not work here: errno %d, %v", m, kernel.Errno(err), err)
	}
}

// RequireOne requires the first of some mechanisms that works. Where FLOPWATCH_REQUIRE lists
// "bpf" the first of all has to: old kernels run tests by what they have, known ones by the
// best.
func RequireOne(tb testing.TB, mechanisms ...string) {
	tb.Helper()
	raiseMemlock(tb)
	if !required() {
		for _, m := range mechanisms {
			if probe.Try(m) == nil {
				return
			}
		}
	}
	Require(tb, mechanisms[0])
}

// raiseMemlock does what the instrument does before it starts a feature.
func raiseMemlock(tb testing.TB) {
	tb.Helper()
	if err := probe.RaiseMemlock(); err != nil {
		tb.Log(err)
	}
}

// Need fails or skips the test as Require does, for what a test needs beside the kernel.
func Need(tb testing.TB, what string, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case required():
		tb.Fatalf("%s is missing, and FLOPWATCH_REQUIRE lists bpf: %v", what, err)
	default:
		tb.Skipf("%s is missing: %v", what, err)
	}
}

func required() bool {
	for name := range strings.SplitSeq(os.Getenv("FLOPWATCH_REQUIRE"), ",") { //nolint:forbidigo // of tests; internal/testenv would bring the store and the broker
		if strings.TrimSpace(name) == "bpf" {
			return true
		}
	}
	return false
}
