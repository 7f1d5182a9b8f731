package drawn

// part is what physics needs to know of a GPU. Figures are those of public data sheets.
type part struct {
	name     string // as NVML gives it
	arch     string
	sms      int
	boost    float64 // MHz
	k16      float64 // dense 16-bit FLOP a clock and SM; 0: no tensor cores
	dense16  float64 // FLOP/s of the data sheet
	fp64     float64 // FLOP/s, vector
	fp64t    float64 // FLOP/s, tensor; 0: none
	fp32     float64 // FLOP/s, vector
	memGB    float64
	bw       float64 // bytes a second
	tdp      float64 // W
	nvlink   float64 // bytes a second, both ways together; 0: none
	fp8, fp4 bool
	bf16     bool
	idleW    float64
	known    bool // a table could have it
}

const (
	tera = 1e12
	giga = 1e9
)

func p(name, arch string, sms int, boost, k16, dense16, fp64, fp64t, fp32, mem, bw, tdp, nvlink, idle float64) part {
	return part{
		name: name, arch: arch, sms: sms, boost: boost, k16: k16, dense16: dense16 * tera, fp64: fp64 * tera, fp64t: fp64t * tera, fp32: fp32 * tera,
		memGB: mem, bw: bw * giga, tdp: tdp, nvlink: nvlink * giga, idleW: idle, known: true,
		fp8: arch == "ada" || arch == "hopper" || arch == "blackwell", fp4: arch == "blackwell", bf16: arch != "volta" && arch != "turing" && arch != "pascal",
	}
}

// parts that have tensor cores.
var parts = []part{
	p("Tesla V100-SXM2-32GB", "volta", 80, 1530, 1024, 125, 7.8, 0, 15.7, 32, 900, 300, 300, 42),
	p("Tesla V100-PCIE-16GB", "volta", 80, 1380, 1024, 112, 7.0, 0, 14.1, 16, 900, 250, 0, 35),
	p("Tesla V100S-PCIE-32GB", "volta", 80, 1597, 1024, 130, 8.2, 0, 16.4, 32, 1134, 250, 0, 36),
	p("Tesla T4", "turing", 40, 1590, 1024, 65, 0.25, 0, 8.1, 16, 320, 70, 0, 11),
	p("NVIDIA A100-SXM4-80GB", "ampere", 108, 1410, 2048, 312, 9.7, 19.5, 19.5, 80, 2039, 400, 600, 60),
	p("NVIDIA A100-SXM4-40GB", "ampere", 108, 1410, 2048, 312, 9.7, 19.5, 19.5, 40, 1555, 400, 600, 52),
	p("NVIDIA A100 80GB PCIe", "ampere", 108, 1410, 2048, 312, 9.7, 19.5, 19.5, 80, 1935, 300, 0, 44),
	p("NVIDIA A100-PCIE-40GB", "ampere", 108, 1410, 2048, 312, 9.7, 19.5, 19.5, 40, 1555, 250, 0, 36),
	p("NVIDIA A800-SXM4-80GB", "ampere", 108, 1410, 2048, 312, 9.7, 19.5, 19.5, 80, 2039, 400, 400, 60),
	p("NVIDIA A30", "ampere", 56, 1440, 2048, 165, 5.2, 10.3, 10.3, 24, 933, 165, 200, 28),
	p("NVIDIA A10", "ampere", 72, 1695, 1024, 125, 0.98, 0, 31.2, 24, 600, 150, 0, 18),
	p("NVIDIA A40", "ampere", 84, 1740, 1024, 149.7, 0.58, 0, 37.4, 48, 696, 300, 112.5, 30),
	p("NVIDIA L4", "ada", 58, 2040, 1024, 121, 0.47, 0, 30.3, 24, 300, 72, 0, 16),
	p("NVIDIA L40", "ada", 142, 2490, 512, 181, 1.4, 0, 90.5, 48, 864, 300, 0, 34),
	p("NVIDIA L40S", "ada", 142, 2490, 1024, 362, 1.4, 0, 91.6, 48, 864, 350, 0, 34),
	p("NVIDIA GeForce RTX 4090", "ada", 128, 2520, 512, 165.2, 1.3, 0, 82.6, 24, 1008, 450, 0, 20),
	p("NVIDIA H100 80GB HBM3", "hopper", 132, 1980, 4096, 989.4, 33.5, 66.9, 66.9, 80, 3350, 700, 900, 70),
	p("NVIDIA H100 PCIe", "hopper", 114, 1755, 4096, 756.4, 25.6, 51.2, 51.2, 80, 2039, 350, 0, 48),
	p("NVIDIA H100 NVL", "hopper", 132, 1785, 4096, 835.5, 30, 60, 60, 94, 3938, 400, 600, 60),
	p("NVIDIA H800", "hopper", 132, 1980, 4096, 989.4, 1, 1, 66.9, 80, 3350, 700, 400, 70),
	p("NVIDIA H20", "hopper", 78, 1980, 1024, 148, 1, 1, 44, 96, 4000, 400, 900, 60),
	p("NVIDIA H200", "hopper", 132, 1980, 4096, 989.4, 33.5, 66.9, 66.9, 141, 4800, 700, 900, 76),
	p("NVIDIA H200 NVL", "hopper", 132, 1785, 4096, 835.5, 30, 60, 60, 141, 4800, 600, 900, 70),
	p("NVIDIA GH200 480GB", "hopper", 132, 1980, 4096, 989.4, 33.5, 66.9, 66.9, 96, 4000, 700, 900, 80),
	p("NVIDIA B200", "blackwell", 148, 1965, 8192, 2250, 37, 37, 75, 180, 8000, 1000, 1800, 140),
	p("NVIDIA GB200", "blackwell", 152, 2062, 8192, 2500, 40, 40, 80, 186, 8000, 1200, 1800, 150),
	p("NVIDIA GeForce RTX 5090", "blackwell", 170, 2407, 512, 209.5, 1.6, 0, 104.8, 32, 1792, 575, 0, 24),
	p("NVIDIA RTX PRO 6000 Blackwell Server Edition", "blackwell", 188, 2600, 1024, 503.8, 1.9, 0, 120, 96, 1597, 600, 0, 30),
}

