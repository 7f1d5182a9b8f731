package nvmlstub

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Library and Shared are the names of the two files of a stub, in one directory.
const (
	Library = "libnvidia-ml.so.1"
	Shared  = "nvml.shm"
)

// headerModule has NVIDIA's nvml.h in its module cache; nothing of it is copied into ours.
const headerModule = "github.com/NVIDIA/go-nvml"

//go:embed lib/*.c lib/*.h
var sources embed.FS

// Options says which variant of the library to build. The zero value is the whole one.
type Options struct {
	// Driver builds the likes of a release: 470 has no GPM, no third version of the process lists
	// and no power fields; 535 fills that third version with entries of 32 bytes, of which readers
	// expect 24, as its first releases did; 550 and 580 lack what came after them. What they lack is
	// really missing from the symbol table. 0 is all that the header has. OldDriver is 470.
	Driver    int
	OldDriver bool
	// Without names further functions that are to be missing. A '*' at the end stands for any rest.
	Without []string
	// Header is NVIDIA's nvml.h; empty: that of the module cache.
	Header string
	// CC is the C compiler; empty: gcc. Flags come last on its command line.
	CC    string
	Flags []string
}

// since is what came after some drivers, as far as an agent could meet it. It is no record of
// certain releases: a driver lacks what stands under it and under all newer ones.
var since = map[int][]string{
	470: {
		"nvmlGpm*", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3",
		"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetSupportedClocksEventReasons",
		"nvmlDeviceGetRunningProcessDetailList", "nvmlDeviceGetModuleId", "nvmlDeviceGetNumaNodeId", "nvmlDeviceGetJpgUtilization", "nvmlDeviceGetOfaUtilization",
		"nvmlDeviceGetGpuFabricInfo", "nvmlSystemGetConfComputeState", "nvmlSystemGetConfComputeCapabilities", "nvmlSystemGetConfComputeGpusReadyState",
		"nvmlDeviceGetConfCompute*", "nvmlDeviceGetGspFirmware*", "nvmlDeviceGetFanSpeedRPM", "nvmlDeviceGetPcieLinkMaxSpeed", "nvmlDeviceGetPcieSpeed",
	},
	535: {
		"nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetPciInfoExt", "nvmlDeviceGetGpuFabricInfoV", "nvmlSystemGetConfComputeSettings",
		"nvmlSystemGetConfComputeKeyRotation*", "nvmlDeviceGetSramEccErrorStatus", "nvmlGpmQueryIfStreamingEnabled", "nvmlGpmSetStreamingEnabled",
	},
	550: {
		"nvmlDeviceGetTemperatureV", "nvmlDeviceGetHandleByUUIDV", "nvmlDeviceGetCapabilities", "nvmlDevicePowerSmoothing*", "nvmlDeviceWorkloadPowerProfile*",
		"nvmlDeviceGetPlatformInfo", "nvmlSystemEventSet*", "nvmlDeviceGetDramEncryptionMode", "nvmlDeviceGetMarginTemperature", "nvmlDeviceGetAddressingMode",
	},
	580: {
		"nvmlEventSetWait_v3", "nvmlEventSetRegisterGpuOperationalEvents_v1", "nvmlEventSetGet*", "nvmlDeviceGetRemappedRows_v2", "nvmlDeviceGetGpuFabricInfo_v4",
		"nvmlDeviceGetBankRemapperStatus_v1",
	},
}

// newest stands for all that the header has.
const newest = 999

func (o Options) driver() int {
	if o.OldDriver {
		return 470
	}
	return cmp.Or(o.Driver, newest)
}

var (
	declared    = regexp.MustCompile(`(?m)^(?:DEPRECATED\([0-9.]+\)\s+)?nvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\(`)
	implemented = regexp.MustCompile(`(?m)^STUB nvmlReturn_t (nvml\w+)\(`)
	byMacro     = regexp.MustCompile(`(?m)^(?:TEXT|NUMBER|ENGINE|PROCESSES|PART)\((nvml\w+),`)
	processList = regexp.MustCompile(`(?m)^PROCESSES\((nvml\w+),`)
)

