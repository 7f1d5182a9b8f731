package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// fault is one that was drawn: everything about it comes from its seed.
type fault struct {
	what  string
	hold  time.Duration
	begin func(ctx context.Context) error
	// again is called every now and then while it holds; nil: nothing is.
	again func(ctx context.Context) error
	end   func(ctx context.Context) error
	// last ends behind what it is combined with.
	last bool
	// after is called once the system is at rest again; nil: nothing is.
	after func(ctx context.Context) error
}

// kind is a kind of faults.
type kind struct {
	name   string
	weight int
	apart  bool // needs namespaces and disks of a size
	draw   func(w *world, e *excused, r *rand.Rand) *fault
}

// leaseTTL is what the collectors' leases live without renewal, a third of the default, so that
// more faults fit into an hour.
const leaseTTL = 5 * time.Second

func kinds() []kind {
	return []kind{
		{"kill agent", 12, false, killOf("agent")},
		{"kill nvml", 6, false, killOf("nvml")},
		{"kill broker", 14, false, killOf("broker")},
		{"kill collector", 14, false, killOf("collector")},
		{"kill engine", 14, false, killOf("engine")},
		{"kill everything", 8, false, killAll},
		{"end politely", 6, false, endPolitely},
		{"stop agent", 6, false, stopOf("agent", 200*time.Millisecond, 5*time.Second)},
		{"stop nvml", 4, false, stopOf("nvml", time.Second, 6*time.Second)},
		{"stop broker", 8, false, stopOf("broker", 200*time.Millisecond, 6*time.Second)},
		{"stop collector", 6, false, stopOf("collector", 200*time.Millisecond, 5*time.Second)},
		{"stop collector past its lease", 6, false, stopOf("collector", leaseTTL+time.Second, leaseTTL+5*time.Second)},
		{"stop engine", 8, false, stopOf("engine", 500*time.Millisecond, 8*time.Second)},
		{"partition", 22, true, partition},
		{"broker's disk full", 6, true, full("broker")},
		{"spool's disk full", 8, true, full("spool")},
		{"engine's disk full", 8, true, full("engine")},
		{"clock of agent", 8, false, clockOf("agent")},
		{"clock of broker", 8, false, clockOf("broker")},
		{"clock of collector", 4, false, clockOf("collector")},
		{"clock of engine", 4, false, clockOf("engine")},
		{"corrupt spool", 8, true, corrupt},
		{"intruder", 8, false, intruder},
		{"duplicates out of order", 12, false, replay},
		{"stall", 3, false, stall},
		{"part limit", 6, false, partLimit},
	}
}

// some is a length of time between two.
func some(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)+1)).Round(time.Millisecond)
}

// target draws a process of a role. nvml is the child of an agent.
func (w *world) target(role string, r *rand.Rand) (p *process, who string) {
	switch role {
	case "agent", "nvml":
		p = w.agents[r.IntN(len(w.agents))]
	case "collector":
		p = w.collect[r.IntN(len(w.collect))]
	case "broker":
		p = w.broker
	default:
		p = w.engine
	}
	if role == "nvml" {
		return p, "the NVML child of " + p.name
	}
	return p, p.name
}

func killOf(role string) func(*world, *excused, *rand.Rand) *fault {
	return func(w *world, _ *excused, r *rand.Rand) *fault {
		p, who := w.target(role, r)
		n, down := 1+r.IntN(3), some(r, 0, 3*time.Second)
		f := &fault{what: fmt.Sprintf("kill -9 %s %d times, down for %s", who, n, down), hold: time.Duration(n-1) * 700 * time.Millisecond}
		hit := func(context.Context) error {
			if n--; n < 0 {
				return nil
			}
			if role != "nvml" {
				return p.kill(syscall.SIGKILL, down)
			}
			var err error
			if pid := p.pid(); pid != 0 {
				for _, child := range tree(pid)[1:] {
					err = errors.Join(err, ignoreGone(syscall.Kill(child, syscall.SIGKILL)))
				}
			}
			return err
		}
		f.begin, f.again, f.end = hit, hit, nothing
		if role == "engine" && r.IntN(2) == 0 {
			f.what += " (its child first, if it has one)"
			f.begin = func(ctx context.Context) error {
				if pid := p.pid(); pid != 0 {
					for _, child := range tree(pid)[1:] {
						if err := ignoreGone(syscall.Kill(child, syscall.SIGKILL)); err != nil {
							return err
						}
					}
				}
				return hit(ctx)
			}
		}
		return f
	}
}

