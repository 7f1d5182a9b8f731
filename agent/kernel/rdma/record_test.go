package rdma

import (
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestRecord writes what this kernel answers, for testdata, where FLOPWATCH_RECORD_RDMA
// names a file. It needs a device: soft-RoCE in a virtual machine, and a program that holds
// queue pairs, as ibv_rc_pingpong.
func TestRecord(t *testing.T) {
	path := os.Getenv("FLOPWATCH_RECORD_RDMA")
	if path == "" {
		t.Skip("FLOPWATCH_RECORD_RDMA names no file")
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var devices []int64
	record := func(cmd int, index int64) {
		if err := ask(cmd, index, func(msg []byte) error {
			_, werr := fmt.Fprintf(f, "%d/%d %s\n", cmd, index, hex.EncodeToString(msg))
			if d, derr := parseDevice(msg); cmd == cmdGet && derr == nil {
				devices = append(devices, int64(d.index))
			}
			return werr
		}); err != nil {
			t.Error(err)
		}
	}
	record(cmdGet, -1)
	for _, index := range devices {
		for _, cmd := range []int{cmdQP, cmdMR, cmdCQ} {
			record(cmd, index)
		}
	}
}

// TestRecorded reads what a real kernel answered.
func TestRecorded(t *testing.T) {
	text, err := os.ReadFile("testdata/soft-roce-6.1.txt")
	if err != nil {
		t.Fatal(err)
	}
	a := answers{}
	for line := range strings.Lines(string(text)) {
		key, dump, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		msg, err := hex.DecodeString(dump)
		if err != nil {
			t.Fatal(err)
		}
		a[key] = append(a[key], msg)
	}
	f, sink := newRig(t, a)
	if r := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 1, BootMs: 1}, sink); r.State != source.Active {
		t.Errorf("%s: %s", r.State, r.Reason())
	}
	want := []string{
		"rxe0 pid 0: 1 pairs 1 connected [] 0 regions of 0, 1 queues",
		"rxe0 pid 259: 1 pairs 1 connected [17>18] 1 regions of 4096, 1 queues",
		"rxe0 pid 261: 1 pairs 1 connected [18>17] 1 regions of 4096, 1 queues",
	}
	var got []string
	for _, r := range sink.Rows[wire.KindRDMA] {
		got = append(got, fmt.Sprintf("%s pid %d: %d pairs %d connected [%s] %d regions of %d, %d queues", r.Str("device"), r.Int("pid"), r.Int("queue_pairs"), r.Int("connected"),
			r.Str("qp_pairs"), r.Int("memory_regions"), r.Int("memory_region_bytes"), r.Int("completion_queues")))
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
