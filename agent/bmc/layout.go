package bmc

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// How much of a controller's tree is looked at.
const (
	maxReports    = 32
	maxSystems    = 16
	maxChassis    = 128
	maxProcessors = 64
	maxCandidates = 8 // chassis that are asked for the node's power
	maxSupplies   = 16
	layoutFor     = 10 * time.Minute
)

// Kinds of reports that are read, and what is lost without the first two. Others are larger
// than all of them together and hold nothing that the wire has a place for.
const (
	gpmReport = "ProcessorGPMMetrics"
	envReport = "PlatformEnvironmentMetrics"
)

var reportKinds = []string{gpmReport, envReport, "ProcessorMetrics", "ProcessorPortGPMMetrics", "MemoryMetrics"}

// layout is where on a controller what is found.
type layout struct {
	at       time.Time
	reports  []string
	absent   []string          // kinds of reports that belong there
	uuids    map[string]string // of GPUs, by component
	gpus     []processor
	node     string // resource with the node's power; "": there is none
	supplies []string
}

type processor struct{ name, path string }

// kindOf is the kind of a report: HGX_ProcessorGPMMetrics_0 is ProcessorGPMMetrics.
func kindOf(path string) string {
	s := strings.TrimPrefix(last(strings.TrimSuffix(path, "/")), "HGX_")
	if i := strings.LastIndexByte(s, '_'); i > 0 && strings.Trim(s[i+1:], "0123456789") == "" {
		s = s[:i]
	}
	return s
}

// explore finds what a controller has. Only what concerns the session is an error: trees
// differ, and what is not there is not there.
func (r *redfish) explore(ctx context.Context, at time.Time) (*layout, error) {
	l := &layout{at: at, uuids: map[string]string{}}
	all, err := r.members(ctx, "/redfish/v1/TelemetryService/MetricReports", 1024)
	if err != nil && fatal(err) {
		return nil, err
	}
	for _, path := range all {
		if slices.Contains(reportKinds, kindOf(path)) && len(l.reports) < maxReports {
			l.reports = append(l.reports, path)
		}
	}
	if len(l.reports) > 0 {
		for _, kind := range reportKinds[:2] {
			if !slices.ContainsFunc(l.reports, func(p string) bool { return kindOf(p) == kind }) {
				l.absent = append(l.absent, kind)
			}
		}
	}
	if err = r.processors(ctx, l); err != nil {
		return nil, err
	}
	return l, r.chassis(ctx, l)
}

// fatal reports whether asking on makes no sense: the session is gone, or nobody answers.
func fatal(err error) bool {
	code := status(err)
	return code == 0 && !malformed(err) || code == http.StatusUnauthorized || code == http.StatusServiceUnavailable
}

// processors finds the GPUs and their ids.
func (r *redfish) processors(ctx context.Context, l *layout) error {
	systems, err := r.members(ctx, "/redfish/v1/Systems", maxSystems)
	if err != nil {
		if fatal(err) {
			return err
		}
		return nil
	}
	for _, s := range systems {
		list, err := r.members(ctx, strings.TrimSuffix(s, "/")+"/Processors", maxProcessors)
		if err != nil && fatal(err) {
			return err
		}
		for _, path := range list {
			id := last(strings.TrimSuffix(path, "/"))
			if strings.HasPrefix(strings.ToUpper(id), "CPU") || len(l.gpus) >= maxProcessors {
				continue
			}
			var p struct {
				ProcessorType, UUID text
			}
			if err = r.into(ctx, path, &p); err != nil {
				if fatal(err) {
					return err
				}
				continue
			}
			name := gpuIn(id)
			if name == "" {
				name = id
			}
			if p.ProcessorType != "GPU" && gpuIn(id) == "" {
				continue
			}
			l.gpus = append(l.gpus, processor{name, strings.TrimSuffix(path, "/")})
			if uuid := gpuUUID(string(p.UUID)); uuid != "" {
				l.uuids[name] = uuid
			}
		}
	}
	return nil
}

// reading is a sensor's excerpt, or a bare number.
type reading struct{ v *float64 }

// UnmarshalJSON takes both forms; what is neither is absent.
func (r *reading) UnmarshalJSON(b []byte) error {
	var s struct{ Reading *float64 }
	if json.Unmarshal(b, &s) == nil {
		r.v = s.Reading
		return nil
	}
	var v *float64
	if json.Unmarshal(b, &v) == nil {
		r.v = v
	}
	return nil
}

