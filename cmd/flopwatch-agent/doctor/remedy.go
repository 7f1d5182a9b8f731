package doctor

import (
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
)

// remedy is what helps where an instrument says certain words. Instruments say reasons in
// sentences for people; a test holds each of these words to a text in the code that says it, so
// that whoever changes one hears of the other.
type remedy struct {
	instrument string // or the beginning of its name, up to a slash
	where      string // the folder whose code says the words; "": words of the kernel, or of NVIDIA's library
	words      []string
	when       func(p *Privileges) bool // nil: always
	text       string                   // "": nothing is missing, or the reason says it all
}

const (
	grantKernel = "grant CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, on Linux 6.6 or later: systemd: the drop-in kernel.conf beside the programs (its head says how); " +
		"Kubernetes: securityContext.capabilities.add [BPF, PERFMON, SYS_PTRACE] and hostPID"
	grantLook = "grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: systemd: the drop-in kernel.conf beside the programs, with its last lines; " +
		"Kubernetes: securityContext.capabilities.add [SYS_PTRACE, DAC_READ_SEARCH] and hostPID"
	grantFiles = "grant CAP_DAC_READ_SEARCH, or let others pass through the directories above the library (chmod o+x): systemd: the drop-in kernel.conf beside the programs, with its last lines; " +
		"Kubernetes: securityContext.capabilities.add [DAC_READ_SEARCH]"
	grantPIDs   = "let the agent see the host's processes: Kubernetes: hostPID: true; docker: --pid=host"
	grantedYet  = "the capabilities are there and something else refuses: lockdown confidentiality, or a container's seccomp or AppArmor profile (deploy/README.md)"
	kernelBTF   = "a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y), as distributions have had since 2021; in a container, the host's /sys/kernel/btf"
	kernelNewer = "a newer kernel: Linux 6.6 is the floor for all of [kernel] (deploy/README.md)"
	kubeletRoot = "the kubelet's sockets are root's: run the agent as root in a container of its own, or leave it: jobs are found by control groups too"
	libraryPath = "install NVIDIA's driver, or name its library in gpu.library; Kubernetes: the nvidia runtime class with NVIDIA_DRIVER_CAPABILITIES=utility"
)

// refusedBy are the kernel's names for want of a privilege, as the instrument "kernel" writes them.
var refusedBy = []string{"(EPERM, ", "(EACCES, "}

func noBTF(p *Privileges) bool { return !p.BTF }

// unprivileged: programs cannot be loaded for want of a privilege.
func unprivileged(p *Privileges) bool {
	for _, c := range p.Capabilities {
		if (c.Name == "CAP_BPF" || c.Name == "CAP_PERFMON") && !c.Have {
			return true
		}
	}
	return false
}

func granted(p *Privileges) bool { return !unprivileged(p) }