// Build compiles the library into dir, as dir/libnvidia-ml.so.1, and returns its path. It
// needs gcc and, without Options.Header, the go command in a checkout of this module; the
// error says which is missing. A library that is already there is replaced, never written into:
// a process that has it open keeps its own.
func Build(ctx context.Context, dir string, o Options) (string, error) {
	cc, err := exec.LookPath(cmp.Or(o.CC, "gcc"))
	if err != nil {
		return "", fmt.Errorf("build the NVML stub: a C compiler is needed (Debian: apt-get install gcc libc6-dev): %w", err)
	}
	header := o.Header
	if header == "" {
		if header, err = findHeader(ctx); err != nil {
			return "", err
		}
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("build the NVML stub: %w", err)
	}
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the NVML stub's directory: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return "", fmt.Errorf("make a directory to build the NVML stub in: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	files, err := unpack(tmp, header, o)
	if err != nil {
		return "", err
	}
	aside, lib := filepath.Join(tmp, Library), filepath.Join(dir, Library)
	args := []string{
		"-std=gnu11", "-O2", "-g1", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread",
		"-DNVML_NO_UNVERSIONED_FUNC_DEFS", "-D_GNU_SOURCE",
		"-I", tmp, "-idirafter", filepath.Dir(header), "-Wl,-soname," + Library, "-Wl,--version-script=" + filepath.Join(tmp, "exports"), "-o", aside,
	}
	args = append(args, fmt.Sprintf("-DSTUB_DRIVER=%d", o.driver()))
	args = slices.Concat(args, files, []string{"-lm", "-ldl"}, o.Flags)
	cmd := exec.CommandContext(ctx, cc, args...) //nolint:gosec // G204: the compiler is the caller's choice, the rest our own
	if out, cerr := cmd.CombinedOutput(); cerr != nil {
		return "", fmt.Errorf("compile the NVML stub against %s: %w: %s", header, cerr, bytes.TrimSpace(out))
	}
	if err = os.Rename(aside, lib); err != nil {
		return "", fmt.Errorf("put the NVML stub in place: %w", err)
	}
	return lib, nil
}

// Install copies a library that was built before into a directory, beside which its shared
// memory is then looked for, and returns its path there.
func Install(library, dir string) (string, error) {
	content, err := os.ReadFile(library)
	if err != nil {
		return "", fmt.Errorf("read the NVML stub (`make stub` builds it): %w", err)
	}
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the NVML stub's directory: %w", err)
	}
	to := filepath.Join(dir, Library)
	aside := to + ".new"                                       // whoever has the old one open keeps it whole
	if err = os.WriteFile(aside, content, 0o755); err == nil { //nolint:gosec // G703: the directory is the caller's choice
		err = os.Rename(aside, to)
	}
	if err != nil {
		return "", fmt.Errorf("install the NVML stub: %w", err)
	}
	return to, nil
}

// findHeader asks the go command where the module with the header is, and has it fetched if need be.
func findHeader(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", fmt.Errorf("find nvml.h: give its path, or put the go command on PATH: %w", err)
	}
	dir, err := moduleDir(ctx)
	if err == nil && dir == "" {
		if out, derr := exec.CommandContext(ctx, "go", "mod", "download", headerModule).CombinedOutput(); derr != nil {
			return "", fmt.Errorf("fetch nvml.h with module %s: %w: %s", headerModule, derr, bytes.TrimSpace(out))
		}
		dir, err = moduleDir(ctx)
	}
	if err != nil {
		return "", err
	}
	header := filepath.Join(dir, "gen", "nvml", "nvml.h")
	if _, err = os.Stat(header); err != nil {
		return "", fmt.Errorf("find nvml.h in module %s: %w", headerModule, err)
	}
	return header, nil
}