func nothing(context.Context) error { return nil }

func killAll(w *world, _ *excused, r *rand.Rand) *fault {
	all := w.processes()
	r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	if r.IntN(2) == 0 {
		all = all[:2+r.IntN(len(all)-2)]
	}
	var names []string
	down := map[*process]time.Duration{}
	for _, p := range all {
		down[p] = some(r, 0, 4*time.Second)
		names = append(names, p.name+" for "+down[p].String())
	}
	return &fault{what: "kill -9 at once: " + strings.Join(names, ", "), end: nothing, begin: func(context.Context) error {
		var err error
		for _, p := range all {
			err = errors.Join(err, p.kill(syscall.SIGKILL, down[p]))
		}
		return err
	}}
}

func endPolitely(w *world, _ *excused, r *rand.Rand) *fault {
	all := w.processes()
	p, down := all[r.IntN(len(all))], some(r, 0, 2*time.Second)
	return &fault{what: fmt.Sprintf("SIGTERM %s, down for %s", p.name, down), end: nothing, begin: func(context.Context) error { return p.kill(syscall.SIGTERM, down) }}
}

func stopOf(role string, from, to time.Duration) func(*world, *excused, *rand.Rand) *fault {
	return func(w *world, _ *excused, r *rand.Rand) *fault {
		p, who := w.target(role, r)
		f := &fault{hold: some(r, from, to)}
		f.what = fmt.Sprintf("SIGSTOP %s for %s", who, f.hold)
		each := func(sig syscall.Signal) func(context.Context) error {
			return func(context.Context) error {
				pid := p.pid()
				if pid == 0 {
					return nil
				}
				if role != "nvml" {
					return p.signal(sig)
				}
				var err error
				for _, child := range tree(pid)[1:] {
					err = errors.Join(err, ignoreGone(syscall.Kill(child, sig)))
				}
				return err
			}
		}
		f.begin, f.end = each(syscall.SIGSTOP), each(syscall.SIGCONT)
		return f
	}
}

func partition(w *world, _ *excused, r *rand.Rand) *fault {
	pairs := [][2]string{{node(r.IntN(w.o.Agents)), "broker"}, {collectorName(r.IntN(2)), "broker"}, {collectorName(r.IntN(2)), "engine"}}
	pair := pairs[r.IntN(len(pairs))]
	a, b := pair[0], pair[1]
	how := []string{"blackhole", "unreachable"}[r.IntN(2)]
	from, to := some(r, 300*time.Millisecond, 3*time.Second), 9*time.Second
	f := &fault{hold: some(r, from, to)}
	var rules [][2]string
	way := "both ways"
	switch r.IntN(4) {
	case 0:
		rules, way = [][2]string{{a, b}}, "one way"
	case 1:
		rules, way = [][2]string{{b, a}}, "the way back"
	default:
		rules = [][2]string{{a, b}, {b, a}}
	}
	resets := 0
	if r.IntN(3) == 0 {
		resets = 1 + r.IntN(4)
	}
	f.what = fmt.Sprintf("%s: %s and %s, %s, for %s, connections reset %d times", how, a, b, way, f.hold, resets)
	again := func(ctx context.Context) error {
		if resets--; resets >= 0 {
			return w.net.reset(ctx, a, b)
		}
		return nil
	}
	f.begin = func(ctx context.Context) error {
		if err := again(ctx); err != nil {
			return err
		}
		for _, rule := range rules {
			if err := w.net.part(ctx, rule[0], rule[1], how); err != nil {
				return err
			}
		}
		return nil
	}
	f.again, f.end = again, w.net.join
	return f
}

// fillPause is behind each mebibyte, so that a disk fills as fast as a fast disk is written to. The
// engine keeps room free for what it has begun to write, and not for what takes all in no time.
const fillPause = 2 * time.Millisecond

// fill leaves no room on a disk.
func fill(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		return fmt.Errorf("fill disk: %w", err)
	}
	defer func() { _ = f.Close() }() // what is in it does not matter
	chunk := make([]byte, 1<<20)
	for len(chunk) >= 4096 {
		if _, err = f.Write(chunk); errors.Is(err, unix.ENOSPC) {
			chunk = chunk[:len(chunk)/4]
		} else if err != nil {
			return fmt.Errorf("fill disk: %w", err)
		}
		pause(fillPause)
	}
	return nil
}

