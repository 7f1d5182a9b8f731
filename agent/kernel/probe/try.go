package probe

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Mechanisms that features rest on.
const (
	Uprobe      = "uprobe"       // through perf events; CAP_SYS_ADMIN
	UprobeMulti = "uprobe_multi" // from kernel 6.6; CAP_BPF and CAP_PERFMON
	TpBTF       = "tp_btf"       // typed raw tracepoints; 5.5 and BTF
	IterFile    = "iter/task_file"
	IterVMA     = "iter/task_vma"
	Ringbuf     = "ringbuf" // 5.8
)

// Mechanisms lists all, for the doctor.
var Mechanisms = []string{UprobeMulti, Uprobe, TpBTF, IterFile, IterVMA, Ringbuf}

// Help says what would make a mechanism work.
func Help(mechanism string) string {
	switch mechanism {
	case Uprobe:
		return "needs CAP_SYS_ADMIN"
	case UprobeMulti:
		return "needs kernel 6.6, CAP_BPF and CAP_PERFMON"
	case IterVMA:
		return "needs kernel 5.12 with BTF (CONFIG_DEBUG_INFO_BTF), CAP_BPF and CAP_PERFMON"
	case TpBTF, IterFile:
		return "needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF), CAP_BPF and CAP_PERFMON"
	}
	return "needs kernel 5.8 and CAP_BPF"
}

// Try loads and attaches the least that shows whether a mechanism works, and takes it away
// again. Uprobes go into a file that no process runs.
func Try(mechanism string) error {
	var err error
	switch mechanism {
	case Uprobe:
		err = tryUprobe(false)
	case UprobeMulti:
		err = tryUprobe(true)
	case TpBTF:
		err = tryTracing(ebpf.AttachTraceRawTp, "sched_process_exit")
	case IterFile:
		err = tryTracing(ebpf.AttachTraceIter, "task_file")
	case IterVMA:
		err = tryTracing(ebpf.AttachTraceIter, "task_vma")
	case Ringbuf:
		var m *ebpf.Map
		if m, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096 * 16}); err == nil {
			err = m.Close()
		}
	default:
		return fmt.Errorf("no mechanism %q", mechanism)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", mechanism, err)
	}
	return nil
}

// nothing is a program that returns 0.
func nothing(name string, multi bool) *ebpf.ProgramSpec {
	s := &ebpf.ProgramSpec{Name: name, Type: ebpf.Kprobe, License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}}
	if multi {
		s.AttachType = ebpf.AttachTraceUprobeMulti
	}
	return s
}

// Empty is a program for uprobes that does nothing, to measure with.
func Empty(multi bool) (*ebpf.Program, error) {
	return ebpf.NewProgram(nothing("flopwatch_nop", multi))
}

func tryTracing(at ebpf.AttachType, to string) error {
	s := nothing("flopwatch_try", false)
	s.Type, s.AttachType, s.AttachTo = ebpf.Tracing, at, to
	p, err := ebpf.NewProgram(s)
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing was attached, or its own link said so
	var l link.Link
	if at == ebpf.AttachTraceIter {
		l, err = link.AttachIter(link.IterOptions{Program: p})
	} else {
		l, err = link.AttachTracing(link.TracingOptions{Program: p})
	}
	if err != nil {
		return err
	}
	return l.Close()
}

func tryUprobe(multi bool) error {
	code, err := newCode()
	if err != nil {
		return err
	}
	defer code.close()
	l, p, err := code.attach(multi, 0)
	if err != nil {
		return err
	}
	return errors.Join(l.Close(), p.Close())
}

// HaveBTF reports whether the kernel tells its types.
func HaveBTF() bool {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err == nil
}
