package sock

import (
	"net"
	"net/netip"
	"strings"
)

// inner are the beginnings of names of network devices whose addresses are the same on
// many hosts, as bridges of container engines: they say nothing about who is who.
var inner = []string{"lo", "docker", "br-", "cni", "virbr", "lxc", "lxd", "podman", "cali", "flannel", "veth", "nerdctl", "kube-", "nodelocaldns", "dummy"}

// hostAddresses appends the addresses of the agent's network namespace.
func hostAddresses(to []netip.Addr) []netip.Addr {
	devices, err := net.Interfaces()
	if err != nil {
		return to // nothing is told: absent is not none
	}
	for i := range devices {
		if local(devices[i].Name) || devices[i].Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := devices[i].Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && useful(ip.Unmap()) {
					to = append(to, ip.Unmap())
				}
			}
		}
	}
	return to
}

func local(device string) bool {
	for _, p := range inner {
		if strings.HasPrefix(device, p) {
			return true
		}
	}
	return false
}

// useful reports whether an address may be one that peers see.
func useful(a netip.Addr) bool { return a.IsGlobalUnicast() }
