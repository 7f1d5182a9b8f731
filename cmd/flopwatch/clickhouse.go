package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	shipped "github.com/flopwatch/flopwatch/deploy/clickhouse"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// minEngineMemory is less than the engine does anything with.
const minEngineMemory = 256 << 20

// newClickhouseCommand builds `flopwatch clickhouse`, which people start by hand and `flopwatch up` and `replay` as a child.
func newClickhouseCommand() *cobra.Command {
	var o embedded.Options
	cmd := &cobra.Command{
		Use:   "clickhouse --data DIR",
		Short: "Serve the embedded ClickHouse engine over ClickHouse's HTTP interface",
		Long: `Clickhouse serves the embedded ClickHouse engine over ClickHouse's own HTTP interface, so that clickhouse-go,
curl and Grafana talk to it as to a server. The password of the administrator is in DIR/password unless --password-file
says otherwise, and is made on the first start.

Others sign in if --users names them: a file of [[user]] with name, role, and password_file or password_sha256. The roles
are admin, operator, ingest, detector, analyst and auditor, with the grants and limits of deploy/clickhouse/roles.sql,
which --roles replaces. The engine itself holds each connection to its role.

The engine is for one machine: SQL makes no users in it, and it has no row policies, no replication and no query log, and
refuses statements that reach outside its data directory. Use a real ClickHouse server where you need those.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.DataDir == "" {
				return usageError{Err: fmt.Errorf("--data DIR is required")}
			}
			if cmd.Flag("queries").Changed && (o.Queries < 2 || o.Queries > 10_000) {
				return usageError{Err: fmt.Errorf("--queries %d: from 2 (readers have half of them) to 10000", o.Queries)}
			}
			if cmd.Flag("memory-bytes").Changed && o.MemoryBytes < minEngineMemory {
				return usageError{Err: fmt.Errorf("--memory-bytes %d: at least %d", o.MemoryBytes, minEngineMemory)}
			}
			cfg, err := engineConfig(o.DataDir, o.LibPath)
			if err != nil {
				return err
			}
			o.LibPath = cfg.LibPath
			o.Roles = shipped.Roles
			return embedded.ServeProcess(cmd.Context(), o, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DataDir, "data", "", "data directory, created if missing")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:8123", "host:port to serve on")
	f.StringVar(&o.LibPath, "lib", "", "libchdb.so (default: engine/libchdb.so beside this binary)")
	f.StringVar(&o.User, "user", embedded.DefaultUser, "name of the administrator")
	f.StringVar(&o.PasswordFile, "password-file", "", "file with the administrator's password, made if missing (default: DIR/password)")
	f.StringVar(&o.UsersFile, "users", "", "file of further users (TOML)")
	f.StringVar(&o.RolesFile, "roles", "", "SQL file with the roles of --users (default: those of deploy/clickhouse/roles.sql)")
	f.IntVar(&o.Queries, "queries", 0, "statements at a time (default: 16, or 4 a core where that is more)")
	f.Uint64Var(&o.MemoryBytes, "memory-bytes", 0, "bound of the engine's memory (default: 4 GiB)")
	// What the supervisor in internal/store/embedded says to its child.
	f.IntVar(&o.ListenFD, "listen-fd", 0, "inherited listening socket")
	f.IntVar(&o.ReadyFD, "ready-fd", 0, "inherited pipe that is told when requests are taken")
	f.BoolVar(&o.WatchStdin, "watch-stdin", false, "stop when stdin ends")
	f.BoolVar(&o.Sandboxed, "sandboxed", false, "the process is confined already")
	f.IntVar(&o.AccountsFD, "accounts-fd", 0, "inherited file with the accounts")
	f.BoolVar(&o.Unconfined, "unconfined", false, "do without Landlock")
	f.BoolVar(&o.Restoring, "restoring", false, "a restore runs this")
	for _, name := range []string{"listen-fd", "ready-fd", "watch-stdin", "sandboxed", "restoring", "accounts-fd", "unconfined"} {
		f.Lookup(name).Hidden = true
	}
	cmd.AddCommand(newBackupCommand(), newRestoreCommand())
	return cmd
}
