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

// batch reads all fields in one call. Counters of links are among them where there is no GPM,
// and where all is asked for.
func (w *worker) batch(r *frame.Reading, all bool) {
	if !w.able(callFields) {
		return
	}
	now := w.clockUs()
	w.fields, w.asked = w.fields[:0], w.asked[:0]
	for f := range numFields {
		if f >= fieldNVLinkTx && !all && w.gpmWorks() || w.offField[f] > now {
			continue
		}
		w.ask(uint8(f), fields[f].id, fields[f].scope)
	}
	if !w.gather(callFields) {
		return
	}
	for i, at := range w.asked {
		f := field(at)
		n, got := w.value(callFields, &w.fields[i], fields[f].limit, &w.offField[f], now)
		if w.broken {
			return
		}
		if got {
			r.Set(fields[f].metric, n)
		}
	}
}

// ask adds a field to a batch: a whole new value, as what is left in one adds up in some drivers.
func (w *worker) ask(at uint8, id, scope uint32) {
	w.fields = append(w.fields, nvml.FieldValue{FieldId: id, ScopeId: scope})
	w.asked = append(w.asked, at)
}

// gather reads the fields that were asked for.
func (w *worker) gather(c call) bool {
	if len(w.fields) == 0 || !w.may(c) { // of none the binding would stumble
		return false
	}
	return w.ok(c, w.handle.GetFieldValues(w.fields))
}

// value is what a batch gave for one field, if it did. What is not supported is put off.
func (w *worker) value(c call, v *nvml.FieldValue, limit int64, off *int64, now int64) (n int64, got bool) {
	switch ret := nvml.Return(v.NvmlReturn); ret {
	case nvml.SUCCESS:
		*off = 0
		n, good := decode(v)
		if !good || n > limit {
			w.implausible(c, "a field that cannot be")
			return 0, false
		}
		return n, true
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_NO_PERMISSION:
		*off = now + retryUs
	default:
		if lost(ret) || reload(ret) {
			w.sort(c, ret)
			return 0, false
		}
		w.fault(symbols[c][0], int(ret), text(ret))
	}
	return 0, false
}

// decode reads a field's value by its type. Negative and fractional garbage is not good, and
// neither are all ones, which are NVML's word for "not available" in every width.
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
		u := binary.NativeEndian.Uint32(b)
		return int64(u), u != math.MaxUint32
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		n = int64(binary.NativeEndian.Uint64(b))
		return n, n >= 0
	case nvml.VALUE_TYPE_SIGNED_INT:
		n = int64(int32(binary.NativeEndian.Uint32(b)))
		return n, n >= 0
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		u := binary.NativeEndian.Uint16(b)
		return int64(u), u != math.MaxUint16
	}
	return 0, false
}
