package host

import (
	"math"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, s := range []string{stat1, stat2, "cpu  1 2 3\n", "cpu  -1 2 3 4\n", "cpu  18446744073709551615 1 1 1\n", disk("sda", 1, 2), "8 0 sda 1 2 -3 4 5 6 7\n", "\n\n", mounts(1, 2), "device mounted on with fstype nfs\nbytes: 1 2\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if now, err := parseStat(b); err == nil {
			if e4, ok := busyE4(cpuTimes{}, now); ok && (e4 < 0 || e4 > 10_000) {
				t.Errorf("busy %d", e4)
			}
		}
		check := func(v traffic) {
			if v.tx > math.MaxInt64 || v.rx > math.MaxInt64 {
				t.Errorf("traffic %+v", v)
			}
		}
		_ = parseDiskstats(b, func(name []byte, v traffic) {
			if len(name) == 0 {
				t.Error("a disk without a name")
			}
			check(v)
		})
		parseMountstats(b, func(_ string, v traffic) { check(v) }, func(string) {})
		parseMountinfo(b, func(device, _ string) {
			if device == "" {
				t.Error("a mount of nothing")
			}
		})
	})
}
