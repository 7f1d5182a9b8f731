package spool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestVerify reads a spool beside its owner, and changes nothing.
func TestVerify(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentBytes: 300, MaxBytes: 2500, Now: func() time.Time { now = now.Add(time.Second); return now }}
	s := open(t, cfg)
	add(t, s, 60)
	if err := s.Ack(55); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitMark(50, []Range{{54, 56}}); err != nil {
		t.Fatal(err)
	}
	add(t, s, 1)
	before := tree(t, dir)
	seen := uint64(0)
	rep, err := Verify(dir, func(seq uint64, _ [32]byte, frame []byte) error {
		seen++
		if string(frame) != string(payload(seq)) {
			return errors.New("another frame")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if len(rep.Faults) > 0 || rep.Frames != st.Frames || int(seen) != st.Frames || rep.Segments != st.Segments || rep.Bytes != st.Bytes || rep.Last != 61 ||
		rep.Committed != 50 || rep.Acked != s.Acked() || rep.OldestMs >= rep.NewestMs || rep.NewestMs != now.UnixMilli() || len(rep.Gaps) != len(s.Gaps()) || rep.ID == "" || rep.FreeBytes == 0 {
		t.Errorf("%+v, %+v", rep, st)
	}
	if after := tree(t, dir); after != before {
		t.Errorf("changed: %s\nwas: %s", after, before)
	}
	shut(t, s)

	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d segments, %v", len(files), err)
	}
	// A segment is taken away, a byte is flipped, and another spool's segment comes.
	if err := os.Remove(files[1]); err != nil {
		t.Fatal(err)
	}
	flip(t, files[2], segmentHeader+frameHeader+2)
	flip(t, files[3], 35) // in the digest: the header's checksum does not hold
	rep, err = Verify(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(rep.Faults, "\n")
	for _, want := range []string{"are missing, and no gap tells of it yet", "are damaged", "its header is damaged"} {
		if !strings.Contains(all, want) {
			t.Errorf("no fault %q in:\n%s", want, all)
		}
	}
	s = open(t, cfg) // which makes gaps of them
	shut(t, s)
	rep, err = Verify(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep.QuarantineFiles == 0 || rep.QuarantineBytes == 0 || strings.Contains(strings.Join(rep.Faults, "\n"), "missing") {
		t.Errorf("%+v", rep)
	}
	if _, err := Verify(filepath.Join(dir, "none"), nil); err == nil {
		t.Error("no directory, and no error")
	}
}

// TestVerifyChain: a frame that was exchanged for another, sound in itself, breaks the chain.
func TestVerifyChain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, SegmentBytes: 300})
	id := s.ID()
	add(t, s, 12)
	shut(t, s)
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	g, _, _ := scan(data, 1)
	forged := appendSegmentHeader(nil, id, 1, [32]byte{})
	for _, r := range g.frames {
		frame := append([]byte{}, data[r.off:][:r.len]...)
		frame[0] ^= 1
		forged = appendFrame(forged, r.seq, 0, frame)
	}
	if err := os.WriteFile(files[0], forged, 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Faults) != 1 || !strings.Contains(rep.Faults[0], "the chain is broken") {
		t.Errorf("%v", rep.Faults)
	}
}

func flip(t *testing.T, name string, at int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x40
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out.WriteString(path + " " + string(rune(checksum(data)%50000+256)) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
