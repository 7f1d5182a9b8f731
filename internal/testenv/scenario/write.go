package scenario

import (
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Write makes the recording and its labels in dir, which exists.
func (s *Scenario) Write(dir string) error {
	f, err := newFleet(s)
	if err != nil {
		return err
	}
	f.simulate()
	end := s.ms(s.Minutes)
	manifest := map[string]any{
		"format": "flopwatch-bundle/1", "cluster": "scenario-" + s.Name, "start_ms": startMs, "end_ms": end,
		"description": s.Name, "source": "internal/testenv/scenario (simulated)", "special_jurisdictions": s.Special,
	}
	profiles := []map[string]any{}
	for _, p := range s.Profiles {
		var limb any
		if p.OpsS > 0 {
			limb = map[string]any{"gbps": p.Gbps, "ops_per_s": p.OpsS}
		}
		profiles = append(profiles, map[string]any{"name": p.Name, "limit_flops": p.Limit, "cluster": limb})
	}
	manifest["profiles"] = profiles
	if err := writeJSON(filepath.Join(dir, "manifest.json"), manifest); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, "truth.json"), f.truth()); err != nil {
		return err
	}
	type file struct {
		name, header string
		rows         []row
	}
	for _, x := range []file{
		{"nodes.csv", "node,site,gpu_model,gpu_count,fabric_gbps,vantage,tdp_w", s.nodeRows()},
		{"gpu.csv.gz", strings.Join(gpuColumns, ","), f.out.gpu},
		{"host.csv.gz", "ts_ms,node,power_w,cpu_frac,storage_tx_bps,storage_rx_bps", f.out.host},
		{"fabric.csv.gz", "ts_ms,node,port,kind,tx_bytes_total,rx_bytes_total", f.out.fabric},
		{"flows.csv.gz", "ts_ms,node,peer,tx_bytes", f.out.flows},
		{"processes.csv", "start_ms,end_ms,node,gpus,pid,exe,launcher,job_source,job_id,user,project,world_size,rank", f.out.processes},
		{"collectives.csv.gz", "ts_ms,node,pid,gpu,comm,nranks,rank,op,calls,bytes", f.out.collectives},
		{"allocations.csv", "account,node,gpus,start_ms,end_ms", s.rentalRows()},
		{"orders.csv", "order,account,amended_ms,gpu_model,gpu_count,fabric_gbps,start_ms,end_ms,declared_use", s.orderRows()},
	} {
		if err := writeRows(filepath.Join(dir, x.name), x.header, x.rows); err != nil {
			return err
		}
	}
	parties := strings.Join(s.Parties, "\n")
	if len(s.Parties) > 0 {
		parties += "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "parties.jsonl"), []byte(parties), 0o600); err != nil {
		return fmt.Errorf("write parties: %w", err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeRows(path, header string, rows []row) error {
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.arrivalMs, b.arrivalMs) })
	var text strings.Builder
	text.WriteString(header + "\n")
	for _, r := range rows {
		text.WriteString(r.text + "\n")
	}
	if !strings.HasSuffix(path, ".gz") {
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return nil
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err == nil {
		_, err = z.Write([]byte(text.String()))
	}
	if err == nil {
		err = z.Close()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (s *Scenario) nodeRows() []row {
	var out []row
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Unlisted {
			continue
		}
		model, gbps, vantage, tdp, site := n.Model, "1600", "host", "", n.Site
		switch model {
		case "":
			model = parts[n.Part].NVML
		case "-":
			model = ""
		}
		if n.Gbps > 0 {
			gbps = number(n.Gbps)
		} else if n.Gbps < 0 {
			gbps = ""
		}
		if n.OutOfBand {
			vantage = "outofband"
		}
		if n.TDPW > 0 {
			tdp = number(n.TDPW)
		}
		if site == "" {
			site = "hall-a"
		}
		out = append(out, row{0, fmt.Sprintf("%s,%s,%s,%d,%s,%s,%s", n.Name, site, model, n.Count, gbps, vantage, tdp)})
	}
	return out
}

func (s *Scenario) rentalRows() []row {
	var out []row
	if s.Noise.NoRentals {
		return nil
	}
	for _, r := range s.Rentals {
		end := ""
		if r.To > 0 {
			end = strconv.FormatInt(s.ms(r.To), 10)
		}
		var gpus []string
		for _, g := range r.Seat.GPUs {
			gpus = append(gpus, strconv.Itoa(g))
		}
		out = append(out, row{s.ms(r.From), fmt.Sprintf("%s,%s,%s,%d,%s", r.Account, r.Seat.Node, strings.Join(gpus, " "), s.ms(r.From), end)})
	}
	return out
}

func (s *Scenario) orderRows() []row {
	var out []row
	for _, o := range s.Orders {
		model := parts[o.Part].NVML
		if o.Model == "-" {
			model = ""
		}
		out = append(out, row{s.ms(o.Amended), fmt.Sprintf("%s,%s,%d,%s,%d,1600,%d,%d,%s", o.ID, o.Account, s.ms(o.Amended), model, o.GPUs, s.ms(o.From), s.ms(o.To), o.Use)})
	}
	return out
}
