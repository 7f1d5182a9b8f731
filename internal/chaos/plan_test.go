package chaos_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/chaos"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// drawn are the faults of a plan, in words, in the order of their seeds.
func drawn(t *testing.T, p chaos.Plan) []chaos.Outcome {
	t.Helper()
	p.List, p.Out = true, &bytes.Buffer{}
	rep, err := chaos.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return rep.Outcomes
}

// plan is what the command makes of its arguments.
func plan(t *testing.T, args ...string) (chaos.Plan, error) {
	t.Helper()
	var p chaos.Plan
	fs := flag.NewFlagSet("chaos", flag.ContinueOnError)
	fs.SetOutput(t.Output())
	p.Flags(fs)
	fs.Int("minutes", 45, "")
	if err := fs.Parse(args); err != nil {
		return p, fmt.Errorf("parse %q: %w", args, err)
	}
	return p, nil
}

// TestDraw: the same seed and options draw the same fault, with its kind, its victim, its moments and
// lengths, however many worlds there are, however long a round is and wherever the seeds begin.
func TestDraw(t *testing.T) {
	base := chaos.Plan{Options: chaos.Options{Agents: 3, Apart: true}, Seed: 1, Faults: 2000, Worlds: 1}
	want := drawn(t, base)
	kinds, pairs := map[string]bool{}, 0
	for i := range want {
		kinds[want[i].Kind] = true
		if strings.Contains(want[i].What, "no room on the disk of engine") && strings.Contains(want[i].What, "parts_to_throw_insert") {
			pairs++
		}
	}
	if len(kinds) != 27 || pairs == 0 {
		t.Errorf("2000 faults have %d kinds, and %d pairs of a full disk and a limit of parts", len(kinds), pairs)
	}
	for _, c := range []struct{ worlds, round int }{{1, 25}, {3, 25}, {7, 3}} {
		p := base
		p.Worlds, p.Round = c.worlds, c.round
		if got := drawn(t, p); !slices.EqualFunc(got, want, same) {
			t.Errorf("%d worlds in rounds of %d draw other faults", c.worlds, c.round)
		}
	}
	p := base
	p.Seed, p.Faults = 1501, 500
	if got := drawn(t, p); !slices.EqualFunc(got, want[1500:], same) {
		t.Error("seeds from 1501 on are other faults than from 1 on")
	}
	if p.Seed = 1502; slices.EqualFunc(drawn(t, p), want[1500:], same) {
		t.Error("other seeds are the same faults")
	}
}

func same(a, b chaos.Outcome) bool {
	return a.Seed == b.Seed && a.Kind == b.Kind && a.What == b.What && a.Hold == b.Hold
}

// TestAgain: the command that is printed with a failure, given to make, draws that fault; nothing
// that it was drawn from is left out.
func TestAgain(t *testing.T) {
	_, err := exec.LookPath("make")
	testenv.Need(t, "make", err)
	for _, args := range [][]string{
		{"-seed", "3", "-faults", "40"},
		{"-seed", "3", "-faults", "40", "-agents", "2"},
		{"-seed", "3", "-faults", "40", "-apart=false"},
		{"-seed", "3", "-faults", "4", "-only", "spool's disk"},
		{"-seed", "3", "-faults", "4", "-only", "stop collector", "-agents", "7", "-worlds", "1"},
		{"-pick", "3:kill broker,9:stop collector,9:broker's disk full,5", "-agents", "2"},
	} {
		p, err := plan(t, append([]string{"-apart=true"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		all := drawn(t, p)
		for _, i := range []int{0, len(all) - 1} {
			if got := drawn(t, made(t, all[i].Again)); len(got) != 1 || !same(got[0], all[i]) {
				t.Errorf("%q: %s: %s\n%s draws %+v", args, all[i].Kind, all[i].What, all[i].Again, got)
			}
		}
		// With what went before it.
		picks := p.Picks
		for i := 0; len(p.Picks) == 0 && i < len(all); i++ {
			picks = append(picks, chaos.Pick{Seed: all[i].Seed})
		}
		again := made(t, p.Again(picks))
		if got := drawn(t, again); !slices.EqualFunc(got, all, same) || again.Round < len(picks) {
			t.Errorf("%q: %s draws others, or in rounds of %d", args, p.Again(picks), again.Round)
		}
	}
}

// made is the plan that make gives to the command: its rule is printed and not run.
func made(t *testing.T, command string) chaos.Plan {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(command, "make ", "make -n ", 1))
	cmd.Dir = testenv.Root(t)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { // of the make that this test may be of
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "SEED", "FAULTS", "ONLY", "PICK", "LIST", "AGENTS", "ROUND", "WORLDS", "APART", "OUT"}, name)
	})
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	at := strings.LastIndex(string(out), "\n.cache/chaos ")
	if at < 0 {
		t.Fatalf("%s runs no .cache/chaos:\n%s", command, out)
	}
	line := strings.TrimSpace(strings.Replace(string(out)[at:], ".cache/chaos ", "", 1))
	words, err := exec.CommandContext(t.Context(), "sh", "-c", `for w in `+line+`; do printf '%s\n' "$w"; done`).Output()
	if err != nil {
		t.Fatalf("split %s: %v", line, err)
	}
	args := strings.Split(strings.TrimSuffix(string(words), "\n"), "\n")
	if !strings.Contains(command, "APART") {
		args = append([]string{"-apart=true"}, args...) // as root
	}
	p, err := plan(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestBadPlan: what there is no fault for is refused, and it is said what there is.
func TestBadPlan(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-only foo", `no kind of faults "foo": there are kill agent, `},
		{"-pick 3:foo", `no kind of faults "foo"`},
		{"-pick x:partition", `"x:partition" is not SEED:KIND`},
		{"-pick 3:partition -apart=false", "root has more"},
		{"-faults 0", "are the least"},
		{"-agents 0", "are the least"},
	} {
		p, err := plan(t, append([]string{"-apart=true", "-list"}, strings.Fields(c.args)...)...)
		if err == nil {
			p.Out = &bytes.Buffer{}
			_, err = chaos.Run(t.Context(), p)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
	}
}
