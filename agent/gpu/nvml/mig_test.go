//go:build linux && cgo

package nvml

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// partitioned is a host of one GPU that is whole and one in seven, all at work.
func partitioned() nvmlstub.Scenario {
	s := nvmlstub.Training(nvmlstub.H100SXM, 2, 0, time.Hour)
	s.Unprivileged = true
	list := nvmlstub.Instances("1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb")
	for i := range list {
		list[i].Segments = []nvmlstub.Segment{nvmlstub.TrainSegment(nvmlstub.H100SXM, time.Duration(i)*time.Second, time.Hour-time.Minute)}
		s.Processes = append(s.Processes, nvmlstub.Process{PID: uint32(500 + i), GPUs: []int{1}, UsedBytes: 1 << 28, MIG: nvmlstub.In(list[i].GI, 0)})
	}
	s.GPUs[1].Segments, s.GPUs[1].Instances = nil, list
	return s
}

// Seven instances on one GPU: all are read in turn, no average is lost, and no second has more
// than twelve calls.
func TestMIG(t *testing.T) {
	c := newTalk(t, partitioned())
	defer c.close()
	c.listened()
	var layout frame.Instances
	type span struct {
		from   int64
		shares float64 // tensor activity times milliseconds
		to     int64
		most   int64 // between two readings
	}
	spans := map[int]*span{}
	var lists []frame.Processes
	for i := range 100 {
		q := frame.Request{Sample: 3, Events: true}
		if i%10 == 0 {
			q.Processes = 3
		}
		if i%30 == 0 {
			q.Health = 3
		}
		c.ask(q)
		for _, p := range c.instances {
			if p.GPU != 1 {
				t.Errorf("GPU %d is partitioned: %+v", p.GPU, p)
			}
			layout = p
			layout.List = slices.Clone(p.List)
		}
		for _, r := range c.readings {
			if r.GI == frame.WholeGPU {
				if r.GPU == 1 && (r.Has(frame.TensorE4) || r.Has(frame.UtilE4) || !r.Has(frame.EnergyMJ) || !r.Has(frame.SMClockMHz)) {
					t.Errorf("second %d: the partitioned GPU: %#x", i, r.Present)
				}
				continue
			}
			if r.GPU != 1 || !r.Has(frame.TensorE4) || !r.Has(frame.SMActiveE4) || !r.Has(frame.GREngineE4) || r.Has(frame.NVLinkTxBps) || r.Has(frame.MMACycles) || r.FromGPM != r.Present {
				t.Errorf("second %d: instance %d: %#x, by GPM %#x", i, r.GI, r.Present, r.FromGPM)
			}
			s := spans[r.GI]
			if s == nil {
				// Begins with the first reading that has one before it.
				spans[r.GI] = &span{from: c.boot, to: c.boot}
				continue
			}
			s.shares += float64(r.Values[frame.TensorE4]) / 1e4 * float64(c.boot-s.to)
			s.most = max(s.most, c.boot-s.to)
			s.to = c.boot
		}
		for _, p := range c.processes {
			if p.GPU == 1 {
				lists = append(lists, frame.Processes{Seq: p.Seq, Known: p.Known, List: slices.Clone(p.List)})
			}
		}
	}
	most := c.withinBudget()
	if len(layout.List) != 7 {
		t.Fatalf("layout: %+v", layout)
	}
	for i, v := range layout.List {
		if v.UUID != c.mem.InstanceUUID(1, i) || v.Profile != "1g.10gb" || v.GI != 7+i || v.CI != 0 || v.SMs != 16 || v.Slices != 1 || v.MemTotalBytes < 9<<30 || v.MemUsedBytes < 1<<28 {
			t.Errorf("instance %d: %+v", i, v)
		}
	}
	if len(spans) != 7 {
		t.Fatalf("%d instances were read", len(spans))
	}
	worst := int64(0)
	for gi, s := range spans {
		want := c.mem.InstanceTruth(1, gi, time.Duration(s.from)*time.Millisecond, time.Duration(s.to)*time.Millisecond).Mean[nvmlstub.Tensor]
		if got := s.shares / float64(s.to-s.from); math.Abs(got-want) > 2e-4 {
			t.Errorf("instance %d: %v of the tensor cores over %d ms, want %v", gi, got, s.to-s.from, want)
		}
		worst = max(worst, s.most)
	}
	t.Logf("at most %d calls in a second, an instance at least every %d ms", most, worst)
	if worst > 5000 {
		t.Errorf("an instance was not read for %d ms", worst)
	}
	if len(lists) < 9 {
		t.Fatalf("%d lists", len(lists))
	}
	last := lists[len(lists)-1]
	if !last.Known || len(last.List) != 7 {
		t.Fatalf("processes: %+v", last)
	}
	for i, p := range last.List {
		if p.PID != int32(500+i) || p.Instance != c.mem.InstanceUUID(1, i) {
			t.Errorf("process %d: %+v", i, p)
		}
	}
}

