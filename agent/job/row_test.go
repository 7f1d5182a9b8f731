package job

import (
	"testing"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestLaterRowsComeLater: of two rows of one process in a batch the store keeps the last, and
// groups are sealed in the order of their names. What is learnt of a process must not be behind
// what was told before.
func TestLaterRowsComeLater(t *testing.T) {
	j := New(Config{Procfs: t.TempDir()}, nil)
	var all []origin
	for _, declared := range []bool{false, true} {
		for _, nccl := range []wire.Source{absent, wire.SourceProcfs, wire.SourceEBPF} {
			all = append(all, origin{declared: declared, nccl: nccl, exit: wire.SourceEBPF})
		}
	}
	known := map[wire.Source]int{absent: 0, wire.SourceProcfs: 1, wire.SourceEBPF: 2}
	for _, early := range all {
		for _, late := range all {
			if early == late || early.declared && !late.declared || known[early.nccl] > known[late.nccl] {
				continue
			}
			if a, b := j.group(early).name, j.group(late).name; a >= b {
				t.Errorf("%q is not before %q", a, b)
			}
		}
	}
}
