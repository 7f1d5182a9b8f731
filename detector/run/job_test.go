package run

import (
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// The same unit runs on every host of a fleet: its name joins nothing over hosts, as a
// scheduler's job does.
func TestLocalJobsStayOnTheirHost(t *testing.T) {
	for _, c := range []struct {
		source string
		joined bool
	}{{"slurm", true}, {"kubernetes", true}, {"", true}, {"systemd", false}, {"docker", false}, {"libvirt", false}} {
		a := feature.Process{Node: "a", JobSource: c.source, JobID: "x.service", User: "u"}
		b := a
		b.Node = "b"
		if got := jobKey(&a) == jobKey(&b); got != c.joined {
			t.Errorf("%q: joined %v", c.source, got)
		}
	}
}
