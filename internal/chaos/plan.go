package chaos

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Plan says which faults there are.
type Plan struct {
	Options
	// Seed is that of the first fault; each next one has the next number.
	Seed   uint64
	Faults int
	// Only draws faults whose kind begins so; "": all.
	Only string
	// Picks are the faults one by one, in the place of Seed, Faults and Only.
	Picks []Pick
	// Round is after how many faults a new world begins; Worlds how many there are at once.
	Round, Worlds int
	// List draws the faults and makes none.
	List bool
	// Evidence is where what is left of a failed round is kept.
	Evidence string
	Out      io.Writer
}

// Pick is a fault: the number from which it is drawn and its kind; "": that is drawn too.
type Pick struct {
	Seed uint64
	Kind string
}

// defaultRound is after how many faults a new world begins.
const defaultRound = 25

// Flags are those of the command, with its defaults.
func (p *Plan) Flags(fs *flag.FlagSet) {
	fs.Uint64Var(&p.Seed, "seed", 1, "seed of the first fault; each next one has the next number")
	fs.IntVar(&p.Faults, "faults", 200, "how many faults")
	fs.StringVar(&p.Only, "only", "", "only kinds that begin so")
	fs.Func("pick", "`SEED:KIND,SEED:KIND`: these faults and no others, whatever -seed, -faults and -only say", p.pick)
	fs.IntVar(&p.Round, "round", defaultRound, "faults after which a new world begins")
	fs.IntVar(&p.Worlds, "worlds", 3, "worlds at a time")
	fs.IntVar(&p.Agents, "agents", 3, "nodes of a world")
	fs.BoolVar(&p.Apart, "apart", os.Getuid() == 0, "network namespaces and disks of a size, for partitions and full disks: needs root")
	fs.BoolVar(&p.List, "list", false, "say which faults there would be, and make none")
	fs.StringVar(&p.Bin, "bin", "bin", "folder of the commands, the engine and the stub")
	fs.StringVar(&p.Dir, "dir", "", "where the worlds live; empty: a folder for the time")
	fs.StringVar(&p.Evidence, "out", "out/chaos", "where summary.md and the evidence of failures are kept")
}

func (p *Plan) pick(text string) error {
	p.Picks = nil
	for item := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		number, name, _ := strings.Cut(item, ":")
		seed, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not SEED:KIND, such as 3:kill broker", item)
		}
		p.Picks = append(p.Picks, Pick{seed, strings.TrimSpace(name)})
	}
	return nil
}

// picks are all faults, in their order.
func (p *Plan) picks() []Pick {
	if len(p.Picks) > 0 {
		return p.Picks
	}
	var all []Pick
	for i := range p.Faults {
		all = append(all, Pick{Seed: p.Seed + uint64(i)})
	}
	return all
}

// check refuses what there are no faults for.
func (p *Plan) check() error {
	if p.Agents < 1 || p.Round < 1 || p.Worlds < 1 || len(p.picks()) == 0 {
		return errors.New("a node, a round, a world and a fault are the least")
	}
	var names []string
	for _, k := range kinds() {
		if p.Apart || !k.apart {
			names = append(names, k.name)
		}
	}
	missing := func(name string) error {
		return fmt.Errorf("no kind of faults %q: there are %s (root has more: partitions and full disks)", name, strings.Join(names, ", "))
	}
	if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, p.Only) }) {
		return missing(p.Only)
	}
	for _, k := range p.Picks {
		if k.Kind != "" && !slices.Contains(names, k.Kind) {
			return missing(k.Kind)
		}
	}
	return nil
}

// Again is the command that makes faults anew, in one world: all that they are drawn from is in it.
func (p *Plan) Again(picks []Pick) string { return p.command(picks, max(defaultRound, len(picks))) }

func (p *Plan) command(picks []Pick, round int) string {
	var b strings.Builder
	b.WriteString("make chaos")
	if len(p.Picks) > 0 {
		var list []string
		for _, k := range picks {
			list = append(list, strings.TrimSuffix(fmt.Sprintf("%d:%s", k.Seed, k.Kind), ":"))
		}
		fmt.Fprintf(&b, " PICK=\"%s\"", strings.Join(list, ","))
	} else {
		fmt.Fprintf(&b, " SEED=%d FAULTS=%d", picks[0].Seed, len(picks))
		if p.Only != "" {
			fmt.Fprintf(&b, " ONLY=\"%s\"", p.Only)
		}
	}
	fmt.Fprintf(&b, " AGENTS=%d", p.Agents)
	if round != defaultRound {
		fmt.Fprintf(&b, " ROUND=%d", round)
	}
	if !p.Apart {
		b.WriteString(" APART=false")
	}
	return b.String()
}
