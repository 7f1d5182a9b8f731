package embedded

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"
)

// What diskhook_amd64.s reads and counts.
var (
	diskHooks   [5]uintptr                   // addresses of the hooks, in the order of hooked
	diskStalls  atomic.Uint64                // how often a write found the disk full
	diskHurry   atomic.Uint64                // not 0: the process stops, and writes that find the disk full no longer wait but end it
	diskPause   = unix.Timespec{Nsec: 100e6} //nolint:unused // by the hooks
	diskLost    [128]byte                    // what is said on stderr before the process ends
	diskLostLen uint64                       //nolint:unused // by the hooks

	realWrite, realPwrite, realWritev, realFsync uintptr
)

// hooked are the names that the engine knows these functions by, in the order of diskHooks.
var hooked = [][]string{{"write"}, {"pwrite", "pwrite64"}, {"writev"}, {"fsync"}, {"fdatasync"}}

// hookDisk leads the engine's calls that write to a disk through the hooks. It is to be called once, before the engine runs.
//
// This build of the engine takes no notice of a write that failed: it goes on, commits a part whose files are empty or cut off, and answers with success;
// a merge puts such a part in the place of good ones, which then go. The hooks return no such error: a write that finds the disk full waits until there is
// room, and what the disk does not take for another reason (EIO, a failed fsync) ends the process at once, like a crash, after which there is everything
// that was acknowledged and nothing by halves.
func hookDisk(handle uintptr, path string) error {
	diskLostLen = uint64(copy(diskLost[:], "the disk refuses what the engine writes (an error of the device): the engine ends, nothing acknowledged is lost\n"))
	for at, name := range map[*uintptr]string{&realWrite: "write", &realPwrite: "pwrite", &realWritev: "writev", &realFsync: "fsync"} {
		var err error
		if *at, err = purego.Dlsym(purego.RTLD_DEFAULT, name); err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
	}
	e, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read engine library %s: %w", path, err)
	}
	defer func() { _ = e.Close() }() // only read
	symbols, err := e.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("read symbols of engine library %s: %w", path, err)
	}
	known, err := purego.Dlsym(handle, "chdb_version")
	if err != nil {
		return fmt.Errorf("engine library %s: %w", path, err)
	}
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == "chdb_version" })
	if i < 0 {
		return fmt.Errorf("engine library %s: chdb_version is not among its symbols", path)
	}
	base := known - uintptr(symbols[i].Value)
	var set [len(diskHooks)]int
	for _, name := range []string{".rela.dyn", ".rela.plt"} {
		s := e.Section(name)
		if s == nil {
			return fmt.Errorf("engine library %s has no section %s", path, name)
		}
		b, err := s.Data()
		if err != nil {
			return fmt.Errorf("read %s of engine library %s: %w", name, path, err)
		}
		const entry = 24
		for ; len(b) >= entry; b = b[entry:] {
			info := binary.LittleEndian.Uint64(b[8:])
			if t := elf.R_X86_64(info & 0xffffffff); t != elf.R_X86_64_GLOB_DAT && t != elf.R_X86_64_JMP_SLOT {
				continue
			}
			n := int(info >> 32)
			if n < 1 || n > len(symbols) {
				continue
			}
			h := slices.IndexFunc(hooked, func(names []string) bool { return slices.Contains(names, symbols[n-1].Name) })
			if h < 0 {
				continue
			}
			at := base + uintptr(binary.LittleEndian.Uint64(b))
			if err := poke(at, diskHooks[h], relro(e, base, at)); err != nil {
				return fmt.Errorf("lead %s of engine library %s through its hook: %w", symbols[n-1].Name, path, err)
			}
			set[h]++
		}
	}
	if i := slices.Index(set[:2], 0); i >= 0 || set[3]+set[4] == 0 {
		return fmt.Errorf("engine library %s does not call write, pwrite or fsync where they are looked for (%v): %w", path, set, errFetch)
	}
	return nil
}

// relro says whether the loader made the page of an address read-only after it filled it in.
func relro(e *elf.File, base, at uintptr) bool {
	return slices.ContainsFunc(e.Progs, func(p *elf.Prog) bool {
		return p.Type == elf.PT_GNU_RELRO && at >= base+uintptr(p.Vaddr) && at < base+uintptr(p.Vaddr+p.Memsz)
	})
}

// poke writes an address into the library's table.
func poke(at, value uintptr, readOnly bool) error {
	page := unsafe.Slice((*byte)(foreign(at&^uintptr(unix.Getpagesize()-1))), unix.Getpagesize())
	if readOnly {
		if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return err
		}
	}
	atomic.StoreUintptr((*uintptr)(foreign(at)), value)
	if readOnly {
		return unix.Mprotect(page, unix.PROT_READ)
	}
	return nil
}
