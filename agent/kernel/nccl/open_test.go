package nccl

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenIn: whatever has the name of a library, only a regular file below the process's root
// is opened, and a pipe does not hold the agent up.
func TestOpenIn(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	for _, f := range []string{outside, filepath.Join(root, "real")} {
		if err := os.WriteFile(f, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"out": outside, "up": "../../../../../../../../" + outside, "loop": "loop", "link": "real", "whole": "/real"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(root, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Logf("no device: %v", err)
	}
	if err := os.Mkdir(filepath.Join(root, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root, filepath.Join(root, "1", "root")); err != nil {
		t.Fatal(err)
	}
	p := procfs{root}
	for name, fine := range map[string]bool{"/real": true, "/../real": true, "/link": true, "/whole": true, "/out": false, "/up": false, "/loop": false, "/pipe": false,
		"/device": false, "/1": false, "/none": false} {
		f, err := p.openIn(1, name)
		if (err == nil) != fine {
			t.Errorf("%s: %v", name, err)
		}
		if f == nil {
			continue
		}
		b := make([]byte, 8)
		if _, err := f.Read(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = f.Close()
	}
}
