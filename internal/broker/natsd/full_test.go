package natsd

import (
	"errors"
	"log/slog"
	"testing"
	"time"
)

// TestWasFull: a server that said that its disk had no room tells once there is some; another
// error is none of this. internal/chaos has real disks without room.
func TestWasFull(t *testing.T) {
	s := &Server{full: newFullDisk(t.TempDir())}
	lg := serverLog{slog.New(slog.DiscardHandler), s.full, s.fatal}
	lg.Errorf("JetStream failed to store a msg on stream '%s': %s", "A", "file closed")
	lg.Noticef("no space left on device")
	select {
	case err := <-s.WasFull():
		t.Fatalf("told without cause: %v", err)
	default:
	}
	for range 3 {
		lg.Errorf("JetStream failed to store a msg on stream '%s': %s", "A", "write 3.blk: no space left on device")
	}
	select {
	case err := <-s.WasFull():
		if !errors.Is(err, ErrWasFull) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not tell")
	}
	s.full.stop()
	s.full.stop() // a server may be stopped twice
	idle := newFullDisk(t.TempDir())
	idle.heard("no space left on device")
	idle.stop() // ends what waits
}
