package doctor

import (
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
)

// remedy is what helps where an instrument says certain words.
type remedy struct {
	instrument string // or the beginning of its name, up to a slash
	words      []string
	text       string
}

const (
	grantKernel = "grant CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, on Linux 6.6 or later: systemd: the drop-in kernel.conf beside the programs (its head says how); " +
		"Kubernetes: securityContext.capabilities.add [BPF, PERFMON, SYS_PTRACE] and hostPID"
	grantLook = "grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: systemd: the drop-in kernel.conf beside the programs, with its last lines; " +
		"Kubernetes: securityContext.capabilities.add [SYS_PTRACE, DAC_READ_SEARCH] and hostPID"
	grantPIDs = "let the agent see the host's processes: Kubernetes: hostPID: true; docker: --pid=host"
)

// remedies are looked through in order: the first that fits counts.
var remedies = []remedy{
	{"kernel", []string{"switched off by"}, "remove the file, or set the key, that switches it off"},
	{"kernel", []string{"hostPID"}, grantPIDs},
	{"job", []string{"hostPID"}, grantPIDs},
	{"gpu", []string{"hostPID"}, grantPIDs},
	{"kernel", []string{"no RDMA"}, ""}, // nothing is missing
	{"kernel", []string{"takes more than", "more than max_load", "of a core"}, "it comes back by itself; raise kernel.max_load if the cost is wanted"},
	{"kernel", []string{"BTF", "CONFIG_"}, "a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y), as distributions have had since 2021"},
	{"kernel", []string{"EPERM", "EACCES", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"}, grantKernel},
	{"kernel", []string{"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}, grantLook},
	{"kernel", []string{"which processes are on GPUs"}, "see gpu: programs in the kernel follow the processes that the driver lists"},
	{"job/environ", []string{"CAP_"}, grantLook},
	{"job/podresources", []string{"permission denied"}, "the kubelet's sockets are root's: run the agent as root in a container of its own, or leave it: jobs are found by control groups too"},
	{"job/pods_api", []string{"permission denied"}, "the kubelet's sockets are root's: run the agent as root in a container of its own, or leave it: jobs are found by control groups too"},
	{"job/podresources", []string{"there is no", "is not there", "no such service"}, "on a node of Kubernetes: a hostPath mount of the directory (not the socket, which the kubelet makes anew); elsewhere job.podresources = \"\""},
	{"job/pods_api", []string{"there is no", "is not there", "no such service"}, "from Kubernetes 1.37 on: a hostPath mount of the directory; elsewhere job.pods_api = \"\""},
	{"job/slurm", []string{"there is no"}, "on a node of Slurm: Prolog= and Epilog= of slurm.conf (deploy/slurm/README.md); elsewhere job.slurm_dir = \"\""},
	{"job", []string{"no list of the GPUs' processes"}, "see gpu"},
	{"gpu/events", []string{"has no functions", "as on virtual ones"}, ""},
	{"gpu/events", []string{"permission", "not supported"}, "give the agent's user /dev/nvidiactl and /dev/nvidia* for reading and writing; on virtual GPUs there are no events"},
	{"gpu/events", []string{"hangs", "tried again"}, "look at the kernel's log (Xid): the driver or a GPU may need a reset"},
	{"gpu", []string{"flopwatch-nvml: no such file", "start flopwatch-nvml"}, "put flopwatch-nvml beside flopwatch-agent, or name it in gpu.child"},
	{"gpu", []string{"library", "libnvidia-ml"}, "install NVIDIA's driver, or name its library in gpu.library; Kubernetes: the nvidia runtime class with NVIDIA_DRIVER_CAPABILITIES=utility"},
	{"gpu", []string{"lacks GPM"}, "a driver of 2023 or later (R535)"},
	{"gpu", []string{"do not answer", "are lost", "is lost", "does not list it"}, "look at the kernel's log (Xid); a GPU that is lost comes back with a reset or a restart of the host"},
	{"fabric/vf", []string{"no virtual function"}, ""},
	{"fabric", []string{"hostNetwork", "netlink"}, "Kubernetes: mount the host's /sys, read-only, and name it in host.sysfs, or hostNetwork: true"},
	{"bmc", []string{"refuses the account"}, "put user and password of a read-only account into credentials_file"},
	{"bmc", []string{"certificate"}, "name the authority in ca_file, or the certificate's SHA-256 in fingerprint"},
	{"bmc", []string{"does not answer", "connection refused", "no route", "no such host", "cannot be read"}, "look at the address, and whether this host may reach the management network"},
	{"bmc", []string{"no report"}, "look at the controller's firmware: older ones of HGX boards lack the GPM report"},
	{"bmc", []string{"not asked yet"}, "look for longer: -seconds 30"},
	{"passthrough", []string{"[bmc]", "guest", "vfio"}, "ask the host's management controller: a [[bmc.target]] whose node is this host's name"},
}

// Remedy says what helps where an instrument is not active; "": nothing that is known, or
// nothing is missing.
func Remedy(instrument string, state source.State, reason string) string {
	if state == source.Active || reason == "" {
		return ""
	}
	for _, r := range remedies {
		if instrument != r.instrument && !strings.HasPrefix(instrument, r.instrument+"/") {
			continue
		}
		if slices.ContainsFunc(r.words, func(w string) bool { return strings.Contains(reason, w) }) {
			return r.text
		}
	}
	return ""
}
