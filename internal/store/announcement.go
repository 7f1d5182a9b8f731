package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// AsOf selects what was known of a cluster at a moment.
type AsOf struct {
	Cluster string
	// AvailableToMs leaves out announcements that came later; 0: no bound.
	AvailableToMs int64
	// EndedFromMs leaves out processes and rentals that had ended before; 0: no bound.
	EndedFromMs int64
}

func (a AsOf) where() string {
	w := " WHERE cluster = " + quote(a.Cluster)
	if a.AvailableToMs != 0 {
		w += fmt.Sprintf(" AND available_ms <= %d", a.AvailableToMs)
	}
	return w
}

// whereNotEnded is where, less what had ended long ago by its latest announcement. The key's
// columns lead the order of the table's rows, so that they are grouped as they are read.
func (a AsOf) whereNotEnded(table, key string) string {
	w := a.where()
	if a.EndedFromMs == 0 {
		return w
	}
	return w + " AND (" + key + ") IN (SELECT " + key + " FROM " + table + w + " GROUP BY cluster, " + key +
		fmt.Sprintf(" HAVING (argMax(ifNull(end_ms, 0), (available_ms, sequence, ifNull(end_ms, 0))) AS ended) = 0 OR ended >= %d SETTINGS optimize_aggregation_in_order = 1)", a.EndedFromMs)
}

// ProcessRow is a process that used GPUs, as it was last announced.
type ProcessRow struct {
	Node           string
	PID            int64
	StartMs, EndMs int64 // EndMs 0: still running as far as was known
	// AvailableMs is when the process became known, ChangedMs when its latest announcement did.
	AvailableMs, ChangedMs                         int64
	GPUList                                        string // as announced; empty: not known
	GPUs                                           []int  // nil: not known, or no list of numbers
	Exe, Launcher, JobSource, JobID, User, Project string // empty: not stated
	WorldSize, Rank                                int    // -1: not stated
}

// AllocationRow is a rental of GPUs, as it was last announced.
type AllocationRow struct {
	Account, Node          string
	GPUList                string
	GPUs                   []int // nil: no list of numbers
	StartMs, EndMs         int64 // EndMs 0: goes on as far as was known
	AvailableMs, ChangedMs int64 // as in ProcessRow
}

// OrderRow is one version of a contract.
type OrderRow struct {
	Order, Account, GPUModel, DeclaredUse string
	AmendedMs                             int64
	StartMs, EndMs                        int64 // 0: not stated
	GPUCount                              int   // -1: not stated
	FabricGbps                            float64
	AvailableMs                           int64
}

// InventoryRow is a host that ought to report, by its latest version.
type InventoryRow struct {
	Node, Site, GPUModel, Vantage string
	GPUCount                      int // -1: not stated
	FabricGbps, TDPW              float64
	AvailableMs                   int64
}

// ParseGPUList reads indices separated by blanks. ok is false if it is no such list.
func ParseGPUList(list string) (gpus []int, ok bool) {
	for f := range strings.FieldsSeq(list) {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 {
			return nil, false
		}
		gpus = append(gpus, n)
	}
	return gpus, true
}

// ProcessRows returns the latest announcement of each process, sorted by node, start, pid.
func (s *Store) ProcessRows(ctx context.Context, a AsOf) ([]ProcessRow, error) {
	var sel selection
	node := sel.text("node")
	pid, start, end, available := sel.int("pid"), sel.int("start_ms"), sel.optionalInt("end_ms", 0), sel.int("available_ms")
	gpus, exe, launcher := sel.optionalText("gpu_list"), sel.optionalText("exe"), sel.optionalText("launcher")
	source, job, user, project := sel.optionalText("job_source"), sel.optionalText("job_id"), sel.optionalText("user_hash"), sel.optionalText("project_hash")
	world, rank := sel.optionalInt("world_size", -1), sel.optionalInt("rank", -1)
	sql := sel.sql() + " FROM " + s.table(TableProcessEvents) + a.whereNotEnded(s.table(TableProcessEvents), "node, start_ms, pid") + " ORDER BY node, start_ms, pid, available_ms, sequence, ifNull(end_ms, 0)"
	var out []ProcessRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := ProcessRow{
				Node: node.at(i), PID: (*pid)[i], StartMs: (*start)[i], EndMs: (*end)[i], AvailableMs: (*available)[i], ChangedMs: (*available)[i],
				GPUList: gpus.at(i), Exe: exe.at(i), Launcher: launcher.at(i), JobSource: source.at(i), JobID: job.at(i), User: user.at(i), Project: project.at(i),
				WorldSize: int((*world)[i]), Rank: int((*rank)[i]),
			}
			r.GPUs, _ = ParseGPUList(r.GPUList) // no list: nil says so
			if n := len(out); n > 0 && out[n-1].Node == r.Node && out[n-1].StartMs == r.StartMs && out[n-1].PID == r.PID {
				r.AvailableMs = out[n-1].AvailableMs
				out[n-1] = r
				continue
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read process rows: %w", err)
	}
	return out, nil
}

