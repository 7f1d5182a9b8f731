package probe

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"
)

// libc finds this machine's C library, which every test machine with a shell has.
func libc(tb testing.TB) string {
	tb.Helper()
	for _, pattern := range []string{"/lib/*-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	tb.Skip("no C library at a known place")
	return ""
}

// TestLookup compares with the standard library's reader, which reads all symbols.
func TestLookup(t *testing.T) {
	path := libc(t)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e, err := ReadELF(f)
	if err != nil {
		t.Fatal(err)
	}
	std, err := elf.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	all, err := std.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, s := range all {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Section == elf.SHN_UNDEF || seen > 300 {
			continue
		}
		got, ok, err := e.Lookup(s.Name)
		if err != nil || !ok {
			t.Fatalf("%s: %v %v", s.Name, ok, err)
		}
		// Several versions of a symbol have one name: any of them will do here.
		fits := false
		for _, o := range all {
			for _, p := range std.Progs {
				fits = fits || o.Name == s.Name && p.Type == elf.PT_LOAD && o.Value >= p.Vaddr && o.Value < p.Vaddr+p.Filesz && o.Value-p.Vaddr+p.Off == got.Offset
			}
		}
		if !fits {
			t.Fatalf("%s is at %#x", s.Name, got.Offset)
		}
		seen++
	}
	if seen < 100 {
		t.Errorf("%d symbols were compared", seen)
	}
	for _, name := range []string{"", "no_such_function", "ncclAllReduce"} {
		if _, ok, err := e.Lookup(name); ok || err != nil {
			t.Errorf("%q: %v %v", name, ok, err)
		}
	}
	if id := e.BuildID(); len(id) != 40 {
		t.Errorf("build id %q", id)
	}
}

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		name string
		mach uint16
		code []byte
		want Site
	}{
		{"landing pad and push", machineX86, []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48}, Site{104, false}},
		{"landing pad and push of r15", machineX86, []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57}, Site{104, false}},
		{"landing pad and sub", machineX86, []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83}, Site{100, true}},
		{"prefix without push", machineX86, []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x89}, Site{100, true}},
		{"push at once", machineX86, []byte{0x55, 0x48, 0x89, 0xe5, 0, 0}, Site{100, false}},
		{"mov", machineX86, []byte{0x48, 0x89, 0xe5, 0, 0, 0}, Site{100, true}},
		{"arm64", machineARM, []byte{0x5f, 0x24, 0x03, 0xd5, 0, 0}, Site{100, true}},
	} {
		if got := place(c.mach, 100, c.code); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func FuzzELF(f *testing.F) {
	lib, err := os.ReadFile(libc(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lib[:64<<10], "malloc")
	f.Add([]byte("\x7fELF\x02\x01"), "x")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		e, err := ReadELF(bytes.NewReader(file))
		if err != nil {
			return
		}
		_ = e.BuildID()
		s, ok, err := e.Lookup(name)
		if !ok || err != nil {
			return
		}
		if site, err := e.Site(s); err == nil && site.Offset != s.Offset && site.Offset != s.Offset+4 {
			t.Fatalf("a probe for %+v at %+v", s, site)
		}
	})
}
