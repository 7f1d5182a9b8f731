//go:build linux && cgo

package nvml

import (
	"slices"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

// part is a MIG device: a compute instance within a GPU instance.
type part struct {
	frame.Instance
	handle nvml.Device
}

// slice is a GPU instance, which GPM tells of.
type slice struct {
	gi   int
	uuid string // of its first part: an instance made anew may have the old one's number
	pair
}

// mig is how a GPU is partitioned, and the scan that finds that out, spread over requests.
type mig struct {
	wanted bool // a scan is to begin
	parts  []part
	slices []*slice
	turn   int // of slices

	scanning bool
	step     int
	most     int // MIG devices that the GPU may have; 0: not asked
	index    int
	found    []part
	now      part // at index, as far as it is known
	list     frame.Instances
}

func (g *mig) forget() {
	for i := range g.parts {
		g.parts[i].handle = nil
	}
	g.parts, g.found, g.scanning, g.wanted, g.most = g.parts[:0], g.found[:0], false, false, 0
	for _, s := range g.slices {
		s.fresh = false
	}
}

func (g *mig) free(lib *library) {
	for _, s := range g.slices {
		s.free(lib)
	}
	g.slices = nil
}

// mode asks whether the GPU is partitioned. Where that changes, so does what it can tell.
func (w *worker) mode() {
	if !w.may(callMIG) {
		return
	}
	mode, _, ret := w.handle.GetMigMode()
	if !w.ok(callMIG, ret) {
		return
	}
	was := w.device.MIGMode
	if w.device.MIGMode = mode & 1; was < 0 || was == w.device.MIGMode {
		return
	}
	clear(w.off[:])
	clear(w.offField[:])
	clear(w.offHealth[:])
	w.gpm.fresh = false
	for i := range w.gpm.sets {
		w.gpm.sets[i].list = nil
	}
	w.mig.wanted = true
}

// Steps of a scan: the mode, how many MIG devices there may be, and then of each its handle,
// its id, and, if that is new, what it is; and how much of its memory is in use.
const (
	scanMode = iota
	scanCount
	scanHandle
	scanUUID
	scanInstance
	scanCompute
	scanAttributes
	scanName
	scanMemory
)

// partition goes on with a scan, as far as the calls of this second allow.
func (w *worker) partition() {
	g := &w.mig
	if w.parted.Swap(false) {
		g.wanted = true
	}
	if g.wanted && !g.scanning && (w.device.MIGMode != 0 || len(g.parts) > 0 || w.whole) {
		g.wanted, g.scanning, g.step, g.index, g.found = false, true, scanMode, 0, g.found[:0]
	}
	for g.scanning && w.left() > 0 && !w.broken {
		w.scan()
	}
}

// scan makes one step.
func (w *worker) scan() {
	g := &w.mig
	switch g.step {
	case scanMode:
		w.mode()
		if w.device.MIGMode != 1 {
			w.scanned()
			return
		}
		g.wanted = false // by mode: this is the scan
		g.step = scanCount
	case scanCount:
		if g.most == 0 && w.may(callMIGCount) {
			if n, ret := w.handle.GetMaxMigDeviceCount(); w.ok(callMIGCount, ret) {
				g.most = min(max(n, 0), 2*frame.MaxInstances)
			}
		}
		g.step = scanHandle
	case scanHandle:
		if g.index >= g.most || len(g.found) == frame.MaxInstances || !w.may(callMIGHandle) {
			w.scanned()
			return
		}
		h, ret := w.handle.GetMigDeviceHandleByIndex(g.index)
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
			w.count(callMIGHandle) // nothing at this place
			g.index++
			return
		}
		if !w.ok(callMIGHandle, ret) {
			w.scanned()
			return
		}
		g.now = part{handle: h, Instance: frame.Instance{GI: frame.WholeGPU, CI: frame.WholeGPU, SMs: -1, Slices: -1, MemTotalBytes: -1, MemUsedBytes: -1}}
		g.step = scanUUID
	default:
		w.scanPart()
	}
}

