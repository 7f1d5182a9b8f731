package loadgen

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Text is the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // memory takes all
	if c := r.Ceiling; c != nil {
		line("Ceiling: %d GPUs at %g Hz (%d hosts with %d each) with every frame committed within %.0f s.", c.GPUs, c.Hz, c.Hosts, r.perHost(), float64(r.Lag.BoundMs)/1000)
		if c.Broke > 0 {
			line("%d GPUs did not hold: %s.", c.Broke, c.Why)
		} else {
			line("Nothing larger was tried: %s.", c.Why)
		}
		line("")
		var names strings.Builder
		if len(r.Steps) > 0 {
			for _, p := range r.Steps[0].CPU {
				names.WriteString("\t" + strings.ToUpper(p.Name))
			}
		}
		line("GPUS\tROWS/S\tCOMMITTED/S\tACK P99\tCOMMIT P50\tP99\tMAX\tVISIBLE P99\tLOAD\tHELD%s", names.String())
		for _, s := range r.Steps {
			held := "yes"
			var cores strings.Builder
			if !s.Held {
				held = "no"
			}
			for _, p := range s.CPU {
				_, _ = fmt.Fprintf(&cores, "\t%.2f", p.Cores) // memory takes all
			}
			line("%d\t%.0f\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s\t%s%s", s.GPUs, s.Sealed, s.Committed, seconds(s.Ack.P99Ms), seconds(s.Commit.P50Ms), seconds(s.Commit.P99Ms), seconds(s.Commit.MaxMs),
				seconds(s.Visible.P99Ms), s.Load, held, cores.String())
		}
		line("(processors in cores)")
		if last := r.lastHeld(); last != nil {
			line("")
			line("Processors in that step:")
			costs(line, last.CPU)
		}
		_ = w.Flush() // into memory
		line("")
	} else {
		line("Fleet\t%s, cluster %s, seed %d, a frame every %g s and host", r.Fleet, r.Cluster, r.Seed, r.SealEvery)
		line("Time\t%.0f s, load average %s", r.Seconds, r.Load)
		line("Rows\t%d in all, %.0f/s while all hosts sent, of these %.0f/s samples of GPUs", r.Rows.Sealed, r.Rows.PerSecond, r.Rows.SamplesPer)
	}
	f := r.Frames
	line("Frames\t%d sealed (%d bytes, %.1f a GPU sample with all that goes with it), %d published", f.Sealed, f.Bytes, f.PerSample, f.Published)
	line("\t%d acknowledged, %d committed, %d without a commit mark, %d given up, %d sent again", f.Acked, f.Committed, f.Uncommitted, f.GivenUp, f.Resent)
	if r.Store != nil {
		line("Store\t%d frames, %d missing", r.Store.Frames, r.Store.Missing)
	}
	if r.Ceiling == nil {
		lag := func(what string, l Lag) {
			line("%s\tp50 %s, p90 %s, p99 %s, max %s (%d frames)", what, seconds(l.P50Ms), seconds(l.P90Ms), seconds(l.P99Ms), seconds(l.MaxMs), l.Frames)
		}
		lag("Seal to ack", r.Lag.Ack)
		lag("Seal to commit", r.Lag.Commit)
		if r.Lag.Visible != nil {
			lag("Seal to visible", *r.Lag.Visible)
		}
		line("Generator\tat most %.2f s late", float64(r.Lag.LateMs)/1000)
	}
	if len(r.Refused) > 0 {
		line("Refused\t%s", refusals(r.Refused))
	}
	if r.Ceiling == nil {
		costs(line, r.CPU)
	}
	for _, v := range r.Verdict {
		line("NOT HELD\t%s", v)
	}
	_ = w.Flush() // into memory
	return b.String()
}

func costs(line func(string, ...any), all []Cost) {
	if len(all) == 0 {
		return
	}
	line("Process\tcores\tµs a row\tµs a GPU sample\tMiB")
	for _, c := range all {
		line("%s\t%.2f\t%.2f\t%.2f\t%.0f", c.Name, c.Cores, c.MicrosPerRow, c.MicrosPerSample, c.RSSMiB)
	}
}

func (r *Report) perHost() int {
	if r.Hosts == 0 {
		return 0
	}
	return r.GPUs / r.Hosts
}

func (r *Report) lastHeld() *Step {
	for i := range slices.Backward(r.Steps) {
		if s := &r.Steps[i]; s.Held && s.GPUs == r.Ceiling.GPUs {
			return s
		}
	}
	return nil
}

func refusals(all map[string]uint64) string {
	var list []string
	for _, why := range slices.Sorted(maps.Keys(all)) {
		list = append(list, fmt.Sprintf("%s %d times", why, all[why]))
	}
	return strings.Join(list, ", ")
}

func seconds(ms float64) string { return fmt.Sprintf("%.2f s", ms/1000) }
