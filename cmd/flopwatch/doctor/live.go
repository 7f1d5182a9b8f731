package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

// Bounds of what is well while the tree runs.
const (
	lookTimeout = 15 * time.Second // for one server
	backlogWarn = time.Minute      // age of the oldest message that nobody has stored
	silentWarn  = 3 * time.Minute  // without a batch of a node
	staleStatus = 12 * time.Minute // an instrument tells its state every few minutes
	lagWarn     = 5 * time.Minute  // of the detector, beyond its wait
	lagFail     = 30 * time.Minute
	recent      = time.Hour // how far back nodes are looked for
)

// components asks the tree itself.
func (v *visit) components(ctx context.Context) {
	body, _, err := up.AskHTTP(ctx, v.state.HealthURL+"/healthz")
	var h struct {
		Details struct {
			Components []supervise.Status `json:"components"`
		} `json:"details"`
	}
	if err == nil {
		err = json.Unmarshal(body, &h)
	}
	if err != nil {
		v.add("health", Fail, "look at "+v.l.Log("up")+", or stop flopwatch up and start it again", "flopwatch up runs and does not answer: %v", err)
		h.Details.Components = v.state.Components // what it said last
	}
	for _, c := range h.Details.Components {
		text := string(c.State)
		if c.PID != 0 {
			text += fmt.Sprintf(", process %d", c.PID)
		}
		if len(c.Reasons) > 0 {
			text += ": " + strings.Join(c.Reasons, "; ")
		}
		status := OK
		switch c.State {
		case supervise.Ready:
		case supervise.Degraded:
			status = Warn
		default:
			status = Fail
		}
		if c.Restarts > 0 {
			text += fmt.Sprintf(" (restarts since the start: %d, last: %s)", c.Restarts, c.LastExit)
			if status == OK && v.o.Now().Sub(c.Since) < 10*time.Minute {
				status = Warn
			}
		}
		v.add(c.Name, status, v.remedy(&c, status), "%s", text)
	}
}

// remedy is what helps a child that is not well.
func (v *visit) remedy(c *supervise.Status, status Status) string {
	look := "look at " + v.l.Log(c.Name)
	switch {
	case status == OK:
		return ""
	case c.PID != 0 && c.State == supervise.Failing && len(c.Reasons) > 0 && strings.HasPrefix(c.Reasons[0], up.NoAnswer):
		// What hangs writes no log. Nothing is lost with it.
		return fmt.Sprintf("%s; if it goes on, kill -9 %d: flopwatch up starts it again", look, c.PID)
	}
	return look
}

