package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// code is a file in memory that holds one function and that probes can be put into: what
// an empty function of a C library looks like.
type code struct {
	file *os.File
	mem  []byte
}

// bodyAt is where the function is in the file: the library takes offset 0 for "not known".
const bodyAt = 64

// body is the function: a landing pad for branches, push, pop, return.
func body() ([]byte, error) {
	switch runtime.GOARCH {
	case "amd64": // endbr64; push rbp; mov rbp,rsp; pop rbp; ret
		return []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3}, nil
	case "arm64": // bti c; nop; ret
		return []byte{0x5f, 0x24, 0x03, 0xd5, 0x1f, 0x20, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6}, nil
	}
	return nil, fmt.Errorf("no code for %s: %w", runtime.GOARCH, errors.ErrUnsupported)
}

func newCode() (*code, error) {
	text, err := body()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("flopwatch-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	c := &code{file: os.NewFile(uintptr(fd), "flopwatch-probe")}
	page := make([]byte, os.Getpagesize())
	copy(page[bodyAt:], text)
	if _, err = c.file.Write(page); err != nil {
		c.close()
		return nil, fmt.Errorf("write code: %w", err)
	}
	if c.mem, err = unix.Mmap(fd, 0, len(page), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE); err != nil {
		c.close()
		return nil, fmt.Errorf("map code: %w", err)
	}
	return c, nil
}

func (c *code) close() {
	if c.mem != nil {
		_ = unix.Munmap(c.mem) // it was mapped here
	}
	_ = c.file.Close() // nothing of it is kept
}

func (c *code) path() string { return fmt.Sprintf("/proc/self/fd/%d", c.file.Fd()) }

// attach puts an empty program into the function.
func (c *code) attach(multi bool, offset uint64) (link.Link, *ebpf.Program, error) {
	p, err := ebpf.NewProgram(nothing("flopwatch_nop", multi))
	if err != nil {
		return nil, nil, err
	}
	exe, err := link.OpenExecutable(c.path())
	if err != nil {
		_ = p.Close() // the first error counts
		return nil, nil, err
	}
	var l link.Link
	if multi {
		l, err = exe.UprobeMulti(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{bodyAt + offset}})
	} else {
		l, err = exe.Uprobe("", p, &link.UprobeOptions{Address: bodyAt, Offset: offset})
	}
	if err != nil {
		_ = p.Close() // the first error counts
		return nil, nil, err
	}
	return l, p, nil
}

// function is the code as something to call. It touches no more than the caller's stack.
func (c *code) function() func() {
	entry := unsafe.Pointer(&c.mem[bodyAt])
	at := &entry
	return *(*func())(unsafe.Pointer(&at))
}
