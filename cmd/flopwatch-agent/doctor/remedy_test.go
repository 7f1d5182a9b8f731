package doctor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// texts are the strings in the code of a folder.
func texts(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testenv.Root(t), dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no code (%v)", dir, err)
	}
	var out []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil {
					out = append(out, s)
				}
			}
			return true
		})
	}
	return out
}

// TestWordsOfReasons: what a remedy looks for is what the instrument's code says. Who changes a
// reason changes the remedy with it.
func TestWordsOfReasons(t *testing.T) {
	said := map[string][]string{}
	holds := func(where, word string) {
		t.Helper()
		if said[where] == nil {
			said[where] = texts(t, where)
		}
		if !slices.ContainsFunc(said[where], func(s string) bool { return strings.Contains(s, word) }) {
			t.Errorf("%s does not say %q any more", where, word)
		}
	}
	for _, r := range remedies {
		whole, _, _ := strings.Cut(r.instrument, "/")
		if r.where != "" && whole != "passthrough" && !strings.HasPrefix(r.where, "agent/"+whole) {
			t.Errorf("%s does not speak of %s", r.where, r.instrument)
		}
		for _, w := range r.words {
			if r.where != "" {
				holds(r.where, w)
			}
		}
	}
	for _, w := range []string{wordsNotAsked, wordsRefused, wordsCannotBeRead} {
		holds("agent/bmc", w)
	}
}

