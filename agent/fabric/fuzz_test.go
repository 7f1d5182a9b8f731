package fabric

import (
	"strconv"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "17\n", "9223372036854775807", "9223372036854775808", "-1", " 5 ", "N/A (no PMA)\n", "400 Gb/sec (4X NDR)", "2.5 Gb/sec (1X SDR)", "NaN Gb/sec", "1e300 Gb/sec", "4: ACTIVE", "1: DOWN", "up", "unknown", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseCount(b)
		want, werr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && (werr != nil || v != want || v < 0) {
			t.Errorf("parseCount(%q) = %d, want %d, %v", b, v, want, werr)
		}
		if r, ok := parseRate(b); ok && (r < 0 || r > maxMbps) {
			t.Errorf("parseRate(%q) = %d", b, r)
		}
		if r, ok := parseSpeed(b); ok && (r <= 0 || r > maxMbps) {
			t.Errorf("parseSpeed(%q) = %d", b, r)
		}
		if up, ok := parseState(b); up && !ok {
			t.Errorf("parseState(%q)", b)
		}
		if up, ok := parseOperstate(b); up && !ok {
			t.Errorf("parseOperstate(%q)", b)
		}
		_ = representor(string(b))
	})
}
