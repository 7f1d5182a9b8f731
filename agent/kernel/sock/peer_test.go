package sock

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks/tasktest"
)

func TestMain(m *testing.M) {
	switch tasktest.Role() {
	case "peer":
		if err := servePeer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "apart":
		if err := tasktest.OwnPIDs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "hidden":
		if err := tasktest.HideBTF(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const port = 4711

// servePeer is the other host: for each connection it reads what the head says, sends what
// it says, and closes first, or last.
func servePeer() error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = answer(c) }()
		}
	}()
	fmt.Println("ready")
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil // the test has ended
		}
		if err != nil {
			return err
		}
		var to string
		var n int64
		if _, err = fmt.Sscanf(line, "send %s %d", &to, &n); err != nil {
			return err
		}
		c, err := net.Dial("tcp", to)
		if err != nil {
			return err
		}
		if _, err = io.CopyN(c, zeros{}, n); err != nil {
			return err
		}
		if err = c.Close(); err != nil {
			return err
		}
		fmt.Println("sent")
	}
}

// head asks a peer for something; it is 24 bytes.
type head struct{ read, send, last uint64 }

const headBytes = 24

func answer(c net.Conn) error {
	defer c.Close()
	b := make([]byte, headBytes)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		h := head{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
		if _, err := io.CopyN(io.Discard, c, int64(h.read)); err != nil {
			return err
		}
		if _, err := io.CopyN(c, zeros{}, int64(h.send)); err != nil {
			return err
		}
		if h.last == 0 {
			return nil
		}
	}
}

func (h head) ask(t testing.TB, c net.Conn) {
	t.Helper()
	b := binary.BigEndian.AppendUint64(nil, h.read)
	b = binary.BigEndian.AppendUint64(b, h.send)
	b = binary.BigEndian.AppendUint64(b, h.last)
	_, err := c.Write(b)
	if err == nil {
		_, err = io.CopyN(c, zeros{}, int64(h.read))
	}
	if err == nil {
		_, err = io.CopyN(io.Discard, c, int64(h.send))
	}
	if err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// peer is a process in a network namespace of its own, as a pod or another host is.
type peer struct {
	pid            int
	own4, own6     string // of this side
	peer4, peer6   string
	in             io.WriteCloser
	out            *bufio.Reader
	cmd            *exec.Cmd
	device, remote string
}

// newPeer starts one. n tells the networks of tests apart.
func newPeer(t testing.TB, n int) *peer {
	t.Helper()
	p := &peer{own4: fmt.Sprintf("10.203.%d.1", n), peer4: fmt.Sprintf("10.203.%d.2", n), own6: fmt.Sprintf("fd03:203:%d::1", n), peer6: fmt.Sprintf("fd03:203:%d::2", n),
		device: fmt.Sprintf("fwt%d", n), remote: fmt.Sprintf("fwr%d", n)}
	p.cmd = tasktest.Command(t, "peer", "None")
	p.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err = p.cmd.Start(); err != nil {
		kerneltest.Need(t, "a network namespace", err)
	}
	p.pid = p.cmd.Process.Pid
	t.Cleanup(func() {
		_ = in.Close()
		_ = p.cmd.Wait()
	})
	if err = p.connect(); err != nil {
		kerneltest.Need(t, "a pair of network devices", err)
	}
	p.say(t, "go", "ready")
	return p
}

func (p *peer) connect() error {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.device}, PeerName: p.remote, PeerNamespace: netlink.NsPid(p.pid)}
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	if err = here.LinkAdd(link); err != nil {
		return err
	}
	space, err := netns.GetFromPid(p.pid)
	if err != nil {
		return err
	}
	defer space.Close()
	there, err := netlink.NewHandleAt(space, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer there.Close()
	lo, err := there.LinkByName("lo")
	if err != nil {
		return err
	}
	if err = there.LinkSetUp(lo); err != nil {
		return err
	}
	for _, side := range []struct {
		h      *netlink.Handle
		name   string
		v4, v6 string
	}{{here, p.device, p.own4, p.own6}, {there, p.remote, p.peer4, p.peer6}} {
		l, err := side.h.LinkByName(side.name)
		if err != nil {
			return err
		}
		for _, a := range []string{side.v4 + "/24", side.v6 + "/64"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err = side.h.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		if err = side.h.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

// say sends a line and waits for the answer.
func (p *peer) say(t testing.TB, line, want string) {
	t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
	got, err := p.out.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != want {
		t.Fatalf("the peer says %q, want %q: %v", got, want, err)
	}
}

func (p *peer) dial(t testing.TB, host string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
