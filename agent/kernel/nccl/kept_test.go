package nccl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestKept: what would help is told apart by where the way ends. A process that may not be looked
// into needs CAP_SYS_PTRACE; a library below a home of mode 0700 needs CAP_DAC_READ_SEARCH.
func TestKept(t *testing.T) {
	t.Parallel()
	refused := &os.PathError{Op: "open", Path: "/home/a/libnccl.so.2", Err: syscall.EACCES}
	for name, c := range map[string]struct {
		err                    error
		denied, closed, search bool
	}{
		"its root":             {&os.PathError{Op: "open", Path: "/proc/7/root", Err: syscall.EACCES}, true, true, false},
		"its library":          {fmt.Errorf("libnccl.so.2 of process 7: %w", errors.Join(kept(refused))), true, false, true},
		"one name of two":      {errors.Join(kept(refused), kept(&os.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT})), true, false, true},
		"it is gone":           {kept(&os.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}), false, false, false},
		"no file":              {kept(errors.New("not a regular file")), false, false, false},
		"its memory by itself": {syscall.EPERM, true, true, false},
	} {
		if denied(c.err) != c.denied || closed(c.err) != c.closed || strings.Contains(c.err.Error(), "CAP_DAC_READ_SEARCH") != c.search {
			t.Errorf("%s: denied %v, closed %v: %v", name, denied(c.err), closed(c.err), c.err)
		}
	}
	if err := kept(refused); !errors.Is(err, fs.ErrPermission) || !errors.Is(err, syscall.EACCES) {
		t.Errorf("it says no more what the kernel said: %v", err)
	}
}