// AllocationRows returns the latest announcement of each rental, sorted by account, node,
// GPUs and start.
func (s *Store) AllocationRows(ctx context.Context, a AsOf) ([]AllocationRow, error) {
	var sel selection
	account, node, gpus := sel.text("account"), sel.text("node"), sel.text("gpu_list")
	start, end, available := sel.int("start_ms"), sel.optionalInt("end_ms", 0), sel.int("available_ms")
	sql := sel.sql() + " FROM " + s.table(TableAllocations) + a.whereNotEnded(s.table(TableAllocations), "account, node, gpu_list, start_ms") + " ORDER BY account, node, gpu_list, start_ms, available_ms, sequence, ifNull(end_ms, 0)"
	var out []AllocationRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := AllocationRow{
				Account: account.at(i), Node: node.at(i), GPUList: gpus.at(i), StartMs: (*start)[i], EndMs: (*end)[i],
				AvailableMs: (*available)[i], ChangedMs: (*available)[i],
			}
			r.GPUs, _ = ParseGPUList(r.GPUList) // no list: nil says so
			if n := len(out); n > 0 && out[n-1].Account == r.Account && out[n-1].Node == r.Node && out[n-1].GPUList == r.GPUList && out[n-1].StartMs == r.StartMs {
				r.AvailableMs = out[n-1].AvailableMs
				out[n-1] = r
				continue
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read allocation rows: %w", err)
	}
	return out, nil
}

// OrderRows returns all versions of contracts, one row each, sorted by order and version.
func (s *Store) OrderRows(ctx context.Context, a AsOf) ([]OrderRow, error) {
	var sel selection
	order, account, model, use := sel.text("order"), sel.optionalText("account"), sel.optionalText("gpu_model"), sel.optionalText("declared_use")
	amended, start, end, available := sel.int("amended_ms"), sel.optionalInt("start_ms", 0), sel.optionalInt("end_ms", 0), sel.int("available_ms")
	count, fabric := sel.optionalInt("gpu_count", -1), sel.float("fabric_mbps", tNI64, 1e3)
	sql := sel.sql() + " FROM " + s.table(TableOrders) + a.where() + " ORDER BY `order`, amended_ms, available_ms, sequence"
	var out []OrderRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := OrderRow{
				Order: order.at(i), Account: account.at(i), GPUModel: model.at(i), DeclaredUse: use.at(i), AmendedMs: (*amended)[i],
				StartMs: (*start)[i], EndMs: (*end)[i], GPUCount: int((*count)[i]), FabricGbps: fabric.at(i), AvailableMs: (*available)[i],
			}
			if n := len(out); n > 0 && out[n-1].Order == r.Order && out[n-1].AmendedMs == r.AmendedMs {
				r.AvailableMs = out[n-1].AvailableMs
				out[n-1] = r
				continue
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read order rows: %w", err)
	}
	return out, nil
}

// InventoryRows returns the latest version of each expected host, sorted by node.
func (s *Store) InventoryRows(ctx context.Context, a AsOf) ([]InventoryRow, error) {
	var sel selection
	node, site, model, vantage := sel.text("node"), sel.optionalText("site"), sel.optionalText("gpu_model"), sel.optionalText("vantage")
	count, available := sel.optionalInt("gpu_count", -1), sel.int("available_ms")
	fabric, tdp := sel.float("fabric_mbps", tNI64, 1e3), sel.float("tdp_mw", tNI64, 1e3)
	sql := sel.sql() + " FROM " + s.table(TableInventory) + a.where() + " ORDER BY node, available_ms, sequence"
	var out []InventoryRow
	err := s.native.query(ctx, sql, sel.res, func(rows int) error {
		for i := range rows {
			r := InventoryRow{
				Node: node.at(i), Site: site.at(i), GPUModel: model.at(i), Vantage: vantage.at(i), GPUCount: int((*count)[i]),
				FabricGbps: fabric.at(i), TDPW: tdp.at(i), AvailableMs: (*available)[i],
			}
			if n := len(out); n > 0 && out[n-1].Node == r.Node {
				out[n-1] = r
				continue
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read inventory rows: %w", err)
	}
	return out, nil
}
