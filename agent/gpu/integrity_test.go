package gpu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	openModule   = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22-I3-B17-02-5)  Tue Sep 23 09:55:41 UTC 2025\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04.2) \n"
	closedModule = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc version 11.4.0\n"
)

func TestParseKernelDriver(t *testing.T) {
	for _, c := range []struct{ text, version, flavour string }{
		{openModule, "580.95.05", "open"},
		{closedModule, "535.183.01", "proprietary"},
		{"NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54  Sun\n", "550.54", "proprietary"},
		{"GCC version: 12.3.0\n", "", ""},
		{"NVRM version:\n", "", ""},
		{"", "", ""},
	} {
		if v, f := parseKernelDriver([]byte(c.text)); v != c.version || f != c.flavour {
			t.Errorf("%q: %q, %q; want %q, %q", c.text, v, f, c.version, c.flavour)
		}
	}
}

func FuzzParseKernelDriver(f *testing.F) {
	f.Add([]byte(openModule))
	f.Add([]byte(closedModule))
	f.Add([]byte("NVRM version: 1..2 .1.2 1.2. 1.2.3.4"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, flavour := parseKernelDriver(b)
		if (v == "") != (flavour == "") || len(v) > 32 || v != "" && !strings.Contains(string(b), v) {
			t.Errorf("%q gives %q, %q", b, v, flavour)
		}
	})
}

// facts reads the library's facts as a map; a name twice fails.
func facts(t *testing.T, w *frame.Welcome, procFS string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range libraryFacts(nil, w, procFS) {
		if _, twice := out[f.name]; twice {
			t.Errorf("%s is told twice", f.name)
		}
		out[f.name] = f.value
	}
	return out
}

func TestLibraryFacts(t *testing.T) {
	proc, lib := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "driver/nvidia"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "driver/nvidia/version"), []byte(openModule), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(lib, "libnvidia-ml.so.580.95.05")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(lib, "libnvidia-ml.so.1")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	w := frame.Welcome{DriverVersion: "580.95.05", NVMLVersion: "13.580.95.05", LibraryPath: link, Facts: []frame.Fact{{Name: "cuda_driver_version", Value: "13.0"}, {Name: "library_path", Value: file},
		{Name: "library_device", Value: "8:1"}}}
	got := facts(t, &w, proc)
	for name, want := range map[string]string{"driver_version": "580.95.05", "kernel_version": "580.95.05", "kernel_module": "open", "library_matches_kernel": "yes",
		"library_path": link, "cuda_driver_version": "13.0", "library_device": "8:1", "nvml_version": "13.580.95.05"} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	// The temporary folder lies below one where everybody may write.
	if !strings.HasPrefix(got["library_root_only"], "no: ") {
		t.Errorf("library_root_only = %q", got["library_root_only"])
	}
	if !strings.HasPrefix(got["library_owner"], "uid ") {
		t.Errorf("facts: %v", got)
	}
	if v, there := got["library_replaced"]; there {
		t.Errorf("library_replaced = %q of a file whose inode nobody told", v)
	}
	inode, _, err := identity(file)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{inode: "no", "1": "yes"} {
		w.Facts = append(w.Facts[:3], frame.Fact{Name: "library_inode", Value: value})
		if got = facts(t, &w, proc); got["library_replaced"] != want || got["library_inode"] != value {
			t.Errorf("inode %s loaded, %s in its place: %v", value, inode, got)
		}
	}

	w.DriverVersion = "570.10"
	if got = facts(t, &w, proc); !strings.Contains(got["library_matches_kernel"], "the library says 570.10, the kernel 580.95.05") ||
		!strings.Contains(got["library_matches_kernel"], "the file is of 580.95.05") {
		t.Errorf("library_matches_kernel = %q", got["library_matches_kernel"])
	}
	if got = facts(t, &w, t.TempDir()); !strings.Contains(got["library_matches_kernel"], "no driver") || got["kernel_version"] != "none" {
		t.Errorf("without a driver: %v", got)
	}
	w.LibraryPath += " (deleted)"
	if got = facts(t, &w, proc); got["library_replaced"] != "yes" {
		t.Errorf("of a file that is gone: %v", got)
	}
	if got = facts(t, &frame.Welcome{}, "/nowhere"); got["library_path"] != "" || got["library_root_only"] != "" || got["driver_version"] != "" {
		t.Errorf("of nothing: %v", got)
	}
}

// A folder of root's is one.
func TestRootOnly(t *testing.T) {
	if got := rootOnly("/usr/bin"); got != "yes" {
		t.Errorf("/usr/bin: %q", got)
	}
	if got := rootOnly("/nowhere/x"); got != "" {
		t.Errorf("of a file that is not there: %q", got)
	}
}
