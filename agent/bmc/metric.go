package bmc

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// component is what is known of one part of a target. Values of math.MinInt64 are absent.
type component struct {
	name     string
	uuid     string
	method   string
	reportMs int64 // the oldest of what the values below were measured at; 0: not known
	value    [fields]int64

	linkTx, linkRx traffic
	memory         mean
}

// traffic is what is told of NVLink: of the whole GPU or of its links, the payload or all.
type traffic struct{ data, raw, dataLinks, rawLinks float64 }

func newTraffic() traffic { return traffic{-1, -1, -1, -1} }

// best is the payload before all, the whole before a sum of links; -1: nothing is told.
func (t traffic) best() float64 {
	for _, v := range [...]float64{t.data, t.dataLinks, t.raw, t.rawLinks} {
		if v >= 0 {
			return v
		}
	}
	return -1
}

// mean of several parts, as the memories of a GPU.
type mean struct {
	sum float64
	n   int
}

// Values of a component, in the order of the wire's fields from 15.
const (
	power = iota
	energy
	temp
	util
	smActive
	smOccupancy
	tensor
	hmma
	imma
	dfma
	fp64
	fp32
	fp16
	integer
	dram
	pcieTx
	pcieRx
	nvlinkTx
	nvlinkRx
	smClock
	fields
)

// firstField is the wire's number of the first value.
const firstField = 15

const absent = math.MinInt64

func newComponent(name, method string) *component {
	c := &component{}
	c.reset()
	c.name, c.method = name, method
	return c
}

func (c *component) reset() {
	*c = component{linkTx: newTraffic(), linkRx: newTraffic()}
	for i := range c.value {
		c.value[i] = absent
	}
}

// empty reports whether nothing is known.
func (c *component) empty() bool {
	for _, v := range c.value {
		if v != absent {
			return false
		}
	}
	return true
}

// finish turns what was collected into values.
func (c *component) finish() {
	c.setRate(nvlinkTx, c.linkTx.best())
	c.setRate(nvlinkRx, c.linkRx.best())
	if c.memory.n > 0 {
		c.setShare(dram, c.memory.sum/float64(c.memory.n))
	}
}

// stamp keeps the oldest time of measurement.
func (c *component) stamp(at time.Time) {
	if ms := at.UnixMilli(); !at.IsZero() && (c.reportMs == 0 || ms < c.reportMs) {
		c.reportMs = ms
	}
}

// setShare takes percent; a little above a hundred is rounding.
func (c *component) setShare(field int, percent float64) bool {
	if !(percent >= 0 && percent <= 101) {
		return false
	}
	c.value[field] = int64(math.Round(min(percent, 100) * 100))
	return true
}

// setRate takes Gbit/s and keeps bytes per second.
func (c *component) setRate(field int, gbps float64) bool {
	if !(gbps >= 0 && gbps <= 1e6) {
		return false
	}
	c.value[field] = int64(math.Round(gbps * 1e9 / 8))
	return true
}

// setScaled takes a value within bounds.
func (c *component) setScaled(field int, v, scale, low, high float64) bool {
	if !(v >= low && v <= high) {
		return false
	}
	c.value[field] = int64(math.Round(v * scale))
	return true
}

func (c *component) setPower(watts float64) bool { return c.setScaled(power, watts, 1000, 0, 1e6) }

// Shares of time or cycles, as NVIDIA's controllers name them, in percent.
var shares = map[string]int{
	"TensorCoreActivityPercent": tensor, "SMActivityPercent": smActive, "SMOccupancyPercent": smOccupancy, "GraphicsEngineActivityPercent": util,
	"HMMAUtilizationPercent": hmma, "IMMAUtilizationPercent": imma, "DMMAUtilizationPercent": dfma,
	"FP64ActivityPercent": fp64, "FP32ActivityPercent": fp32, "FP16ActivityPercent": fp16, "IntegerActivityUtilizationPercent": integer,
}

// take puts one metric where it belongs: property is the URI of a report's MetricProperty.
// It returns nil for what is not wanted, or is out of bounds. find returns a component by
// name, and makes it if need be; it is asked only when the value is good, as a component
// without a value is not there.
func take(property string, v float64, scratch *component, find func(name string) *component) *component {
	scratch.reset()
	if !scratch.wants(property, v) {
		return nil
	}
	path, fragment, _ := strings.Cut(property, "#")
	name := gpuIn(path)
	if name == "" {
		c := find(total(path))
		c.setPower(v)
		return c
	}
	c := find(name)
	c.take(path, last(fragment), fragment, v)
	return c
}

// wants takes a metric into a component that is thrown away.
func (c *component) wants(property string, v float64) bool {
	path, fragment, _ := strings.Cut(property, "#")
	if gpuIn(path) == "" {
		return total(path) != "" && c.setPower(v)
	}
	return c.take(path, last(fragment), fragment, v)
}

// total is the component of a sensor of all GPUs together; "": it is none.
func total(path string) string {
	rest, ok := strings.CutSuffix(last(path), "_TotalGPU_Power_0")
	if !ok {
		return ""
	}
	return strings.TrimPrefix(rest+"_TotalGPU", "HGX_")
}

