package tasks

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Commands and types of bpf(2) that the library has no call for: an iterator over one task.
const (
	cmdMapCreate  = 0
	cmdLinkCreate = 28
	cmdIterCreate = 33
	attachIter    = 28
)

const bufferBytes = 32 << 10

// Files runs one program of type iter/task_file.
type Files struct {
	prog *ebpf.Program
	one  bool
	buf  []byte
	task attrTask // on the heap: the kernel gets its address as a number
}

// New returns a runner of prog, which stays the caller's. types may be nil.
func New(prog *ebpf.Program, types *btf.Cache) *Files {
	return &Files{prog: prog, one: single(types), buf: make([]byte, bufferBytes)}
}

// Single reports whether Process passes the files of one process alone.
func (f *Files) Single() bool { return f.one }

// single reports whether iterators can be held to one task.
func single(types *btf.Cache) bool {
	if types == nil {
		types = btf.NewCache()
	}
	kernel, err := types.Kernel()
	if err != nil {
		return false
	}
	var info *btf.Union
	if err = kernel.TypeByName("bpf_iter_link_info", &info); err != nil {
		return false
	}
	for _, m := range info.Members {
		if m.Name == "task" {
			return true
		}
	}
	return false
}

// All passes the files of all processes. take gets what the program wrote, in pieces that
// end anywhere, and returns how much of a piece it has taken: the rest comes again, before
// what follows.
func (f *Files) All(take func(b []byte) int) error { return f.run(0, take) }

// Process passes the files of one process; it is no error that it has ended.
func (f *Files) Process(pid int32, take func(b []byte) int) error {
	err := f.run(uint32(pid), take)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// attrLink is union bpf_attr of BPF_LINK_CREATE, for iterators.
type attrLink struct {
	prog, target, kind, flags uint32
	info                      uint64
	infoLen                   uint32
	_                         uint32
}

// attrTask is union bpf_iter_link_info, for tasks.
type attrTask struct{ tid, pid, pidfd uint32 }

// attrIter is union bpf_attr of BPF_ITER_CREATE.
type attrIter struct{ link, flags uint32 }

func (f *Files) run(pid uint32, take func(b []byte) int) error {
	a := attrLink{prog: uint32(f.prog.FD()), kind: attachIter}
	f.task.tid = pid
	if pid != 0 && f.one {
		a.info, a.infoLen = uint64(uintptr(unsafe.Pointer(&f.task))), uint32(unsafe.Sizeof(f.task))
	}
	link, err := bpf(cmdLinkCreate, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if err != nil {
		return fmt.Errorf("attach iterator: %w", err)
	}
	defer unix.Close(link) //nolint:errcheck // nothing was written
	i := attrIter{link: uint32(link)}
	fd, err := bpf(cmdIterCreate, unsafe.Pointer(&i), unsafe.Sizeof(i))
	if err != nil {
		return fmt.Errorf("open iterator: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // as above
	have := 0
	for {
		n, rerr := unix.Read(fd, f.buf[have:])
		if errors.Is(rerr, syscall.EINTR) || errors.Is(rerr, syscall.EAGAIN) {
			continue // EAGAIN: a million files without a record
		}
		if rerr != nil {
			return fmt.Errorf("read iterator: %w", rerr)
		}
		if n <= 0 {
			if have > 0 {
				return fmt.Errorf("read iterator: %d bytes behind the last record", have)
			}
			return nil
		}
		have += n
		if taken := take(f.buf[:have]); taken > 0 {
			have = copy(f.buf, f.buf[taken:have])
		} else if have == len(f.buf) {
			return fmt.Errorf("read iterator: a record of more than %d bytes", have)
		}
	}
}

// bpf calls the kernel.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return -1, errno
		}
	}
}

// Refused adds the kernel's error to one of the BPF library that has none: where a map is
// refused, the library looks for features that the kernel lacks, and finds some, as the
// same privilege is missing there.
func Refused(err error) error {
	var no syscall.Errno
	if err == nil || errors.As(err, &no) {
		return err
	}
	a := struct{ kind, key, value, entries, flags uint32 }{2, 4, 4, 1, 0}
	fd, merr := bpf(cmdMapCreate, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if merr != nil {
		return fmt.Errorf("%w: %w", err, merr)
	}
	_ = unix.Close(fd) // it was only tried
	return err
}
