package feature

import (
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
)

func noisy(kind string, everyMs float64, spanMs int64, r *rand.Rand) []GPUSample {
	// simulated at 50 ms, averaged over rows
	const dt = 50.0
	n := int(float64(spanMs) / dt)
	x := make([]float64, n)
	switch kind {
	case "white":
		for i := range x {
			x[i] = 1 + 0.3*r.NormFloat64()
		}
	case "ar10s", "ar60s", "ar1s":
		tau := map[string]float64{"ar1s": 1000, "ar10s": 10_000, "ar60s": 60_000}[kind]
		a := math.Exp(-dt / tau)
		y := 0.0
		for i := range x {
			y = a*y + math.Sqrt(1-a*a)*r.NormFloat64()
			x[i] = math.Max(1+0.3*y, 0)
		}
	case "walk":
		y := 10.0
		for i := range x {
			y += 0.02 * r.NormFloat64()
			x[i] = y
		}
	case "telegraph":
		on := 0.0
		for i := range x {
			if r.Float64() < dt/8000 {
				on = 1 - on
			}
			x[i] = on
		}
	case "poisson": // requests, each 3 s of work, 1 every 2 s
		left := []float64{}
		for i := range x {
			if r.Float64() < dt/2000 {
				left = append(left, 3000*r.ExpFloat64())
			}
			k := left[:0]
			for _, l := range left {
				if l > dt {
					k = append(k, l-dt)
				}
			}
			left = k
			x[i] = math.Min(float64(len(left)), 8)
		}
	case "sparse": // a request a minute, 5 s
		l := 0.0
		for i := range x {
			if r.Float64() < dt/60000 {
				l += 5000
			}
			if l > 0 {
				x[i] = 1
				l -= dt
			}
		}
	case "queue": // renewal with spread: one queue, service 2 s +- 40 %
		l := 0.0
		for i := range x {
			if l <= 0 {
				l = 2000 * (1 + 0.4*r.NormFloat64())
			}
			l -= dt
			if l > 1000 {
				x[i] = 1
			}
		}
	case "start":
		at := int(r.Float64() * float64(n))
		for i := range x {
			x[i] = 0.05 * r.NormFloat64()
			if i > at {
				x[i]++
			}
		}
	}
	var rows []GPUSample
	k := int(everyMs / dt)
	off := r.IntN(k + 1)
	for i := off; i+k <= n; i += k {
		m := 0.0
		for _, v := range x[i : i+k] {
			m += v
		}
		m /= float64(k)
		rows = append(rows, sample(t0+MinuteMs-spanMs+int64(float64(i+k)*dt), map[Signal]float64{NVLinkTxBps: 1e9 * m, PowerW: 200 + 300*m + 2*r.NormFloat64()}))
	}
	return rows
}

// Load without a rhythm has none, whatever its colour: at most one cell in two hundred says otherwise.
func TestRhythmOfNoise(t *testing.T) {
	t.Parallel()
	for _, every := range []float64{100, 1000, 10_000, 60_000} {
		looked, found := 0, 0
		for k, kind := range []string{"white", "ar1s", "ar10s", "ar60s", "walk", "telegraph", "poisson", "sparse", "queue", "start"} {
			r := rand.New(rand.NewPCG(uint64(k), uint64(every)))
			n := 40
			if every == 100 {
				n = 8
			}
			for range n {
				c, _ := ReduceGPU(noisy(kind, every, WindowMs+MinuteMs, r), t0)
				looked++
				if c.Rhythm.PeriodMs != 0 {
					found++
					t.Logf("%s every %v ms: %+v of %s", kind, every, c.Rhythm, SignalNames[c.RhythmOf])
				}
			}
		}
		if found > looked/200+1 {
			t.Errorf("every %v ms: %d of %d cells of noise have a rhythm", every, found, looked)
		}
	}
}

func BenchmarkReduceGPU1Hz(b *testing.B) {
	for _, kind := range []string{"beat", "poisson", "flat"} {
		r := rand.New(rand.NewPCG(1, 2))
		var rows []GPUSample
		switch kind {
		case "beat":
			rows = beating(5800, 1000, 0.02, 0.1, 11*MinuteMs, r)
		case "poisson":
			rows = noisy("poisson", 1000, 11*MinuteMs, r)
		case "flat":
			for i := range int64(660) {
				rows = append(rows, sample(t0+MinuteMs-660_000+i*1000, map[Signal]float64{NVLinkTxBps: 0, TensorFrac: 0, PowerW: 90, PCIeTxBps: 0}))
			}
		}
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			var a, z syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &a)
			n := 0
			for b.Loop() {
				ReduceGPU(rows, t0)
				n++
			}
			syscall.Getrusage(syscall.RUSAGE_SELF, &z)
			b.ReportMetric(float64(z.Utime.Nano()+z.Stime.Nano()-a.Utime.Nano()-a.Stime.Nano())/float64(n)/1000, "cpu-us/op")
		})
	}
}
