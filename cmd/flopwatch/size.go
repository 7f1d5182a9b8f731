package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/sizing"
)

// newSizeCommand builds `flopwatch size`: arithmetic alone, nothing is asked.
func newSizeCommand() *cobra.Command {
	var f sizing.Fleet
	var output string
	var page bool
	cmd := &cobra.Command{
		Use:   "size --gpus N",
		Short: "Say what a fleet needs of machines, from measured figures",
		Long: `Size does the arithmetic of deploy/SIZING.md for a fleet of your own: brokers, collectors, shards and replicas of
ClickHouse, disks and network. It says which figures are assumed, and what was never run at such a size.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if page {
				text, err := sizing.Page()
				if err != nil {
					return err // it says what is wrong
				}
				return printText(cmd.OutOrStdout(), text)
			}
			if !cmd.Flags().Changed("gpus") {
				return usageError{Err: errors.New("--gpus N is needed")}
			}
			if err := noZeroes(cmd); err != nil {
				return usageError{Err: err}
			}
			n, err := sizing.Compute(f)
			if err != nil {
				return usageError{Err: err}
			}
			switch output {
			case "text":
				return printText(cmd.OutOrStdout(), n.Text())
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				if err = e.Encode(n); err != nil {
					return fmt.Errorf("print: %w", err)
				}
				return nil
			}
			return usageError{Err: fmt.Errorf("--output %s: wanted text or json", output)}
		},
	}
	g := cmd.Flags()
	g.IntVar(&f.GPUs, "gpus", 0, "GPUs of the fleet")
	g.IntVar(&f.GPUsPerHost, "gpus-per-host", 8, "GPUs of a host")
	g.Float64Var(&f.Hz, "rate", 1, "samples a second")
	g.IntVar(&f.RawDays, "raw-days", 30, "days that raw rows stay")
	g.IntVar(&f.CellDays, "cell-days", 800, "days that minutes stay")
	g.IntVar(&f.Years, "years", 5, "years that the disks are to do: the ledger of batches stays for ever")
	g.IntVar(&f.StoreReplicas, "store-replicas", 0, "replicas of the store (default: 2, 1 up to 1,000 GPUs)")
	g.IntVar(&f.BrokerReplicas, "broker-replicas", 0, "replicas of streams (default: 3, 1 up to 1,000 GPUs)")
	g.Float64Var(&f.OutageHours, "outage-hours", 6, "how long the broker holds what no collector takes")
	g.IntVar(&f.Cores, "cores", 16, "cores of a machine")
	g.Float64Var(&f.DiskTB, "disk-tb", 8, "usable disk of a machine of the store, TB")
	g.Float64Var(&f.Load, "load", 0.5, "share of a machine's processors that is used at most")
	g.StringVarP(&output, "output", "o", "text", "text or json")
	g.BoolVar(&page, "page", false, "print the tables of deploy/SIZING.md")
	return cmd
}

// noZeroes refuses a number that is given as 0: to the arithmetic that would be its default.
func noZeroes(cmd *cobra.Command) error {
	for _, name := range []string{"gpus", "gpus-per-host", "rate", "raw-days", "cell-days", "years", "store-replicas", "broker-replicas", "outage-hours", "cores", "disk-tb", "load"} {
		g := cmd.Flag(name)
		if v, err := strconv.ParseFloat(g.Value.String(), 64); g.Changed && err == nil && v == 0 {
			return fmt.Errorf("--%s %s: wanted more than 0", name, g.Value)
		}
	}
	return nil
}

func printText(out io.Writer, text string) error {
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