func full(what string) func(*world, *excused, *rand.Rand) *fault {
	return func(w *world, e *excused, r *rand.Rand) *fault {
		disk := what
		cutOff := false
		if what == "spool" {
			disk = node(r.IntN(w.o.Agents))
			cutOff = r.IntN(2) == 0 // so that frames pile up on the full disk
		}
		dir := w.path(disk)
		f := &fault{hold: some(r, 1500*time.Millisecond, 8*time.Second)}
		f.what = fmt.Sprintf("no room on the disk of %s for %s", disk, f.hold)
		if cutOff {
			f.what += ", and the broker out of reach"
		}
		f.begin = func(ctx context.Context) error {
			if what == "spool" {
				e.mayLose(disk, "disk")
				e.mayLose(disk, "bytes")
			}
			if cutOff {
				if err := w.net.part(ctx, disk, "broker", "blackhole"); err != nil {
					return err
				}
			}
			return fill(dir)
		}
		f.again = func(context.Context) error { return fill(dir) }
		f.end = func(ctx context.Context) error {
			var err error
			if cutOff {
				err = w.net.join(ctx)
			}
			return errors.Join(err, os.Remove(filepath.Join(dir, "filler")))
		}
		return f
	}
}

func clockOf(role string) func(*world, *excused, *rand.Rand) *fault {
	return func(w *world, e *excused, r *rand.Rand) *fault {
		p, who := w.target(role, r)
		by := []time.Duration{time.Hour, -time.Hour, time.Hour, -time.Hour, 7 * time.Second, -7 * time.Second}[r.IntN(6)]
		if role == "agent" && r.IntN(6) == 0 {
			by = -50 * 365 * 24 * time.Hour
		}
		flips := r.IntN(3)
		f := &fault{hold: some(r, 1500*time.Millisecond, 5*time.Second)}
		f.what = fmt.Sprintf("clock of %s by %s for %s, %d times back and forth", who, by, f.hold, flips)
		set := func(by time.Duration) error {
			pid := p.pid()
			if pid == 0 {
				return nil
			}
			return stepTree(pid, by)
		}
		now := by
		var ours []int // of e.aside
		f.begin = func(context.Context) error {
			var nodes []string
			reason := "future"
			switch {
			case role == "agent" && by > 5*time.Minute:
				nodes = []string{p.name}
			case role == "agent" && by < -24*time.Hour:
				nodes, reason = []string{p.name}, "past"
			case role == "broker" && by < -5*time.Minute:
				nodes = w.nodes()
			}
			for _, n := range nodes {
				e.aside = append(e.aside, asideRange{node: n, reason: reason, from: w.oracle.cut()})
				ours = append(ours, len(e.aside)-1)
			}
			return set(now)
		}
		f.again = func(context.Context) error {
			if flips--; flips < 0 {
				return nil
			}
			now = by - now
			return set(now)
		}
		f.end = func(context.Context) error { return set(0) }
		f.after = func(ctx context.Context) error {
			cut := w.oracle.cut()
			for spool := range cut {
				cut[spool] += 5 // what was sampled last is in the frames sealed next
			}
			for _, i := range ours {
				e.aside[i].to = cut
			}
			if role != "broker" || len(ours) == 0 {
				return nil
			}
			// It was the broker's clock that was wrong: sent again, all of it is stored.
			for _, i := range ours {
				e.aside[i].retried = true
			}
			_, err := w.flopwatch(ctx, "engine", append([]string{"quarantine", "retry", "--reason", "future", "--nats", w.natsURL(), "--nats-token-file", w.path("token")}, w.storeFlags()...)...)
			if err != nil && strings.Contains(err.Error(), "refused again") { // an agent's own, which are still ahead
				return nil
			}
			return err
		}
		return f
	}
}

