package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Bounds on what an ELF file may make the reader do. The largest libraries have some
// 200,000 dynamic symbols.
const (
	maxSegments = 128
	maxNotes    = 64 << 10
	maxDynamic  = 4096
	maxChain    = 4096 // steps along one chain of a hash table, which have a few
	maxName     = 256
)

// What is used of the ELF format.
const (
	elfHeader   = 64
	elfSegment  = 56
	elfSymbol   = 24
	ptLoad      = 1
	ptDynamic   = 2
	ptNote      = 4
	pfExec      = 1
	dtHash      = 4
	dtStrtab    = 5
	dtSymtab    = 6
	dtGNUHash   = 0x6ffffef5
	sttFunc     = 2
	noteBuildID = 3
	machineX86  = 62
	machineARM  = 183
)

// ErrNotELF says that a file is no 64-bit little-endian ELF file.
var ErrNotELF = errors.New("not a 64-bit little-endian ELF file")

type segment struct {
	kind, flags                uint32
	offset, vaddr, size, vsize uint64
}

// ELF is a library or program, as far as probes need it. It reads the few bytes that it is
// asked for, by the dynamic section's hash table: what it costs does not depend on the
// file's size. It trusts nothing of the file.
type ELF struct {
	r        io.ReaderAt
	machine  uint16
	segments []segment
	str, sym uint64 // addresses
	gnu, sys uint64 // of the hash tables; 0: none
}

// Symbol is a function: where it is in the file.
type Symbol struct {
	Name   string
	Offset uint64
}

// ReadELF reads the headers of an ELF file.
func ReadELF(r io.ReaderAt) (*ELF, error) {
	var h [elfHeader]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, ErrNotELF
		}
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if !bytes.Equal(h[:6], []byte("\x7fELF\x02\x01")) {
		return nil, ErrNotELF
	}
	e := &ELF{r: r, machine: binary.LittleEndian.Uint16(h[18:])}
	at, size, n := binary.LittleEndian.Uint64(h[32:]), binary.LittleEndian.Uint16(h[54:]), binary.LittleEndian.Uint16(h[56:])
	if size != elfSegment || n > maxSegments {
		return nil, fmt.Errorf("ELF file has %d program headers of %d bytes", n, size)
	}
	b := make([]byte, int(n)*elfSegment)
	if err := e.read(b, at); err != nil {
		return nil, fmt.Errorf("read program headers: %w", err)
	}
	for ; len(b) > 0; b = b[elfSegment:] {
		e.segments = append(e.segments, segment{kind: binary.LittleEndian.Uint32(b), flags: binary.LittleEndian.Uint32(b[4:]),
			offset: binary.LittleEndian.Uint64(b[8:]), vaddr: binary.LittleEndian.Uint64(b[16:]),
			size: binary.LittleEndian.Uint64(b[32:]), vsize: binary.LittleEndian.Uint64(b[40:])})
	}
	return e, e.dynamic()
}

// read fills b from the file.
func (e *ELF) read(b []byte, at uint64) error {
	if at > 1<<62 {
		return io.ErrUnexpectedEOF
	}
	n, err := e.r.ReadAt(b, int64(at))
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// offset finds where n bytes at an address are in the file.
func (e *ELF) offset(addr, n uint64, flags uint32) (uint64, bool) {
	for _, s := range e.segments {
		if s.kind == ptLoad && s.flags&flags == flags && addr >= s.vaddr && addr-s.vaddr < s.size && s.size-(addr-s.vaddr) >= n {
			return s.offset + (addr - s.vaddr), s.offset < 1<<62
		}
	}
	return 0, false
}

func (e *ELF) at(b []byte, addr uint64) error {
	off, ok := e.offset(addr, uint64(len(b)), 0)
	if !ok {
		return fmt.Errorf("address %#x is not in the file", addr)
	}
	return e.read(b, off)
}

// has is at for what need not be there: the last name may be shorter than the one looked for.
func (e *ELF) has(b []byte, addr uint64) bool { return e.at(b, addr) == nil }

func (e *ELF) word(addr uint64) (uint32, error) {
	var b [4]byte
	err := e.at(b[:], addr)
	return binary.LittleEndian.Uint32(b[:]), err
}

// dynamic finds the tables of the dynamic section. A file without one has no symbols here.
func (e *ELF) dynamic() error {
	for _, s := range e.segments {
		if s.kind != ptDynamic {
			continue
		}
		n := min(s.size/16, maxDynamic)
		b := make([]byte, n*16)
		if err := e.read(b, s.offset); err != nil {
			return fmt.Errorf("read dynamic section: %w", err)
		}
		for ; len(b) > 0; b = b[16:] {
			v := binary.LittleEndian.Uint64(b[8:])
			switch binary.LittleEndian.Uint64(b) {
			case 0:
				return nil
			case dtHash:
				e.sys = v
			case dtStrtab:
				e.str = v
			case dtSymtab:
				e.sym = v
			case dtGNUHash:
				e.gnu = v
			}
		}
	}
	return nil
}

// Lookup finds an exported function; ok is false if there is none of that name.
func (e *ELF) Lookup(name string) (s Symbol, ok bool, err error) {
	if e.sym == 0 || e.str == 0 || len(name) > maxName {
		return Symbol{}, false, nil
	}
	switch {
	case e.gnu != 0:
		return e.lookupGNU(name)
	case e.sys != 0:
		return e.lookupSysV(name)
	}
	return Symbol{}, false, nil
}

func (e *ELF) lookupGNU(name string) (Symbol, bool, error) {
	var h [16]byte
	if err := e.at(h[:], e.gnu); err != nil {
		return Symbol{}, false, fmt.Errorf("read hash table: %w", err)
	}
	buckets, first, bloom := binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:]), binary.LittleEndian.Uint32(h[8:])
	if buckets == 0 {
		return Symbol{}, false, nil
	}
	hash := uint32(5381)
	for i := range len(name) {
		hash = hash*33 + uint32(name[i])
	}
	table := e.gnu + 16 + 8*uint64(bloom)
	i, err := e.word(table + 4*uint64(hash%buckets))
	if err != nil || i < first {
		return Symbol{}, false, err
	}
	chain := table + 4*uint64(buckets)
	for range maxChain {
		link, err := e.word(chain + 4*uint64(i-first))
		if err != nil {
			return Symbol{}, false, fmt.Errorf("read hash table: %w", err)
		}
		if link|1 == hash|1 {
			if s, ok, err := e.symbol(i, name); ok || err != nil {
				return s, ok, err
			}
		}
		if link&1 == 1 {
			break
		}
		i++
	}
	return Symbol{}, false, nil
}

