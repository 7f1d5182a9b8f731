package sock

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkLook20000 reads 20,000 sockets of two processes, of which nothing moves.
func BenchmarkLook20000(b *testing.B) {
	for _, how := range []string{"bpf", "all", "diag"} {
		b.Run(how, func(b *testing.B) {
			p := newPeer(b, 200)
			open := make([]net.Conn, 10_000)
			for i := range open {
				open[i] = p.dial(b, p.peer4)
			}
			defer func() {
				for _, c := range open {
					_ = c.(*net.TCPConn).SetLinger(0) // its port is free at once
					_ = c.Close()
				}
			}()
			pids := []int{os.Getpid(), p.pid}
			var r *rig
			if how == "diag" {
				r = newRig(b, Config{NoBPF: true}, pids...)
			} else {
				r = bpfRig(b, Config{All: how == "all"}, pids...)
			}
			r.look()
			b.ReportAllocs()
			cpu := time.Duration(0)
			for b.Loop() {
				r.look()
				cpu += r.f.took
			}
			b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(r.f.every.Seconds(), "s-between-looks")
		})
	}
}

// BenchmarkConnect is the cost of a connection's life, with and without the feature.
func BenchmarkConnect(b *testing.B) {
	run := func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		for b.Loop() {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}
	}
	b.Run("without", run)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err == nil {
		defer stats.Close()
	}
	for name, pid := range map[string]int{"unwatched": 1, "watched": os.Getpid()} {
		b.Run(name, func(b *testing.B) {
			r := bpfRig(b, Config{}, pid)
			r.look()
			run(b)
			if p := r.f.Load().Probes[0]; p.Calls > 0 {
				b.ReportMetric(float64(p.Ns)/float64(p.Calls), "program-ns/call")
				b.ReportMetric(float64(p.Ns)/float64(b.N), "program-ns/op")
			}
		})
	}
}
