package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/doctor"
)

// errUnwell ends doctor with exit code 1; what failed was printed.
var errUnwell = errors.New("something failed, see above")

func newDoctorCommand() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor --data DIR",
		Short: "Go through everything that `flopwatch up` needs and runs, and say what helps",
		Long: `Doctor looks at binaries, driver, disk, clock, processes, broker, store, instruments, spools and verdicts of the
tree on a data directory, and prints ok, warn or fail with the reason and what helps. It changes nothing, and works
on a tree that is not running too. The exit code is 1 if anything failed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				return usageError{Err: errors.New("--data DIR is required")}
			}
			exe, err := os.Executable()
			if err == nil {
				exe, err = filepath.EvalSymlinks(exe)
			}
			if err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			checks, err := doctor.Look(cmd.Context(), doctor.Options{Data: data, Exe: exe, Now: time.Now})
			if err != nil {
				return err
			}
			if asJSON {
				err = doctor.PrintJSON(cmd.OutOrStdout(), checks)
			} else {
				err = doctor.Print(cmd.OutOrStdout(), checks)
			}
			if err == nil && doctor.Failed(checks) {
				err = errUnwell
			}
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`DIR` of flopwatch up (required)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one line of JSON a check")
	return cmd
}
