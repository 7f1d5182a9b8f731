package main

import (
	"context"
	"os"
	"slices"
	"testing"
)

func TestOwnPages(t *testing.T) {
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
	want := []stretch{{0x400000, 0x970000}, {0x970000, 0xf40000}}
	if got := ownPages([]byte(smaps), "/usr/bin/flopwatch-agent"); !slices.Equal(got, want) {
		t.Errorf("got %x", got)
	}
	if got := ownPages([]byte(smaps), "/usr/bin/other"); len(got) != 0 {
		t.Errorf("got %x", got)
	}
}

// TestSettle gives this program's own pages back, which it survives.
func TestSettle(t *testing.T) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if len(ownPages(smaps, exe)) == 0 {
		t.Error("found nothing to give back")
	}
	if err := giveBack(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := settle(ctx); err != nil {
		t.Error(err)
	}
}
