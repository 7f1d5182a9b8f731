package gpu

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
)

// A child that does not read is found out once its pipe is full, and not before; one that has gone
// is told apart. Nothing is written in part.
func TestSend(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	c := &child{in: w}
	request := bytes.Repeat([]byte("0123456789abcdef"), 4)
	sent := 0
	for err == nil && sent < 1<<20 {
		if err = c.send(request); err == nil {
			sent++
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || sent < 16 {
		t.Fatalf("after %d requests that nobody read: %v", sent, err)
	}
	got := make([]byte, sent*len(request))
	for n := 0; n < len(got); {
		m, rerr := r.Read(got[n:])
		if rerr != nil {
			t.Fatal(rerr)
		}
		n += m
	}
	if !bytes.Equal(got, bytes.Repeat(request, sent)) {
		t.Error("requests are not what was written")
	}
	// It reads again: the deadline of the last is not that of the next.
	if err = c.send(request); err != nil {
		t.Errorf("it reads again: %v", err)
	}
	_ = r.Close()
	if err = c.send(request); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("nobody is there any more: %v", err)
	}
	_ = w.Close()
	if err = c.send(request); err == nil {
		t.Error("the pipe is closed")
	}
}
