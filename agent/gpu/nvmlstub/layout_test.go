package nvmlstub

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	comment   = regexp.MustCompile(`//[^\n]*`)
	structure = regexp.MustCompile(`(?s)struct stub_(\w+) \{(.*?)\n\};`)
	member    = regexp.MustCompile(`(\w+)((?:\[[^\]]*\])*)\s*$`)
)

// members are the members of the structs of layout.h, in order.
func members(t *testing.T) map[string][]string {
	t.Helper()
	src, err := os.ReadFile("lib/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, s := range structure.FindAllSubmatch(comment.ReplaceAll(src, nil), -1) {
		for decl := range strings.SplitSeq(string(s[2]), ";") {
			for one := range strings.SplitSeq(decl, ",") {
				if m := member.FindStringSubmatch(strings.TrimSpace(one)); m != nil {
					out[string(s[1])] = append(out[string(s[1])], m[1])
				}
			}
		}
	}
	return out
}

func TestLayout(t *testing.T) {
	need(t)
	header := members(t)
	ours := map[string]reflect.Type{
		"segment": reflect.TypeFor[segment](), "health": reflect.TypeFor[Health](), "gpu": reflect.TypeFor[device](), "instance": reflect.TypeFor[instance](), "process": reflect.TypeFor[process](), "event": reflect.TypeFor[event](),
		"fault": reflect.TypeFor[fault](), "config": reflect.TypeFor[config](), "header": reflect.TypeFor[memoryHeader](), "function": reflect.TypeFor[function](),
		"memory": reflect.TypeFor[memory](),
	}
	var program, want strings.Builder
	program.WriteString("#include <stdio.h>\n#include <stddef.h>\n#include \"layout.h\"\nint main(void) {\n")
	for name, typ := range ours {
		names := header[name]
		fields := slices.DeleteFunc(slices.Collect(typ.Fields()), func(f reflect.StructField) bool { return f.Type.Name() == "HostLayout" })
		if len(names) != len(fields) {
			t.Fatalf("struct %s has %d members in layout.h and %d in layout.go: %v", name, len(names), len(fields), names)
		}
		for i, f := range fields {
			c := strings.ReplaceAll(names[i], "_", "")
			if f.Name != "_" && !strings.EqualFold(c, f.Name) && (c != "type" || f.Name != "kind") {
				t.Errorf("struct %s: member %s stands where layout.go has %s", name, names[i], f.Name)
			}
			fmt.Fprintf(&program, "printf(\"%s.%s %%zu %%zu\\n\", offsetof(struct stub_%s, %s), sizeof ((struct stub_%s *)0)->%s);\n",
				name, names[i], name, names[i], name, names[i])
			fmt.Fprintf(&want, "%s.%s %d %d\n", name, names[i], f.Offset, f.Type.Size())
		}
		fmt.Fprintf(&program, "printf(\"%s %%zu\\n\", sizeof(struct stub_%s));\n", name, name)
		fmt.Fprintf(&want, "%s %d\n", name, typ.Size())
	}
	for name, v := range map[string]int{
		"VERSION": version, "MAX_GPUS": MaxGPUs, "MAX_SEGMENTS": MaxSegments, "MAX_PROCESSES": MaxProcesses, "MAX_FAULTS": MaxFaults,
		"MAX_EVENTS": MaxEvents, "MAX_FUNCTIONS": maxFunctions, "MAX_INSTANCES": MaxInstances, "MAX_MIG": MaxMIG, "MAX_BLOCKED": MaxBlocked, "MAX_INSTANCE_SEGMENTS": MaxInstanceSegments, "QUANTITIES": int(NumQuantities), "NO_GPU": NoGPU,
	} {
		fmt.Fprintf(&program, "printf(\"%s %%lld\\n\", (long long)STUB_%s);\n", name, name)
		fmt.Fprintf(&want, "%s %d\n", name, v)
	}
	fmt.Fprintf(&program, "printf(\"%%s\\n\", STUB_MAGIC);\n}\n")
	fmt.Fprintf(&want, "%s\n", magic)
	file, exe := filepath.Join(t.TempDir(), "layout.c"), filepath.Join(t.TempDir(), "layout")
	if err := os.WriteFile(file, []byte(program.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "gcc", "-I", "lib", "-o", exe, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), exe).Output()
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := strings.Split(string(out), "\n"), strings.Split(want.String(), "\n")
	for i := range min(len(got), len(wanted)) {
		if got[i] != wanted[i] {
			t.Errorf("layout.h says %q, layout.go %q", got[i], wanted[i])
		}
	}
	if len(got) != len(wanted) {
		t.Errorf("%d lines, wanted %d", len(got), len(wanted))
	}
}

// Every function of NVIDIA's header is in the library, and nothing else.
func TestExports(t *testing.T) {
	need(t)
	path, err := findHeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Another way to read the header than the one that Build has: every nvml name before a
	// parenthesis in a declaration.
	var want []string
	for _, m := range regexp.MustCompile(`DECLDIR\s+(?:char\*\s+)?(nvml[A-Za-z0-9_]+)\s*\(`).FindAllSubmatch(text, -1) {
		want = append(want, string(m[1]))
	}
	slices.Sort(want)
	want = slices.Compact(want)
	got := symbols(t.Context(), t, built.library)
	if len(want) < 400 || !slices.Equal(got, want) {
		t.Errorf("the library has %d functions, the header %d; missing %v, too many %v", len(got), len(want), less(want, got), less(got, want))
	}
	gone := less(want, symbols(t.Context(), t, built.old))
	for _, name := range []string{
		"nvmlGpmMetricsGet", "nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmQueryDeviceSupport", "nvmlDeviceGetComputeRunningProcesses_v3",
		"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperatureV",
	} {
		if !slices.Contains(gone, name) {
			t.Errorf("the old driver has %s", name)
		}
	}
	for _, name := range []string{"nvmlInit_v2", "nvmlDeviceGetComputeRunningProcesses_v2", "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetFieldValues"} {
		if slices.Contains(gone, name) {
			t.Errorf("the old driver lacks %s", name)
		}
	}
}

func less(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

func symbols(ctx context.Context, t *testing.T, library string) []string {
	t.Helper()
	out, err := exec.CommandContext(ctx, "nm", "-D", "--defined-only", library).Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 && !strings.Contains(f[2], "asan") {
			names = append(names, f[2])
		}
	}
	slices.Sort(names)
	return names
}
