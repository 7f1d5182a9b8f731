package fakebmc

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// tree is how a vendor lays things out.
type tree struct {
	system, chassis string
	gpu             func(i int) string
	power           string // environment, power, supplies
	reports         bool
}

func sxm(i int) string  { return fmt.Sprintf("GPU_SXM_%d", i+1) }
func zero(i int) string { return fmt.Sprintf("GPU_%d", i) }

var trees = map[string]tree{
	"supermicro": {"1", "1", sxm, "environment", true},
	"dell":       {"System.Embedded.1", "System.Embedded.1", sxm, "power", true},
	"hpe":        {"1", "1", zero, "power", true},
	"ami":        {"Self", "Self", sxm, "supplies", true},
	"plain":      {"1", "1", zero, "power", false},
}

const board = "HGX_Baseboard_0"

// UUID is that of a GPU, as Redfish writes it.
func UUID(gpu int) string { return fmt.Sprintf("8f0c2a11-0000-4000-8000-%012x", gpu) }

// Reports that the controller has.
var reportNames = []string{
	"HGX_ProcessorGPMMetrics_0", "HGX_PlatformEnvironmentMetrics_0", "HGX_ProcessorMetrics_0", "HGX_MemoryMetrics_0", "HGX_ProcessorPortGPMMetrics_0",
	"HGX_ProcessorPortMetrics_0", "HGX_NVSwitchPortMetrics_0", "HGX_HealthMetrics_0",
}

// resource answers a GET.
func (s *Server) resource(w http.ResponseWriter, path string, f Faults) {
	t := trees[s.opt.Vendor]
	p := strings.TrimPrefix(path, root+"/")
	switch {
	case p == "Systems":
		s.collection(w, path, []string{t.system, board})
	case p == "Systems/"+t.system+"/Processors":
		s.collection(w, path, []string{"CPU_0", "CPU_1"})
	case p == "Systems/"+board+"/Processors":
		var names []string
		for i := range s.opt.GPUs {
			names = append(names, t.gpu(i))
		}
		s.collection(w, path, names)
	case strings.HasPrefix(p, "Systems/"+board+"/Processors/"):
		s.processor(w, path, strings.TrimPrefix(p, "Systems/"+board+"/Processors/"), t)
	case p == "Chassis":
		names := []string{"HGX_Chassis_0"}
		for i := range s.opt.GPUs {
			names = append(names, "HGX_"+t.gpu(i))
		}
		s.collection(w, path, append(names, t.chassis))
	case strings.HasPrefix(p, "Chassis/"+t.chassis+"/") && !f.NoPower:
		s.power(w, path, strings.TrimPrefix(p, "Chassis/"+t.chassis+"/"), t)
	case t.reports && p == "TelemetryService/MetricReports":
		s.collection(w, path, slices.DeleteFunc(slices.Clone(reportNames), func(n string) bool { return slices.Contains(f.NoReports, n) }))
	case t.reports && strings.HasPrefix(p, "TelemetryService/MetricReports/"):
		s.report(w, strings.TrimPrefix(p, "TelemetryService/MetricReports/"), f)
	default:
		refuse(w, http.StatusNotFound)
	}
}

func (s *Server) collection(w http.ResponseWriter, path string, names []string) {
	members := []any{}
	for _, n := range names {
		members = append(members, id(path+"/"+n))
	}
	s.answer(w, map[string]any{"@odata.id": path, "Members": members, "Members@odata.count": len(members)})
}

func (s *Server) total(at time.Time) float64 {
	sum := 0.0
	for i := range s.opt.GPUs {
		sum += s.opt.Scenario(i, at).Watts
	}
	return sum
}