func (e *ELF) lookupSysV(name string) (Symbol, bool, error) {
	buckets, err := e.word(e.sys)
	if err != nil || buckets == 0 {
		return Symbol{}, false, err
	}
	var hash uint32
	for i := range len(name) {
		hash = hash<<4 + uint32(name[i])
		high := hash & 0xf0000000
		hash = (hash ^ high>>24) &^ high
	}
	i, err := e.word(e.sys + 8 + 4*uint64(hash%buckets))
	for range maxChain {
		if err != nil || i == 0 {
			return Symbol{}, false, err
		}
		if s, ok, serr := e.symbol(i, name); ok || serr != nil {
			return s, ok, serr
		}
		i, err = e.word(e.sys + 8 + 4*(uint64(buckets)+uint64(i)))
	}
	return Symbol{}, false, nil
}

// symbol is symbol i, if it is a function of that name that the file defines.
func (e *ELF) symbol(i uint32, name string) (Symbol, bool, error) {
	var b [elfSymbol]byte
	if err := e.at(b[:], e.sym+elfSymbol*uint64(i)); err != nil {
		return Symbol{}, false, fmt.Errorf("read symbol: %w", err)
	}
	text := make([]byte, len(name)+1)
	if !e.has(text, e.str+uint64(binary.LittleEndian.Uint32(b[:]))) || text[len(name)] != 0 || string(text[:len(name)]) != name {
		return Symbol{}, false, nil // another one with this hash
	}
	if b[4]&0xf != sttFunc || binary.LittleEndian.Uint16(b[6:]) == 0 {
		return Symbol{}, false, nil
	}
	off, ok := e.offset(binary.LittleEndian.Uint64(b[8:]), 1, pfExec)
	if !ok {
		return Symbol{}, false, fmt.Errorf("function %s is not in the file's code", name)
	}
	return Symbol{Name: name, Offset: off}, true, nil
}

// BuildID is the file's build id in hex, "" if it has none.
func (e *ELF) BuildID() string {
	for _, s := range e.segments {
		if s.kind != ptNote || s.size > maxNotes {
			continue
		}
		b := make([]byte, s.size)
		if e.read(b, s.offset) != nil {
			continue
		}
		for len(b) >= 12 {
			name, desc := uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[4:]))
			kind := binary.LittleEndian.Uint32(b[8:])
			b = b[12:]
			skip := (name + 3) &^ 3
			if skip > uint64(len(b)) || desc > uint64(len(b))-skip {
				break
			}
			if kind == noteBuildID && name == 4 && string(b[:4]) == "GNU\x00" && desc > 0 && desc <= 64 {
				return hex.EncodeToString(b[skip : skip+desc])
			}
			b = b[min(uint64(len(b)), skip+(desc+3)&^3):]
		}
	}
	return ""
}

// Site is where a probe goes: a place in the file, and whether the kernel has to step over
// the instruction there, which costs a second trap.
type Site struct {
	Offset uint64
	Steps  bool
}

// Site finds the place for a probe at the entry of a function. Where compilers put a landing
// pad for branches before a push, the push is better: the kernel knows what it does.
// No argument has moved by then, nor the stack.
func (e *ELF) Site(s Symbol) (Site, error) {
	var b [6]byte
	if err := e.read(b[:], s.Offset); err != nil {
		return Site{}, fmt.Errorf("read code of %s: %w", s.Name, err)
	}
	return place(e.machine, s.Offset, b[:]), nil
}

// place is the rule of Site over the first bytes of a function.
func place(machine uint16, at uint64, code []byte) Site {
	switch machine {
	case machineX86:
		if bytes.HasPrefix(code, []byte{0xf3, 0x0f, 0x1e, 0xfa}) && isPush(code[4:]) {
			return Site{Offset: at + 4}
		}
		return Site{Offset: at, Steps: !isPush(code) && !bytes.HasPrefix(code, []byte{0x90})}
	case machineARM:
		// Most first instructions are simulated or cheap to step over there: nothing is known
		// that would be better.
		return Site{Offset: at, Steps: true}
	}
	return Site{Offset: at, Steps: true}
}

// isPush reports whether code begins with a push of a register, with or without a prefix
// for the registers r8 to r15.
func isPush(code []byte) bool {
	if len(code) > 1 && code[0] == 0x41 {
		code = code[1:]
	}
	return len(code) > 0 && code[0]&0xf8 == 0x50
}

// Native reports whether the file is for this machine's processor.
func (e *ELF) Native(goarch string) bool {
	return goarch == "amd64" && e.machine == machineX86 || goarch == "arm64" && e.machine == machineARM
}
