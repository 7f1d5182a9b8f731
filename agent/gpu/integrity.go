package gpu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Subjects of facts; a GPU's are under its UUID.
const (
	subjectDriver = "driver"
	subjectHost   = "host"
)

// fact is one on its way out.
type fact struct {
	subject, name, value string
	src                  wire.Source
}

// factKey names a fact.
type factKey struct{ subject, name string }

// maxVersionBytes is more than the kernel says of its driver.
const maxVersionBytes = 4 << 10

// Facts that the child tells of the file that it has loaded.
const (
	factPath  = "library_path"
	factInode = "library_inode"
)

// libraryFacts are what can be said of the library that was loaded, and of the driver beneath
// it. A mismatch is told and means nothing by itself: a driver that is being replaced gives
// one, and so does a library that somebody made. What could not be read is not there.
func libraryFacts(dst []fact, w *frame.Welcome, procFS string) []fact {
	add := func(src wire.Source, name, value string) {
		if value != "" {
			dst = append(dst, fact{subjectDriver, name, value, src})
		}
	}
	add(wire.SourceNVML, "driver_version", w.DriverVersion)
	add(wire.SourceNVML, "nvml_version", w.NVMLVersion)
	mapped := "" // the inode that the child has loaded
	for _, f := range w.Facts {
		switch {
		case f.Name == "" || f.Value == "" || f.Name == factPath: // it is told as it is now
		case strings.HasPrefix(f.Name, "library_"):
			add(wire.SourceProcfs, f.Name, f.Value)
		default:
			dst = append(dst, fact{subjectHost, f.Name, f.Value, wire.SourceNVML})
		}
		if f.Name == factInode {
			mapped = f.Value
		}
	}
	add(wire.SourceProcfs, factPath, w.LibraryPath)
	kernel, flavour, err := kernelDriver(procFS)
	switch {
	case err == nil:
		add(wire.SourceProcfs, "kernel_version", kernel)
		add(wire.SourceProcfs, "kernel_module", flavour)
	case errors.Is(err, fs.ErrNotExist):
		add(wire.SourceProcfs, "kernel_version", "none")
	}
	path := strings.TrimSuffix(w.LibraryPath, " (deleted)")
	if real, lerr := filepath.EvalSymlinks(path); lerr == nil {
		path = real
	}
	add(wire.SourceProcfs, "library_matches_kernel", matches(path, w.DriverVersion, kernel, err))
	if !filepath.IsAbs(path) {
		return dst
	}
	inode, owner, serr := identity(path)
	if serr == nil {
		add(wire.SourceProcfs, "library_owner", owner)
	}
	switch {
	case strings.HasSuffix(w.LibraryPath, " (deleted)") || errors.Is(serr, fs.ErrNotExist):
		add(wire.SourceProcfs, "library_replaced", "yes")
	case mapped != "" && serr == nil:
		add(wire.SourceProcfs, "library_replaced", yes(inode != mapped))
	}
	add(wire.SourceProcfs, "library_root_only", rootOnly(path))
	return dst
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// matches says whether the library and the kernel's driver are of one version: by the name of
// the file where it carries one, and by what the library says. Empty: not known.
func matches(path, said, kernel string, err error) string {
	var bad []string
	if _, v, ok := strings.Cut(filepath.Base(path), ".so."); ok && version(v) && said != "" && v != said {
		bad = append(bad, "the file is of "+v+" and says "+said)
	}
	known := err == nil && said != ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		bad = append(bad, "the kernel has no driver of NVIDIA's")
	case known && said != kernel:
		bad = append(bad, "the library says "+said+", the kernel "+kernel)
	}
	switch {
	case len(bad) > 0:
		return "no: " + strings.Join(bad, "; ")
	case known:
		return "yes"
	}
	return ""
}

// kernelDriver reads the version of NVIDIA's kernel driver and which of the two it is.
func kernelDriver(procFS string) (ver, flavour string, err error) {
	path := filepath.Join(procFS, "driver/nvidia/version")
	f, err := os.Open(path)
	if err != nil {
		return "", "", fmt.Errorf("read driver's version: %w", err)
	}
	defer func() { _ = f.Close() }() // was only read
	b, err := io.ReadAll(io.LimitReader(f, maxVersionBytes))
	if err != nil {
		return "", "", fmt.Errorf("read driver's version: %w", err)
	}
	if ver, flavour = parseKernelDriver(b); ver == "" {
		return "", "", fmt.Errorf("read driver's version: %s names none", path)
	}
	return ver, flavour, nil
}

// parseKernelDriver finds the version in what /proc/driver/nvidia/version says.
func parseKernelDriver(b []byte) (ver, flavour string) {
	for line := range bytes.Lines(b) {
		rest, ok := bytes.CutPrefix(line, []byte("NVRM version:"))
		if !ok {
			continue
		}
		flavour = "proprietary"
		if bytes.Contains(rest, []byte("Open Kernel Module")) {
			flavour = "open"
		}
		for word := range bytes.FieldsSeq(rest) {
			if version(string(word)) {
				return string(word), flavour
			}
		}
	}
	return "", ""
}

// version reports whether a word looks like 580.95.05: two or three numbers.
func version(s string) bool {
	if len(s) > 32 {
		return false
	}
	n := 0
	for part := range strings.SplitSeq(s, ".") {
		if n++; part == "" || strings.Trim(part, "0123456789") != "" {
			return false
		}
	}
	return n == 2 || n == 3
}

// identity is a file's inode, and its owner's number.
func identity(path string) (inode, owner string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", "", fmt.Errorf("look at library: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return "", "", fmt.Errorf("look at library %s: the system does not say whose it is", path)
	}
	return strconv.FormatUint(sys.Ino, 10), "uid " + strconv.FormatUint(uint64(sys.Uid), 10), nil
}

// rootOnly says whether root alone can put another file where this one is: it and all folders
// above it are root's, and nobody else may write to them. Empty: not known.
func rootOnly(path string) string {
	for p := path; ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			return ""
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
			return ""
		case sys.Uid != 0:
			return "no: " + p + " belongs to uid " + strconv.FormatUint(uint64(sys.Uid), 10)
		case st.Mode().Perm()&0o022 != 0:
			return fmt.Sprintf("no: %s can be written by others (mode %o)", p, st.Mode().Perm())
		case p == filepath.Dir(p):
			return "yes"
		}
	}
}
