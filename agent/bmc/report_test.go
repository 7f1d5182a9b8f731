package bmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/flopwatch/flopwatch/agent/bmc/fakebmc"
)

// Names of several boards and vendors.
func TestNames(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1/ProcessorMetrics":         "GPU_SXM_1",
		"/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1":                          "GPU_SXM_1",
		"/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_0/Ports/NVLink_11/Metrics":      "GPU_0",
		"/redfish/v1/Chassis/HGX_GPU_SXM_8/Sensors/HGX_GPU_SXM_8_Power_0":                   "GPU_SXM_8",
		"/redfish/v1/Chassis/HGX_GPU_0/Sensors/HGX_GPU_0_TEMP_0":                            "GPU_0",
		"/redfish/v1/Chassis/HGX_ProcessorModule_1/Sensors/ProcessorModule_1_GPU_0_Power_0": "ProcessorModule_1_GPU_0",
		"/redfish/v1/Systems/HGX_Baseboard_0/Memory/GPU_SXM_3_DRAM_0/MemoryMetrics":         "GPU_SXM_3",
		"/redfish/v1/Systems/System.Embedded.1/Processors/GPU.Slot.21-1":                    "GPU.Slot.21-1",
		"/redfish/v1/Systems/1/Processors/GPU3":                                             "GPU3",
		"/redfish/v1/Chassis/HGX_Chassis_0/Sensors/HGX_Chassis_0_TotalGPU_Power_0":          "",
		"/redfish/v1/Fabrics/HGX_NVLinkFabric_0/Switches/NVSwitch_0/Ports/NVLink_0/Metrics": "",
		"/redfish/v1/Systems/1/Processors/CPU_1":                                            "",
		"GPU_99999":                                                                         "", "GPU_": "", "GPU": "", "GPUGPU_SXM_GPU_7": "GPU_7",
	} {
		if got := gpuIn(path); got != want {
			t.Errorf("gpuIn(%s) = %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"/redfish/v1/TelemetryService/MetricReports/HGX_ProcessorGPMMetrics_0": gpmReport, "PlatformEnvironmentMetrics_0/": envReport,
		"HGX_CpuProcessorMetrics_0": "CpuProcessorMetrics", "ProcessorMetrics": "ProcessorMetrics",
	} {
		if got := kindOf(path); got != want {
			t.Errorf("kindOf(%s) = %q", path, got)
		}
	}
	for s, want := range map[string]string{
		"8F0C2A11-1111-4000-8000-00000000000A": "GPU-8f0c2a11-1111-4000-8000-00000000000a", "GPU-8f0c2a11-1111-4000-8000-00000000000a": "GPU-8f0c2a11-1111-4000-8000-00000000000a",
		"": "", "00000000-0000-0000-0000-000000000000": "", "8f0c2a11x1111-4000-8000-00000000000a": "",
	} {
		if got := gpuUUID(s); got != want {
			t.Errorf("gpuUUID(%q) = %q", s, got)
		}
	}
}

func discard(name string) *component { return newComponent(name, "") }

func TestMetrics(t *testing.T) {
	t.Parallel()
	const gpu = "/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1"
	for _, c := range []struct {
		property string
		value    float64
		field    int
		want     int64 // absent: it is not taken
	}{
		{gpu + "#/Oem/Nvidia/TensorCoreActivityPercent", 52.25, tensor, 5225},
		{gpu + "/ProcessorMetrics#/Oem/Nvidia/TensorCoreActivityPercent", 100.4, tensor, 10000},
		{gpu + "/ProcessorMetrics#/Oem/Nvidia/TensorCoreActivityPercent", 650, tensor, absent},
		{gpu + "/ProcessorMetrics#/Oem/Nvidia/TensorCoreActivityPercent", -1, tensor, absent},
		{gpu + "/ProcessorMetrics#/Oem/Nvidia/PCIeRawTxBandwidthGbps", 8, pcieTx, 1_000_000_000},
		{gpu + "/ProcessorMetrics#/OperatingSpeedMHz", 1980, smClock, 1980},
		{gpu + "/ProcessorMetrics#/BandwidthPercent", 50, dram, absent},
		{gpu + "/EnvironmentMetrics#/PowerWatts/Reading", 650.5, power, 650500},
		{gpu + "/EnvironmentMetrics#/EnergyJoules/Reading", 1e9, energy, 1e12},
		{gpu + "/EnvironmentMetrics#/EnergykWh/Reading", 1, energy, 3_600_000_000},
		{gpu + "/EnvironmentMetrics#/TemperatureCelsius/Reading", 61.4, temp, 61},
		{"/redfish/v1/Systems/HGX_Baseboard_0/Memory/GPU_SXM_1_DRAM_0/MemoryMetrics#/BandwidthPercent", 41, dram, 4100},
		{"/redfish/v1/Systems/HGX_Baseboard_0/Memory/GPU_SXM_1_DRAM_0/MemoryMetrics#/OperatingSpeedMHz", 2619, smClock, absent},
		{"/redfish/v1/Chassis/HGX_GPU_SXM_1/Sensors/HGX_GPU_SXM_1_Power_0", 650, power, 650_000},
		{"/redfish/v1/Chassis/HGX_GPU_SXM_1/Sensors/HGX_GPU_SXM_1_Energy_0", 12.5, energy, 12_500},
		{"/redfish/v1/Chassis/HGX_GPU_SXM_1/Sensors/HGX_GPU_SXM_1_TEMP_0", 60.9, temp, 61},
		{"/redfish/v1/Chassis/HGX_GPU_SXM_1/Sensors/HGX_GPU_SXM_1_TEMP_1", 27, temp, absent},
		{"/redfish/v1/Chassis/HGX_GPU_SXM_1/Sensors/HGX_GPU_SXM_1_DRAM_0_Power_0", 88, power, absent},
		{"/redfish/v1/Chassis/HGX_GPU_0/Sensors/ProcessorModule_0_GPU_0_Power_0", 900, power, 900_000},
	} {
		got := int64(absent)
		if part := take(c.property, c.value, newComponent("", ""), discard); part != nil {
			part.finish()
			got = part.value[c.field]
		}
		if got != c.want {
			t.Errorf("%s %v: %d, want %d", c.property, c.value, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	const one = `{"MetricProperty":"/x/Processors/GPU_0/ProcessorMetrics#/Oem/Nvidia/SMActivityPercent","MetricValue":`
	for text, want := range map[string]string{
		`{"Timestamp":"2026-06-29T08:05:19.536+00:00","MetricValues":[` + one + `"12.5","Timestamp":"2026-06-29T08:05:20Z"}]}`: "1 0 0 1782720320",
		`{"MetricValues":[` + one + `12.5}],"Timestamp":"2026-06-29T08:05:19Z","Oem":{"a":[1,{"b":null}]}}`:                    "1 0 0 1782720319",
		`{"MetricValues":[` + one + `"nan"},` + one + `"1","Oem":{"Nvidia":{"MetricValueStale":true}}}]}`:                      "0 1 1 -62135596800",
		`{"MetricValues":[{"MetricProperty":7},{"MetricProperty":{"a":1}},5,null,` + one + `{"x":1}},` + one + `"2"}]}`:        "1 0 1 -62135596800",
		`{"MetricValues":null}`:                "0 0 0 -62135596800",
		`{"MetricValues":{}}`:                  "read report: not the JSON",
		`[]`:                                   "read report: not the JSON",
		`{"MetricValues":[` + one:              "read report: unexpected EOF",
		`<html>`:                               "read report: invalid character",
		``:                                     "read report: EOF",
		`{"Timestamp":"1970-01-01T00:00:00Z"}`: "0 0 0 -62135596800",
		`{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`: "0 0 0 -62135596800",
	} {
		rep, err := readReport(strings.NewReader(text))
		got := fmt.Sprint(len(rep.metrics), rep.stale, rep.unread, rep.newest().Unix())
		if err != nil {
			got = err.Error()
			if !malformed(err) {
				t.Errorf("%.80s: %v is not called malformed", text, err)
			}
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%.120s: %s, want %s", text, got, want)
		}
	}
}

// The walk over members finds what encoding/json finds.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":"b","c": {"d":[1,{"e":"}"}]} , "f":1.5,"g\"h":"\\\\","i":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			members(b, func(key, value []byte) {})
			return
		}
		var want map[string]json.RawMessage
		isObject := json.Unmarshal(b, &want) == nil && want != nil
		got := map[string]string{}
		if object := members(b, func(key, value []byte) { got[plain([]byte(`"`+string(key)+`"`))] = string(value) }); object != isObject {
			t.Errorf("%q: object %v", b, object)
		}
		for k, v := range want {
			if w, ok := got[k]; utf8.Valid(b) && (!ok || w != string(v)) {
				t.Errorf("%q: %q is %q, want %q", b, k, w, v)
			}
		}
	})
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"Timestamp":"2026-06-29T08:05:19Z","MetricValues":[{"MetricProperty":"/x/GPU_0/ProcessorMetrics#/Oem/Nvidia/SMActivityPercent","MetricValue":"12.5","Oem":{"Nvidia":{"MetricValueStale":false}}}]}`))
	f.Add([]byte(`{"MetricValues":[{"MetricProperty":"/Chassis/HGX_ProcessorModule_1_GPU_0/Sensors/HGX_GPU_SXM_1_TEMP_0","MetricValue":1e308}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rep, err := readReport(strings.NewReader(string(b)))
		if err != nil {
			return
		}
		for _, m := range rep.metrics {
			c := take(m.property, m.value, newComponent("", ""), discard)
			if c == nil {
				continue
			}
			c.finish()
			for i, v := range c.value {
				if share := i >= util && i <= dram; v != absent && (share && (v < 0 || v > 10000) || i != temp && v < 0) {
					t.Errorf("%q %v gives %d", m.property, m.value, v)
				}
			}
			if c.name == "" || len(c.name) > 1024 {
				t.Errorf("%q gives the name %.40q", m.property, c.name)
			}
		}
	})
}

