package up

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
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

// takenError says that somebody has a port.
type takenError struct{ port }

func (e takenError) Error() string {
	text := fmt.Sprintf("port %d of %s is taken by another program, and wanted for %s: choose another with %s", *e.n, loopback, e.what, e.flag)
	if e.flag != "--port" {
		text += ", or move all ports with --port"
	}
	return text
}

// Any free ports are looked for below those that the kernel gives to outgoing connections.
const (
	anyFrom  = 10_240
	anyTo    = 32_000
	anyTries = 200
)

// take settles the numbers and takes all ports. Those that children open themselves are
// free again when it returns; the listeners for health and ClickHouse are kept.
func (p *Ports) take(ctx context.Context) (health, clickhouse *net.TCPListener, err error) {
	if p.Health != 0 {
		return p.takeFrom(ctx, p.Health)
	}
	for range anyTries {
		q := *p
		health, clickhouse, err = q.takeFrom(ctx, anyFrom+rand.IntN(anyTo-anyFrom))
		taken, is := errors.AsType[takenError](err)
		if err == nil {
			*p = q
		}
		if !is || slices.ContainsFunc(p.all(), func(own port) bool { return *own.n == *taken.n }) {
			break // done, or it was named
		}
	}
	return health, clickhouse, err
}

// takeFrom takes the ports, those without a number from base on.
func (p *Ports) takeFrom(ctx context.Context, base int) (health, clickhouse *net.TCPListener, err error) {
	taken := map[int]*net.TCPListener{}
	defer func() {
		for _, ln := range taken {
			if err != nil || ln != health && ln != clickhouse {
				_ = ln.Close() // it was only to hold the port
			}
		}
		if err != nil {
			health, clickhouse = nil, nil
		}
	}()
	for i, q := range p.all() {
		if *q.n == 0 {
			*q.n = base + i
		}
		if *q.n < 0 || *q.n > 65535 {
			return nil, nil, fmt.Errorf("port %d for %s: wanted 1 to 65535 (%s)", *q.n, q.what, q.flag)
		}
		if taken[*q.n] != nil {
			return nil, nil, fmt.Errorf("port %d is meant for two things, one of them %s: choose another with %s", *q.n, q.what, q.flag)
		}
		ln, lerr := (&net.ListenConfig{}).Listen(ctx, "tcp", address(*q.n))
		if errors.Is(lerr, syscall.EADDRINUSE) {
			return nil, nil, takenError{q}
		}
		if lerr != nil {
			return nil, nil, fmt.Errorf("open port %d for %s: %w", *q.n, q.what, lerr)
		}
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			return nil, nil, errors.Join(fmt.Errorf("open port for %s: a %T cannot be shared", q.what, ln), ln.Close())
		}
		taken[*q.n] = tcp
	}
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
