package job

import (
	"bytes"
	"slices"
	"strings"
)

// Names of job sources.
const (
	sourceSlurm      = "slurm"
	sourcePBS        = "pbs"
	sourceKubernetes = "kubernetes"
	sourceLibvirt    = "libvirt"
	sourceDocker     = "docker"
	sourcePodman     = "podman"
	sourceContainerd = "containerd"
	sourceLXC        = "lxc"
	sourceSystemd    = "systemd"
)

// owner is what a process's control groups say about whose it is.
type owner struct {
	source string // "": nothing is known
	id     string // "": the source is known, the job is not
	step   string // of a Slurm job
	slurm  string // Slurm's node name, where a host runs several slurmd
	own    bool   // made by a user's own manager, who may name it as he likes
	// container is the innermost container that the path names, by the first digits of its id.
	container string
}

// rank orders sources where several lines, or parts of one path, name one: who starts
// jobs counts more than what they run in.
func (o owner) rank() int {
	r := 0
	switch o.source {
	case sourceSlurm, sourcePBS, "htcondor", "lsf":
		r = 7
	case sourceKubernetes:
		r = 6
	case sourceLibvirt:
		r = 5
	case sourceDocker, sourcePodman:
		r = 4
	case sourceContainerd, sourceLXC:
		r = 3
	case sourceSystemd:
		r = 1
	}
	if r > 1 && o.id != "" {
		r += 10 // a job that is named, before one that is not
	}
	return r
}

// maxCgroup bounds what is read of /proc/PID/cgroup: some 14 hierarchies of 4 KiB paths.
const maxCgroup = 64 << 10

// parseCgroup reads /proc/PID/cgroup. Every line is looked at: a job may be in one
// hierarchy alone.
func parseCgroup(b []byte) owner {
	var best owner
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		_, rest, ok := bytes.Cut(line, []byte{':'}) // hierarchy:controllers:path
		if !ok {
			continue
		}
		_, path, ok := bytes.Cut(rest, []byte{':'})
		if !ok || len(path) <= 1 {
			continue
		}
		if o := parsePath(string(path)); o.rank() > best.rank() {
			best = o
		}
	}
	return best
}

// parsePath reads one path of a control group.
func parsePath(path string) owner {
	path = strings.TrimSuffix(path, " (deleted)")
	var best owner
	consider := func(o owner) {
		if o.rank() > best.rank() { // of equals the outermost: what is inside it, it made itself
			best = o
		}
	}
	// Below user@N.service a user makes groups as he likes: a Slurm job or a pod there is
	// his own invention.
	own := false
	scope, unit, container := "", "", ""
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, p := range parts {
		if isUserManager(p) {
			own = true
		}
		if !own {
			consider(slurmAt(parts, i))
			consider(pbsAt(parts, i))
			consider(podAt(p))
			consider(machineAt(parts, i))
		}
		if c := containerAt(parts, i); c.source != "" {
			c.own = own
			consider(c)
		}
		if id := containerID(p); id != "" {
			container = id
		}
		switch {
		case strings.HasSuffix(p, ".service") && !isUserManager(p):
			unit = p
		case strings.HasSuffix(p, ".scope") && p != "init.scope" && !strings.HasPrefix(p, "session-"):
			scope = p
		}
	}
	if unit == "" {
		unit = scope // a service may hold scopes of its own making
	}
	switch name := unescape(unit); {
	case name == "" || slices.Contains(noJob, name):
	case strings.HasSuffix(name, "_slurmstepd.scope"):
		consider(owner{source: sourceSlurm})
	case batchUnits[name] != "":
		consider(owner{source: batchUnits[name]})
	default:
		consider(owner{source: sourceSystemd, id: name, own: own})
	}
	if best.source != "" && best.source != sourceSystemd {
		best.container = container
	}
	return best
}

// containerID reads the id of a container out of one component, whoever runs it.
func containerID(p string) string {
	if _, tail, ok := strings.Cut(p, ":"); ok { // kubepods-...slice:cri-containerd:ID
		p = tail[strings.LastIndexByte(tail, ':')+1:]
	}
	p = strings.TrimSuffix(p, ".scope")
	if at := len(p) - fullID; at >= 0 && isContainerID(p[at:]) && (at == 0 || p[at-1] == '-') && !strings.HasPrefix(p, "crio-conmon-") && !strings.HasPrefix(p, "libpod-conmon-") {
		return p[at : at+shortID]
	}
	return ""
}

