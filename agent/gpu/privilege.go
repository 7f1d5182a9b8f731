package gpu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// agentsOwn are the capabilities that a host may grant the agent, for other instruments.
var agentsOwn = []uint{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH, unix.CAP_NET_ADMIN}

// shed takes from the calling thread what a program that it starts must not get: NVIDIA's
// library has no use for the agent's capabilities. A user's program gets those of the ambient
// set, and no call beyond this one is needed: the unit's filter refuses capset. Root's gets all
// that its bounds leave, whatever the thread has, unless it may gain no privilege: then it
// gets at most what the thread has.
func shed() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities for flopwatch-nvml: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("hold flopwatch-nvml to no new privileges: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // of capabilities 0 to 31, 32 to 63
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, c := range agentsOwn {
		keep := ^(uint32(1) << (c % 32))
		s := &sets[c/32]
		s.Effective, s.Permitted, s.Inheritable = s.Effective&keep, s.Permitted&keep, s.Inheritable&keep
	}
	if err := unix.Capset(&head, &sets[0]); err != nil {
		return fmt.Errorf("lower capabilities for flopwatch-nvml: %w", err)
	}
	return nil
}
