package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/flops"
)

// lossWords say why telemetry is lost.
var lossWords = map[string]string{
	"bytes": "the host's spool was full", "age": "it was older than the host's spool keeps", "corrupt": "it was damaged on the host's disk", "disk": "the host's disk had no room",
	"memory": "the host gave it up before it came to its spool", "quarantine": "it was refused, and lies in quarantine",
	"conflict": "it came under numbers that were taken, as of a spool that was put back to an earlier state, and lies in quarantine", "missing": "nobody accounts for it",
}

func lossWord(reason string) string {
	if w, ok := lossWords[reason]; ok {
		return w
	}
	return reason
}

// lostText says what is lost of the telemetry of a run's hosts; "": nothing is.
func lostText(lost []flops.Lost) string {
	if len(lost) == 0 {
		return ""
	}
	parts := make([]string, 0, len(lost))
	for _, l := range lost {
		what := fmt.Sprintf("%d batch(es)", l.Batches)
		if l.Batches == 0 {
			what = fmt.Sprintf("%d tick(s)", l.Ticks)
		}
		parts = append(parts, fmt.Sprintf("%s on %d node(s) (%s)", what, l.Nodes, lossWord(l.Reason)))
	}
	return "Telemetry of its hosts is lost: " + strings.Join(parts, "; ") + ". The time counts as not covered."
}

// lossesIn are the reasons for which telemetry of a host is lost within a stretch, sorted.
func (v *view) lossesIn(e Evidence) (out []string) {
	for i := range v.Ev.Losses {
		l := &v.Ev.Losses[i]
		if l.Node == e.Node && l.FromMs <= e.ToMs && l.ToMs >= e.FromMs && !slices.Contains(out, l.Reason) {
			out = append(out, l.Reason)
		}
	}
	slices.Sort(out)
	return out
}
