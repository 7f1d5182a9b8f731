package nvmlstub

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Instance is a MIG device: a compute instance in a GPU instance. Its place in the list is
// its index under its GPU; one without a profile is a gap there. Of several in one GPU instance
// the first one's load is that of all, and so is its memory.
type Instance struct {
	Profile string // 1g.10gb, or 1c.3g.40gb for one compute slice of three
	GI, CI  int    // ids, which begin anew for each GPU and each GPU instance
	UUID    string // empty: made of the host, the GPU and the ids
	SMs     uint32 // 0: the model's for that many slices
	// Segments are its load, at most MaxInstanceSegments; what is a fraction there is one of the instance.
	Segments []Segment
}

// Place is where on a GPU something is; the zero value is the whole of it.
type Place struct {
	in     bool
	gi, ci int
}

// In is a place in a MIG device.
func In(gi, ci int) Place { return Place{in: true, gi: gi, ci: ci} }

// shared is a place as the library keeps it.
func (p Place) shared() (uint32, error) {
	switch {
	case !p.in:
		return 0, nil
	case p.gi < 0 || p.gi > 255 || p.ci < 0 || p.ci > 255:
		return 0, fmt.Errorf("nvmlstub: GPU instance %d, compute instance %d, wanted 0 to 255", p.gi, p.ci)
	}
	return uint32(1 + 256*p.gi + p.ci), nil
}

// Instances are one compute instance for each profile, with the ids that drivers give: those of
// the largest from 0, of halves from 1, of quarters from 3, of sevenths from 7.
func Instances(profiles ...string) []Instance {
	var list []Instance
	next := map[int]int{1: 7, 2: 3, 3: 1, 4: 1, 7: 0}
	for _, p := range profiles {
		_, slices, _, err := parseProfile(p)
		if err != nil {
			slices = 1 // refused when it is used
		}
		list = append(list, Instance{Profile: p, GI: next[slices]})
		next[slices]++
		if slices == 3 || slices == 4 {
			next[3], next[4] = next[slices], next[slices]
		}
	}
	return list
}

// With returns a copy with a load.
func (m Instance) With(list ...Segment) Instance {
	m.Segments = list
	return m
}

// parseProfile reads 1c.3g.40gb: compute slices, slices, GB.
func parseProfile(s string) (compute, slices int, gb float64, err error) {
	rest, c := s, ""
	if before, after, ok := strings.Cut(s, "c."); ok {
		c, rest = before, after
	}
	g, m, ok := strings.Cut(rest, "g.")
	m, unit := strings.CutSuffix(m, "gb")
	slices, err = strconv.Atoi(g)
	compute = slices
	if err == nil && c != "" {
		compute, err = strconv.Atoi(c)
	}
	if err == nil {
		gb, err = strconv.ParseFloat(m, 64)
	}
	if err != nil || !ok || !unit || compute < 1 || compute > slices || slices > 7 || slices == 5 || slices == 6 || !(gb >= 1 && gb <= 1000) {
		return 0, 0, 0, fmt.Errorf("MIG profile %q, wanted one such as 1g.10gb", s)
	}
	return compute, slices, gb, nil
}

// setInstances replaces a GPU's MIG devices.
func (c *config) setInstances(gpu int, list []Instance) error {
	g := &c.gpu[gpu]
	if g.mig == 2 {
		return fmt.Errorf("%s has no MIG", text(g.name[:]))
	}
	if len(list) > MaxMIG-1 {
		return fmt.Errorf("%d MIG devices, wanted at most %d", len(list), MaxMIG-1)
	}
	kept := 0
	for _, m := range c.instance[:c.instances] {
		if int(m.gpu) != gpu {
			c.instance[kept] = m
			kept++
		}
	}
	clear(c.instance[kept:])
	seen, slices := map[[2]int]bool{}, map[int]int{}
	for place, m := range list {
		if m.Profile == "" {
			continue
		}
		if kept == MaxInstances {
			return fmt.Errorf("more than %d MIG devices", MaxInstances)
		}
		q, err := m.shared(g, c.host, gpu, c.repeatUs)
		if err != nil {
			return fmt.Errorf("MIG device %d: %w", place, err)
		}
		if seen[[2]int{m.GI, m.CI}] {
			return fmt.Errorf("MIG device %d: there is another with ids %d and %d", place, m.GI, m.CI)
		}
		seen[[2]int{m.GI, m.CI}], slices[m.GI] = true, int(q.slices)
		q.id, q.gpu, q.place = c.newID(), uint32(gpu), uint32(place)
		c.instance[kept] = q
		kept++
	}
	sum := 0
	for _, n := range slices {
		sum += n
	}
	if sum > 7 {
		return fmt.Errorf("its MIG devices have %d slices, there are 7", sum)
	}
	c.instances, g.mig, g.migPending = uint32(kept), 1, 1
	return nil
}

