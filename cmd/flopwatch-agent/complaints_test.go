package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// inetSockets are the internet sockets of a process, as "tcp 127.0.0.1:9469 LISTEN".
func inetSockets(t *testing.T, pid int) (list []string) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("no descriptors of %d: %v", pid, err)
	}
	mine := map[string]bool{}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if os.IsNotExist(err) {
			continue // no IPv6 here
		}
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			w := strings.Fields(s.Text())
			if len(w) < 10 || !mine[w[9]] {
				continue
			}
			kind := "CONNECTED"
			if w[3] == "0A" {
				kind = "LISTEN"
			}
			at := w[2]
			if kind == "LISTEN" {
				at = w[1]
			}
			list = append(list, fmt.Sprintf("%s %s %s", table, address(t, at), kind))
		}
		_ = f.Close()
	}
	return list
}

// address reads an address of /proc/net: words of 32 bits in the machine's order.
func address(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		t.Fatalf("address %q: %v", text, err)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	var n uint16
	if _, err = fmt.Sscanf(port, "%x", &n); err != nil {
		t.Fatal(err)
	}
	ip, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip.Unmap(), n)
}

// Others listen on every address (gpud: 0.0.0.0:15132), update themselves, answer commands, and
// show profiles to whoever asks. The agent as it is shipped for a host listens on the loopback
// alone, speaks to its broker alone, and its child to nobody. In a pod it listens on all addresses
// of the pod's network: deploy.TestPodListensInItsOwnNetwork.
func TestSocketsOfTheAgent(t *testing.T) {
	child(t)
	if ip, err := netip.ParseAddrPort(defaults().Metrics.Listen); err != nil || !ip.Addr().IsLoopback() {
		t.Errorf("by default the agent listens on %s: %v", defaults().Metrics.Listen, err)
	}
	dir := t.TempDir()
	library, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 2, uint32(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	nc, url := testenv.NATS(t)
	c := collect(t, nc)
	metrics := freePort(t)
	p := start(t, write(t, fast(t.TempDir(), url, fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\ngpu = true\n[gpu]\nlibrary = %q\n", metrics, library))))
	eventually(t, "frames", func() bool { return c.count() >= 3 && metric(t, metrics, "flopwatch_agent_nvml_readings_total ") > 4 }, p.log.String)

	broker := url[strings.LastIndex(url, "@")+1:]
	listening, connected := 0, 0
	for _, s := range inetSockets(t, p.cmd.Process.Pid) {
		switch {
		case s == fmt.Sprintf("tcp 127.0.0.1:%d LISTEN", metrics):
			listening++
		case s == "tcp "+broker+" CONNECTED":
			connected++
		case strings.HasPrefix(s, "tcp 127.0.0.1:") && strings.HasSuffix(s, " CONNECTED"): // this test, which looks at the page
		default:
			t.Errorf("socket %s", s)
		}
	}
	if listening != 1 || connected != 1 {
		t.Errorf("%d listening, %d to %s: %v", listening, connected, broker, inetSockets(t, p.cmd.Process.Pid))
	}
	if s := inetSockets(t, childOf(t, p.cmd.Process.Pid, "flopwatch-nvml")); len(s) > 0 {
		t.Errorf("the child has sockets: %v", s)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/reboot", "/v1/states"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", metrics, path), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%s answers %d", path, resp.StatusCode)
		}
	}
	p.stop()
}