// remedies are looked through in order: the first that fits counts.
var remedies = []remedy{
	{instrument: "kernel", where: "agent/kernel", words: []string{"switched off by "}, text: "remove the file, or set the key, that switches it off"},
	{instrument: "kernel", where: "agent/kernel", words: []string{"a process namespace of its own"}, text: grantPIDs},
	{instrument: "kernel", where: "agent/kernel/rdma", words: []string{"needs the host's process numbers"}, text: grantPIDs},
	{instrument: "kernel", where: "agent/kernel/rdma", words: []string{"the kernel has no RDMA subsystem", "there is no RDMA device"}},
	{instrument: "kernel", where: "agent/kernel", words: []string{"paused for "}, text: "it comes back by itself; raise kernel.max_load if the cost is wanted"},
	{instrument: "kernel", where: "agent/kernel", words: []string{"takes more than "}, text: "if it stays so, switch the feature off by an empty file of its name in data_dir/kernel-off: the rest goes on"},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"lost their probes for "}, text: "it comes back by itself; raise kernel.max_load if the cost is wanted"},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"map_files needs "}, text: "start the job again: the file of its library was replaced or removed while it runs"},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"needs CAP_DAC_READ_SEARCH"}, text: grantFiles},
	{instrument: "kernel", where: "agent/kernel/probe", words: []string{"programs and maps as locked memory"}, text: "LimitMEMLOCK=infinity in a drop-in of the unit: the last line of kernel.conf"},
	{instrument: "kernel", where: "agent/kernel/file", words: []string{"could not be looked into: needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"}, text: grantLook},
	{instrument: "kernel", where: "agent/kernel/proc", words: []string{"(needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)"}, text: grantLook},
	{instrument: "kernel", where: "agent/kernel/sock", words: []string{"needs CAP_SYS_PTRACE and CAP_SYS_ADMIN"}, when: unprivileged, text: grantKernel},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"needs CAP_SYS_PTRACE"}, text: grantKernel},
	{instrument: "kernel", words: refusedBy, when: unprivileged, text: grantKernel},
	{instrument: "kernel", words: refusedBy, when: granted, text: grantedYet},
	{instrument: "kernel", where: "agent/kernel", words: []string{"BPF programs cannot be loaded"}, when: noBTF, text: kernelBTF},
	{instrument: "kernel", where: "agent/kernel/sock", words: []string{"neither BPF programs nor sock_diag work"}, when: noBTF, text: kernelBTF},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"files are not known by their real inode"}, when: noBTF, text: kernelBTF},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"programs at functions of user space are refused", "uprobe_multi is refused"}, text: kernelNewer},
	{instrument: "kernel", where: "agent/kernel", words: []string{"BPF programs cannot be loaded"}, text: kernelNewer},
	{instrument: "kernel", where: "agent/kernel/nccl", words: []string{"it is not known which processes are on GPUs"}, text: "see gpu: programs in the kernel follow the processes that the driver lists"},
	{instrument: "kernel", where: "agent/kernel/file", words: []string{"it is not known of all GPUs which processes are on them"}, text: "see gpu: programs in the kernel follow the processes that the driver lists"},
	{instrument: "kernel", where: "agent/kernel/proc", words: []string{"it is not known which processes are on GPUs"}, text: "see gpu: programs in the kernel follow the processes that the driver lists"},
	{instrument: "kernel", where: "agent/kernel/sock", words: []string{"it is not known which processes are on GPUs"}, text: "see gpu: programs in the kernel follow the processes that the driver lists"},

	{instrument: "job", where: "agent/job", words: []string{"the agent is in a PID namespace of its own", "the agent has to be in the PID namespace"}, text: grantPIDs},
	{instrument: "job/environ", where: "agent/job", words: []string{"may not be read ("}, text: grantLook},
	{instrument: "job/podresources", where: "agent/job", words: []string{" may not be opened: "}, text: kubeletRoot},
	{instrument: "job/pods_api", where: "agent/job", words: []string{" may not be opened: "}, text: kubeletRoot},
	{instrument: "job/podresources", where: "agent/job", words: []string{"on a node of Kubernetes", " is not there: ", "nobody listens on ", "the kubelet has no such service"},
		text: "on a node of Kubernetes: a hostPath mount of the directory (not the socket, which the kubelet makes anew); elsewhere job.podresources = \"\""},
	{instrument: "job/pods_api", where: "agent/job", words: []string{"on a node of Kubernetes", " is not there: ", "nobody listens on ", "the kubelet has no such service"},
		text: "from Kubernetes 1.37 on: a hostPath mount of the directory; elsewhere job.pods_api = \"\""},
	{instrument: "job/slurm", where: "agent/job", words: []string{"on a node of Slurm"}, text: "on a node of Slurm: Prolog= and Epilog= of slurm.conf (deploy/slurm/README.md); elsewhere job.slurm_dir = \"\""},
	{instrument: "job/slurm", where: "agent/job", words: []string{"files are refused"}, text: "the prolog alone writes there, as root (deploy/slurm/README.md): remove what else is in it"},
	{instrument: "job/dcgm_mapping", where: "agent/job", words: []string{"name the directory that the site's prolog writes"}, text: "name that directory in job.hpc_dir; where there is none job.hpc_dir = \"\""},
	{instrument: "job", where: "agent/job", words: []string{"the status of gpu says why"}, text: "see gpu"},

	{instrument: "gpu/events", where: "agent/gpu", words: []string{"has no functions", "as on virtual ones"}},
	{instrument: "gpu/events", words: []string{"permission", "not supported"}, text: "give the agent's user /dev/nvidiactl and /dev/nvidia* for reading and writing; on virtual GPUs there are no events"},
	{instrument: "gpu/events", where: "agent/gpu", words: []string{"hangs", "tried again"}, text: "look at the kernel's log (Xid): the driver or a GPU may need a reset"},
	{instrument: "gpu", where: "agent/gpu", words: []string{"in the host's PID namespace"}, text: grantPIDs},
	{instrument: "gpu", where: "agent/gpu", words: []string{"it is not known which processes are on it: "},
		text: "of a GPU that MIG splits, where a permission is wanting: the drop-in mig.conf beside the programs (its head says how); else a later driver. Who holds it is told by schedulers all the same"},
	{instrument: "gpu", where: "agent/gpu", words: []string{"install flopwatch-nvml beside the agent"}, text: "put flopwatch-nvml beside flopwatch-agent, or name it in gpu.child"},
	{instrument: "gpu", where: "agent/gpu", words: []string{"install both from one release"}, text: "install flopwatch-agent and flopwatch-nvml together: make install COMPONENTS=agent"},
	{instrument: "gpu", where: "agent/gpu", words: []string{"NVIDIA's library cannot be loaded: "}, text: libraryPath},
	{instrument: "gpu", where: "agent/gpu/nvml", words: []string{"NVIDIA's kernel driver is not loaded"}, text: "modprobe nvidia, or restart the host after an upgrade; a host without GPUs: [gpu] enabled = false"},
	{instrument: "gpu", where: "agent/gpu", words: []string{"NVIDIA's driver sees no GPU on this host"},
		text: "look at passthrough: GPUs that are bound to vfio-pci are guests'; in a container, give it the device files (NVIDIA_VISIBLE_DEVICES=all)"},
	{instrument: "gpu", where: "agent/gpu", words: []string{") lacks GPM, "}, text: "a driver of 2023 or later (R535)"},
	{instrument: "gpu", where: "agent/gpu", words: []string{"do not answer and ", "GPUs are lost", "does not answer; a call into the driver hangs", "the driver does not list it any more"},
		text: "look at the kernel's log (Xid); a GPU that is lost comes back with a reset or a restart of the host"},

	{instrument: "fabric/vf", where: "agent/fabric", words: []string{"no virtual function is in use by a guest"}},
	{instrument: "fabric", where: "agent/fabric", words: []string{"(hostNetwork)", "cannot ask the kernel for the counters of its virtual functions", "is sysfs mounted at "},
		text: "Kubernetes: mount the host's /sys, read-only, and name it in host.sysfs, or hostNetwork: true"},

	{instrument: "bmc", where: "agent/bmc", words: []string{wordsRefused}, text: "put user and password of a read-only account into credentials_file"},
	{instrument: "bmc", where: "agent/bmc", words: []string{"IPMI is not asked without an account of its own"},
		text: "look at the address; where the controller has no Redfish, an account for IPMI alone in ipmi_credentials_file, or method = \"dcmi\" (deploy/README.md)"},
	{instrument: "bmc", where: "agent/bmc", words: []string{"its certificate "}, text: "name the authority in ca_file, or the certificate's SHA-256 in fingerprint"},
	{instrument: "bmc", where: "agent/bmc", words: []string{"there is no /dev/ipmi0"}, text: "modprobe ipmi_si ipmi_devintf and let the agent's user open it (deploy/README.md), or name the controller's address"},
	{instrument: "bmc", where: "agent/bmc", words: []string{"does not answer within "}, text: "look at the address, and whether this host may reach the management network"},
	{instrument: "bmc", where: "agent/bmc", words: []string{"has neither reports of GPUs", "the controller has no report "}, text: "look at the controller's firmware: older ones of HGX boards lack the GPM report"},
	{instrument: "bmc", where: "agent/bmc", words: []string{wordsCannotBeRead}, text: "look at the address, and whether this host may reach the management network; of a single report, at the controller's firmware"},
	{instrument: "bmc", where: "agent/bmc", words: []string{wordsNotAsked}, text: "look for longer: -seconds 30"},

	{instrument: "passthrough", where: "agent/bmc", words: []string{"configure [bmc]"}, text: "ask the host's management controller: a [[bmc.target]] whose node is this host's name"},
	{instrument: "passthrough", where: "agent/bmc", words: []string{"is sysfs mounted at "}, text: "Kubernetes: mount the host's /sys, read-only, and name it in host.sysfs"},
}

// wordsNotKnownYet are the doctor's own, of what has not spoken.
const wordsNotKnownYet = "not known yet"

// Words of agent/bmc that say more than what helps: see controllers. The test holds them too.
const (
	wordsNotAsked     = "was not asked yet"
	wordsRefused      = " refuses the account in "
	wordsCannotBeRead = " cannot be read: "
)

// Remedy says what helps where an instrument is not active, to a process that may do what p says;
// "": nothing that is known, or nothing is missing.
func Remedy(instrument string, state source.State, reason string, p *Privileges) string {
	if state == source.Active || reason == "" {
		return ""
	}
	if strings.HasPrefix(reason, wordsNotKnownYet+": ") {
		return "look for longer: -seconds 60"
	}
	for _, r := range remedies {
		if instrument != r.instrument && !strings.HasPrefix(instrument, r.instrument+"/") || r.when != nil && !r.when(p) {
			continue
		}
		if slices.ContainsFunc(r.words, func(w string) bool { return strings.Contains(reason, w) }) {
			return r.text
		}
	}
	return ""
}
