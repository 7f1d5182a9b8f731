package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// BenchmarkAudit is what an auditor asks of 2,000 hosts that send a batch every 20 s: 30 days of
// hourly checks of all, a day of batches of all, and 30 days of those of 20 hosts.
func BenchmarkAudit(b *testing.B) {
	url, user, password := testenv.ClickHouse(b)
	s, err := Open(b.Context(), Config{URL: url, User: user, Password: password, Database: "audit", Timeout: 10 * time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			b.Error(cerr)
		}
	}()
	if err = s.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	const (
		hosts, long, days = 2000, 20, 30
		aDay              = 86400 / 20
		end               = 1_795_305_600_000 // a midnight
		begin             = end - days*86_400_000
	)
	batch := func(host, sequence string) string {
		return "INSERT INTO audit.batches (cluster, node, spool, sequence, partition, stream, stream_seq, ticks, first_tick, sealed_wall_ms, gpu_rows, host_rows, min_ts_ms, max_ts_ms, available_ms)" +
			" SELECT 'c', concat('host-', toString(" + host + ")), concat('spool-', toString(" + host + ")), " + sequence + " AS n, '0', 'FLOPWATCH_0', number, n * 20, (n - 1) * 20 + 1," +
			fmt.Sprintf(" %d + n * 20000, 160, 20, %d + n * 20000 - 20000, %d + n * 20000, %d + n * 20000 + 500", begin, begin, begin, begin)
	}
	for _, sql := range []string{
		// Of every host one hour is not well.
		fmt.Sprintf("INSERT INTO audit.chain_hours (cluster, node, hour_ms, status, batches, verified, missing, seen_ms, known_ms) SELECT 'c', concat('host-', toString(intDiv(number, %d))), %d + (number %% %d) * 3600000,"+
			" if(number %% %d = 7, 'incomplete', 'verified'), 180, 180, number %% %d = 7, 1, 1 FROM numbers(%d)", days*24, begin, days*24, days*24, days*24, hosts*days*24),
		fmt.Sprintf("INSERT INTO audit.losses (cluster, node, spool, from_sequence, to_sequence, reason, batches, ticks, from_ms, to_ms, hour_ms, known_ms) SELECT 'c', concat('host-', toString(number %% %d)), 's', number, number, 'bytes',"+
			" 1, 20, %d + number, %d + number + 20000, %d, %d FROM numbers(%d)", hosts, begin, begin, begin, begin, hosts*days),
		batch(fmt.Sprintf("intDiv(number, %d)", days*aDay), fmt.Sprintf("number %% %d + 1", days*aDay)) + fmt.Sprintf(" FROM numbers(%d)", long*days*aDay),
		batch(fmt.Sprintf("%d + intDiv(number, %d)", long, aDay), fmt.Sprintf("%d + number %% %d + 1", (days-1)*aDay, aDay)) + fmt.Sprintf(" FROM numbers(%d)", (hosts-long)*aDay),
	} {
		if err = s.conn.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	for _, q := range []struct {
		name string
		ask  func() (int, error)
		rows int // at least
	}{
		{"node_hours_host_month", func() (int, error) {
			rows, err := s.NodeHours(b.Context(), "c", []string{"host-1"}, begin, end)
			return len(rows), err
		}, days * 24},
		{"node_hours_host_day", func() (int, error) {
			rows, err := s.NodeHours(b.Context(), "c", []string{"host-1"}, end-86_400_000, end)
			return len(rows), err
		}, 24},
		{"node_hours_5_hosts_month", func() (int, error) {
			rows, err := s.NodeHours(b.Context(), "c", []string{"host-1", "host-2", "host-3", "host-4", "host-5"}, begin, end)
			return len(rows), err
		}, 5 * days * 24},
		{"node_hours_all_day", func() (int, error) {
			rows, err := s.NodeHours(b.Context(), "c", nil, end-86_400_000, end)
			return len(rows), err
		}, hosts * 24},
		{"chain_hours_host_month", func() (int, error) {
			rows, err := s.HourChecks(b.Context(), "c", []string{"host-1"}, begin, end)
			return len(rows), err
		}, days * 24},
		{"chain_hours_all_month", func() (int, error) {
			rows, err := s.names(b.Context(), "SELECT node FROM audit.v_chain_hours WHERE cluster = 'c' AND status != 'verified'")
			return len(rows), err
		}, hosts},
		{"fleet_hours_all_day", func() (int, error) {
			rows, err := s.names(b.Context(), fmt.Sprintf("SELECT toString(batches_stored + length(lost_batches)) FROM audit.v_fleet_hours WHERE cluster = 'c' AND hour_ms >= %d", end-86_400_000))
			return len(rows), err
		}, hosts * 24},
		{"fleet_hours_all_month", func() (int, error) {
			rows, err := s.names(b.Context(), "SELECT toString(sum(batches_stored) + sum(arraySum(mapValues(lost_ticks)))) FROM audit.v_fleet_hours WHERE cluster = 'c' GROUP BY node")
			return len(rows), err
		}, hosts},
		{"losses_all", func() (int, error) {
			rows, err := s.names(b.Context(), "SELECT toString(sum(ticks)) FROM audit.v_losses WHERE cluster = 'c' GROUP BY node")
			return len(rows), err
		}, hosts},
		{"arrived_all_day", func() (int, error) {
			rows, err := s.Arrived(b.Context(), "c", nil, end-86_400_000, end)
			return len(rows), err
		}, hosts * 24},
		{"troubled_month", func() (int, error) {
			rows, err := s.TroubledNodes(b.Context(), "c", begin, end)
			return len(rows), err
		}, hosts},
		{"due_hours_at_first", func() (int, error) {
			rows, err := s.DueHours(b.Context(), "c", 0, end, end, 1000)
			return len(rows), err
		}, 1000},
		{"due_hours_nothing_came", func() (int, error) {
			rows, err := s.DueHours(b.Context(), "c", time.Now().UnixMilli(), end-30*86_400_000, end, 1000)
			return len(rows), err
		}, 0},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				if n, err := q.ask(); err != nil || n < q.rows {
					b.Fatalf("%d rows, %v", n, err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/question")
		})
	}
}
