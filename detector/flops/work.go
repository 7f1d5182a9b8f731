package flops

import "github.com/flopwatch/flopwatch/detector/feature"

// Minute is what the members' cells of one minute saw, without regard to the kind of
// work. Times are GPU-milliseconds; FLOP are at the dense 16-bit rate unless named.
type Minute struct {
	GPUMs       float64 // time of the members
	PeakFLOP    float64 // what all of it would be at the dense 16-bit peak
	PriorFLOP   float64 // peak x the part's whole-run utilisation of published trainings
	PriorSDFLOP float64 // peak x the spread of its logarithm
	SpreadFLOP  float64 // peak x the spread of parts that were not recognised exactly

	// Tiers, exclusive: each moment counts in the best one it has.
	CyclesMs, ActivityMs, EnergyMs, PowerMs, NodePowerMs, UtilMs float64
	// Peak FLOP of the same moments: tensor tiers, energy or power, node power, utilisation.
	TensorPeak, WattPeak, NodePeak, UtilPeak float64

	HMMA, HMMAFP8 float64 // HMMA pipe; of it, on parts that can do FP8
	HMMAFP4       float64 // of it, on parts that can do FP4
	IMMA, DFMA    float64 // OP of the integer, FLOP of the FP64 tensor pipe
	NoClock       float64 // part of HMMA that rests on an assumed clock
	PreGPM        float64 // part of HMMA on parts whose activity is calibrated worse
	DRAMBytes     float64 // moved while the tensor tiers measured

	// Watts: sums of peak x time x fraction of the power range, plain and to the power 1.4.
	Watt, WattHigh, Node, NodeHigh float64
	Util                           float64 // peak x time x utilisation

	// Vector pipes, for work that is not tensor work; VectorWatt is what stands in where
	// the pipes were not measured: FP32 peak x time x fraction of the power range.
	PipeMs, VectorMs    float64
	FP64, FP32, FP16    float64
	VectorWatt          float64
	FP8Peak, GPUSample  float64 // peak of FP8-capable parts; samples (GPU-minutes) with a signal
	FP4Peak, NoTF32Peak float64 // peak of FP4-capable parts; of those that have FP32 on the vector pipes alone
	SmallPeak           float64 // peak of parts that a small power limit holds

	// Watts beside the tensor tiers, to check these: where both measured, peak FLOP and the
	// sum over the power range to the power 1.4.
	CheckPeak, CheckHigh float64
	// The same where the SMs' activity was measured too: peak x time x fraction of the power
	// range, and x fraction of the SMs.
	DrawnSM, ActiveSM float64
	// Where the SMs' activity was measured beside the tensor pipes': peak x time x either.
	BusySM, BusyTensor float64
}

// coveredMs is the GPU time with a signal that some tier can use.
func (m *Minute) coveredMs() float64 {
	return m.CyclesMs + m.ActivityMs + m.EnergyMs + m.PowerMs + m.NodePowerMs + m.UtilMs
}

// coveredPeak is the peak FLOP of that time.
func (m *Minute) coveredPeak() float64 { return m.TensorPeak + m.WattPeak + m.NodePeak + m.UtilPeak }

// add takes n in.
func (m *Minute) add(n *Minute) {
	m.GPUMs += n.GPUMs
	m.PeakFLOP += n.PeakFLOP
	m.PriorFLOP += n.PriorFLOP
	m.PriorSDFLOP += n.PriorSDFLOP
	m.SpreadFLOP += n.SpreadFLOP
	m.CyclesMs += n.CyclesMs
	m.ActivityMs += n.ActivityMs
	m.EnergyMs += n.EnergyMs
	m.PowerMs += n.PowerMs
	m.NodePowerMs += n.NodePowerMs
	m.UtilMs += n.UtilMs
	m.TensorPeak += n.TensorPeak
	m.WattPeak += n.WattPeak
	m.NodePeak += n.NodePeak
	m.UtilPeak += n.UtilPeak
	m.HMMA += n.HMMA
	m.HMMAFP8 += n.HMMAFP8
	m.HMMAFP4 += n.HMMAFP4
	m.IMMA += n.IMMA
	m.DFMA += n.DFMA
	m.NoClock += n.NoClock
	m.PreGPM += n.PreGPM
	m.DRAMBytes += n.DRAMBytes
	m.Watt += n.Watt
	m.WattHigh += n.WattHigh
	m.Node += n.Node
	m.NodeHigh += n.NodeHigh
	m.Util += n.Util
	m.PipeMs += n.PipeMs
	m.VectorMs += n.VectorMs
	m.FP64 += n.FP64
	m.FP32 += n.FP32
	m.FP16 += n.FP16
	m.VectorWatt += n.VectorWatt
	m.FP8Peak += n.FP8Peak
	m.FP4Peak += n.FP4Peak
	m.NoTF32Peak += n.NoTF32Peak
	m.SmallPeak += n.SmallPeak
	m.GPUSample += n.GPUSample
	m.CheckPeak += n.CheckPeak
	m.CheckHigh += n.CheckHigh
	m.DrawnSM += n.DrawnSM
	m.ActiveSM += n.ActiveSM
	m.BusySM += n.BusySM
	m.BusyTensor += n.BusyTensor
}

// Work is what a set of GPU intervals was seen to do: one Minute for each minute from
// StartMs on.
type Work struct {
	StartMs int64 // start of the first minute
	EndMs   int64 // end of the last member
	Minutes []Minute
}

// Merge adds the work of other members to w.
func (w *Work) Merge(other *Work) {
	if len(other.Minutes) == 0 {
		return
	}
	if len(w.Minutes) == 0 {
		w.StartMs = other.StartMs
	}
	start := min(w.StartMs, other.StartMs)
	end := max(w.StartMs+int64(len(w.Minutes))*minuteMs, other.StartMs+int64(len(other.Minutes))*minuteMs)
	if n := int((end - start) / minuteMs); start != w.StartMs || n != len(w.Minutes) {
		grown := make([]Minute, n)
		copy(grown[(w.StartMs-start)/minuteMs:], w.Minutes)
		w.StartMs, w.Minutes = start, grown
	}
	w.EndMs = max(w.EndMs, other.EndMs)
	at := (other.StartMs - start) / minuteMs
	for i := range other.Minutes {
		w.Minutes[at+int64(i)].add(&other.Minutes[i])
	}
}

// Hour is what the members' cells of the hour that begins at hourMs saw. Hours merged are the
// whole to the last bit, whatever their order, as long as they were measured on the same
// evidence of what lies around them: a counter's increment over the turn of an hour needs the
// reading before and the one after, so an hour is complete once the first row after it is there.
func Hour(in Input, hourMs int64) *Work {
	end := hourMs + feature.HourMs
	if in.FromMs == 0 || in.FromMs < hourMs {
		in.FromMs = hourMs
	}
	if in.ToMs == 0 || in.ToMs > end {
		in.ToMs = end
	}
	return Measure(in)
}