func moduleDir(ctx context.Context) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", headerModule)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find nvml.h: ask for module %s in a checkout of flopwatch: %w: %s", headerModule, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// unpack writes the sources, and what is generated from the header, to a directory, and
// returns the files to compile.
func unpack(dir, header string, o Options) (files []string, err error) {
	text, err := os.ReadFile(header)
	if err != nil {
		return nil, fmt.Errorf("read nvml.h: %w", err)
	}
	functions := headerFunctions(text)
	if len(functions) < 100 {
		return nil, fmt.Errorf("read %s: %d functions found, which is not NVIDIA's nvml.h", header, len(functions))
	}
	entries, err := sources.ReadDir("lib")
	if err != nil {
		return nil, fmt.Errorf("list the NVML stub's sources: %w", err)
	}
	ours := map[string]bool{}
	for _, e := range entries {
		src, rerr := sources.ReadFile(path.Join("lib", e.Name()))
		if rerr != nil {
			return nil, fmt.Errorf("read the NVML stub's sources: %w", rerr)
		}
		for _, name := range sourceFunctions(src) {
			ours[name] = true
		}
		file := filepath.Join(dir, e.Name())
		if err = os.WriteFile(file, src, 0o644); err != nil {
			return nil, fmt.Errorf("write the NVML stub's sources: %w", err)
		}
		if path.Ext(e.Name()) == ".c" {
			files = append(files, file)
		}
	}
	var missing []string
	for name := range ours {
		if !slices.Contains(functions, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("read %s: it lacks %s", header, strings.Join(missing, ", "))
	}
	without := o.Without
	if _, known := since[o.driver()]; !known && o.driver() != newest {
		return nil, fmt.Errorf("build the NVML stub of driver %d: wanted 470, 535, 550, 580 or 0", o.Driver)
	}
	for release, lacks := range since {
		if release >= o.driver() {
			without = slices.Concat(without, lacks)
		}
	}
	for _, p := range without {
		if !slices.ContainsFunc(functions, func(f string) bool { return fits(p, f) }) {
			return nil, fmt.Errorf("build the NVML stub without %s: %s has no such function", p, header)
		}
	}
	generated := map[string]string{
		"functions.h": functionsHeader(functions),
		"rest.c":      restSource(functions, ours),
		"exports":     exports(functions, without, o.driver() == 470),
	}
	for name, content := range generated {
		if err = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("write the NVML stub's generated sources: %w", err)
		}
	}
	return append(files, filepath.Join(dir, "rest.c")), nil
}

// headerFunctions are the functions that the header declares, sorted, but nvmlErrorString,
// which alone returns no status.
func headerFunctions(header []byte) []string {
	var names []string
	for _, m := range declared.FindAllSubmatch(header, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sourceFunctions are the functions that a source of ours defines.
func sourceFunctions(src []byte) []string {
	var names []string
	for _, re := range []*regexp.Regexp{implemented, byMacro} {
		for _, m := range re.FindAllSubmatch(src, -1) {
			names = append(names, string(m[1]))
		}
	}
	for _, m := range processList.FindAllSubmatch(src, -1) {
		names = append(names, string(m[1])+"_v2", string(m[1])+"_v3")
	}
	return names
}

func functionsHeader(functions []string) string {
	var b strings.Builder
	b.WriteString("enum {\n")
	for _, f := range functions {
		fmt.Fprintf(&b, "    FN_%s,\n", f)
	}
	b.WriteString("    FN_COUNT\n};\n#define FN_NAMES")
	for _, f := range functions {
		fmt.Fprintf(&b, " \\\n    %q,", f)
	}
	b.WriteString("\n")
	return b.String()
}

// restSource defines the functions that we do not: they take whatever they are given.
func restSource(functions []string, ours map[string]bool) string {
	var b strings.Builder
	b.WriteString("#include \"functions.h\"\nint stub_unsupported(int fn);\n")
	for _, f := range functions {
		if !ours[f] {
			fmt.Fprintf(&b, "__attribute__((visibility(\"default\"))) int %s(void);\nint %s(void) { return stub_unsupported(FN_%s); }\n", f, f, f)
		}
	}
	return b.String()
}

// exports is a version script: a function that it calls local is missing for whoever loads the library.
func exports(functions, without []string, old bool) string {
	var b strings.Builder
	b.WriteString("{\n  global: nvmlErrorString;\n")
	var local []string
	for _, f := range functions {
		gone := slices.ContainsFunc(without, func(p string) bool { return fits(p, f) }) || old && strings.HasSuffix(f, "_v1")
		if gone {
			local = append(local, f)
			continue
		}
		fmt.Fprintf(&b, "  %s;\n", f)
	}
	b.WriteString("  local:\n")
	for _, f := range local {
		fmt.Fprintf(&b, "  %s;\n", f)
	}
	b.WriteString("  *;\n};\n")
	return b.String()
}

// fits reports whether a name is a pattern's: the same, or beginning as the pattern does before its '*'.
func fits(pattern, name string) bool {
	if begin, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(name, begin)
	}
	return pattern == name
}