// batchUnits are units of schedulers that made no group for the job: the unit holds every
// job of the host, so its name is none's.
var batchUnits = map[string]string{
	"slurmd.service": sourceSlurm, "slurmstepd.scope": sourceSlurm, "pbs.service": sourcePBS, "pbs_jobs.service": sourcePBS,
	"condor.service": "htcondor", "lsfd.service": "lsf",
}

// noJob are units below which many start what they like.
var noJob = []string{
	"ssh.service", "sshd.service", "cron.service", "crond.service", "atd.service", "docker.service", "containerd.service", "crio.service",
	"kubelet.service", "k3s.service", "k3s-agent.service", "podman.service", "snapd.service", "libvirtd.service",
}

func isUserManager(p string) bool {
	return strings.HasPrefix(p, "user@") && strings.HasSuffix(p, ".service")
}

// slurmAt reads a Slurm job at component i:
//
//	v1   slurm[_node]/uid_N/job_N/step_S/task_T
//	v2   [node_]slurmstepd.scope/job_N/step_S/user/task_T, since 26.05 sSLUID for job_N
func slurmAt(parts []string, i int) owner {
	p := parts[i]
	var node string
	rest := parts[i+1:]
	switch {
	case p == "slurm" || strings.HasPrefix(p, "slurm_"):
		if len(rest) < 2 || !isNumbered(rest[0], "uid_") {
			return owner{}
		}
		node = strings.TrimPrefix(strings.TrimPrefix(p, "slurm"), "_")
		rest = rest[1:]
	case p == "slurmstepd.scope" || strings.HasSuffix(p, "_slurmstepd.scope"):
		node = strings.TrimSuffix(strings.TrimSuffix(p, "slurmstepd.scope"), "_")
	default:
		return owner{}
	}
	if len(rest) == 0 {
		return owner{}
	}
	o := owner{source: sourceSlurm, slurm: node}
	switch {
	case isNumbered(rest[0], "job_"):
		o.id = strings.TrimPrefix(rest[0], "job_")
	case isSLUID(rest[0]):
		o.id = rest[0]
	default:
		return owner{} // "system": slurmd's own
	}
	if len(rest) > 1 {
		if step, ok := strings.CutPrefix(rest[1], "step_"); ok && len(step) <= 16 {
			o.step = step
		}
	}
	return o
}

// pbsAt reads an OpenPBS job: pbs_jobs[.service]/jobid/123.server.
func pbsAt(parts []string, i int) owner {
	if parts[i] != "jobid" || i == 0 || i+1 == len(parts) || strings.TrimSuffix(parts[i-1], ".service") != "pbs_jobs" || !isName(parts[i+1]) {
		return owner{}
	}
	return owner{source: sourcePBS, id: parts[i+1]}
}

// isSLUID reports whether p is a Slurm lexicographically-sortable unique id: "s" and
// thirteen digits of Crockford's base 32, as "s5K1KKYAYG5D00". The job's number cannot be
// derived from it; sacct and squeue take it as it is.
func isSLUID(p string) bool {
	if len(p) != 14 || p[0] != 's' {
		return false
	}
	for _, c := range []byte(p[1:]) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z' || c == 'I' || c == 'L' || c == 'O' || c == 'U') {
			return false
		}
	}
	return true
}

func isNumbered(p, prefix string) bool {
	digits, ok := strings.CutPrefix(p, prefix)
	return ok && len(digits) > 0 && len(digits) <= 10 && strings.Trim(digits, "0123456789") == ""
}

// podAt reads a pod's component: "podUID" with the cgroupfs driver,
// "kubepods[-qos]-podUID.slice" (dashes of the UID as underscores) with systemd, either with
// ":cri-containerd:ID" behind it, and "kubelet-kubepods-..." in kind. A static pod's UID
// is an MD5 without dashes.
func podAt(p string) owner {
	p, _, _ = strings.Cut(p, ":")
	var uid string
	if rest, ok := strings.CutSuffix(p, ".slice"); ok {
		at := strings.LastIndex(rest, "-pod")
		if at < 0 || !strings.Contains(rest[:at], "kubepods") {
			return containerOfPod(p)
		}
		uid = strings.ReplaceAll(rest[at+len("-pod"):], "_", "-")
	} else if uid, ok = strings.CutPrefix(p, "pod"); !ok {
		return containerOfPod(p)
	}
	if id, ok := normalUID(uid); ok {
		return owner{source: sourceKubernetes, id: id}
	}
	return owner{}
}

