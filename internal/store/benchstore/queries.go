package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// recipe is a query of deploy/clickhouse/RECIPES.md.
type recipe struct{ name, sql string }

var block = regexp.MustCompile("(?ms)^## ([^\n]+)\n.*?^```sql\n(.*?)\n```")

func recipes(path string) ([]recipe, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read recipes: %w", err)
	}
	var out []recipe
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		out = append(out, recipe{m[1], m[2]})
	}
	return out, nil
}

// ask runs each recipe some times and prints the median.
func (b *bench) ask(ctx context.Context, w io.Writer, all []recipe, params clickhouse.Parameters) error {
	const times = 5
	for _, r := range all {
		var took []time.Duration
		rows := 0
		for range times {
			began := time.Now()
			res, err := b.conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(params)), r.sql)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			for rows = 0; res.Next(); rows++ {
			}
			if err := res.Err(); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		if rows == 0 {
			_, _ = fmt.Fprintf(w, "query\t%s\tno rows: too small a fleet for this question\n", r.name)
			continue
		}
		_, _ = fmt.Fprintf(w, "query\t%s\t%d rows\tmedian %.0f ms\tbest %.0f ms\n", r.name, rows, ms(took[times/2]), ms(took[0]))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rollUp makes minutes and hours of what is stored, by SQL in the shape of the detector's: the detector itself would take
// longer than the queries that are measured here.
func (b *bench) rollUp(ctx context.Context, fromMs, toMs int64) error {
	var names, values, hours []string
	add := func(name, value, hour string) {
		names, values, hours = append(names, name), append(values, value), append(hours, hour)
	}
	for _, m := range signals {
		name, scale := measureOf(m)
		if name == "" {
			continue
		}
		add(name+"_mean", "avg("+m.column+") / "+scale, "avg("+name+"_mean)")
		add(name+"_sd", "stddevPop("+m.column+") / "+scale, "avg("+name+"_sd)")
		add(name+"_ms", "toUInt32(count("+m.column+") * 1000)", "sum("+name+"_ms)")
	}
	add("energy_j_first", "min(energy_mj) / 1000", "min(energy_j_first)")
	add("energy_j_last", "max(energy_mj) / 1000", "max(energy_j_last)")
	add("energy_j_delta", "(max(energy_mj) - min(energy_mj)) / 1000", "max(energy_j_last) - min(energy_j_first)")
	add("energy_j_first_ms", "min(ts_ms)", "min(energy_j_first_ms)")
	add("energy_j_last_ms", "max(ts_ms)", "max(energy_j_last_ms)")
	const hour = 3_600_000
	for at := fromMs / hour * hour; at < toMs; at += hour {
		if err := b.exec(ctx, fmt.Sprintf("INSERT INTO %[1]s.features_gpu_minute (cluster, node, gpu, minute_ms, available_ms, samples, version, %[2]s) "+
			"SELECT cluster, node, gpu, intDiv(ts_ms, 60000) * 60000 AS minute, max(available_ms), count(), 1, %[3]s FROM %[1]s.gpu_samples WHERE ts_ms >= %[4]d AND ts_ms < %[5]d GROUP BY cluster, node, gpu, minute",
			database, strings.Join(names, ", "), strings.Join(values, ", "), at, at+hour)); err != nil {
			return err
		}
	}
	return b.exec(ctx, fmt.Sprintf("INSERT INTO %[1]s.features_gpu_hour (cluster, node, gpu, hour_ms, available_ms, samples, presence, version, %[2]s) "+
		"SELECT cluster, node, gpu, intDiv(minute_ms, 3600000) * 3600000 AS hour, max(available_ms), sum(samples), groupBitOr(bitShiftLeft(toUInt64(1), intDiv(minute_ms, 60000) %% 60)), 1, %[3]s FROM %[1]s.features_gpu_minute GROUP BY cluster, node, gpu, hour",
		database, strings.Join(names, ", "), strings.Join(hours, ", ")))
}

func measureOf(m measure) (name, scale string) {
	switch m.column {
	case "energy_mj", "temp_c", "clocks_event_reasons", "mem_util_e4":
		return "", ""
	case "power_mw":
		return "power_w", "1000"
	}
	if base, ok := strings.CutSuffix(m.column, "_e4"); ok {
		return base + "_frac", "10000"
	}
	return m.column, "1"
}

// month gives the hours that were made a month behind them: the same hours, moved. The condition stands inside, where
// `hour_ms` is still the hour as it was.
func (b *bench) month(ctx context.Context, hours int64) error {
	const hoursOfMonth = 31 * 24
	for shift := hours; shift < hoursOfMonth; shift += hours {
		if err := b.exec(ctx, fmt.Sprintf("INSERT INTO %[1]s.features_gpu_hour SELECT * REPLACE (hour_ms - %[2]d AS hour_ms) FROM (SELECT * FROM %[1]s.features_gpu_hour WHERE hour_ms >= %[3]d) SETTINGS max_partitions_per_insert_block = 0",
			database, shift*3_600_000, b.firstHour)); err != nil {
			return err
		}
	}
	return nil
}

// customers rents every node to an account, and judges runs: each account has four nodes, each run some versions.
func (b *bench) customers(ctx context.Context, nodes int, startMs int64) error {
	if err := b.exec(ctx, fmt.Sprintf("INSERT INTO %s.allocations (cluster, spool, sequence, sources, available_ms, account, node, gpu_list, start_ms) "+
		"SELECT '%s', 's', number, 'provider', %[3]d, format('acct-{}', toString(intDiv(number, 4))), format('hgx-{}', leftPad(toString(number), 4, '0')), '0 1 2 3 4 5 6 7', %[3]d FROM numbers(%[4]d)", database, cluster, startMs, nodes)); err != nil {
		return err
	}
	return b.exec(ctx, fmt.Sprintf("INSERT INTO %s.runs (cluster, run_id, version, judged_ms, class, class_probability, start_ms, flops_model_low, flops_model_best, flops_model_high, coverage_frac, doc, epoch) "+
		"SELECT '%s', toString(number %% 20000), 1 + intDiv(number, 20000), %[3]d, 'training', 0.9, %[3]d, f * 0.7, cityHash64(number) %% 1000000 * 1e18 AS f, f * 1.4, 0.99, repeat('x', 2000), 1 FROM numbers(200000)", database, cluster, startMs))
}