// powers is what different resources call the power of a host.
type powers struct {
	PowerWatts      reading // EnvironmentMetrics
	InputPowerWatts reading // of a power supply
	PowerControl    []struct {
		PowerConsumedWatts reading
	} // Power, before 2020.4
}

func (p *powers) watts() (float64, bool) {
	if p.PowerWatts.v != nil {
		return *p.PowerWatts.v, true
	}
	if p.InputPowerWatts.v != nil {
		return *p.InputPowerWatts.v, true
	}
	for _, c := range p.PowerControl {
		if c.PowerConsumedWatts.v != nil {
			return *c.PowerConsumedWatts.v, true
		}
	}
	return 0, false
}

// chassis finds the resource that tells the node's power.
func (r *redfish) chassis(ctx context.Context, l *layout) error {
	all, err := r.members(ctx, "/redfish/v1/Chassis", maxChassis)
	if err != nil {
		if fatal(err) {
			return err
		}
		return nil
	}
	asked := 0
	for _, c := range all {
		c = strings.TrimSuffix(c, "/")
		// Boards, switches and the like are parts of the node, not the node.
		if id := last(c); strings.HasPrefix(id, "HGX_") || strings.HasPrefix(id, "CPU") || gpuIn(id) != "" {
			continue
		}
		if asked++; asked > maxCandidates {
			break
		}
		for _, path := range []string{c + "/EnvironmentMetrics", c + "/Power"} {
			var p powers
			if err = r.into(ctx, path, &p); err != nil {
				if fatal(err) {
					return err
				}
				continue
			}
			if w, ok := p.watts(); ok && w > 0 {
				l.node = path
				return nil
			}
		}
		list, err := r.members(ctx, c+"/PowerSubsystem/PowerSupplies", maxSupplies)
		if err != nil && fatal(err) {
			return err
		}
		for _, s := range list {
			l.supplies = append(l.supplies, strings.TrimSuffix(s, "/")+"/Metrics")
		}
		if len(l.supplies) > 0 {
			return nil
		}
	}
	return nil
}

// nodePower reads the power of the node; nil: nobody tells it.
func (r *redfish) nodePower(ctx context.Context, l *layout) (*component, error) {
	sum, n := 0.0, 0
	paths := l.supplies
	if l.node != "" {
		paths = []string{l.node}
	}
	for _, path := range paths {
		var p powers
		if err := r.into(ctx, path, &p); err != nil {
			return nil, err // a sum with one missing would be too small
		}
		if w, ok := p.watts(); ok {
			sum, n = sum+w, n+1
		}
	}
	c := newComponent("node", "redfish_sensor")
	if n == 0 || n < len(paths) || sum <= 0 || !c.setPower(sum) {
		return nil, nil //nolint:nilnil // nobody tells it, which is no error
	}
	return c, nil
}

// sensors reads one GPU resource by resource, where no report tells of it.
func (r *redfish) sensors(ctx context.Context, p processor) (*component, error) {
	c := newComponent(p.name, "redfish_sensor")
	var env struct {
		PowerWatts, TemperatureCelsius, EnergyJoules, EnergykWh reading
	}
	if err := r.into(ctx, p.path+"/EnvironmentMetrics", &env); err != nil && fatal(err) {
		return nil, err
	}
	for _, x := range []struct {
		name string
		v    *float64
	}{{"PowerWatts", env.PowerWatts.v}, {"TemperatureCelsius", env.TemperatureCelsius.v}, {"EnergykWh", env.EnergykWh.v}, {"EnergyJoules", env.EnergyJoules.v}} {
		if x.v != nil {
			c.take(p.path+"/EnvironmentMetrics", "", x.name, *x.v)
		}
	}
	var metrics struct {
		OperatingSpeedMHz reading
		Oem               struct{ Nvidia map[string]any }
	}
	if err := r.into(ctx, p.path+"/ProcessorMetrics", &metrics); err != nil && fatal(err) {
		return nil, err
	}
	if v := metrics.OperatingSpeedMHz.v; v != nil {
		c.take(p.path+"/ProcessorMetrics", "OperatingSpeedMHz", "/OperatingSpeedMHz", *v)
	}
	for name, v := range metrics.Oem.Nvidia {
		if n, ok := v.(float64); ok {
			c.take(p.path+"/ProcessorMetrics", name, "/Oem/Nvidia/"+name, n)
		}
	}
	c.finish()
	return c, nil
}
