package store

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// viewComments are of columns that views compute; "view.column" before "column". The others
// have the comment of the table's column of that name.
var viewComments = map[string]string{
	"time":                   "ts_ms as a time, UTC",
	"v_gpu_minutes.time":     "minute_ms as a time, UTC",
	"v_gpu_hours.time":       "hour_ms as a time, UTC",
	"v_gpu_hours.minutes":    "minutes of the hour that have a cell",
	"v_account_hours.time":   "hour_ms as a time, UTC",
	"started":                "start_ms as a time, UTC",
	"ended":                  "end_ms as a time, UTC; NULL: it goes on as far as is known",
	"told":                   "ts_ms as a time, UTC",
	"judged":                 "judged_ms as a time, UTC",
	"available":              "available_ms as a time, UTC",
	"evidence_sufficed_from": "known_at_ms as a time, UTC: from then on the evidence sufficed",
	"v_instruments.since":    "since when that is its state, as a time, UTC; where it was not told, when it was told",

	"util_frac":               "NVML utilization, fraction of time; NULL: not measured",
	"mem_util_frac":           "NVML memory utilization: fraction of time in which memory was read or written; NULL: not measured",
	"power_w":                 "board power, watts; kept to 0.064 W: off by 0.032 at most; NULL: not measured",
	"energy_j_total":          "cumulative energy, joules, may reset; kept to 0.128 J: off by 0.064 at most, however long it runs; NULL: not measured",
	"sm_active_frac":          "share of time and SMs with a warp resident; NULL: not measured",
	"sm_occupancy_frac":       "resident warps over the maximum; NULL: not measured",
	"tensor_frac":             "share of cycles in which any tensor pipe was busy; NULL: not measured",
	"hmma_frac":               "half-precision tensor pipe busy, share of cycles; NULL: not measured",
	"imma_frac":               "integer tensor pipe busy, share of cycles; NULL: not measured",
	"dfma_frac":               "double-precision tensor pipe busy, share of cycles; NULL: not measured",
	"fp64_frac":               "FP64 pipe busy, share of cycles; NULL: not measured",
	"fp32_frac":               "FP32 pipe busy, share of cycles; NULL: not measured",
	"fp16_frac":               "FP16 pipe busy, share of cycles; NULL: not measured",
	"int_frac":                "integer pipe busy, share of cycles; NULL: not measured",
	"dram_frac":               "device memory interface busy, share of cycles; NULL: not measured",
	"nvenc_frac":              "video encoder busy, fraction of time; NULL: not measured",
	"nvdec_frac":              "video decoder busy, fraction of time; NULL: not measured",
	"mma_cycles_total":        "cumulative tensor-pipe cycles, mean over the SMs, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs; NULL: not measured",
	"sm_cycles_elapsed_total": "cycles of the SMs, in the unit of mma_cycles_total, cumulative, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs; NULL: not measured",

	"hour":                              "start of the hour, UTC",
	"v_account_hours.gpu":               "index of the GPU on its host",
	"v_account_hours.account":           "customer account",
	"v_account_hours.rented_ms":         "ms of the hour in which the account had the GPU",
	"v_account_hours.minutes":           "minutes of the hour that have a cell, rented or not",
	"v_account_hours.busy_frac":         "sm_active_frac_mean, or util_frac_mean where that was not measured: how busy the GPU was; NULL: not measured",
	"v_account_hours.energy_j":          "energy in the rented part of the hour, joules; NULL: not measured",
	"v_account_hours.mma_cycles":        "tensor-pipe cycles in the rented part of the hour, mean over the SMs; NULL: not measured",
	"v_node_coverage.expected_gpus":     "GPUs that the host ought to have, by the latest inventory; 0: not stated",
	"v_node_coverage.seen_gpus":         "GPUs of which there is a minute cell in the hour",
	"v_node_coverage.gpu_minutes":       "minutes with a cell, summed over the GPUs",
	"v_node_coverage.coverage_frac":     "gpu_minutes over 60 times expected_gpus; NULL: nothing was expected",
	"v_node_coverage.listed":            "whether the inventory has the host",
	"v_node_hours.batches_stored":       "batches sealed in the hour that are stored",
	"v_node_hours.rows_stored":          "rows of those, of all kinds",
	"v_node_hours.ticks_stored":         "sampling ticks whose rows are in these batches",
	"v_node_hours.batches_conflicting":  "batches with other content under a sequence that was taken, kept in quarantine: of a spool that was put back to an earlier state, or forged",
	"v_node_hours.ticks_due":            "sampling ticks that were due, as the host counts them, up to the stored batches of the hour",
	"v_node_hours.ticks_missed":         "of these, passed without a sample: the host was suspended, or overloaded",
	"v_node_hours.ticks_given_up":       "of these, given up before they came to the spool, which took nothing, or lost with the agent's process",
	"v_node_hours.ticks_lost":           "of these, in batches that are not stored",
	"v_chain_hours.hour":                "start of the hour in which the batches became available, UTC",
	"v_chain_hours.key":                 "public key (Ed25519) of the last signed batch, hex; empty: none is signed",
	"v_allocations.gpus":                "indices of the rented GPUs on the host",
	"v_allocations.started":             "start_ms as a time, UTC",
	"v_allocations.ended":               "end_ms as a time, UTC; NULL: goes on as far as was known",
	"v_fleet_hours.hour":                "start of the hour in which the batches became available, UTC",
	"v_fleet_hours.batches_stored":      "batches that became available in the hour and are stored",
	"v_fleet_hours.batches_quarantined": "batches before these that are in quarantine alone",
	"v_fleet_hours.batches_conflicting": "messages of the hour with other content under a sequence that was taken, kept in quarantine",
	"v_fleet_hours.batches_missing":     "batches before these of which nothing is known: on their way, or taken out",
	"v_fleet_hours.batches_given_up":    "batches before these that the spool gave up, by its own word",
	"v_fleet_hours.lost_batches":        "batches that are lost, by reason as in v_losses; what the spool took nothing of (memory) has ticks alone",
	"v_fleet_hours.lost_ticks":          "sampling ticks that are lost, by reason as in v_losses, as far as that can be told",
	"v_losses.lost_from":                "from_ms as a time, UTC",
	"v_losses.lost_to":                  "to_ms as a time, UTC",
	"v_losses.known":                    "known_ms as a time, UTC",
	"v_node_hours.batches_quarantined":  "batches that are in quarantine alone",
	"v_node_hours.batches_lost_full":    "batches that the spool gave up as it was full",
	"v_node_hours.batches_lost_age":     "batches that the spool gave up as they were older than it keeps",
	"v_node_hours.batches_lost_corrupt": "batches that the spool gave up as they were damaged on disk",
	"v_node_hours.batches_lost_disk":    "batches that the spool gave up as the file system was full",
	"v_node_hours.batches_missing":      "batches before a stored one of which nothing is known: on their way, or taken out",
	"v_quarantine.cluster":              "cluster of the host; of messages whose own word is not to be believed, its token in the subject",
	"v_quarantine.node":                 "the host, by its word or else its token in the subject that it came on; empty: the provider",
	"v_quarantine.reason":               "why, as in quarantine",
	"v_quarantine.messages":             "messages that quarantine has, those included that were sent again and are stored since",
	"v_quarantine.messages_dropped":     "messages beyond the limits, that were counted alone",
	"v_quarantine.bytes_came":           "bytes of them all as they came",
	"v_node_keys.key":                   "public key (Ed25519), hex",
	"v_node_keys.spools":                "spools that signed with it",
	"v_node_keys.batches":               "batches that are signed with it",
	"v_node_keys.first_seen":            "when the first of them was available, UTC",
	"training_probability":              "probability that it is a training of any kind; NULL: a verdict of an earlier version",
	"narrow_term":                       "the term of the model FLOPs' interval that would be narrowed most; NULL: none is known",
	"narrow_signal":                     "the signal that would narrow it, in words",
	"largest_model_best":                "best total of model FLOPs of the largest plausible grouping with other runs; NULL: it stands alone",
	"largest_weight":                    "how probable that grouping is; NULL: it stands alone",
	"contradictions":                    "signals of its GPUs that cannot both be right",
	"mfu":                               "model FLOP over the dense 16-bit peak of its GPU-time; NULL: cannot be told",
	"hfu":                               "executed FLOP over the dense 16-bit peak of its GPU-time; NULL: cannot be told",
	"goodput":                           "share of its GPU-time in which it went on; NULL: cannot be told",
	"restarts":                          "how often it began again; NULL: cannot be told",
	"restart_gpu_hours":                 "GPU-hours between its episodes, and until it was back at its level; NULL: cannot be told",
	"stall_gpu_hours":                   "GPU-hours in which all stood still together; NULL: cannot be told",
	"idle_gpu_hours":                    "GPU-hours held and idle; NULL: cannot be told",
	"energy_kwh":                        "energy of its GPUs, kWh; NULL: not measured",
	"v_run_terms.term":                  "source of the interval's width: counter, clock, dtype, recompute, tile, gaps, part, share, grouping",
	"v_run_terms.log_sd":                "its standard deviation of the logarithm; squares add up as far as terms are independent",
	"v_run_terms.half_width":            "half of the 90 % interval over the best value if this term alone were left",
	"v_run_terms.narrow":                "the signal that would narrow it, in words; NULL: none is known",
	"v_runs_by_profile.review_id":       "review that judged, see v_reviews; empty: judged live",
	"v_findings_by_profile.review_id":   "review that judged, see v_reviews; empty: judged live",
	"v_node_keys.last_seen":             "when the last of them was available, UTC",
}