// common weighs parts as fleets do: most GPUs for rent are of few kinds.
func drawPart(r *rng, fits func(*part) bool) *part {
	var of []*part
	for i := range parts {
		x := &parts[i]
		if fits != nil && !fits(x) {
			continue
		}
		of = append(of, x)
		if x.nvlink > 0 && x.tdp >= 400 { // data centres buy more of these
			of = append(of, x, x)
		}
	}
	return of[r.IntN(len(of))]
}

// strange is a part that no table has: another one's figures, all moved.
func strange(r *rng) *part {
	x := *drawPart(r, func(x *part) bool { return x.tdp >= 250 })
	f := r.logUniform(0.6, 2.2)
	x.name = pick(r, "NVIDIA Graphics Device", "NVIDIA X"+r.hex(3), "NVIDIA H"+pick(r, "150", "300", "42")+" "+pick(r, "96GB HBM3", "SXM7"), "Acme Tensor "+r.hex(2))
	x.known = false
	x.sms = int(float64(x.sms) * r.logUniform(0.6, 1.6))
	x.boost *= r.uniform(0.8, 1.25)
	x.dense16 = float64(x.sms) * x.boost * 1e6 * x.k16
	x.fp64, x.fp64t, x.fp32 = x.fp64*f, x.fp64t*f, x.fp32*f
	x.memGB, x.bw, x.tdp, x.idleW = x.memGB*r.logUniform(0.6, 2), x.bw*f, x.tdp*r.logUniform(0.6, 1.7), x.idleW*r.logUniform(0.6, 1.7)
	return &x
}

func tensorParts(x *part) bool { return x.dense16 >= 100*tera }
func bigParts(x *part) bool    { return x.tdp >= 300 && x.memGB >= 40 }
func hopperUp(x *part) bool {
	return (x.arch == "hopper" || x.arch == "blackwell") && x.nvlink > 0
}

// perCycle is FLOP of a busy tensor cycle over the whole part.
func (x *part) perCycle(dtype string) float64 {
	k := x.k16 * float64(x.sms)
	switch dtype {
	case "tf32":
		return k / 2
	case "fp8", "int8":
		return 2 * k
	case "fp4":
		return 4 * k
	}
	return k
}
