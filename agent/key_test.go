package agent

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

func TestNodeKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "node.key")
	key, err := LoadOrCreateNodeKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	again, err := LoadOrCreateNodeKey(path)
	if err != nil || !key.Equal(again) {
		t.Errorf("another key the second time: %v", err)
	}
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"others may read it": {strings.Repeat("ab", 32), 0o640, "chmod 600"},
		"short":              {"abcd", 0o600, "is not 64 hex digits"},
		"empty":              {"", 0o600, "is not 64 hex digits"},
		"no hex":             {strings.Repeat("xy", 32), 0o600, "is not 64 hex digits"},
	} {
		path := filepath.Join(t.TempDir(), "node.key")
		if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateNodeKey(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "node key") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRecorderSigns seals two batches: each is signed, and the second names the first as it
// travelled, its signature with it.
func TestRecorderSigns(t *testing.T) {
	sp, err := spool.Open(spool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32))
	rec, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: ClearPrivacy(), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b := wire.NewBuilder(wire.KindHost, wire.SourceNVML)
		b.Begin()
		b.SetInt(1, 1_700_000_000_000)
		if err = b.End(); err != nil {
			t.Fatal(err)
		}
		if _, err = rec.Seal(0, *b.Build()); err != nil {
			t.Fatal(err)
		}
	}
	dec, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	r := sp.ReadUnacked(1, 0)
	var before [32]byte
	for range 2 {
		_, frame, err := r.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		var b wire.Batch
		if err = dec.Decode(frame, &b); err != nil {
			t.Fatal(err)
		}
		h := b.Head()
		if err = h.Verify(b.Key, b.Signature); err != nil || b.PrevDigest != before {
			t.Errorf("%v, previous %x, want %x", err, b.PrevDigest, before)
		}
		before = wire.Digest(frame)
	}
}
