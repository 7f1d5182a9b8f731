package agent

import (
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
)

// TestStatesAreLogged: a change of state is logged once, with its reason, and what comes and
// goes is logged at most once a minute, with where it came to rest.
func TestStatesAreLogged(t *testing.T) {
	b := newBoard()
	var got []source.State
	step := func(second int64, s source.State) {
		b.set(source.Status{Instrument: "gpu/1", State: s, Reason: "why"})
		_, news := b.due(source.Tick{BootMs: 1_000_000 + second*1000}, 300_000)
		for _, n := range news {
			if n.Reason != "why" {
				t.Errorf("reason %q", n.Reason)
			}
			got = append(got, n.State)
		}
	}
	step(0, source.Active)
	step(1, source.Stalled)
	for s := int64(2); s < 60; s++ { // it comes and goes
		step(s, []source.State{source.Active, source.Stalled}[s%2])
	}
	step(60, source.Active)
	step(61, source.Active)
	step(62, source.Active)
	if len(got) != 2 || got[0] != source.Stalled || got[1] != source.Active {
		t.Errorf("logged %v", got)
	}
}
