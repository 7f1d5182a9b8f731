package sizing

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Begin and End mark what of a page is made by Page.
const (
	Begin = "<!-- made by `flopwatch size --page`: changes between these lines are lost -->\n"
	End   = "<!-- end of what is made -->\n"
)

// pageSizes are the fleets of the page.
var pageSizes = []int{1_000, 10_000, 100_000, 1_000_000}

// Page is the tables of deploy/SIZING.md.
func Page() (string, error) {
	var b strings.Builder
	b.WriteString("## What the arithmetic rests on\n\n| figure | value | how it is known | day |\n|---|---|---|---|\n")
	for _, f := range Figures() {
		how := f.Command
		if f.Kind != Measured {
			how = strings.TrimSuffix("**"+string(f.Kind)+"**: "+how, ": ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.Name, strings.TrimSpace(number(f.Value)+" "+f.Unit), how, f.Date)
	}
	var needs []Need
	for _, gpus := range pageSizes {
		n, err := Compute(Fleet{GPUs: gpus})
		if err != nil {
			return "", err
		}
		needs = append(needs, n)
	}
	b.WriteString("\n## Four fleets\n\nGPUs at 1 Hz, eight a host; raw rows 30 days, minutes 800, five years of the ledger; the broker holds six hours without a collector; machines of 16 cores\nand 8 TB, at most half of whose processors are used.\n\n| |")
	for _, n := range needs {
		fmt.Fprintf(&b, " %s GPUs |", group(float64(n.Fleet.GPUs)))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(needs)) + "\n")
	for i, first := range needs[0].Lines() {
		b.WriteString("| " + first.Name + " |")
		for _, n := range needs {
			b.WriteString(" " + n.Lines()[i].Value + " |")
		}
		b.WriteString("\n")
	}
	for _, n := range needs {
		for _, note := range n.Notes {
			fmt.Fprintf(&b, "\n- %s GPUs: %s.", group(float64(n.Fleet.GPUs)), note)
		}
	}
	b.WriteString("\n")
	return b.String(), nil
}

// Line is a line of an answer.
type Line struct{ Name, Value string }

// Lines are the answer, always the same ones in the same order.
func (n *Need) Lines() []Line {
	f := n.Fleet
	return []Line{
		{"hosts", group(float64(n.Hosts))},
		{"frames, samples, rows a second", number(n.FramesPerS) + ", " + group(n.SamplesPerS) + ", " + group(n.RowsPerS)},
		{"agents to broker", size(n.WireBytesPerS) + "/s"},
		{"NATS", fmt.Sprintf("%d × (R%d), %s cores in all", n.BrokerServers, f.BrokerReplicas, number(n.BrokerCores))},
		{"NATS, memory of all", size(n.BrokerMemory)},
		{"NATS, disk of a server for the outage", size(n.BrokerDisk)},
		{"nats.stream_max_bytes for it", fmt.Sprintf("%d × %s", n.Partitions, size(n.StreamBytes))},
		{"NATS, network in and out of all", size(n.BrokerNetPerS) + "/s"},
		{"collectors", fmt.Sprintf("%d, %s cores in all", n.Collectors, number(n.CollectorCores))},
		{"rows a second of one stream", group(n.PartitionRows)},
		{"collectors to store, uncompressed", size(n.StoreNetPerS) + "/s"},
		{"ClickHouse", fmt.Sprintf("%d (shards) × %d (replicas) = %d machines", n.Shards, f.StoreReplicas, n.StoreMachines)},
		{"ClickHouse, decided by", n.ShardsBy},
		{"ClickHouse, cores of a replica of all shards", number(n.EngineCores)},
		{"disk: raw rows, minutes, ledger (one replica)", size(n.RawBytes) + ", " + size(n.CellBytes) + ", " + size(n.LedgerBytes)},
		{"disk of a machine", size(n.ShardBytes)},
		{"disk in all", size(n.StoreBytes)},
		{"detector", fmt.Sprintf("%s cores; a day again in %s min on two", number(n.DetectorCores), number(n.DetectorMinutes))},
	}
}

// Text is the answer for people.
func (n *Need) Text() string {
	var b strings.Builder
	f := n.Fleet
	fmt.Fprintf(&b, "%s GPUs at %s Hz, %d a host; raw rows %d days, minutes %d days, %d years of the ledger; an outage of %s h; machines of %d cores (%s used) and %s TB\n\n",
		group(float64(f.GPUs)), number(f.Hz), f.GPUsPerHost, f.RawDays, f.CellDays, f.Years, number(f.OutageHours), f.Cores, number(f.Load), number(f.DiskTB))
	for _, l := range n.Lines() {
		fmt.Fprintf(&b, "%-46s %s\n", l.Name, l.Value)
	}
	b.WriteString("\n")
	for _, note := range n.Notes {
		b.WriteString("note: " + note + "\n")
	}
	for _, fig := range Figures() {
		if fig.Kind == Assumed {
			fmt.Fprintf(&b, "assumed: %s: %s\n", fig.Name, strings.TrimSpace(number(fig.Value)+" "+fig.Unit))
		}
	}
	return b.String()
}

// number has two digits that count, or all before the point.
func number(v float64) string {
	switch {
	case v == math.Trunc(v) && v < 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 100:
		return group(v)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// group is a whole number with commas.
func group(v float64) string {
	s := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size is decimal bytes.
func size(v float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for v >= 1000 && i < len(units)-1 {
		v /= 1000
		i++
	}
	prec := 0
	if v < 10 && i > 0 {
		prec = 1
	}
	return strconv.FormatFloat(v, 'f', prec, 64) + " " + units[i]
}
