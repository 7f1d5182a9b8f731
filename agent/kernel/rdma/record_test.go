package rdma

import (
	"encoding/hex"
	"fmt"
	"os"
	"testing"
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
