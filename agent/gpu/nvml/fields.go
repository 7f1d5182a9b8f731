//go:build linux && cgo

package nvml

import (
	"encoding/binary"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// field is one value of the batch.
type field uint8

const (
	fieldPower field = iota
	fieldEnergy
	fieldNVLinkTx // from here on only where there is no GPM
	fieldNVLinkRx
	fieldPCIeTx
	fieldPCIeRx
	numFields
)

// allLinks asks for the sum over a GPU's links.
const allLinks = 0xFFFFFFFF

var fields = [numFields]struct {
	id, scope uint32
	metric    frame.Metric
	limit     int64
}{
	fieldPower:    {nvml.FI_DEV_POWER_INSTANT, 0, frame.PowerMW, maxMW},
	fieldEnergy:   {nvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0, frame.EnergyMJ, 1 << 62},
	fieldNVLinkTx: {nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, allLinks, frame.NVLinkTxKiB, 1 << 62},
	fieldNVLinkRx: {nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, allLinks, frame.NVLinkRxKiB, 1 << 62},
	fieldPCIeTx:   {nvml.FI_DEV_PCIE_COUNT_TX_BYTES, 0, frame.PCIeTxBytes, 1 << 62},
	fieldPCIeRx:   {nvml.FI_DEV_PCIE_COUNT_RX_BYTES, 0, frame.PCIeRxBytes, 1 << 62},
}

// batch reads all fields in one call.
func (w *worker) batch(r *frame.Reading) {
	if !w.may(callFields) {
		return
	}
	now := w.clockUs()
	w.fields, w.asked = w.fields[:0], w.asked[:0]
	for f := range numFields {
		if f >= fieldNVLinkTx && w.gpmWorks() || w.offField[f] > now {
			continue
		}
		// A whole new value: what is left in one adds up in some drivers.
		w.fields = append(w.fields, nvml.FieldValue{FieldId: fields[f].id, ScopeId: fields[f].scope})
		w.asked = append(w.asked, f)
	}
	if len(w.fields) == 0 {
		return // the binding would stumble
	}
	if ret := w.handle.GetFieldValues(w.fields); !w.ok(callFields, ret) {
		return
	}
	for i, f := range w.asked {
		v := &w.fields[i]
		switch ret := nvml.Return(v.NvmlReturn); ret {
		case nvml.SUCCESS:
			w.offField[f] = 0
			n, good := decode(v)
			if !good || n > fields[f].limit {
				w.fault(symbols[callFields][0], frame.CodeImplausible, "a field that cannot be")
				continue
			}
			r.Set(fields[f].metric, n)
		case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_NO_PERMISSION:
			w.offField[f] = now + retryUs
		default:
			if lost(ret) || reload(ret) {
				w.calls-- // ok counts it again
				w.ok(callFields, ret)
				return
			}
			w.fault(symbols[callFields][0], int(ret), text(ret))
		}
	}
}

// decode reads a field's value by its type. Negative and fractional garbage is not good.
func decode(v *nvml.FieldValue) (n int64, good bool) {
	b := v.Value[:]
	switch nvml.ValueType(v.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		f := math.Float64frombits(binary.NativeEndian.Uint64(b))
		if !(f >= 0 && f < 1<<62) { // NaN is neither
			return 0, false
		}
		return int64(math.Round(f)), true
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		return int64(binary.NativeEndian.Uint32(b)), true
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		n = int64(binary.NativeEndian.Uint64(b))
		return n, n >= 0
	case nvml.VALUE_TYPE_SIGNED_INT:
		n = int64(int32(binary.NativeEndian.Uint32(b)))
		return n, n >= 0
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return int64(binary.NativeEndian.Uint16(b)), true
	}
	return 0, false
}