// TestRemedies: what helps is what is missing on this host, and not a word that a reason has by
// the way. The reasons are as instruments gave them.
func TestRemedies(t *testing.T) {
	has := func(btf bool, names ...string) *Privileges {
		p := &Privileges{BTF: btf}
		for _, w := range wanted {
			p.Capabilities = append(p.Capabilities, Capability{Name: w.name, Have: slices.Contains(names, w.name)})
		}
		return p
	}
	none, bare := has(true), has(false)
	all := has(true, "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE")
	old := has(false, "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE")
	loading := "BPF programs cannot be loaded: needs a kernel of 5.12 with BTF, CAP_BPF and CAP_PERFMON (EPERM, operation not permitted); in its place: sock_diag, which misses what moves between the last look and a close"
	without := "BPF programs cannot be loaded: needs a kernel of 5.8 with BTF, CAP_BPF and CAP_PERFMON; in its place: pidfds and /proc, which miss what lives between two looks"
	for _, c := range []struct {
		p                        *Privileges
		instrument, reason, want string
	}{
		// A kernel that has BTF is not to be exchanged for want of a privilege.
		{none, "kernel/sock", loading, "grant CAP_BPF"},
		{bare, "kernel/sock", loading, "grant CAP_BPF"},
		{all, "kernel/sock", loading, "seccomp"},
		{old, "kernel/proc", without, "CONFIG_DEBUG_INFO_BTF"},
		{all, "kernel/proc", without, "a newer kernel"},
		{none, "kernel/nccl", "programs at functions of user space are refused: needs kernel 6.6, CAP_BPF and CAP_PERFMON, or needs CAP_SYS_ADMIN (EPERM, operation not permitted)", "kernel.conf"},
		{all, "kernel/nccl", "programs at functions of user space are refused: needs kernel 6.6, CAP_BPF and CAP_PERFMON, or needs CAP_SYS_ADMIN (EINVAL, invalid argument)", "a newer kernel"},
		{all, "kernel/nccl", "1 libraries got no probes, as: libnccl.so.2 of process 77: open libnccl.so.2: permission denied: its user keeps it, or a directory above it, from others: needs CAP_DAC_READ_SEARCH", "chmod o+x"},
		{all, "kernel/nccl", "1 libraries got no probes, as: libnccl.so.2 of process 77: the file is deleted, and map_files needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; open x: permission denied", "start the job again"},
		{none, "kernel/nccl", "some processes cannot be read: needs CAP_SYS_PTRACE", "grant CAP_BPF"},
		{none, "kernel/sock", "the agent has a process namespace of its own and would take processes for others: it needs the host's (hostPID)", "hostPID: true"},
		{none, "kernel/file", "1 processes could not be looked into: needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (EACCES, permission denied)", "with its last lines"},
		{all, "kernel/nccl", "switched off by the file /x/kernel-off/nccl", "remove the file"},
		{all, "kernel/nccl", "paused for 10m0s: its probes took 2.0 % of a core, more than 1.0 %", "kernel.max_load"},
		{all, "kernel/nccl", "its start takes more than 5 s", "kernel-off"},
		{all, "kernel/rdma", "there is no RDMA device", ""},
		{all, "kernel/sock", "it is not known which processes are on GPUs: nothing is counted until the driver lists them", "see gpu"},
		{none, "job/environ", "the environments of 2 processes may not be read (permission denied): those of other users need both CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", "DAC_READ_SEARCH"},
		{none, "job/podresources", "there is no /var/lib/kubelet/pod-resources here: on a node of Kubernetes mount that directory", "hostPath"},
		{none, "job/podresources", "/x/kubelet.sock may not be opened: the kubelet's sockets are root's, so run the agent as root", "sockets are root's"},
		{none, "job/slurm", "there is no /run/flopwatch/slurm: on a node of Slurm, install deploy/slurm/prolog-flopwatch.sh", "Prolog="},
		{none, "job/slurm", "1 files are refused, and name no holder: /x/1: line 1: it has to be \"flopwatch-slurm 1\"", "the prolog alone"},
		{none, "gpu", "the processes on the GPUs are not in /proc: run the agent in the host's PID namespace (hostPID)", "hostPID: true"},
		{none, "gpu", "cannot start /nonexist: no such file or directory; install flopwatch-nvml beside the agent, or set [gpu] child", "gpu.child"},
		{none, "gpu", "NVIDIA's library cannot be loaded: /x.so: invalid ELF header; install NVIDIA's driver, set [gpu] library to the file", "gpu.library"},
		{none, "gpu", "NVIDIA's library refuses: NVIDIA's kernel driver is not loaded; load it (modprobe nvidia)", "modprobe nvidia"},
		{none, "gpu/GPU-1", "it is not known which processes are on it: nvmlDeviceGetComputeRunningProcesses: no permission", "mig.conf"},
		{none, "gpu/events", "nvmlEventSetWait does not come back, though it has a time limit: a call into the driver hangs; Xid and ECC errors are not told as they happen", "kernel's log"},
		{none, "gpu/events", "the driver's library has no functions for events: Xid and ECC errors are not told as they happen", ""},
		{none, "gpu/GPU-1", "it was asked and does not answer; a call into the driver hangs", "kernel's log"},
		{none, "fabric", "list network devices (is sysfs mounted at /nonexist?): open /nonexist/class/net: no such file or directory", "host.sysfs"},
		{none, "bmc/n", "the controller at https://a refuses the account in /c: it answers 401 (Unauthorized)", "credentials_file"},
		{none, "bmc/n", "the controller at https://a cannot be read: its certificate is signed by nobody that is trusted here: set ca_file, or fingerprint", "ca_file"},
		{none, "bmc/n", "the host's own controller cannot be read: there is no /dev/ipmi0: load ipmi_si and ipmi_devintf, or name the controller's address", "modprobe ipmi_si"},
		{none, "bmc/n", "the controller has no report ProcessorGPMMetrics", "firmware"},
		{none, "passthrough", "2 GPUs are passed through to guests; NVML sees nothing here; configure [bmc]", "[[bmc.target]]"},
		{none, "passthrough", "which GPUs there are is not seen: list PCI devices: open /sys/bus/pci/devices: no such file or directory: is sysfs mounted at /sys?", "host.sysfs"},
		{none, "bmc/n", "the controller at https://10.0.0.1 cannot be read: dial tcp 10.0.0.1:443: connect: connection refused; IPMI is not asked without an account of its own: name it in ipmi_credentials_file, or take method dcmi", "ipmi_credentials_file"},
		{all, "kernel/nccl", "it is not known which processes are on GPUs: NCCL that is linked into a program, or hidden, is not noticed until the driver lists them", "see gpu"},
		{none, "host/cpu", "x", ""},
	} {
		if got := Remedy(c.instrument, source.Degraded, c.reason, c.p); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s, %q: %q", c.instrument, c.reason, got)
		}
	}
	if got := Remedy("kernel/nccl", source.Active, "CAP_BPF", none); got != "" {
		t.Errorf("what is well needs %q", got)
	}
}
