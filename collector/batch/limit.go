package batch

import (
	"strings"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// limits are what no instrument can show, narrower than the columns' types. Drivers and
// controllers answer "not available" with all bits set, or the sign bit alone.
var limits = []struct {
	suffix string
	lo, hi int64
}{
	{"confidence_e4", 0, 10_000},
	{"fan_e4", 0, 30_000},        // of the speed that it was made for
	{"_e4", 0, 10_500},           // a fraction; rounding may carry it a little beyond 1
	{"power_mw", 0, 1e9},         // a megawatt
	{"power_limit_mw", 0, 1e9},   // as above
	{"temp_c", -100, 300},        //
	{"clock_mhz", 0, 20_000},     // 20 GHz
	{"_bps", 0, 1e15},            // bytes per second
	{"mem_used_bytes", 0, 1e15},  // a petabyte
	{"mem_total_bytes", 0, 1e15}, // as above
}

// bound narrows the columns of a kind that telemetry fills.
func bound(b *store.RawBlock, kind wire.Kind) {
	if kind.Provider() {
		return
	}
	for _, f := range wire.Schema[kind] {
		if f.Type != wire.Int || f.Key {
			continue
		}
		for _, l := range limits {
			if strings.HasSuffix(f.Name, l.suffix) {
				b.Bound(b.Column(f.Name), l.lo, l.hi)
				break
			}
		}
	}
}
