package loadgen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// bearing is a stage that bears so many hosts.
type bearing struct {
	hosts  int
	flaky  int // a size that does not hold the first time
	own    int // from this size on it is the generator that is too slow; 0: never
	stuck  int // recovering from a size as large as this fails; 0: never
	endsAt int // the search is ended at this size

	end   func()
	fleet int // hosts that are there
	tried []int
}

var errStuck = errors.New("stuck")

func (b *bearing) step(_ context.Context, n int) (Step, error) {
	if n < b.fleet {
		return Step{}, fmt.Errorf("%d hosts are there, and %d are to be measured", b.fleet, n)
	}
	b.fleet = n
	b.tried = append(b.tried, n)
	if n == b.endsAt {
		b.end()
	}
	st := Step{Hosts: n, Held: n <= b.hosts && n != b.flaky, ByLoadgen: b.own > 0 && n >= b.own}
	if n == b.flaky {
		b.flaky = 0
	}
	if !st.Held {
		st.Why = "too many"
	}
	return st, nil
}

func (b *bearing) recover(_ context.Context, n int) error {
	if b.stuck > 0 && b.fleet >= b.stuck {
		return errStuck
	}
	b.fleet = n
	return nil
}

// TestSearch: from a first size up or down to the largest that holds, which is told with the smallest
// that does not.
func TestSearch(t *testing.T) {
	for name, c := range map[string]struct {
		stage        bearing
		first, most  int
		growth       float64
		tried        []int
		hosts, broke int
		why          string
		err          error
	}{
		"upwards":               {stage: bearing{hosts: 100}, first: 50, most: 1000, growth: 2, tried: []int{50, 100, 200, 200, 150, 150, 125, 125}, hosts: 100, broke: 125, why: "too many"},
		"downwards":             {stage: bearing{hosts: 100}, first: 1000, most: 1000, growth: 1.5, tried: []int{1000, 1000, 500, 500, 250, 250, 125, 125, 62, 93, 109, 109}, hosts: 93, broke: 109, why: "too many"},
		"downwards in leaps":    {stage: bearing{hosts: 100}, first: 1000, most: 1000, growth: 10, tried: []int{1000, 1000, 100, 550, 550, 325, 325}, hosts: 100, broke: 325, why: "too many"},
		"down to one":           {stage: bearing{hosts: 1}, first: 3, most: 10, growth: 2, tried: []int{3, 3, 1, 2, 2}, hosts: 1, broke: 2, why: "too many"},
		"none at all":           {stage: bearing{hosts: 0}, first: 5, most: 10, growth: 2, tried: []int{5, 5, 2, 2, 1, 1}, broke: 1, why: "too many"},
		"a disturbance":         {stage: bearing{hosts: 100, flaky: 50}, first: 50, most: 100, growth: 2, tried: []int{50, 50, 100}, hosts: 100, why: "no larger fleet was asked for"},
		"the generator's":       {stage: bearing{hosts: 100, own: 101}, first: 150, most: 200, growth: 2, tried: []int{150, 75, 112, 93}, hosts: 93, broke: 112, why: "loadgen's own"},
		"more than asked for":   {stage: bearing{hosts: 100}, first: 80, most: 60, growth: 2, tried: []int{60}, hosts: 60, why: "no larger fleet was asked for"},
		"ended on the way up":   {stage: bearing{hosts: 100, endsAt: 80}, first: 40, most: 200, growth: 2, tried: []int{40, 80}, hosts: 40, why: "the search was ended"},
		"ended on the way down": {stage: bearing{hosts: 10, endsAt: 20}, first: 40, most: 40, growth: 2, tried: []int{40, 40, 20}, broke: 40, why: "too many; the search was ended"},
		"what does not recover": {stage: bearing{hosts: 10, stuck: 40}, first: 10, most: 100, growth: 4, tried: []int{10, 40}, hosts: 10, err: errStuck},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			b := c.stage
			b.end = cancel
			s := &search{stage: &b, how: Search{Growth: c.growth, Refine: 2, MaxNodes: c.most}, gpus: 8}
			var got Ceiling
			if err := s.run(ctx, c.first, &got); !errors.Is(err, c.err) {
				t.Fatal(err)
			}
			if !slices.Equal(b.tried, c.tried) || got.Hosts != c.hosts || got.GPUs != 8*c.hosts || got.Broke != 8*c.broke || !strings.Contains(got.Why, c.why) {
				t.Errorf("tried %v, %+v", b.tried, got)
			}
		})
	}
}
