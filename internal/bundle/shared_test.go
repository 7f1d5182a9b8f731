package bundle_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// readAll reads every file of a bundle.
func readAll(tb testing.TB, b *bundle.Bundle) bundle.Report {
	tb.Helper()
	for _, err := range []error{
		b.GPU(func(bundle.GPURow) error { return nil }),
		b.Host(func(bundle.HostRow) error { return nil }),
		b.Fabric(func(bundle.FabricRow) error { return nil }),
		b.Flows(func(bundle.FlowRow) error { return nil }),
		b.Processes(func(bundle.ProcessRow) error { return nil }),
		b.Collectives(func(bundle.CollectiveRow) error { return nil }),
		b.Allocations(func(bundle.AllocationRow) error { return nil }),
		b.Orders(func(bundle.OrderRow) error { return nil }),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	register, err := b.OpenParties()
	if err == nil {
		err = register.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		tb.Fatal(err)
	}
	return b.Report()
}

// The recordings of the project hold no bad row.
func TestSharedBundles(t *testing.T) { readCleanly(t, testenv.Bundles(t)) }

func TestShippedRecordings(t *testing.T) { readCleanly(t, testenv.Recordings(t)) }

func readCleanly(t *testing.T, dirs []string) {
	t.Helper()
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			b, err := bundle.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range readAll(t, b).Files {
				t.Logf("%+v", f)
				if f.Bad != 0 {
					t.Errorf("%s: %d issues: %v", f.File, f.Bad, f.Issues)
				}
			}
			if u := b.Report().Unlisted; len(u) > 0 {
				t.Logf("unlisted: %v", u)
			}
		})
	}
}
