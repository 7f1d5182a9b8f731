package workload

import (
	"math"

	"github.com/flopwatch/flopwatch/detector/run"
)

// instruments says which of the measurements that tell classes apart there were, and which
// were not.
func (f *facts) instruments() (basis string, missed []string) {
	miss := func(name string, missing bool) bool {
		if missing {
			missed = append(missed, name)
		}
		return missing
	}
	if f.basis == run.BasisPower {
		miss("GPU telemetry", true)
		miss("watts of the host", math.IsNaN(f.hostFrac))
		return basisWatts, missed
	}
	if !f.busyEver {
		return basisPipes, nil // rest needs no instrument to be told
	}
	tensor := miss("tensor_frac", math.IsNaN(f.tensor))
	part := miss("dram_frac", math.IsNaN(f.dram))
	part = miss("fp32_frac", math.IsNaN(f.fp32)) || part
	miss("power_w", math.IsNaN(f.powerFrac))
	if f.gpus > 1 {
		miss("nvlink_tx_bps", math.IsNaN(f.nvlinkBps))
		miss("collectives", !f.hasComm && !f.tapped)
	}
	switch {
	case f.hasComm:
		return basisComm, missed
	case tensor:
		return basisNVML, missed
	case part:
		return basisPartial, missed
	}
	return basisPipes, missed
}

// log10 is NaN for what is not positive, so that nothing is said of it.
func log10(x float64) float64 {
	if !(x > 0) {
		return math.NaN()
	}
	return math.Log10(x)
}