// corrupt flips bytes of frames that are on disk alone: their node cannot reach the broker.
func corrupt(w *world, e *excused, r *rand.Rand) *fault {
	name := node(r.IntN(w.o.Agents))
	p := w.agents[slices.Index(w.nodes(), name)]
	n, restart, at := 1+r.IntN(2), r.IntN(2) == 0, r.Float64()
	f := &fault{hold: 0, what: fmt.Sprintf("bytes of %d frames of %s flipped on disk, at %.3f of each, restart %v", n, name, at, restart)}
	f.begin = func(ctx context.Context) error {
		for _, rule := range [][2]string{{name, "broker"}, {"broker", name}} {
			if err := w.net.part(ctx, rule[0], rule[1], "blackhole"); err != nil {
				return err
			}
		}
		from := w.oracle.cut()
		var keys []frameKey
		var spots []spot
		err := until(ctx, 30*time.Second, "frames wait on disk", func() error {
			keys, spots = w.oracle.newest(name, 5)
			if len(keys) < 5 || keys[4].seq <= from[keys[4].spool]+1 {
				return fmt.Errorf("%d frames", len(keys))
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i := range n {
			k, s := keys[i+1], spots[i+1] // not the newest, which may be in the making
			e.corrupt[k] = true
			file, err := os.OpenFile(s.path, os.O_RDWR, 0)
			if err != nil {
				return fmt.Errorf("corrupt frame: %w", err)
			}
			b := make([]byte, 3)
			off := s.off + int64(at*float64(s.len-3))
			if _, err = file.ReadAt(b, off); err == nil {
				for j := range b {
					b[j] ^= 0xff
				}
				_, err = file.WriteAt(b, off)
			}
			if err = errors.Join(err, file.Close()); err != nil {
				return fmt.Errorf("corrupt frame: %w", err)
			}
		}
		if restart {
			return p.kill(syscall.SIGKILL, 0)
		}
		return nil
	}
	f.end = w.net.join
	return f
}

// intruder publishes what is no batch of the node whose subject it is on.
func intruder(w *world, e *excused, r *rand.Rand) *fault {
	shapes := []string{"another's", "cut", "a bit flipped", "noise"}
	type forged struct{ node, shape, size int }
	var all []forged
	var words []string
	for range 2 + r.IntN(5) {
		x := forged{r.IntN(w.o.Agents), r.IntN(len(shapes)), 1 + r.IntN(3000)}
		all, words = append(all, x), append(words, fmt.Sprintf("%s as %s (%d)", shapes[x.shape], node(x.node), x.size))
	}
	seed := r.Uint64()
	f := &fault{what: fmt.Sprintf("%d forged messages: %s", len(all), strings.Join(words, ", ")), end: nothing}
	f.begin = func(ctx context.Context) error {
		r := rand.New(rand.NewPCG(seed, 6)) // for what depends on the messages there are
		recent := w.tap.recent(40)
		for i, x := range all {
			name := node(x.node)
			subject := fmt.Sprintf("flopwatch.v1.%d.%s.%s", wire.Partition(name, wire.Partitions), cluster, name)
			data, must := make([]byte, x.size), true
			for j := range data {
				data[j] = byte(r.Uint32())
			}
			if len(recent) > 0 {
				m := recent[r.IntN(len(recent))]
				switch x.shape {
				case 0: // on another's subject
					if m.Subject != subject {
						data = m.Data
					}
				case 1:
					subject, data, must = m.Subject, m.Data[:r.IntN(len(m.Data))], false
				case 2:
					subject, data, must = m.Subject, slices.Clone(m.Data), false
					data[r.IntN(len(data))] ^= 1 << r.IntN(8)
				}
			}
			msg := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{marked: {fmt.Sprint(i)}}}
			ack, err := w.tap.js.PublishMsg(ctx, msg)
			if err != nil {
				continue // the broker refuses it, as it may
			}
			e.injected[fmt.Sprintf("%s/%d", ack.Stream, ack.Sequence)] = must
		}
		return nil
	}
	return f
}

// replay publishes again what was published, in another order, under its id, under none, or
// under others, which is what comes after the broker's window.
func replay(w *world, _ *excused, r *rand.Rand) *fault {
	n, held := 20+r.IntN(200), r.IntN(2) == 0
	f := &fault{what: fmt.Sprintf("the last %d messages again, out of order", n), hold: some(r, 0, time.Second)}
	if f.what += ", held for " + f.hold.String(); held {
		f.what += ", while collectors are stopped"
	}
	seed := r.Uint64()
	f.begin = func(ctx context.Context) error {
		if held {
			for _, p := range w.collect {
				if err := p.signal(syscall.SIGSTOP); err != nil {
					return err
				}
			}
			pause(1500 * time.Millisecond)
		}
		r := rand.New(rand.NewPCG(seed, 5))
		recent := w.tap.recent(n)
		r.Shuffle(len(recent), func(i, k int) { recent[i], recent[k] = recent[k], recent[i] })
		for i, m := range recent {
			for range 1 + r.IntN(2) {
				again := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{marked: {"again"}}}
				switch r.IntN(3) {
				case 0:
					again.Header[jetstream.MsgIDHeader] = m.Header[jetstream.MsgIDHeader]
				case 1:
					again.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("chaos/%d/%d", seed, i))
				}
				if err := w.nc.PublishMsg(again); err != nil {
					return nil //nolint:nilerr // the broker may be away
				}
			}
		}
		_ = w.nc.FlushTimeout(2 * time.Second) // the same
		return nil
	}
	f.end = func(context.Context) error {
		var err error
		for _, p := range w.collect {
			err = errors.Join(err, p.signal(syscall.SIGCONT))
		}
		return err
	}
	return f
}

