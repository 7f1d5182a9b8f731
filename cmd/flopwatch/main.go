// Command flopwatch is the analyst's and operator's tool: it runs the whole product on one
// machine (up) and tells what it found (runs, findings) and how it is (doctor), replays
// recordings, scores the answers, and runs the embedded servers.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/daemon"
)

// usageError marks a mistake on the command line.
type usageError = daemon.UsageError

func main() {
	os.Exit(daemon.Main("flopwatch", os.Stderr, func(ctx context.Context) error {
		return newRootCommand().ExecuteContext(ctx)
	}))
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "flopwatch",
		Short: "Finds AI training runs in fleet telemetry and says what they computed",
		Long: `flopwatch finds AI training runs in GPU fleet telemetry, estimates what they computed
with an honest interval, compares it with legal thresholds and joins the result with
the provider's customers.

It is an engineering tool. Nothing that it prints is legal advice.`,
		Version:       daemon.ReadBuild().String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{Err: err} })
	root.AddCommand(newUpCommand(), newRunsCommand(), newFindingsCommand(), newCorrectCommand(), newChainCommand(), newQuarantineCommand(), newStoreCommand(), newDoctorCommand(),
		newReplayCommand(), newDemoCommand(), newBacktestCommand(), newScoreCommand(), newCalibrateCommand(), newClickhouseCommand(), newNATSCommand(), newPlayCommand(), newNATSUserCommand(), newLoadgenCommand(), newSizeCommand())
	return root
}

// noArgs is for commands that take flags alone.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usageError{Err: fmt.Errorf("unknown command %q: flopwatch --help lists them", args[0])}
	}
	return usageError{Err: fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args[0])}
}
