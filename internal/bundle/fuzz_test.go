package bundle_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// fuzzFile reads one file of arbitrary text, plain and as a gzip stream: nothing panics,
// rows and issues never outnumber lines, arrival never runs backwards, and a second
// reading is the same.
func fuzzFile(f *testing.F, file string, read func(*testing.T, *bundle.Bundle) []bundle.Stamp, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{file, file + ".gz"} {
			b, err := bundle.OpenFS(memory(map[string]string{name: text}), "b")
			if err != nil {
				t.Fatal(err)
			}
			first := read(t, b)
			rep := reportOf(t, b, name)
			if name == file && rep.Rows+rep.Repeats > strings.Count(text, "\n")+1 {
				t.Errorf("more rows than lines: %+v", rep)
			}
			if len(rep.Issues) > bundle.MaxListed || rep.Rows != len(first) {
				t.Errorf("got %d rows, %+v", len(first), rep)
			}
			last := bundle.Stamp{}
			for _, s := range first {
				if s.ArrivalMs < last.ArrivalMs || s.Line <= last.Line {
					t.Errorf("%+v behind %+v", s, last)
				}
				last = s
			}
			if second := read(t, b); len(second) != len(first) {
				t.Errorf("read again: got %d rows, want %d", len(second), len(first))
			}
		}
	})
}

// unreadable lets pass that a file's header cannot be read.
func unreadable(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*bundle.Error](err); err != nil && !ok {
		t.Fatal(err)
	}
}

func measured(t *testing.T, values ...float64) {
	t.Helper()
	for _, v := range values {
		if v < 0 || math.IsInf(v, 0) {
			t.Errorf("got %g, want NaN or 0 and more", v)
		}
	}
}

func FuzzGPU(f *testing.F) {
	fuzzFile(f, "gpu.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.GPU(func(r bundle.GPURow) error {
			measured(t, r.Value[:]...)
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "ts_ms,node,gpu,util_frac\n1700000001000,n1,0,0.5\n", "gpu,node,ts_ms\n0,\"n\n1\",1700000001000\r\n\"", "\ufeff\n\n,,\n\"\"\"\n")
}

func FuzzHost(f *testing.F) {
	fuzzFile(f, "host.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Host(func(r bundle.HostRow) error {
			measured(t, r.PowerW, r.CPUFrac, r.StorageTxBps, r.StorageRxBps)
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "ts_ms,node,power_w\n1700000001000,n1,1e3\n")
}

func FuzzFabric(f *testing.F) {
	fuzzFile(f, "fabric.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Fabric(func(r bundle.FabricRow) error {
			measured(t, r.TxBytesTotal, r.RxBytesTotal)
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "ts_ms,node,port,kind,tx_bytes_total,rx_bytes_total\n1700000001000,n1,mlx5_0,roce,1,2\n")
}

func FuzzFlows(f *testing.F) {
	fuzzFile(f, "flows.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Flows(func(r bundle.FlowRow) error {
			measured(t, r.TxBytes)
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "ts_ms,node,peer,tx_bytes\n1700000001000,n1,192.0.2.1,2\n")
}

func FuzzProcesses(f *testing.F) {
	fuzzFile(f, "processes.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Processes(func(r bundle.ProcessRow) error {
			if r.EndMs != 0 && r.EndMs < r.StartMs || r.EndMs != 0 && r.EndArrivalMs < r.ArrivalMs {
				t.Errorf("got %+v", r)
			}
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "start_ms,end_ms,node,gpus,pid\n1700000001000,,n1,0 1 2,7\n1700000001000,1700000002000,n1,,7\n")
}

func FuzzCollectives(f *testing.F) {
	fuzzFile(f, "collectives.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Collectives(func(r bundle.CollectiveRow) error {
			measured(t, r.Calls, r.Bytes)
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "ts_ms,node,pid,gpu,comm,nranks,rank,op,calls,bytes\n1700000001000,n1,1,0,c,8,0,allreduce,1,1\n")
}

func FuzzAllocations(f *testing.F) {
	fuzzFile(f, "allocations.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Allocations(func(r bundle.AllocationRow) error {
			if r.Account == "" || r.Node == "" || r.EndMs != 0 && r.EndMs < r.StartMs {
				t.Errorf("got %+v", r)
			}
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "account,node,gpus,start_ms,end_ms\na,n1,0 1,1700000001000,\n")
}

func FuzzOrders(f *testing.F) {
	fuzzFile(f, "orders.csv", func(t *testing.T, b *bundle.Bundle) (out []bundle.Stamp) {
		err := b.Orders(func(r bundle.OrderRow) error {
			if r.Order == "" || r.AmendedMs != 0 && r.ArrivalMs < r.AmendedMs {
				t.Errorf("got %+v", r)
			}
			out = append(out, r.Stamp)
			return nil
		})
		unreadable(t, err)
		return out
	}, "order,account,amended_ms,gpu_count,start_ms,end_ms,declared_use\no,a,1700000001000,8,,,\"model\ntraining\"\n")
}

func FuzzManifest(f *testing.F) {
	f.Add(manifest)
	f.Add("{")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := bundle.OpenFS(memory(map[string]string{"manifest.json": text, "nodes.csv": text}), "b")
		if err == nil && (b.Manifest.Cluster == "" || b.Manifest.EndMs < b.Manifest.StartMs) {
			t.Errorf("got %+v", b.Manifest)
		}
	})
}