// broker looks at the streams.
func (v *visit) broker(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	remedy := "look at " + v.l.Log("nats")
	nc, err := broker.Connect(broker.ConnectConfig{URL: v.state.NATSURL, TokenFile: v.state.NATSTokenFile, Name: "flopwatch doctor"})
	if err != nil {
		v.add("streams", Fail, remedy, "%v", err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		v.add("streams", Fail, remedy, "%v", err)
		return
	}
	queues, waiting, oldest := 0, uint64(0), time.Duration(0)
	var full []string
	for _, name := range []string{broker.NodeStream(0), broker.ProviderStream} {
		s, err := js.Stream(ctx, name)
		if err != nil {
			v.add("streams", Fail, "the collector makes the streams: look at "+v.l.Log("collector"), "stream %s: %v", name, err)
			return
		}
		queues++
		info := s.CachedInfo()
		waiting += info.State.Msgs
		if info.State.Msgs > 0 {
			oldest = max(oldest, v.o.Now().Sub(info.State.FirstTime))
		}
		if most := info.Config.MaxBytes; most > 0 && info.State.Bytes > uint64(most)*9/10 {
			full = append(full, name)
		}
	}
	switch {
	case len(full) > 0:
		v.add("streams", Fail, "see collector and store; agents' spools keep what does not fit", "nearly full: %s", strings.Join(full, " "))
	case waiting > 0 && oldest > backlogWarn:
		v.add("streams", Warn, "see collector and store: they lag behind", "%s not stored yet, the oldest for %s", count(int(waiting), "message"), length(oldest))
	default:
		v.ok("streams", "%d streams, %d messages wait to be stored", queues, waiting)
	}
}

// store looks at what has arrived and how far it was judged.
func (v *visit) store(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	remedy := "look at " + v.l.Log("clickhouse")
	password, err := os.ReadFile(v.state.ClickHousePasswordFile)
	if err != nil {
		v.add("store", Fail, "run doctor as the user that runs flopwatch up", "%v", err)
		return
	}
	st, err := store.Open(ctx, store.Config{URL: v.state.ClickHouseURL, User: v.state.ClickHouseUser, Password: strings.TrimSpace(string(password)), Timeout: lookTimeout})
	if err != nil {
		v.add("store", Fail, remedy, "%v", err)
		return
	}
	defer func() { _ = st.Close() }() // it was only read
	cluster := v.state.Source.Cluster
	now := v.o.Now().UnixMilli()
	batches, err := st.BatchesAfter(ctx, cluster, now-recent.Milliseconds(), 0)
	if err != nil {
		v.add("store", Fail, remedy, "%v", err)
		return
	}
	v.arrivals(batches)
	v.space(ctx, st)
	if q, err := st.Quarantined(ctx); err != nil {
		v.add("quarantine", Fail, remedy, "%v", err)
	} else if len(q) > 0 {
		var words []string
		for _, reason := range slices.Sorted(maps.Keys(q)) {
			words = append(words, fmt.Sprintf("%s %d", reason, q[reason]))
		}
		v.add("quarantine", Warn, "flopwatch quarantine ls --data "+v.state.Data, "messages that could not be taken: %s", strings.Join(words, ", "))
	}
	if v.state.Source.Kind != up.Recording {
		v.instruments(ctx, st)
	}
	v.judged(ctx, st)
}

// space looks at how full the store is, and for how long that does.
func (v *visit) space(ctx context.Context, st *store.Store) {
	s, err := st.Space(ctx)
	if err != nil {
		v.add("store's disk", Warn, "", "how full it is cannot be told: %v", err)
		return
	}
	for _, d := range s.Disks {
		text, status := fmt.Sprintf("%s can still be written of %s, %s are tables; %s are kept free", size(d.Usable()), size(d.TotalBytes), size(s.StoredBytes), size(d.KeepFree)), OK
		lasts, known := s.Lasts()
		if known {
			text += fmt.Sprintf("; a day brings %s: enough for %.0f days if nothing goes", size(s.DayBytes), lasts.Hours()/24)
		}
		remedy := "make room, keep raw rows for fewer days (retention.raw_days), or drop the oldest day (deploy/clickhouse/README.md, A full disk)"
		switch {
		case d.Usable() == 0:
			status = Fail
		case known && lasts < 3*24*time.Hour, d.Usable() < d.TotalBytes/20:
			status = Warn
		default:
			remedy = ""
		}
		v.add("store's disk", status, remedy, "%s", text)
	}
}

// arrivals looks at who was heard of.
func (v *visit) arrivals(batches []store.BatchRow) {
	last, rows := map[string]int64{}, uint64(0)
	for i := range batches {
		b := &batches[i]
		if b.Node == "" {
			continue
		}
		last[b.Node] = max(last[b.Node], b.AvailableMs)
		for _, n := range b.Rows {
			rows += uint64(n)
		}
	}
	if len(last) == 0 {
		if v.o.Now().Sub(v.state.StartedAt) < silentWarn {
			v.info("telemetry", "nothing has arrived yet")
			return
		}
		v.add("telemetry", Fail, "look at the agent's log, "+v.l.Log("agent"), "nothing has arrived within %s", length(recent))
		return
	}
	var silent []string
	newest := int64(0)
	for _, node := range slices.Sorted(maps.Keys(last)) {
		newest = max(newest, last[node])
		if v.o.Now().Sub(time.UnixMilli(last[node])) > silentWarn {
			silent = append(silent, node+" ("+v.ago(last[node])+")")
		}
	}
	if len(silent) > 0 {
		remedy := "look at the agents there"
		if v.state.Source.Kind == up.Recording {
			remedy = "a recording's hosts fall silent where it says so, and at its end"
		}
		v.add("telemetry", Warn, remedy, "silent: %s", some(silent))
		return
	}
	v.ok("telemetry", "%d rows of %s within %s, the last %s ago", rows, count(len(last), "node"), length(recent), v.ago(newest))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// some names the first of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// instruments looks at what the agents can see.
func (v *visit) instruments(ctx context.Context, st *store.Store) {
	rows, err := st.Instruments(ctx, store.AsOf{Cluster: v.state.Source.Cluster})
	if err != nil {
		v.add("instruments", Fail, "look at "+v.l.Log("clickhouse"), "%v", err)
		return
	}
	var active []string
	gpus := 0
	for _, r := range rows {
		what := "instrument " + r.Instrument
		text := r.State
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		if r.SinceMs != 0 {
			text += fmt.Sprintf(" (since %s)", stamp(time.UnixMilli(r.SinceMs)))
		}
		if age := v.o.Now().Sub(time.UnixMilli(r.TsMs)); age > staleStatus {
			v.add(what, Warn, "its agent has fallen silent", "%s, told %s ago", text, length(age))
			continue
		}
		switch r.State {
		case "active":
			if strings.HasPrefix(r.Instrument, "gpu/") && r.Instrument != "gpu/events" {
				gpus++
				continue
			}
			active = append(active, r.Instrument)
		case "unavailable":
			status := Info
			if r.Instrument == "gpu" && v.state.Source.Kind != up.HostOnly {
				status = Fail
			}
			v.add(what, status, "see driver above", "%s", text)
		case "degraded":
			v.add(what, Warn, "the reason says what is missing", "%s", text)
		default:
			v.add(what, Fail, "look at "+v.l.Log("agent")+" and, for a GPU, at nvidia-smi and dmesg", "%s", text)
		}
	}
	if gpus > 0 {
		active = append(active, count(gpus, "GPU"))
	}
	if len(active) > 0 {
		v.ok("instruments", "active: %s", strings.Join(active, ", "))
	}
	if len(rows) == 0 {
		v.info("instruments", "none has told its state yet")
	}
}

// judged looks at how far the detector is.
func (v *visit) judged(ctx context.Context, st *store.Store) {
	remedy := "look at " + v.l.Log("detector")
	p, ok, err := st.Position(ctx, v.state.Source.Cluster)
	switch {
	case err != nil:
		v.add("verdicts", Fail, remedy, "%v", err)
		return
	case !ok || p.JudgedMs == 0:
		due := v.state.StartedAt.Add(v.state.Wait() + 2*time.Minute)
		if v.o.Now().Before(due) {
			v.info("verdicts", "none since this start, the first is due at about %s", due.UTC().Format("15:04 UTC"))
			return
		}
		v.add("verdicts", Warn, remedy, "nothing was judged since this start; the first verdict was due at about %s", due.UTC().Format("15:04 UTC"))
		return
	}
	lag := v.o.Now().Sub(time.UnixMilli(p.JudgedMs)) - v.state.Wait()
	text := fmt.Sprintf("judged up to %s", stamp(time.UnixMilli(p.JudgedMs)))
	switch {
	case lag > lagFail:
		v.add("verdicts", Fail, remedy, "%s, %s behind", text, length(lag))
	case lag > lagWarn:
		v.add("verdicts", Warn, remedy, "%s, %s behind", text, length(lag))
	default:
		v.ok("verdicts", "%s", text)
	}
}