// The session reads and nothing else, whatever it is told to do.
func TestGuard(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{GPUs: 1})
	r, err := login(t.Context(), of(t, s, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]func() (*http.Response, error){
		"POST": func() (*http.Response, error) {
			return r.api.Post("/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", map[string]string{"ResetType": "ForceOff"})
		},
		"PATCH": func() (*http.Response, error) {
			return r.api.Patch("/redfish/v1/Systems/1", map[string]string{"a": "b"})
		},
		"PUT":    func() (*http.Response, error) { return r.api.Put("/redfish/v1/Systems/1", map[string]string{"a": "b"}) },
		"DELETE": func() (*http.Response, error) { return r.api.Delete("/redfish/v1/Systems/1") },
	} {
		if resp, err := try(); !errors.Is(err, errReadOnly) {
			if err == nil {
				_ = resp.Body.Close()
			}
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range []string{"@192.0.2.1/redfish/v1", "http://192.0.2.1/", "/etc", "/redfish/@x", "", ".evil.example/redfish/"} {
		if _, err := r.get(t.Context(), path, func(io.Reader) error { return nil }); err == nil || !strings.Contains(err.Error(), "is no path of Redfish") {
			t.Errorf("%q: %v", path, err)
		}
	}
	r.logout(t.Context())
	if c := s.Counts(); len(c.Writes) != 0 || c.Open != 0 {
		t.Errorf("counts: %+v", c)
	}
}

// bodies are the five reports of a board of eight GPUs.
func bodies(b *testing.B) (out [][]byte, total int64) {
	s := fake(b, fakebmc.Options{})
	r, err := login(b.Context(), of(b, s, "n1"))
	if err != nil {
		b.Fatal(err)
	}
	defer r.logout(b.Context())
	l, err := r.explore(b.Context(), moment("2026-01-01T00:00:00Z"))
	if err != nil || len(l.reports) != 5 {
		b.Fatalf("layout %+v, %v", l, err)
	}
	for _, path := range l.reports {
		if _, err = r.get(b.Context(), path, func(body io.Reader) error {
			text, rerr := io.ReadAll(body)
			out, total = append(out, text), total+int64(len(text))
			return rerr
		}); err != nil {
			b.Fatal(err)
		}
	}
	return out, total
}

// BenchmarkReport reads the reports of one round.
func BenchmarkReport(b *testing.B) {
	texts, total := bodies(b)
	b.SetBytes(total)
	b.ReportAllocs()
	for b.Loop() {
		for _, text := range texts {
			if _, err := readReport(bytes.NewReader(text)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkGofish reads the same by gofish's own types.
func BenchmarkGofish(b *testing.B) {
	texts, total := bodies(b)
	b.SetBytes(total)
	b.ReportAllocs()
	for b.Loop() {
		for _, text := range texts {
			var r schemas.MetricReport
			if err := json.Unmarshal(text, &r); err != nil {
				b.Fatal(err)
			}
		}
	}
}