func (s *Server) power(w http.ResponseWriter, path, rest string, t tree) {
	watts := s.total(s.opt.Now()) + 1800
	switch {
	case t.power == "environment" && rest == "EnvironmentMetrics":
		s.answer(w, map[string]any{"@odata.id": path, "PowerWatts": map[string]any{"Reading": watts}})
	case t.power == "power" && rest == "Power":
		s.answer(w, map[string]any{"@odata.id": path, "PowerControl": []any{map[string]any{"MemberId": "0", "PowerConsumedWatts": watts, "PowerCapacityWatts": 12000}}})
	case t.power == "supplies" && rest == "PowerSubsystem/PowerSupplies":
		s.collection(w, path, []string{"PSU0", "PSU1", "PSU2", "PSU3"})
	case t.power == "supplies" && strings.HasPrefix(rest, "PowerSubsystem/PowerSupplies/") && strings.HasSuffix(rest, "/Metrics"):
		s.answer(w, map[string]any{"@odata.id": path, "InputPowerWatts": map[string]any{"Reading": watts / 4}})
	default:
		refuse(w, http.StatusNotFound)
	}
}

func (s *Server) processor(w http.ResponseWriter, path, rest string, t tree) {
	name, what, _ := strings.Cut(rest, "/")
	for i := range s.opt.GPUs {
		if t.gpu(i) != name {
			continue
		}
		g := s.opt.Scenario(i, s.opt.Now())
		switch what {
		case "":
			s.answer(w, map[string]any{"@odata.id": path, "Id": name, "ProcessorType": "GPU", "Manufacturer": "NVIDIA", "Model": "H100 80GB HBM3", "UUID": UUID(i), "Status": map[string]any{"State": "Enabled", "Health": "OK"}})
			return
		case "EnvironmentMetrics":
			s.answer(w, map[string]any{"@odata.id": path, "PowerWatts": map[string]any{"Reading": g.Watts}, "TemperatureCelsius": map[string]any{"Reading": g.Celsius}, "EnergyJoules": map[string]any{"Reading": g.Joules}})
			return
		case "ProcessorMetrics":
			s.answer(w, map[string]any{"@odata.id": path, "OperatingSpeedMHz": g.MHz, "BandwidthPercent": 12, "Oem": map[string]any{"Nvidia": map[string]any{"SMActivityPercent": g.SM, "TensorCoreActivityPercent": g.Tensor, "ThrottleReasons": []any{"Idle"}}}})
			return
		}
	}
	refuse(w, http.StatusNotFound)
}

// report answers a MetricReport, in the form of NVIDIA's controllers: each value is a string
// with a time of its own.
func (s *Server) report(w http.ResponseWriter, name string, f Faults) {
	switch {
	case slices.Contains(f.Broken, name):
		refuse(w, http.StatusInternalServerError)
		return
	case slices.Contains(f.NoReports, name) || !slices.Contains(reportNames, name):
		refuse(w, http.StatusNotFound)
		return
	case f.Huge:
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.WriteString(w, `{"MetricValues":[`); err != nil {
			return
		}
		filler := strings.Repeat(`{"MetricProperty":"/redfish/v1/x","MetricValue":"1"},`, 1000)
		for {
			if _, err := io.WriteString(w, filler); err != nil {
				return
			}
		}
	}
	now := s.opt.Now().Add(-f.OldBy)
	if f.Frozen {
		s.mu.Lock()
		now = s.frozenAt
		s.mu.Unlock()
	}
	stamp := now.UTC().Format("2006-01-02T15:04:05.000+00:00")
	values := []any{}
	put := func(gpu, property string, v float64) {
		if gpu != "" && gpu == f.GoneGPU {
			return
		}
		m := map[string]any{"MetricId": property[strings.LastIndexByte(property, '/')+1:], "MetricProperty": property, "MetricValue": fmt.Sprintf("%f", v)}
		if f.NotNumber {
			m["MetricValue"] = "nan"
		}
		if !f.NoTime {
			m["Timestamp"] = stamp
		}
		m["Oem"] = map[string]any{"Nvidia": map[string]any{"@odata.type": "#NvidiaMetricReport.v1_0_0.NvidiaMetricReport", "MetricValueStale": gpu != "" && gpu == f.StaleGPU}}
		values = append(values, m)
	}
	for i := range s.opt.GPUs {
		s.reportOf(name, trees[s.opt.Vendor].gpu(i), s.opt.Scenario(i, now), put)
	}
	if name == "HGX_PlatformEnvironmentMetrics_0" {
		put("", "/redfish/v1/Chassis/HGX_Chassis_0/Sensors/HGX_Chassis_0_TotalGPU_Power_0", s.total(now))
	}
	v := map[string]any{
		"@odata.id": root + "/TelemetryService/MetricReports/" + name, "@odata.type": "#MetricReport.v1_4_2.MetricReport", "Id": name, "Name": name,
		"MetricReportDefinition": id(root + "/TelemetryService/MetricReportDefinitions/" + name), "MetricValues": values, "MetricValues@odata.count": len(values),
	}
	if !f.NoTime {
		v["Timestamp"] = stamp
	}
	s.answer(w, v)
}

