package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/internal/store"
)

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Print or migrate the tables and views of a store", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newStoreSchemaCommand(), newStoreMigrateCommand())
	return cmd
}

func newStoreSchemaCommand() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print every view, table and column, and what it means",
		Long: `Schema prints the reference of all views and tables, as Markdown: comment, engine, key, TTL, and each column with its
type, codec and meaning. Without a store it is what this program's migrations make; with --data or --clickhouse it is what is
there, as far as the user may see it. The views are the stable interface; tables may change with a migration.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var schema store.Schema
			var err error
			if o.data == "" && o.clickhouse == (store.Config{}) && o.passwordFile == "" {
				schema, err = store.ShippedSchema()
			} else {
				err = o.withStore(cmd, func(ctx context.Context, st *store.Store) error {
					schema, err = st.Schema(ctx)
					if err == nil && len(schema.Relations) == 0 {
						err = fmt.Errorf("database %s has no tables that this user may see", st.Database())
					}
					return err
				})
			}
			if err != nil {
				return err
			}
			text := schema.Markdown()
			if o.json {
				text = string(schema.JSON())
			}
			if _, err = fmt.Fprint(cmd.OutOrStdout(), text); err != nil {
				return fmt.Errorf("print: %w", err)
			}
			return nil
		},
	}
	o.registerStore(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "JSON instead of Markdown")
	cmd.Args = noArgs
	return cmd
}

func newStoreMigrateCommand() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use:   "migrate --clickhouse URL",
		Short: "Bring a store's tables and views up to date",
		Long: `Migrate applies the migrations that a database lacks, and creates it where there is none. It can be repeated, and goes on
where it was cut off. Collectors do that themselves at their start; where their users may not create tables (see
deploy/clickhouse/README.md), set "migrate = false" there and run this before an upgrade.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.data != "" && (o.clickhouse.Replicated || o.clickhouse.Cluster != "") {
				return usageError{Err: errors.New("--replicated and --store-cluster are for the server that --clickhouse names: the embedded engine has no replicas")}
			}
			return o.withStore(cmd, func(ctx context.Context, st *store.Store) error {
				if err := st.Migrate(ctx); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "Database %s is up to date.\n", st.Database()); err != nil {
					return fmt.Errorf("print: %w", err)
				}
				return nil
			})
		},
	}
	o.registerStore(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.clickhouse.Replicated, "replicated", false, "make replicated tables, as replicated = true does in the collector's configuration")
	f.StringVar(&o.clickhouse.Cluster, "store-cluster", "", "`name` in the servers' remote_servers: make tables on all shards, as cluster does in the collector's configuration")
	cmd.Args = noArgs
	return cmd
}

// withStore opens the store that is meant, and closes it.
func (o *askOptions) withStore(cmd *cobra.Command, do func(context.Context, *store.Store) error) (err error) {
	if err = o.checkStore(); err != nil {
		return err
	}
	a, err := o.open(cmd.Context(), time.Now())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.store.Close()) }()
	return do(cmd.Context(), a.store)
}
