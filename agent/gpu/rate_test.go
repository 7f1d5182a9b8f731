package gpu

import "testing"

// TestSignificant: small rates stay as they are, none becomes zero, and what is lost of large
// ones is 1 part in 4,000 at most.
func TestSignificant(t *testing.T) {
	for _, c := range []struct{ v, want int64 }{{0, 0}, {1, 1}, {4095, 4095}, {4096, 4096}, {4097, 4098}, {8193, 8192}, {8191, 8192}, {-5, -5}, {1<<62 - 1, 1 << 62}} {
		if got := significant(c.v); got != c.want {
			t.Errorf("%d becomes %d, want %d", c.v, got, c.want)
		}
	}
	for v := int64(1); v < maxRateBps; v = v*3 + 1 {
		if d := significant(v) - v; d > v/4000 || -d > v/4000 {
			t.Errorf("%d is off by %d", v, d)
		}
	}
}
