package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// DefaultPort is the first of the ports.
const DefaultPort = 7410

// Ports on the loopback address, 0: the one that follows Health by its place, or any free
// one where Health is 0 too.
type Ports struct {
	Health, NATS, ClickHouse, Agent, Collector, Detector int
}

// port is one of them.
type port struct {
	n          *int
	what, flag string
}

// all lists them in the order of their numbers.
func (p *Ports) all() []port {
	return []port{
		{&p.Health, "health of the whole", "--port"}, {&p.NATS, "NATS", "--nats-port"}, {&p.ClickHouse, "ClickHouse's HTTP interface", "--clickhouse-port"},
		{&p.Agent, "the agent's metrics", "--agent-port"}, {&p.Collector, "the collector's metrics", "--collector-port"}, {&p.Detector, "the detector's metrics", "--detector-port"},
	}
}

// loopback is where everything listens.
const loopback = "127.0.0.1"

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// take settles the numbers and takes all ports. Those that children open themselves are
// free again when release is called; the listeners for health and ClickHouse are kept.
func (p *Ports) take(ctx context.Context) (health, clickhouse *net.TCPListener, err error) {
	base := p.Health
	taken := map[int]*net.TCPListener{}
	release := func(keep ...int) {
		for n, ln := range taken {
			if len(keep) == 0 || n != keep[0] && n != keep[1] {
				_ = ln.Close() // it was only to hold the port
			}
		}
	}
	for i, q := range p.all() {
		if *q.n == 0 && base != 0 {
			*q.n = base + i
		}
		if *q.n < 0 || *q.n > 65535 {
			release()
			return nil, nil, fmt.Errorf("port %d for %s: wanted 1 to 65535 (%s)", *q.n, q.what, q.flag)
		}
		if *q.n != 0 && taken[*q.n] != nil {
			release()
			return nil, nil, fmt.Errorf("port %d is meant for two things, one of them %s: choose another with %s", *q.n, q.what, q.flag)
		}
		ln, lerr := (&net.ListenConfig{}).Listen(ctx, "tcp", address(*q.n))
		if lerr != nil {
			release()
			if errors.Is(lerr, syscall.EADDRINUSE) {
				return nil, nil, fmt.Errorf("port %d of %s is taken by another program, and wanted for %s: choose another with %s, or move all ports with --port", *q.n, loopback, q.what, q.flag)
			}
			return nil, nil, fmt.Errorf("open port %d for %s: %w", *q.n, q.what, lerr)
		}
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			release()
			return nil, nil, errors.Join(fmt.Errorf("open port for %s: a %T cannot be shared", q.what, ln), ln.Close())
		}
		if addr, is := tcp.Addr().(*net.TCPAddr); is {
			*q.n = addr.Port
		}
		taken[*q.n] = tcp
	}
	release(p.Health, p.ClickHouse)
	return taken[p.Health], taken[p.ClickHouse], nil
}

// DefaultAddresses are where a tree listens unless told otherwise.
func DefaultAddresses() []string {
	var out []string
	for i := range new(Ports).all() {
		out = append(out, address(DefaultPort+i))
	}
	return out
}