// commentViews gives the columns of views their comments. A view that a migration makes anew loses
// them, and one that was made before has what was said then, so this runs behind all migrations, each time.
func (s *Store) commentViews(ctx context.Context) error {
	views, err := s.viewSources(ctx)
	if err != nil {
		return err
	}
	columns, err := s.columns(ctx)
	if err != nil {
		return err
	}
	for _, view := range slices.Sorted(maps.Keys(views)) {
		var alters []string
		for _, c := range columns[view] {
			if text := viewComment(view, c.name, views[view], columns); text != "" && text != c.comment {
				alters = append(alters, "COMMENT COLUMN `"+c.name+"` "+quote(text))
			}
		}
		if alters == nil {
			continue
		}
		if err := s.exec(ctx, "ALTER TABLE "+s.table(view)+s.cfg.onCluster()+" "+strings.Join(alters, ", ")); err != nil {
			return fmt.Errorf("comment columns of %s: %w", view, err)
		}
	}
	return nil
}

func viewComment(view, column string, sources []string, columns map[string][]columnInfo) string {
	if text := viewComments[view+"."+column]; text != "" {
		return text
	}
	for _, source := range sources {
		for _, c := range columns[source] {
			if c.name == column && c.comment != "" {
				return c.comment
			}
		}
	}
	return viewComments[column]
}

// viewSources returns the tables that each view reads.
func (s *Store) viewSources(ctx context.Context) (map[string][]string, error) {
	db := regexp.QuoteMeta(s.cfg.Database)
	from := regexp.MustCompile("\\b(?:FROM|JOIN) (?:`" + db + "`|" + db + ")\\.`?([a-z_][a-z0-9_]*)")
	rows, err := s.conn.Query(ctx, "SELECT name, as_select FROM system.tables WHERE database = ? AND engine = 'View'", s.cfg.Database)
	if err != nil {
		return nil, fmt.Errorf("read views: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string][]string{}
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return nil, fmt.Errorf("read views: %w", err)
		}
		out[name] = nil
		for _, m := range from.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(out[name], m[1]) {
				out[name] = append(out[name], m[1])
			}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read views: %w", err)
	}
	return out, nil
}