// scanPart finds out one thing of the part at hand.
func (w *worker) scanPart() {
	g, p := &w.mig, &w.mig.now
	switch g.step {
	case scanUUID:
		if w.may(callMIGUUID) {
			s, ret := p.handle.GetUUID()
			if w.vanished(callMIGUUID, ret) {
				return
			}
			if w.sort(callMIGUUID, ret) {
				p.UUID = frame.Clean(s)
			}
		}
		if i := slices.IndexFunc(g.parts, func(q part) bool { return q.UUID == p.UUID && q.UUID != "" && q.GI >= 0 }); i >= 0 {
			known := g.parts[i].Instance
			known.MemUsedBytes = -1
			p.Instance = known
			g.step = scanName
		}
	case scanInstance:
		if w.may(callMIGInstance) {
			v, ret := p.handle.GetGpuInstanceId()
			if w.vanished(callMIGInstance, ret) {
				return
			}
			if w.sort(callMIGInstance, ret) && v >= 0 && v < 1<<10 {
				p.GI = v
			}
		}
	case scanCompute:
		if w.may(callMIGCompute) {
			v, ret := p.handle.GetComputeInstanceId()
			if w.vanished(callMIGCompute, ret) {
				return
			}
			if w.sort(callMIGCompute, ret) && v >= 0 && v < 1<<10 {
				p.CI = v
			}
		}
	case scanAttributes:
		if w.may(callMIGAttributes) {
			v, ret := p.handle.GetAttributes()
			if w.vanished(callMIGAttributes, ret) {
				return
			}
			if w.sort(callMIGAttributes, ret) && v.MultiprocessorCount < 1<<12 && v.GpuInstanceSliceCount < 1<<6 {
				p.SMs, p.Slices = int(v.MultiprocessorCount), int(v.GpuInstanceSliceCount)
				p.MemTotalBytes = sane(v.MemorySizeMB<<20, maxMem)
			}
		}
	case scanName:
		if p.Profile == "" && w.may(callMIGName) {
			s, ret := p.handle.GetName()
			if w.vanished(callMIGName, ret) {
				return
			}
			if w.sort(callMIGName, ret) {
				p.Profile = profile(frame.Clean(s))
			}
		}
	case scanMemory:
		w.partMemory(p)
		if !w.broken {
			g.found = append(g.found, *p)
			g.index++
			g.step = scanHandle
		}
		return
	}
	g.step++
}

// partMemory asks how much of a GPU instance's memory is in use, once for each of them.
func (w *worker) partMemory(p *part) {
	i := slices.IndexFunc(w.mig.found, func(q part) bool { return q.GI == p.GI && p.GI >= 0 })
	switch {
	case i >= 0:
		p.MemTotalBytes, p.MemUsedBytes = w.mig.found[i].MemTotalBytes, w.mig.found[i].MemUsedBytes
	case w.able(callMIGMemoryV2) && w.may(callMIGMemoryV2):
		m, ret := p.handle.GetMemoryInfo_v2()
		switch {
		case !absent(ret):
			if w.ok(callMIGMemoryV2, ret) {
				p.used(m.Used, m.Total)
			}
		default:
			w.count(callMIGMemoryV2)
			if w.partMemoryV1(p) {
				w.off[callMIGMemoryV2] = w.clockUs() + retryUs // the driver does not know it
			}
		}
	default:
		w.partMemoryV1(p)
	}
}

// partMemoryV1 asks the older way, and reports whether that helped.
func (w *worker) partMemoryV1(p *part) bool {
	if !w.may(callMIGMemory) {
		return false
	}
	m, ret := p.handle.GetMemoryInfo()
	if absent(ret) { // the part may be gone; of those that stay it can be asked
		w.count(callMIGMemory)
		return false
	}
	if !w.ok(callMIGMemory, ret) {
		return false
	}
	p.used(m.Used, m.Total)
	return true
}

func (p *part) used(used, total uint64) {
	if used <= total && total <= maxMem {
		p.MemTotalBytes, p.MemUsedBytes = sane(total, maxMem), int64(used)
	}
}

// absent reports whether a code may mean that a part is not there any more.
func absent(ret nvml.Return) bool {
	return ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT || ret == nvml.ERROR_INVALID_STATE
}

