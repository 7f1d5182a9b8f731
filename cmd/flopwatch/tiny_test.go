package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The tiny recording: an hour of three hosts, with every file that a recording may have.
//
//   - n1 and n2, four H100 each: acct-a trains one model on all eight, minute 5 to 50.
//   - n3, four H100 passed through to a guest (watts and ports alone): acct-b serves a model.
//   - sw1 has no GPUs; n9 is in no inventory.
//   - acct-a belongs to a foreign entity with an owner, acct-b to a U.S. person.
//   - one late row, one repeated row, a counter that resets, gaps.
const (
	tinyStartMs = 1_760_000_040_000 // a whole minute
	tinyMin     = 60_000
	tinyEndMs   = tinyStartMs + 60*tinyMin
	tinyCadence = 15_000
)

// tinyFiles are the recording's files by name.
func tinyFiles() map[string]string {
	f := map[string]string{
		"manifest.json": fmt.Sprintf(`{"format": "flopwatch-bundle/1", "cluster": "tiny", "start_ms": %d, "end_ms": %d,
 "description": "Three hosts, an hour, made by hand.", "source": "cmd/flopwatch/tiny_test.go",
 "profiles": [{"name": "custom-low", "limit_flops": 3e18, "cluster": {"gbps": 100, "ops_per_s": 5e15}}, {"name": "custom-high", "limit_flops": 5e20, "cluster": null}],
 "special_jurisdictions": ["XX"]}`, tinyStartMs, tinyEndMs),
		"nodes.csv": `node,site,gpu_model,gpu_count,fabric_gbps,vantage,tdp_w
n1,dc-1,NVIDIA H100 80GB HBM3,4,400,host,700
n2,dc-1,NVIDIA H100 80GB HBM3,4,400,host,700
n3,dc-1,NVIDIA H100 80GB HBM3,4,,outofband,
sw1,dc-1,,0,,,
`,
		"allocations.csv": fmt.Sprintf(`account,node,gpus,start_ms,end_ms
acct-a,n1,0 1 2 3,%[1]d,
acct-a,n2,0 1 2 3,%[1]d,
acct-b,n3,0 1 2 3,%[1]d,%[2]d
`, tinyStartMs-tinyMin, tinyStartMs+55*tinyMin),
		"orders.csv": fmt.Sprintf(`order,account,amended_ms,gpu_model,gpu_count,fabric_gbps,start_ms,end_ms,declared_use
ord-1,acct-a,%[1]d,NVIDIA H100 80GB HBM3,8,400,%[2]d,%[3]d,model training
ord-2,acct-b,%[1]d,NVIDIA H100 80GB HBM3,4,,%[2]d,%[4]d,inference serving
ord-3,acct-a,%[1]d,NVIDIA H100 80GB HBM3,1,,%[2]d,%[4]d,rendering
ord-3,acct-a,%[5]d,NVIDIA H100 80GB HBM3,64,400,%[5]d,%[3]d,research
`, tinyStartMs-60*tinyMin, tinyStartMs-tinyMin, tinyStartMs+10*24*60*tinyMin, tinyStartMs+55*tinyMin, tinyStartMs+20*tinyMin),
		"parties.jsonl": `{"id": "pty-1", "kind": "entity", "name": "Alpha Compute FZ", "us_person": false, "country": "AE", "headquarters_country": "AE", "addresses": ["1 Alpha Street"], "emails": ["a@alpha.example"], "phones": [], "payment": [], "access_ips": [{"ip": "192.0.2.7", "at_ms": 1759000000000}], "beneficial_owners": [{"party": "pty-2", "share": 0.6}], "parent": null, "reseller": null, "accounts": ["acct-a"], "verification": {"status": "verified", "method": "documentary", "at_ms": 1759000000000, "note": ""}}
{"id": "pty-2", "kind": "individual", "name": "Owner Example", "us_person": false, "country": "XX", "headquarters_country": null, "addresses": [], "emails": [], "phones": [], "payment": [], "access_ips": [], "beneficial_owners": [], "parent": null, "reseller": null, "accounts": [], "verification": {"status": "unverified", "method": null, "at_ms": null, "note": ""}}
{"id": "pty-3", "kind": "entity", "name": "Beta Inc.", "us_person": true, "country": "US", "headquarters_country": "US", "addresses": [], "emails": [], "phones": [], "payment": [], "access_ips": [], "beneficial_owners": [], "parent": null, "reseller": null, "accounts": ["acct-b"], "verification": {"status": "verified", "method": "documentary", "at_ms": 1759000000000, "note": ""}}
`,
		"truth.json": fmt.Sprintf(`{"activities": [{"id": "t1", "kind": "training", "members": [{"node": "n1", "gpus": [0, 1, 2, 3], "start_ms": %[1]d, "end_ms": %[2]d}, {"node": "n2", "gpus": [0, 1, 2, 3], "start_ms": %[1]d, "end_ms": %[2]d}], "accounts": ["acct-a"], "flops_executed": null, "flops_model": null, "dtype": "bf16", "params": null, "evasion": []}], "expect": {}}`,
			tinyStartMs+5*tinyMin, tinyStartMs+50*tinyMin),
	}
	var processes strings.Builder
	processes.WriteString("start_ms,end_ms,node,gpus,pid,exe,launcher,job_source,job_id,user,project,world_size,rank\n")
	for rank := range 8 {
		fmt.Fprintf(&processes, "%d,%d,n%d,%d,%d,python3,torchrun,slurm,4711,u1,p1,8,%d\n",
			tinyStartMs+5*tinyMin, tinyStartMs+50*tinyMin, 1+rank/4, rank%4, 100+rank, rank)
	}
	f["processes.csv"] = processes.String()
	f["gpu.csv"] = tinyGPU()
	maps.Copy(f, tinyHosts())
	return f
}