func (s *Server) reportOf(name, gpu string, g GPU, put func(gpu, property string, v float64)) {
	processor := root + "/Systems/" + board + "/Processors/" + gpu
	oem := func(metric string, v float64) { put(gpu, processor+"/ProcessorMetrics#/Oem/Nvidia/"+metric, v) }
	switch name {
	case "HGX_ProcessorGPMMetrics_0":
		oem("TensorCoreActivityPercent", g.Tensor)
		oem("SMActivityPercent", g.SM)
		oem("SMOccupancyPercent", g.Occupancy)
		oem("HMMAUtilizationPercent", g.HMMA)
		oem("IMMAUtilizationPercent", g.IMMA)
		oem("DMMAUtilizationPercent", g.DMMA)
		oem("FP64ActivityPercent", g.FP64)
		oem("FP32ActivityPercent", g.FP32)
		oem("FP16ActivityPercent", g.FP16)
		oem("IntegerActivityUtilizationPercent", g.Integer)
		oem("GraphicsEngineActivityPercent", g.Graphics)
		oem("NVDecUtilizationPercent", 0)
		oem("PCIeRawTxBandwidthGbps", g.PCIeTx)
		oem("PCIeRawRxBandwidthGbps", g.PCIeRx)
	case "HGX_ProcessorPortGPMMetrics_0":
		for l := range 18 {
			port := fmt.Sprintf("%s/Ports/NVLink_%d/Metrics#/Oem/Nvidia/", processor, l)
			put(gpu, port+"NVLinkDataTxBandwidthGbps", g.NVLinkTx/18)
			put(gpu, port+"NVLinkDataRxBandwidthGbps", g.NVLinkRx/18)
			put(gpu, port+"NVLinkRawTxBandwidthGbps", g.NVLinkTx/16)
			put(gpu, port+"NVLinkRawRxBandwidthGbps", g.NVLinkRx/16)
		}
	case "HGX_ProcessorMetrics_0":
		put(gpu, processor+"/ProcessorMetrics#/OperatingSpeedMHz", g.MHz)
		put(gpu, processor+"/ProcessorMetrics#/BandwidthPercent", 12)
		put(gpu, processor+"/ProcessorMetrics#/PCIeErrors/CorrectableErrorCount", 0)
	case "HGX_MemoryMetrics_0":
		memory := root + "/Systems/" + board + "/Memory/" + gpu + "_DRAM_0/MemoryMetrics#/"
		put(gpu, memory+"BandwidthPercent", g.DRAM)
		put(gpu, memory+"OperatingSpeedMHz", 2619)
	case "HGX_PlatformEnvironmentMetrics_0":
		sensors := root + "/Chassis/HGX_" + gpu + "/Sensors/HGX_" + gpu
		put(gpu, sensors+"_Power_0", g.Watts)
		put(gpu, sensors+"_Energy_0", g.Joules)
		put(gpu, sensors+"_TEMP_0", g.Celsius)
		put(gpu, sensors+"_TEMP_1", 27)
		put(gpu, sensors+"_DRAM_0_Power_0", 88)
		put(gpu, sensors+"_DRAM_0_Temp_0", 55)
	}
}
