package chaos

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process's wall clock is stepped as a host's would be, and no other's: the function of the
// vDSO that tells it the time, a page of its own memory, is replaced by one that asks the kernel
// and adds an offset to what it says of CLOCK_REALTIME. Monotonic and boot clocks stay, as they do when
// an operator or NTP steps the clock. The program is the one that ships; it has no hook for this.
// What a program would ask the kernel for by a system call of its own is not stepped: neither Go
// nor the engine does that on amd64.

// shim is __vdso_clock_gettime(edi: clock, rsi: *timespec); its last eight bytes are the seconds.
var shim = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi (CLOCK_REALTIME)
	0x74, 0x05, // je add
	0x83, 0xff, 0x05, // cmp edi, 5 (CLOCK_REALTIME_COARSE)
	0x75, 0x0a, // jne ret
	0x48, 0x8b, 0x0d, 0x09, 0x00, 0x00, 0x00, // add: mov rcx, [rip+9]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,                         // ret
	0x90, 0x90, 0x90, 0x90, 0x90, // so that the number is aligned
}

var errNoVDSO = errors.New("the process has no vDSO that can be stepped")

// stepClock sets a process's wall clock to the machine's plus an offset of whole seconds.
func stepClock(pid int, by time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return errNoVDSO
	}
	from, to, err := vdso(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(filepath.Join("/proc", strconv.Itoa(pid), "mem"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("step clock of %d: %w", pid, err)
	}
	defer func() { _ = mem.Close() }() // nothing is buffered
	image := make([]byte, to-from)
	if _, err = mem.ReadAt(image, int64(from)); err != nil {
		return fmt.Errorf("read vDSO of %d: %w", pid, err)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("read vDSO of %d: %w", pid, err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("read vDSO of %d: %w", pid, err)
	}
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" {
			continue
		}
		code := binary.LittleEndian.AppendUint64(bytes.Clone(shim), uint64(int64(by/time.Second)))
		if int(s.Size) < len(code) || s.Value+uint64(len(code)) > uint64(len(image)) {
			return fmt.Errorf("%w: its function has %d bytes", errNoVDSO, s.Size)
		}
		at := int64(from + s.Value)
		if bytes.Equal(image[s.Value:][:len(shim)], shim) { // it is ours already: eight aligned bytes change at once
			_, err = mem.WriteAt(code[len(shim):], at+int64(len(shim)))
		} else {
			err = whileOutside(pid, from, to, func() error { _, werr := mem.WriteAt(code, at); return werr })
		}
		if err != nil {
			return fmt.Errorf("step clock of %d: %w", pid, err)
		}
		return nil
	}
	return errNoVDSO
}

// stepTree steps a process and all below it.
func stepTree(root int, by time.Duration) error {
	var err error
	for _, pid := range tree(root) {
		if serr := stepClock(pid, by); serr != nil && !errors.Is(serr, os.ErrNotExist) {
			err = errors.Join(err, serr)
		}
	}
	return err
}

// vdso tells where the kernel has put it.
func vdso(pid int) (from, to uint64, err error) {
	maps, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "maps"))
	if err != nil {
		return 0, 0, fmt.Errorf("read maps of %d: %w", pid, err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err = fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
				return 0, 0, fmt.Errorf("read maps of %d: %w", pid, err)
			}
			return from, to, nil
		}
	}
	return 0, 0, errNoVDSO
}

// whileOutside calls do while the process is stopped and none of its threads is in the code.
func whileOutside(pid int, from, to uint64, do func() error) error {
	for range 200 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		inside, stopped := threadsIn(pid, from, to)
		var err error
		if stopped && !inside {
			err = do()
		}
		if cerr := syscall.Kill(pid, syscall.SIGCONT); cerr != nil {
			return errors.Join(err, cerr)
		}
		if stopped && !inside {
			return err
		}
		pause(5 * time.Millisecond)
	}
	return errors.New("its threads are never out of the vDSO")
}

func threadsIn(pid int, from, to uint64) (inside, stopped bool) {
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		return false, false
	}
	for _, t := range tasks {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", t.Name(), "syscall"))
		if err != nil {
			return false, false
		}
		f := strings.Fields(string(b)) // "running", or number, arguments, stack pointer, program counter
		if len(f) < 3 {
			return false, false
		}
		at, err := strconv.ParseUint(strings.TrimPrefix(f[len(f)-1], "0x"), 16, 64)
		if err != nil {
			return false, false
		}
		inside = inside || from <= at && at < to
	}
	return inside, true
}

// pause waits a little between two looks.
func pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}