// containerOfPod knows runtimes that only a kubelet drives, in paths that begin inside a
// pod: the pod is not named there.
func containerOfPod(p string) owner {
	for _, prefix := range []string{"cri-containerd-", "crio-"} {
		if id, ok := strings.CutPrefix(strings.TrimSuffix(p, ".scope"), prefix); ok && isContainerID(id) {
			return owner{source: sourceKubernetes}
		}
	}
	return owner{}
}

// normalUID returns a pod's UID with dashes, in lower case.
func normalUID(s string) (string, bool) {
	s = strings.ToLower(s)
	hexa := strings.ReplaceAll(s, "-", "")
	if len(hexa) != 32 || strings.Trim(hexa, "0123456789abcdef") != "" {
		return "", false
	}
	if len(s) != 32 && (len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-') {
		return "", false
	}
	return hexa[:8] + "-" + hexa[8:12] + "-" + hexa[12:16] + "-" + hexa[16:20] + "-" + hexa[20:], true
}

// shortID is the length of a container's id as tools print it, fullID that of the whole.
const (
	shortID = 12
	fullID  = 64
)

func isContainerID(s string) bool {
	return len(s) == fullID && strings.Trim(s, "0123456789abcdef") == ""
}

// containerAt reads a container at component i.
func containerAt(parts []string, i int) owner {
	p := parts[i]
	if name, ok := strings.CutPrefix(p, "lxc.payload."); ok && isName(name) {
		return owner{source: sourceLXC, id: name}
	}
	if p == "lxc" && i+1 < len(parts) && isName(parts[i+1]) {
		return owner{source: sourceLXC, id: parts[i+1]}
	}
	if i > 0 && isContainerID(p) {
		switch parts[i-1] {
		case "docker":
			return owner{source: sourceDocker, id: p[:shortID]}
		case "default", "k8s.io", "moby", "buildkit":
			return owner{source: sourceContainerd, id: p[:shortID]}
		case "libpod_parent", "libpod":
			return owner{source: sourcePodman, id: p[:shortID]}
		}
		return owner{}
	}
	name := strings.TrimSuffix(p, ".scope")
	if _, tail, ok := strings.Cut(name, ":docker:"); ok { // system.slice:docker:ID
		name = "docker-" + tail
	}
	for _, r := range []struct{ prefix, source string }{
		{"docker-", sourceDocker}, {"libpod-payload-", sourcePodman}, {"libpod-", sourcePodman}, {"nerdctl-", sourceContainerd},
	} {
		if id, ok := strings.CutPrefix(name, r.prefix); ok && isContainerID(id) {
			return owner{source: r.source, id: id[:shortID]}
		}
	}
	return owner{}
}

// machineAt reads a virtual machine or an nspawn container, as systemd's machined and
// libvirt name them:
//
//	machine.slice/machine-qemu\x2d3\x2dNAME.scope[/libvirt/...]
//	machine[.slice]/qemu-3-NAME.libvirt-qemu
//	machine/NAME.libvirt-qemu
func machineAt(parts []string, i int) owner {
	p := parts[i]
	if name, ok := strings.CutSuffix(p, ".libvirt-qemu"); ok {
		return machine(unescape(name))
	}
	if name, ok := strings.CutPrefix(p, "machine-"); ok && strings.HasSuffix(name, ".scope") {
		name = unescape(strings.TrimSuffix(name, ".scope"))
		if strings.HasPrefix(name, "qemu-") || strings.HasPrefix(name, "lxc-") {
			return machine(name)
		}
	}
	return owner{}
}

// machine takes the driver and the running number off a machine's name: they change with
// each start.
func machine(name string) owner {
	for _, driver := range []string{"qemu-", "lxc-"} {
		rest, ok := strings.CutPrefix(name, driver)
		if !ok {
			continue
		}
		if number, tail, cut := strings.Cut(rest, "-"); cut && number != "" && strings.Trim(number, "0123456789") == "" {
			name = tail
		}
	}
	if !isName(name) {
		return owner{}
	}
	return owner{source: sourceLibvirt, id: name}
}

// maxName bounds names that become a job's id.
const maxName = 128

// isName reports whether s can be told as a name: printable ASCII without blanks.
func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// unescape undoes systemd's \xNN in unit names; what then is no name is "".
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			hi, lo := strings.IndexByte(hexDigits, s[i+2]), strings.IndexByte(hexDigits, s[i+3])
			if hi >= 0 && lo >= 0 {
				out.WriteByte(byte(hi<<4 | lo))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	if !isName(out.String()) {
		return ""
	}
	return out.String()
}

const hexDigits = "0123456789abcdef"
