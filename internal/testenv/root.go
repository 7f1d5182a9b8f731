package testenv

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// requireVar lists, separated by commas, what must not be skipped: engine, nats, bundles, ...
const requireVar = "FLOPWATCH_REQUIRE"

// Root returns the directory of the module that the test belongs to.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatalf("find working directory: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("find go.mod: none above the working directory")
		}
		dir = parent
	}
}

// Required reports whether the environment forbids to skip for want of the thing.
func Required(thing string) bool {
	return slices.Contains(strings.FieldsFunc(os.Getenv(requireVar), func(r rune) bool { return r == ',' || r == ' ' }), thing)
}

// Need skips the test if a thing is missing, and fails it if the thing is required.
// Missing nil: it is there.
func Need(tb testing.TB, thing string, missing error) {
	tb.Helper()
	switch {
	case missing == nil:
	case Required(thing):
		tb.Fatalf("%s is required by %s and missing: %v", thing, requireVar, missing)
	default:
		tb.Skipf("%s is missing: %v", thing, missing)
	}
}

// Bundle returns the directory of a shared recording; the test is skipped where the
// checkout has no shared recordings beside it ("bundles" in FLOPWATCH_REQUIRE forbids that).
func Bundle(tb testing.TB, name string) string {
	tb.Helper()
	dir := filepath.Join(Root(tb), "..", "shared", "bundles", name)
	_, err := os.Stat(filepath.Join(dir, "manifest.json"))
	Need(tb, "bundles", err)
	return dir
}

// Bundles returns the directories of all shared recordings, sorted.
func Bundles(tb testing.TB) []string {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(Root(tb), "..", "shared", "bundles", "*", "manifest.json"))
	if err == nil && len(found) == 0 {
		err = errors.New("no recordings in ../shared/bundles beside the checkout")
	}
	Need(tb, "bundles", err)
	for i, f := range found {
		found[i] = filepath.Dir(f)
	}
	return found
}

// Recordings returns the directories of the recordings that the repository ships, sorted.
func Recordings(tb testing.TB) []string {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(Root(tb), "deploy", "recordings", "*", "manifest.json"))
	if err != nil || len(found) == 0 {
		tb.Fatalf("find the shipped recordings: found %d, %v", len(found), err)
	}
	for i, f := range found {
		found[i] = filepath.Dir(f)
	}
	return found
}
