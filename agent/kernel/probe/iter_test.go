package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"testing"
)

// answers are what the kernel gives to one read after another.
type answers struct {
	list   []any // bytes or an error
	closed bool
}

func (a *answers) Close() error { a.closed = true; return nil }

func (a *answers) Read(b []byte) (int, error) {
	if len(a.list) == 0 {
		return 0, io.EOF
	}
	next := a.list[0]
	a.list = a.list[1:]
	if err, ok := next.(error); ok {
		return 0, err
	}
	return copy(b, next.(string)), nil
}

// TestRun: a run goes on behind a million objects without a record, and where it was
// interrupted; records may end anywhere in a read.
func TestRun(t *testing.T) {
	again := &os.PathError{Op: "read", Path: "bpf_iter", Err: syscall.EAGAIN}
	a := &answers{list: []any{"aab", again, again, "b", fmt.Errorf("read: %w", syscall.EINTR), "ccdd"}}
	r := newRun(a, 2)
	var got []string
	each := func(rec []byte) { got = append(got, string(rec)) }
	for piece, want := range []struct {
		done bool
		got  []string
	}{{false, []string{"aa"}}, {false, []string{"aa"}}, {true, []string{"aa", "bb", "cc", "dd"}}} {
		done, err := r.Next(each)
		if err != nil || done != want.done || !slices.Equal(got, want.got) {
			t.Fatalf("piece %d: %v, %v, %v", piece, got, done, err)
		}
	}
	if err := r.Close(); err != nil || !a.closed {
		t.Error("it was not closed")
	}
	if _, err := newRun(&answers{list: []any{"a"}}, 2).Next(each); err == nil {
		t.Error("half a record is no error")
	}
	if done, err := newRun(&answers{list: []any{errors.New("bad")}}, 2).Next(each); err == nil || !done {
		t.Error("an error is none")
	}
	got = nil
	many := &answers{}
	for range pieceReads + 1 {
		many.list = append(many.list, "xx")
	}
	r = newRun(many, 2)
	if done, err := r.Next(each); done || err != nil || len(got) != pieceReads {
		t.Errorf("one piece has %d reads: %v", len(got), err)
	}
	if done, err := r.Next(each); !done || err != nil || len(got) != pieceReads+1 {
		t.Errorf("%d reads: %v", len(got), err)
	}
}
