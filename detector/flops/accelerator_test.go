package flops

import (
	"math"
	"testing"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, key string }{
		{"NVIDIA H200", "H200_SXM"}, {"NVIDIA H200 NVL", "H200_NVL"}, {"NVIDIA H20", "H20"}, {"NVIDIA H20-3e", "H20"},
		{"NVIDIA GH200 480GB", "GH200"}, {"NVIDIA GH200 120GB", "GH200"},
		{"NVIDIA H100 80GB HBM3", "H100_SXM"}, {"NVIDIA H100 SXM5 64GB", "H100_SXM"}, {"NVIDIA H100 PCIe", "H100_PCIE"},
		{"NVIDIA H100 80GB HBM2e", "H100_PCIE"}, {"NVIDIA H100 NVL", "H100_NVL"}, {"H100", "H100_SXM"}, {"NVIDIA H100", "H100_SXM"},
		{"NVIDIA H800", "H800_SXM"}, {"NVIDIA H800 PCIe", "H800_PCIE"},
		{"NVIDIA A100-SXM4-40GB", "A100_SXM"}, {"NVIDIA A100-SXM4-80GB", "A100_SXM"}, {"A100-SXM4-40GB", "A100_SXM"}, {"NVIDIA A100-SXM-64GB", "A100_SXM"},
		{"NVIDIA A100-PCIE-40GB", "A100_PCIE"}, {"NVIDIA A100 80GB PCIe", "A100_PCIE"}, {"NVIDIA A800-SXM4-80GB", "A800_SXM"},
		{"NVIDIA A800 80GB PCIe", "A800_PCIE"}, {"NVIDIA A30", "A30"}, {"NVIDIA A10", "A10"}, {"NVIDIA A10G", "A10"}, {"NVIDIA A40", "A40"},
		{"NVIDIA L4", "L4"}, {"NVIDIA L40", "L40"}, {"NVIDIA L40S", "L40S"}, {"Tesla T4", "T4"},
		{"Tesla V100-SXM2-16GB", "V100_SXM2"}, {"Tesla V100-SXM2-32GB-LS", "V100_SXM2"}, {"Tesla V100-PCIE-16GB", "V100_PCIE"},
		{"Tesla V100S-PCIE-32GB", "V100S_PCIE"}, {"Tesla V100-SXM3-32GB", "V100_SXM2"}, {"Tesla P100-PCIE-16GB", "P100_PCIE"},
		{"NVIDIA B200", "B200"}, {"NVIDIA GB200", "GB200"}, {"NVIDIA B300 SXM6 AC", "B300"}, {"NVIDIA GB300", "GB300"}, {"NVIDIA B100", "B100"},
		{"NVIDIA GeForce RTX 4090", "RTX4090"}, {"NVIDIA GeForce RTX 4090 D", "RTX4090"}, {"NVIDIA GeForce RTX 5090", "RTX5090"},
		{"NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"}, {"NVIDIA RTX 6000 Ada Generation", "L40S"},
		{"AMD Instinct MI300X", "MI300X"}, {"Instinct MI325X", "MI325X"}, {"AMD Instinct MI250X", "MI250X"}, {"Trainium2", "TRN2"},
	}
	for _, tt := range tests {
		a, ok := Lookup(tt.name)
		if !ok || a.Key != tt.key {
			t.Errorf("Lookup(%q) = %q, %v; want %q", tt.name, a.Key, ok, tt.key)
		}
		if a.Source == "" {
			t.Errorf("%s has no source", a.Key)
		}
	}
	for _, name := range []string{"", "NVIDIA Graphics Device", "Quadro P620", "NVIDIA X9000"} {
		a, ok := Lookup(name)
		if ok || a.LogSD < 0.5 || a.Peak16 == 0 {
			t.Errorf("Lookup(%q) = %q, %v, spread %v; want a wide generic prior", name, a.Key, ok, a.LogSD)
		}
	}
}

func TestLookupMIG(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, key string
		sms       float64
	}{
		{"NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100_SXM", 14}, {"NVIDIA A100-SXM4-80GB MIG 3g.40gb", "A100_SXM", 42},
		{"NVIDIA A100-SXM4-80GB MIG 7g.80gb", "A100_SXM", 98}, {"NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100_SXM", 16},
		{"NVIDIA H100 80GB HBM3 MIG 1c.2g.20gb", "H100_SXM", 32}, {"NVIDIA H100 80GB HBM3 MIG 7g.80gb", "H100_SXM", 132},
		{"NVIDIA H200 MIG strange", "H200_SXM", 132},
	}
	for _, tt := range tests {
		a, ok := Lookup(tt.name)
		whole, _ := Lookup(tt.name[:len("NVIDIA H100")])
		if !ok || a.Key != tt.key || a.SMs != tt.sms {
			t.Errorf("Lookup(%q) = %q with %v SMs, want %q with %v (whole %q)", tt.name, a.Key, a.SMs, tt.key, tt.sms, whole.Key)
		}
	}
}

// Every row's peak follows from SMs x clock x rate where all three are known.
func TestTableAgreesWithItself(t *testing.T) {
	t.Parallel()
	rows, err := Table()
	if err != nil || len(rows) < 40 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, a := range rows {
		if a.Peak16 <= 0 {
			t.Errorf("%s has no 16-bit peak", a.Key)
		}
		if a.TensorMHz > 0 && a.SMs > 0 && a.FLOPPerClkSM16 > 0 {
			if r := a.FLOPPerCycle() * a.TensorMHz * 1e6 / a.Peak16; math.Abs(r-1) > 0.03 {
				t.Errorf("%s: SMs x clock x rate / peak = %.3f", a.Key, r)
			}
		}
		if a.TDPW > 0 && (a.IdleW() <= 0 || a.IdleW() >= a.TDPW) {
			t.Errorf("%s: idle %v W of %v", a.Key, a.IdleW(), a.TDPW)
		}
	}
}

func TestParseTableRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "key\n", "key,name\nA,B\n", "a,\"b\n"} {
		if _, err := parseTable(text); err == nil {
			t.Errorf("parseTable(%q) took it", text)
		}
	}
}