// profile is what stands behind "MIG" in the name of a device, "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
// without the compute instance's share of it, "1c.3g.40gb".
func profile(name string) string {
	_, s, _ := strings.Cut(name, " MIG ")
	if share, whole, ok := strings.Cut(s, "c."); ok && strings.Trim(share, "0123456789") == "" {
		return whole
	}
	return s
}

// gone counts a call about a part, and reports whether the part is not there any more: then the
// GPU is looked at anew.
func (w *worker) gone(c call, ret nvml.Return) bool {
	w.count(c)
	if !absent(ret) {
		return false
	}
	w.mig.wanted = true
	return true
}

// vanished is gone during a scan: it goes on with the next.
func (w *worker) vanished(c call, ret nvml.Return) bool {
	if !w.gone(c, ret) {
		return false
	}
	w.mig.index++
	w.mig.step = scanHandle
	return true
}

// scanned ends a scan: what it found is how the GPU is partitioned.
func (w *worker) scanned() {
	g := &w.mig
	g.scanning = false
	if w.broken || len(g.parts) == 0 && len(g.found) == 0 {
		return
	}
	if !slices.EqualFunc(g.parts, g.found, func(a, b part) bool { return a.UUID == b.UUID }) {
		w.look.step = 0 // a list that is under way begins again
	}
	g.parts = append(g.parts[:0], g.found...)
	g.list.GPU, g.list.Seq, g.list.List = w.index, w.job.Seq, g.list.List[:0]
	for i := range g.parts {
		g.list.List = append(g.list.List, g.parts[i].Instance)
	}
	w.out = frame.AppendInstances(w.out, &g.list)
	w.reslice()
}

// reslice makes slices what the parts say.
func (w *worker) reslice() {
	g := &w.mig
	old := g.slices
	g.slices = nil
	for i := range g.parts {
		p := &g.parts[i]
		if p.GI < 0 || slices.ContainsFunc(g.slices, func(s *slice) bool { return s.gi == p.GI }) {
			continue
		}
		at := slices.IndexFunc(old, func(s *slice) bool { return s.gi == p.GI && s.uuid == p.UUID })
		if at < 0 {
			g.slices = append(g.slices, &slice{gi: p.GI, uuid: p.UUID})
			continue
		}
		g.slices = append(g.slices, old[at])
		old = slices.Delete(old, at, at+1)
	}
	for _, s := range old {
		s.free(w.lib)
	}
}

// instances reads what GPU instances did since each of them was last read: two calls for one,
// so they take turns. GPM averages over the time between two samples of the same instance,
// so that nothing is lost by waiting. Seven of them come round in three seconds, or in five
// while something rare is read.
func (w *worker) instances(most int) {
	g := &w.mig
	if !w.device.GPM || !w.able(callMIGSample) || !w.able(callMIGMetrics) {
		return
	}
	for range min(most, len(g.slices)) {
		if w.left() < 2 || w.broken || len(g.slices) == 0 {
			return
		}
		s := g.slices[g.turn%len(g.slices)]
		if now := w.clockUs(); s.fresh && !s.due(now) {
			return // all others are younger
		}
		g.turn++
		w.instance(s)
	}
}

func (w *worker) instance(s *slice) {
	start, before := time.Now(), w.calls
	if !w.gpmAlloc(&s.pair) || !w.both(callMIGSample, s.fresh) {
		return
	}
	now, next := w.clockUs(), 1-s.last
	ret := w.handle.GpmMigSampleGet(s.gi, s.samples[next])
	if w.gone(callMIGSample, ret) {
		s.fresh = false
		return
	}
	if !w.sort(callMIGSample, ret) {
		return
	}
	r := frame.Reading{GPU: w.index, GI: s.gi, Seq: w.job.Seq, ElapsedUs: start.Sub(w.job.at).Microseconds()}
	if s.fresh && now > s.lastUs && now-s.lastUs <= gpmOldUs {
		m := &w.gpm
		m.asks = append(m.asks[:0], m.parts.at(now)...)
		w.metrics(callMIGMetrics, &r, s.samples[s.last], s.samples[next], now)
	}
	s.last, s.lastUs, s.fresh = next, now, true
	r.TookUs, r.Calls = time.Since(start).Microseconds(), w.calls-before
	if r.Present != 0 {
		w.out = frame.AppendReading(w.out, &r)
	}
}