// take reports whether the metric is one of a GPU's.
func (c *component) take(path, leaf, fragment string, v float64) bool {
	if field, ok := shares[leaf]; ok {
		return c.setShare(field, v)
	}
	links := strings.Contains(path, "/Ports/")
	memory := strings.Contains(path, "/Memory/") || strings.Contains(path, "/MemorySummary/")
	switch leaf {
	case "PCIeRawTxBandwidthGbps":
		return c.setRate(pcieTx, v)
	case "PCIeRawRxBandwidthGbps":
		return c.setRate(pcieRx, v)
	case "NVLinkDataTxBandwidthGbps":
		return c.linkTx.add(true, links, v)
	case "NVLinkRawTxBandwidthGbps":
		return c.linkTx.add(false, links, v)
	case "NVLinkDataRxBandwidthGbps":
		return c.linkRx.add(true, links, v)
	case "NVLinkRawRxBandwidthGbps":
		return c.linkRx.add(false, links, v)
	case "BandwidthPercent":
		if !memory || !(v >= 0 && v <= 101) {
			return false // of a processor it is no share of its memory's time
		}
		c.memory.sum, c.memory.n = c.memory.sum+v, c.memory.n+1
		return true
	case "OperatingSpeedMHz":
		return !memory && !links && c.setScaled(smClock, v, 1, 0, 10_000)
	}
	switch {
	case memory:
		return false
	case strings.Contains(fragment, "PowerWatts"):
		return c.setPower(v)
	case strings.Contains(fragment, "EnergyJoules"):
		return c.setScaled(energy, v, 1000, 0, 1e14)
	case strings.Contains(fragment, "EnergykWh"):
		return c.setScaled(energy, v, 3.6e9, 0, 1e8)
	case strings.Contains(fragment, "TemperatureCelsius"):
		return c.setScaled(temp, v, 1, -50, 200)
	case strings.Contains(path, "/Sensors/"):
		return c.sensor(last(path), v)
	}
	return false
}

// sensor takes a sensor by its name, as HGX_GPU_SXM_1_Power_0. Those of a GPU's memory, and
// TEMP_1, which is the room left to the limit, are something else.
func (c *component) sensor(name string, v float64) bool {
	lower := strings.ToLower(name)
	_, rest, _ := strings.Cut(lower, strings.ToLower(gpuIn(name)))
	switch rest {
	case "_power_0":
		return c.setPower(v)
	case "_energy_0":
		return c.setScaled(energy, v, 1000, 0, 1e14)
	case "_temp_0":
		return c.setScaled(temp, v, 1, -50, 200)
	}
	return false
}

// add takes the traffic of a GPU or of one of its links, in Gbit/s.
func (t *traffic) add(data, link bool, v float64) bool {
	if !(v >= 0 && v <= 1e6) {
		return false
	}
	to := &t.raw
	switch {
	case data && link:
		to = &t.dataLinks
	case data:
		to = &t.data
	case link:
		to = &t.rawLinks
	}
	if !link || *to < 0 {
		*to = 0
	}
	*to += v
	return true
}

func last(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// gpuIn finds the name of a GPU in a path: GPU_SXM_3, GPU_0, ProcessorModule_1_GPU_0,
// GPU.Slot.1. Of GPU_SXM_3_DRAM_0 it is GPU_SXM_3; "": there is none.
func gpuIn(path string) string {
	for from := 0; ; {
		i := strings.Index(path[from:], "GPU")
		if i < 0 {
			return ""
		}
		i += from
		from = i + 3
		if i > 0 && (unicode.IsLetter(rune(path[i-1])) || unicode.IsDigit(rune(path[i-1]))) {
			continue // TotalGPU
		}
		rest := path[i+3:]
		n := 0
		for _, word := range []string{"_SXM_", "_", ".Slot.", ".Embedded.", ""} {
			if strings.HasPrefix(rest, word) {
				n = len(word)
				break
			}
		}
		digits := n
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		if digits == n || digits-n > 4 {
			continue
		}
		if strings.HasPrefix(rest[:n], ".") { // Dell: GPU.Slot.21-1
			end := digits
			for end < len(rest) && (rest[end] == '-' || rest[end] >= '0' && rest[end] <= '9') && end-digits < 4 {
				end++
			}
			digits = end
		}
		return module(path[:i]) + path[i:i+3+digits]
	}
}

// module is the part of a name before its GPU that tells boards apart.
func module(before string) string {
	const word = "ProcessorModule_"
	i := strings.LastIndex(before, word)
	if i < 0 || !strings.HasSuffix(before, "_") || strings.Contains(before[i:], "/") {
		return ""
	}
	if n := before[i+len(word) : len(before)-1]; len(n) == 0 || len(n) > 4 || strings.Trim(n, "0123456789") != "" {
		return ""
	}
	return before[i:]
}

// number reads a metric's value; ok is false for "nan", "null" and words.
func number(s string) (v float64, ok bool) {
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return v, err == nil && !math.IsNaN(v) && !math.IsInf(v, 0)
}

// gpuUUID makes NVML's form of a Redfish UUID; "": it is none.
func gpuUUID(s string) string {
	s = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(s), "GPU-"))
	if len(s) != 36 || strings.Trim(s, "0-") == "" {
		return ""
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return ""
		}
	}
	return "GPU-" + s
}