func tinyGPU() string {
	var gpu strings.Builder
	gpu.WriteString("ts_ms,node,gpu,util_frac,mem_used_bytes,power_w,energy_j_total,sm_clock_mhz,sm_active_frac,sm_occupancy_frac,tensor_frac,hmma_frac,dram_frac,mma_cycles_total,nvlink_tx_bps,nvlink_rx_bps,later\n")
	var late string
	for k := range int64(240) {
		ts := tinyStartMs + k*tinyCadence
		busy := ts > tinyStartMs+5*tinyMin && ts <= tinyStartMs+50*tinyMin
		for rank := range int64(8) {
			util, mem, power, clock, active, tensor, dram, link := 0.0, 5e8, 75.0, 345.0, 0.0, 0.0, 0.0, 0.0
			trained := float64(max(min(ts, tinyStartMs+50*tinyMin)-tinyStartMs-5*tinyMin, 0)) / 1e3 // seconds
			if busy {
				wave := math.Sin(float64(k) + float64(rank)) // noise that is always the same
				util, mem, power, clock = 1, 6e10, 610+10*wave, 1700
				active, tensor, dram, link = 0.85+0.01*wave, 0.45+0.01*wave, 0.4, 4e10
			}
			cycles := trained * 0.45 * 1.7e9
			energy := 75*float64(ts-tinyStartMs)/1e3 + 535*trained
			if rank == 7 && ts > tinyStartMs+30*tinyMin {
				cycles -= 25 * 60 * 0.45 * 1.7e9 // the driver was loaded again
			}
			row := fmt.Sprintf("%d,n%d,%d,%g,%.0f,%.1f,%.0f,%.0f,%.3f,%.3f,%.3f,%.3f,%.2f,%.0f,%.0f,%.0f,x\n",
				ts+3*rank, 1+rank/4, rank%4, util, mem, power, energy, clock, active, active*0.7, tensor, tensor, dram, cycles, link, link)
			switch {
			case k == 100 && rank == 2:
				late = row // arrives a minute late
				continue
			case k == 104 && rank == 2:
				gpu.WriteString(late)
			case k == 110 && rank == 5:
				gpu.WriteString(row) // and again below
			case k >= 120 && k < 132 && rank == 3:
				continue // three minutes were not seen
			}
			gpu.WriteString(row)
		}
	}
	return gpu.String()
}

// tinyHosts makes what hosts and their ports showed, and what processes called.
func tinyHosts() map[string]string {
	var host, fabric, flows, comm strings.Builder
	host.WriteString("ts_ms,node,power_w,cpu_frac,storage_tx_bps,storage_rx_bps\n")
	fabric.WriteString("ts_ms,node,port,kind,tx_bytes_total,rx_bytes_total\n")
	flows.WriteString("ts_ms,node,peer,tx_bytes\n")
	comm.WriteString("ts_ms,node,pid,gpu,comm,nranks,rank,op,calls,bytes\n")
	for k := range int64(60) {
		ts := tinyStartMs + k*tinyMin
		busy := k > 5 && k <= 50
		trained := float64(min(max(k-5, 0), 45)) * 60 // seconds
		for n := range int64(2) {
			power, cpu := 900.0, 0.02
			if busy {
				power, cpu = 3700, 0.2
			}
			fmt.Fprintf(&host, "%d,n%d,%g,%g,0,0\n", ts+n, 1+n, power, cpu)
			fmt.Fprintf(&fabric, "%d,n%d,mlx5_0,infiniband,%.0f,%.0f\n", ts+n, 1+n, 1e9*trained, 1e9*trained)
			if busy {
				fmt.Fprintf(&flows, "%d,n%d,n%d,%d\n%d,n%d,n%d,%d\n", ts+n, 1+n, 2-n, int64(4e10), ts+n, 1+n, 2-n, int64(2e10))
			}
		}
		fmt.Fprintf(&host, "%d,n3,%g,,,\n", ts+2, 2100+150*math.Sin(float64(k)))
		fmt.Fprintf(&fabric, "%d,n3,eth0,ethernet,%d,%d\n", ts+2, 3e8*k, 1e8*k)
		if busy {
			for rank := range int64(8) {
				fmt.Fprintf(&comm, "%d,n%d,%d,%d,c0ffee00c0ffee00,8,%d,allreduce,1200,%d\n", ts+3, 1+rank/4, 100+rank, rank%4, rank, int64(3e11))
			}
		}
	}
	fmt.Fprintf(&host, "%d,n9,500,,,\n", tinyStartMs+59*tinyMin+5)
	return map[string]string{"host.csv": host.String(), "fabric.csv": fabric.String(), "flows.csv": flows.String(), "collectives.csv": comm.String()}
}

// writeBundle writes files, with changes over them (an empty text removes a file), to a
// folder of its own.
func writeBundle(t testing.TB, files, changes map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "recording")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	all := maps.Clone(files)
	maps.Copy(all, changes)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(all[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
