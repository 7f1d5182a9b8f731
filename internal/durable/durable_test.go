package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// failing lets n calls through and fails all later ones, like a process that was killed.
type failing struct {
	FS
	n int
}

var errKilled = errors.New("killed")

func (f *failing) step() error {
	if f.n--; f.n < 0 {
		return errKilled
	}
	return nil
}

func (f *failing) Create(name string) (File, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name)
	return failingFile{file, f}, err
}

func (f *failing) Rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *failing) SyncDir(dir string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.SyncDir(dir)
}

type failingFile struct {
	File
	f *failing
}

func (f failingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.f.step(); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f failingFile) Sync() error {
	if err := f.f.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

// TestWriteFile: wherever it stops, the file is all old or all new, and the next write
// works.
func TestWriteFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(OS{}, name, []byte("old")); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		err := WriteFile(&failing{OS{}, n}, name, []byte("new content"))
		got, rerr := os.ReadFile(name)
		if rerr != nil || (string(got) != "old" && string(got) != "new content") {
			t.Fatalf("stopped at call %d: %q, %v", n, got, rerr)
		}
		if err == nil {
			if string(got) != "new content" {
				t.Fatalf("done, but %q", got)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if err := WriteFile(OS{}, name, []byte("old")); err != nil {
			t.Fatalf("after a stop at call %d: %v", n, err)
		}
	}
	if _, err := ReadFile(OS{}, name, 3); err == nil {
		t.Error("a file over the bound is read")
	}
	if got, err := ReadFile(NoSync(OS{}), name, 100); err != nil || string(got) != "new content" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := ReadFile(OS{}, name+"x", 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
