package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Capability is a privilege of the kernel's and what the agent would do with it.
type Capability struct {
	Name string `json:"name"`
	Have bool   `json:"have"`
	For  string `json:"for"`
}

// wanted is every capability that something of the agent can use. None is needed for GPUs,
// the fabric, jobs by control groups, or the host.
var wanted = []struct {
	bit  uint
	name string
	use  string
}{
	{unix.CAP_BPF, "CAP_BPF", "[kernel]: load programs (with CAP_PERFMON)"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "[kernel]: attach them to libnccl, exec and sockets (with CAP_BPF; Linux 6.6 or later)"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "[kernel]: find libnccl in containers, read communicators; [job] environ"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "[job] environ; checkpoints without iterators; a libnccl that its user keeps from others"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "[kernel] before Linux 6.6 alone; nothing else: do not grant it on a newer one"},
}

// Privileges is who this process is and what it may do.
type Privileges struct {
	UID          int          `json:"uid"`
	Capabilities []Capability `json:"capabilities"`
	Kernel       string       `json:"kernel"`
	BTF          bool         `json:"btf"`                // the kernel tells its types: programs fit it
	Lockdown     string       `json:"lockdown,omitempty"` // none, integrity, confidentiality
}

// ReadPrivileges reads them from procfs and sysfs.
func ReadPrivileges(procfs, sysfs string) (Privileges, error) {
	p := Privileges{UID: os.Geteuid()}
	path := filepath.Join(procfs, "self/status")
	text, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("read own privileges: %w", err)
	}
	effective, err := parseEffective(string(text))
	if err != nil {
		return p, fmt.Errorf("read own privileges: %s: %w", path, err)
	}
	for _, w := range wanted {
		p.Capabilities = append(p.Capabilities, Capability{Name: w.name, Have: effective>>w.bit&1 == 1, For: w.use})
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return p, fmt.Errorf("read the kernel's version: %w", err)
	}
	p.Kernel = unix.ByteSliceToString(u.Release[:])
	if _, err := os.Stat(filepath.Join(sysfs, "kernel/btf/vmlinux")); err == nil {
		p.BTF = true
	}
	if text, err := os.ReadFile(filepath.Join(sysfs, "kernel/security/lockdown")); err == nil {
		if _, rest, ok := strings.Cut(string(text), "["); ok {
			p.Lockdown, _, _ = strings.Cut(rest, "]")
		}
	}
	return p, nil
}

// parseEffective finds the effective capabilities in the text of /proc/PID/status.
func parseEffective(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			v, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("CapEff %q is no hexadecimal number", strings.TrimSpace(hex))
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("it has no line CapEff")
}