func (m Instance) shared(g *device, host uint32, index int, repeatUs int64) (q instance, err error) {
	compute, slices, gb, err := parseProfile(m.Profile)
	if err != nil {
		return q, err
	}
	if _, err = In(m.GI, m.CI).shared(); err != nil {
		return q, err
	}
	f := Model(g.model).figures()
	sms := f.sliceSMs[slices] * uint32(compute) / uint32(slices)
	q = instance{
		gi: uint32(m.GI), ci: uint32(m.CI), slices: uint32(slices), ciSlices: uint32(compute), sms: orDefault(m.SMs, sms),
		copyEngines: uint32(slices), decoders: uint32(slices), jpegs: uint32(slices), ofas: uint32(slices / 7),
		memTotal: min(uint64(gb*0.975*1024)*mib, g.memTotal), memReserved: 15 * mib, bar1Total: g.bar1Total * uint64(slices) / 8,
		idle: Model(g.model).Idle(),
	}
	q.idle[PowerW], q.idle[TempC], q.idle[MemTempC] = 0, 0, 0 // are the GPU's
	if err = put(q.profile[:], "MIG profile", m.Profile); err != nil {
		return q, err
	}
	id := fmt.Sprintf("MIG-f10b%04x-%04x-5%03x-8000-%04x%04x%04x", host>>16, host&0xffff, slices, index, m.GI, m.CI)
	if err = put(q.uuid[:], "UUID", orDefault(m.UUID, id)); err != nil {
		return q, err
	}
	q.segments, err = fillSegments(q.segment[:], m.Segments, repeatUs)
	return q, err
}

// SetInstances gives a GPU other MIG devices, from now on: handles of the old ones are not valid any
// more. It turns MIG on where it is off.
func (m *Memory) SetInstances(gpu int, list ...Instance) error {
	return m.changeGPU(gpu, func(c *config, _ *device) error { return c.setInstances(gpu, list) })
}

// SetMIG turns a GPU's MIG mode on, without devices, or off; pending is what it will be after a reset.
func (m *Memory) SetMIG(gpu int, on, pending bool) error {
	return m.changeGPU(gpu, func(c *config, g *device) error {
		if err := c.setInstances(gpu, nil); err != nil {
			return err
		}
		g.mig, g.migPending = bit(on), bit(pending)
		return nil
	})
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// InstanceUUID is what the stub calls a MIG device.
func (m *Memory) InstanceUUID(gpu, place int) string {
	return look(m, func(c *config) string {
		for i := range c.instance[:c.instances] {
			if d := &c.instance[i]; int(d.gpu) == gpu && int(d.place) == place {
				return text(d.uuid[:])
			}
		}
		return ""
	})
}

// InstanceTruth is what a GPU instance did in a stretch of time, exactly.
func (m *Memory) InstanceTruth(gpu, gi int, from, to time.Duration) Truth {
	return look(m, func(c *config) Truth {
		for i := range c.instance[:c.instances] {
			if d := &c.instance[i]; int(d.gpu) == gpu && int(d.gi) == gi {
				return c.truth(d.load(), us(from), us(to))
			}
		}
		return Truth{EnergyJ: math.NaN()}
	})
}