// stall stops the engine for so long that streams fill and frames stay in the spools.
func stall(w *world, e *excused, r *rand.Rand) *fault {
	f := stopOf("engine", 40*time.Second, 50*time.Second)(w, e, r)
	f.what += ": a stall"
	var most int64
	f.again = func(context.Context) error {
		for _, n := range w.nodes() {
			if rep, err := verifySpool(w.spoolDir(n)); err == nil {
				most = max(most, int64(rep.Uncommitted))
			}
		}
		return nil
	}
	end := f.end
	f.end = func(ctx context.Context) error {
		w.note("stall: up to %d frames waited in a spool", most)
		if most < 20 {
			return errors.Join(fmt.Errorf("no back-pressure in the spools: %d frames", most), end(ctx))
		}
		return end(ctx)
	}
	return f
}

// partLimit makes the engine refuse inserts, as it does when merges fall behind.
func partLimit(w *world, _ *excused, r *rand.Rand) *fault {
	list := []string{"gpu_samples", "batches", "host_samples", "instrument_status"}
	table := list[r.IntN(len(list))]
	f := &fault{hold: some(r, 2*time.Second, 8*time.Second), last: true} // on a full disk no setting is taken back
	f.what = fmt.Sprintf("parts_to_throw_insert = 1 of %s for %s", table, f.hold)
	f.begin = func(ctx context.Context) error {
		return until(ctx, 20*time.Second, "limit parts", func() error {
			err := w.tell(ctx, "ALTER TABLE flopwatch."+table+" MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1, max_parts_in_total = 1")
			if err != nil && strings.Contains(err.Error(), "NOT_ENOUGH_SPACE") { // as it must on the full disk of another fault
				w.note("part limit: refused for want of room")
				return nil
			}
			return err
		})
	}
	f.end = func(ctx context.Context) error {
		return until(ctx, 60*time.Second, "lift the limit of parts", func() error {
			return w.tell(ctx, "ALTER TABLE flopwatch."+table+" RESET SETTING parts_to_throw_insert, parts_to_delay_insert, max_parts_in_total")
		})
	}
	return f
}

// combine makes one of two that overlap.
func combine(a, b *fault, r *rand.Rand) *fault {
	lead := some(r, 0, 2*time.Second)
	f := &fault{what: a.what + " | after " + lead.String() + ": " + b.what, hold: max(a.hold, b.hold)}
	f.begin = func(ctx context.Context) error {
		if err := a.begin(ctx); err != nil {
			return err
		}
		pause(lead)
		return b.begin(ctx)
	}
	f.again = func(ctx context.Context) error {
		for _, x := range []*fault{a, b} {
			if x.again != nil {
				if err := x.again(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	}
	f.end = func(ctx context.Context) error {
		if b.last {
			return errors.Join(a.end(ctx), b.end(ctx))
		}
		return errors.Join(b.end(ctx), a.end(ctx))
	}
	f.after = func(ctx context.Context) error {
		for _, x := range []*fault{a, b} {
			if x.after != nil {
				if err := x.after(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return f
}

// draw makes the fault of a seed, from nothing but what is given, of which the world counts by its
// number of nodes and by being apart alone. A fourth of those of no given kind are two at once.
func draw(w *world, e *excused, pick Pick, only string) (name string, f *fault) {
	r := rand.New(rand.NewPCG(pick.Seed, 4))
	one := func() (kind, *fault) {
		var list []kind
		total := 0
		for _, k := range kinds() {
			if (w.o.Apart || !k.apart) && (k.name == pick.Kind || pick.Kind == "" && strings.HasPrefix(k.name, only)) {
				list = append(list, k)
				total += k.weight
			}
		}
		at, k := r.IntN(total), list[0]
		for _, k = range list {
			if at -= k.weight; at < 0 {
				break
			}
		}
		return k, k.draw(w, e, r)
	}
	pair := r.IntN(4) == 0
	a, fa := one()
	if !pair || pick.Kind != "" || only != "" || a.name == "stall" {
		return a.name, fa
	}
	b, fb := one()
	if b.name == a.name || b.name == "stall" || a.apart && b.apart { // partitions are undone together
		return a.name, fa
	}
	return "two at once", combine(fa, fb, r)
}
