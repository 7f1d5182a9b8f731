package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// place is where a process runs: a network namespace with an address of its own or, without
// root, this machine's loopback.
type place struct {
	name, ns, ip string
	fd           *os.File // of the namespace; nil: this process's own
}

// network joins places by a namespace that routes between them, and that can be told not to.
type network struct {
	hub    string // "": everybody is on the loopback, and nothing can be parted
	places map[string]*place
	rules  [][]string // that part places now
}

// ip runs iproute2's command.
func ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// openNetwork makes the places. prefix keeps names of several worlds apart.
func openNetwork(ctx context.Context, prefix string, apart bool, names ...string) (_ *network, err error) {
	n := &network{places: map[string]*place{}}
	if !apart {
		for _, name := range names {
			n.places[name] = &place{name: name, ip: "127.0.0.1"}
		}
		return n, nil
	}
	n.hub = prefix + "hub"
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err = ip(ctx, "netns", "add", n.hub); err != nil {
		return nil, err
	}
	steps := [][]string{{"-n", n.hub, "link", "set", "lo", "up"}, {"netns", "exec", n.hub, "sysctl", "-qw", "net.ipv4.ip_forward=1"}}
	for i, name := range names {
		p := &place{name: name, ns: prefix + name, ip: fmt.Sprintf("10.213.%d.2", 100+i)}
		n.places[name] = p
		wire, gate := fmt.Sprintf("w%d", i), fmt.Sprintf("10.213.%d.1", 100+i)
		steps = append(steps, []string{"netns", "add", p.ns}, []string{"link", "add", wire, "netns", n.hub, "type", "veth", "peer", "name", "eth0", "netns", p.ns},
			[]string{"-n", n.hub, "addr", "add", gate + "/30", "dev", wire}, []string{"-n", n.hub, "link", "set", wire, "up"},
			[]string{"-n", p.ns, "addr", "add", p.ip + "/30", "dev", "eth0"}, []string{"-n", p.ns, "link", "set", "eth0", "up"}, []string{"-n", p.ns, "link", "set", "lo", "up"},
			[]string{"-n", p.ns, "route", "add", "default", "via", gate})
	}
	for _, s := range steps {
		if err = ip(ctx, s...); err != nil {
			return nil, err
		}
	}
	for _, p := range n.places {
		if p.fd, err = os.Open("/run/netns/" + p.ns); err != nil {
			return nil, fmt.Errorf("open namespace: %w", err)
		}
	}
	return n, nil
}

func (n *network) close() error {
	if n.hub == "" {
		return nil
	}
	err := ip(context.Background(), "netns", "del", n.hub)
	for _, p := range n.places {
		if p.fd != nil {
			err = errors.Join(err, p.fd.Close(), ip(context.Background(), "netns", "del", p.ns))
		}
	}
	return err
}

// part lets nothing through from one place to another: how is blackhole, of which nobody hears,
// or unreachable, which is answered.
func (n *network) part(ctx context.Context, from, to, how string) error {
	rule := []string{"from", n.places[from].ip, "to", n.places[to].ip, how}
	if err := ip(ctx, append([]string{"-n", n.hub, "rule", "add"}, rule...)...); err != nil {
		return err
	}
	n.rules = append(n.rules, rule)
	return nil
}

// join undoes every part.
func (n *network) join(ctx context.Context) error {
	var err error
	for _, r := range n.rules {
		err = errors.Join(err, ip(ctx, append([]string{"-n", n.hub, "rule", "del"}, r...)...))
	}
	n.rules = nil
	return err
}

// reset ends all connections of a place with another at once: both sides get a reset.
func (n *network) reset(ctx context.Context, at, with string) error {
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", n.places[at].ns, "ss", "-K", "dst", n.places[with].ip).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ss -K: %w: %s", err, out)
	}
	return nil
}

// command is a command at a place.
func (p *place) command(name string, args ...string) *exec.Cmd {
	if p.ns == "" {
		return exec.Command(name, args...) // it is ended by the world
	}
	// It becomes the command: the id of the process stays.
	return exec.Command("ip", append([]string{"netns", "exec", p.ns, name}, args...)...) // it is ended by the world
}

// dial connects from within a place, so that no partition is in the way of who looks on.
func (p *place) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	if p.fd == nil {
		return d.DialContext(ctx, network, address) //nolint:wrapcheck // a dialer
	}
	type dialled struct {
		c   net.Conn
		err error
	}
	done := make(chan dialled, 1)
	go func() { // ends with the dial
		runtime.LockOSThread() // and is never unlocked: the thread, which is in another namespace, ends
		if err := unix.Setns(int(p.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- dialled{nil, fmt.Errorf("enter namespace %s: %w", p.ns, err)}
			return
		}
		c, err := d.DialContext(ctx, network, address)
		done <- dialled{c, err}
	}()
	r := <-done
	return r.c, r.err
}

// dialer is what NATS's client wants.
type dialer struct{ p *place }

// Dial connects.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.p.dial(context.Background(), network, address)
}
