package feature

import "math"

// rhythmOfHost finds the rhythm of a host: of its back-end ports together, where it has none of its other ports, and
// else of its watts. host is without repeats, fabric sorted by port and time; both lie in the window.
func (c *NodeCell) rhythmOfHost(host []HostSample, fabric []FabricSample) {
	var tracks [2]track
	of := [2]bool{}
	n := 0
	if t := together(fabric); len(t.ts) >= leastPoints {
		for i := range fabric {
			c.AvailableMs = max(c.AvailableMs, fabric[i].AvailableMs)
		}
		tracks[n], n = t, n+1
	}
	if len(host) >= leastPoints {
		t := track{ts: make([]int64, 0, len(host)), v: make([]float64, 0, len(host))}
		for i := range host {
			c.AvailableMs = max(c.AvailableMs, host[i].AvailableMs)
			if w := host[i].PowerW; !math.IsNaN(w) && !math.IsInf(w, 0) {
				t.ts, t.v = append(t.ts, host[i].TsMs), append(t.v, w)
			}
		}
		if k := len(t.ts); k >= leastPoints && t.ts[k-1] >= c.MinuteMs {
			tracks[n], of[n] = t, true
			n++
		}
	}
	if n == 0 {
		return
	}
	if p, at := rhythm(tracks[:n], c.MinuteMs); at >= 0 {
		c.Rhythm, c.RhythmOfPower = p.rounded(), of[at]
	}
}

// together is the rate at which the ports of a host send, all of them at the times of the one that is read most often.
func together(rows []FabricSample) track {
	var ports []track
	backEnd := false
	for i := range rows {
		backEnd = backEnd || IsBackEnd(rows[i].Kind)
	}
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && rows[j].Port == rows[i].Port {
			j++
		}
		if p := rows[i:j]; IsBackEnd(p[0].Kind) == backEnd && (backEnd || p[0].Kind != "vf") {
			if t := rateOf(p); len(t.ts) > 0 {
				ports = append(ports, t)
			}
		}
		i = j
	}
	if len(ports) == 0 {
		return track{}
	}
	most := 0
	for i := range ports {
		if len(ports[i].ts) > len(ports[most].ts) {
			most = i
		}
	}
	sum := ports[most]
	for i := range ports {
		if i == most {
			continue
		}
		p, k := ports[i], 0
		for x, ts := range sum.ts {
			for k < len(p.ts)-1 && p.ts[k] < ts-withinMs {
				k++
			}
			sum.v[x] += p.v[k]
		}
	}
	for _, v := range sum.v {
		if math.IsInf(v, 0) {
			return track{}
		}
	}
	return sum
}

// withinMs is how far apart the ports of a host are read at one tick.
const withinMs = 20

// rateOf is the bytes a second that one port sent, reading by reading.
func rateOf(rows []FabricSample) track {
	t := track{ts: make([]int64, 0, len(rows)), v: make([]float64, 0, len(rows)), since: true}
	prev := -1
	for i := range rows {
		if math.IsNaN(rows[i].TxBytes) || i+1 < len(rows) && rows[i+1].TsMs == rows[i].TsMs && !math.IsNaN(rows[i+1].TxBytes) {
			continue // a repeat: the one available last holds
		}
		if prev >= 0 && rows[i].TsMs > rows[prev].TsMs {
			t.ts = append(t.ts, rows[i].TsMs)
			t.v = append(t.v, step(rows[prev].TxBytes, rows[i].TxBytes)*1000/float64(rows[i].TsMs-rows[prev].TsMs))
		}
		prev = i
	}
	return t
}
