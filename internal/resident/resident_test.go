package resident

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

const smaps = `00400000-00970000 r-xp 00000000 fe:01 1234                       /usr/bin/flopwatch-agent
Size:               5560 kB
Rss:                5048 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
00970000-00f40000 r--p 00570000 fe:01 1234                       /usr/bin/flopwatch-agent
Anonymous:             0 kB
00f40000-00f50000 r--p 00b40000 fe:01 1234                       /usr/bin/flopwatch-agent
Anonymous:             8 kB
00f50000-00fb0000 rw-p 00b50000 fe:01 1234                       /usr/bin/flopwatch-agent
Anonymous:             0 kB
c000000000-c000800000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:01 99                 /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000002000-7f0000003000 r-xp 00000000 00:00 0                  [vdso]
Anonymous:             0 kB
zz-7f0000003000 r-xp 00000000 fe:01 1234                         /usr/bin/flopwatch-agent
Anonymous:             0 kB
`

func TestCleanPages(t *testing.T) {
	want := []stretch{{0x400000, 0x970000}, {0x970000, 0xf40000}}
	all := append(slices.Clone(want), stretch{0x7f0000000000, 0x7f0000001000})
	for exe, want := range map[string][]stretch{"/usr/bin/flopwatch-agent": want, "/usr/bin/other": nil, "": all} {
		got, err := cleanPages(strings.NewReader(smaps), exe)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %x, %v", exe, got, err)
		}
	}
	if _, err := cleanPages(strings.NewReader(strings.Repeat("x", 5000)+"\n"), "/usr/bin/flopwatch-agent"); err == nil {
		t.Error("a line without end is read")
	}
}

// TestKeep gives this program's own pages back, which it survives.
func TestKeep(t *testing.T) {
	list, err := find(Own)
	if err != nil || len(list) == 0 {
		t.Fatalf("found nothing to give back: %v", err)
	}
	for _, s := range list {
		if err := s.giveBack(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Keep(ctx, time.Millisecond, All) }()
	for range 100 {
		if _, err := find(Own); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkKeep(b *testing.B) {
	b.ReportAllocs()
	list, err := find(Own)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, s := range list {
			if err := s.giveBack(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
