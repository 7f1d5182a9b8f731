package batch

import (
	"fmt"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
)

// TestAllowance: who builds a range again decides the same, what is stored counts, a new day begins anew,
// and senders beyond number share one allowance.
func TestAllowance(t *testing.T) {
	const noon = 20_000*dayMs + dayMs/2
	a := NewAllowance(Limits{Messages: 3, Bytes: 100}, noon, []store.QuarantineUse{{Subject: "a", Reason: "decode", Messages: 1, Bytes: 10}})
	take := func(subject string, size int, ms int64, ledger bool) verdict {
		return a.take(&Message{Subject: subject, Data: make([]byte, size), BrokerMs: ms}, "decode", ledger)
	}
	decide := func() string {
		a.begin()
		return fmt.Sprint(take("a", 50, noon, false), take("a", 50, noon, false), take("a", 1, noon, false), take("a", 1, noon, true), take("b", 100, noon, false))
	}
	want := fmt.Sprint(keepWhole, keepBare, drop, keepBare, keepWhole)
	for range 3 {
		if got := decide(); got != want {
			t.Fatalf("decided %s, want %s", got, want)
		}
	}
	a.Done()
	if v := take("b", 1, noon, false); v != keepBare {
		t.Errorf("beyond the bytes: %d", v)
	}
	a.begin()
	if v := take("a", 100, noon+dayMs, false); v != keepWhole {
		t.Errorf("on the next day: %d", v)
	}
	a.Done()
	if v := take("a", 1, noon+dayMs, false); v != keepBare {
		t.Errorf("on the next day, beyond the bytes: %d", v)
	}
	if v := take("a", 1, noon, false); v != keepBare { // a clock that steps back opens nothing
		t.Errorf("a day back: %d", v)
	}
	a.begin()
	for i := range allSubjects * 3 { // all together
		a.take(&Message{Subject: fmt.Sprint(i), BrokerMs: noon + 2*dayMs}, "decode", false)
	}
	if v := take("z", 1, noon+2*dayMs, false); v != drop {
		t.Errorf("beyond what all may have: %d", v)
	}
}
