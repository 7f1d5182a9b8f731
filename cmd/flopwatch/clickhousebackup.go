package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// engineConfig is a configuration of this binary's own engine; lib "" is the library beside it.
func engineConfig(data, lib string) (embedded.Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return embedded.Config{}, fmt.Errorf("find own binary: %w", err)
	}
	if lib == "" {
		if lib, err = embedded.FindLibrary(exe); err != nil {
			return embedded.Config{}, err
		}
	}
	return embedded.Config{Exe: exe, LibPath: lib, DataDir: data}, nil
}

func newBackupCommand() *cobra.Command {
	var data, lib, passwordFile string
	var at embedded.Access
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all that an embedded engine holds to one file, while it runs",
		Long: `Backup writes databases, tables, views and rows of an embedded engine to the new file FILE, and reads it back. Inserts wait while
the tables are frozen by hard links, some milliseconds a table, so that no table is ahead of another; then they go on. FILE appears
when it is whole: what was cut off is called FILE.partial, and the next backup writes over it. Users and their passwords are not in it.

--data names the engine's data directory, or that of a "flopwatch up"; where no engine runs on it, one is started for the
backup. --url names an engine elsewhere, whose administrator signs in with --user and --password-file.`,
		Args: oneArg("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var h embedded.BackupHead
			began := time.Now()
			switch {
			case (data == "") == (at.URL == ""):
				return usageError{Err: errors.New("name the engine's data directory with --data, or its address with --url")}
			case at.URL != "":
				b, rerr := os.ReadFile(passwordFile)
				if rerr != nil {
					return fmt.Errorf("--password-file: %w", rerr)
				}
				at.Password = strings.TrimSpace(string(b))
				h, err = embedded.Backup(cmd.Context(), at, args[0])
			default:
				if _, serr := os.Stat(filepath.Join(data, "clickhouse", "engine")); serr == nil {
					data = filepath.Join(data, "clickhouse") // of flopwatch up
				}
				cfg, cerr := engineConfig(data, lib)
				if cerr != nil {
					return cerr
				}
				h, err = embedded.BackupDir(cmd.Context(), cfg, args[0])
			}
			if err != nil {
				return err
			}
			return tellBackup(cmd.OutOrStdout(), "Backed up", h, began)
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "`DIR` of the engine, or of a flopwatch up")
	f.StringVar(&lib, "lib", "", "libchdb.so (default: engine/libchdb.so beside this binary)")
	f.StringVar(&at.URL, "url", "", "address of the engine: http://HOST:PORT")
	f.StringVar(&at.User, "user", embedded.DefaultUser, "administrator, with --url")
	f.StringVar(&passwordFile, "password-file", "", "file with their password, with --url")
	return cmd
}

func newRestoreCommand() *cobra.Command {
	var data, lib string
	var check bool
	cmd := &cobra.Command{
		Use:   "restore FILE --data DIR",
		Short: "Make a data directory out of a backup",
		Long: `Restore makes the data directory DIR, which must be missing or empty, out of a backup: it reads FILE through and checks its digest, makes
databases, tables and views, puts their rows in place, starts the engine and counts them. Until that is done no engine starts on DIR; a
restore that was cut off is begun anew by the same command. With --check it reads FILE through and makes nothing.

To put a backup under "flopwatch up --data UP", restore it into UP/clickhouse of an UP that holds nothing else.`,
		Args: oneArg("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			began := time.Now()
			if check {
				h, err := embedded.CheckBackup(args[0])
				if err != nil {
					return err
				}
				return tellBackup(cmd.OutOrStdout(), "A whole backup of "+h.Taken.Format(time.RFC3339)+" by engine "+h.Engine+":", h, began)
			}
			if data == "" {
				return usageError{Err: errors.New("--data DIR is required")}
			}
			cfg, err := engineConfig(data, lib)
			if err != nil {
				return err
			}
			h, err := embedded.Restore(cmd.Context(), cfg, args[0])
			if err != nil {
				return err
			}
			return tellBackup(cmd.OutOrStdout(), "Restored", h, began)
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "data directory to make")
	f.StringVar(&lib, "lib", "", "libchdb.so (default: engine/libchdb.so beside this binary)")
	f.BoolVar(&check, "check", false, "read the backup through, and make nothing")
	return cmd
}

// oneArg wants one argument, which what names.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{Err: fmt.Errorf("one %s is wanted, not %d arguments", what, len(args))}
		}
		return nil
	}
}

func tellBackup(w io.Writer, what string, h embedded.BackupHead, began time.Time) error {
	if _, err := fmt.Fprintf(w, "%s %d rows of %d tables and views, %.1f MB, in %s.\n", what, h.Rows(), len(h.Tables), float64(h.Bytes())/1e6, time.Since(began).Round(time.Millisecond)); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