// The GPU is cut anew while it is read: readings of what is gone end, what is new is read, and
// an instance that has an old one's number does not get its samples.
func TestMIGChanges(t *testing.T) {
	s := partitioned()
	c := newTalk(t, s)
	defer c.close()
	c.listened()
	for range 25 {
		c.ask(frame.Request{Sample: 3, Events: true})
	}
	halves := nvmlstub.Instances("3g.40gb", "3g.40gb")
	if err := c.mem.SetInstances(1, halves...); err != nil {
		t.Fatal(err)
	}
	var got frame.Instances
	seen := map[int]bool{}
	for i := range 20 {
		q := frame.Request{Sample: 3, Events: true}
		if i%10 == 2 {
			q.Processes = 2
		}
		c.ask(q)
		for _, p := range c.instances {
			got = p
		}
		for _, r := range c.readings {
			seen[r.GI] = seen[r.GI] || i > 3
		}
		for _, f := range c.faults {
			t.Errorf("second %d: fault %+v", i, f)
		}
	}
	if len(got.List) != 2 || got.List[0].Profile != "3g.40gb" || !seen[got.List[0].GI] || !seen[got.List[1].GI] || seen[7] {
		t.Errorf("layout %+v, readings of %v", got, seen)
	}
	// Off again: told with an empty list, and the whole GPU is read as one.
	if err := c.mem.SetMIG(1, false, false); err != nil {
		t.Fatal(err)
	}
	got = frame.Instances{List: make([]frame.Instance, 1)}
	c.ask(frame.Request{Type: frame.TypeDescribe, Sample: 3, Events: true})
	for range 15 {
		for _, p := range c.instances {
			got = p
		}
		c.ask(frame.Request{Sample: 3, Events: true})
	}
	if len(got.List) != 0 {
		t.Errorf("layout %+v", got)
	}
	if i := slices.IndexFunc(c.readings, func(r frame.Reading) bool { return r.GPU == 1 }); i < 0 || !c.readings[i].Has(frame.TensorE4) || !c.readings[i].Has(frame.UtilE4) {
		t.Errorf("readings: %+v", c.readings)
	}
	// On, and cut, with an event that says so: it is seen without a description.
	if err := c.mem.SetInstances(0, nvmlstub.Instances("7g.80gb")...); err != nil {
		t.Fatal(err)
	}
	c.push(nvmlstub.Event{GPU: 0, Type: 0x100})
	if !c.until(10, frame.Request{Sample: 3, Events: true}, func() bool { return len(c.instances) > 0 && len(c.instances[0].List) == 1 }) {
		t.Error("nobody looked")
	}
	c.withinBudget()
}

// push lets events happen now, and waits until they have come: events go by the machine's clock.
func (c *talk) push(list ...nvmlstub.Event) {
	c.tb.Helper()
	if err := c.mem.Push(list...); err != nil {
		c.tb.Fatal(err)
	}
	for c.answers = (answers{}); len(c.events) == 0; {
		c.next()
	}
}

// The beginning of a child on partitioned GPUs, and bursts: twelve calls at most.
func TestMIGBudget(t *testing.T) {
	for _, burst := range []bool{false, true} {
		t.Run(fmt.Sprint(burst), func(t *testing.T) {
			c := newTalk(t, partitioned())
			defer c.close()
			for i := range 60 {
				q := frame.Request{Sample: 3, Events: true}
				if i%5 == 0 {
					q.Processes, q.Health = 3, 3
				}
				if i%20 == 0 {
					q.Type = frame.TypeDescribe
				}
				after := time.Second
				if burst && i >= 10 {
					q.Burst, after = 3, 200*time.Millisecond
				}
				c.askAfter(after, q)
				for range 4 {
					if q.Burst != 0 {
						c.askAfter(200*time.Millisecond, frame.Request{Burst: 3, BurstGPM: 1, Events: true})
					}
				}
			}
			t.Logf("at most %d calls in a second", c.withinBudget())
		})
	}
}
