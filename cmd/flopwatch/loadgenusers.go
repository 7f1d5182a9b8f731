package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/loadgen"
)

// newLoadgenUsersCommand makes what --nkeys reads, and lets a server know.
func newLoadgenUsersCommand() *cobra.Command {
	var dir string
	var cfg loadgen.Config
	cmd := &cobra.Command{
		Use:   "users --nkeys DIR --dir DIR --nodes N",
		Short: "Make a key for each host, and its permissions on a NATS server",
		Long: `Users makes the seeds HOST.nk that loadgen --nkeys reads, unless they are there, and puts each host as a node into the
configuration of a NATS server, as flopwatch nats-user does. Then: nats-server --signal reload.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.NKeys == "" || dir == "" {
				return usageError{Err: errors.New("--nkeys DIR and --dir DIR are needed")}
			}
			cfg.Broker.URL = "nats://nobody"
			if err := cfg.Validate(); err != nil {
				return usageError{Err: err}
			}
			if err := os.MkdirAll(cfg.NKeys, 0o700); err != nil {
				return fmt.Errorf("make folder of keys: %w", err)
			}
			users := make([]nats.User, cfg.Nodes)
			for i := range users {
				node := cfg.Node(i)
				key, err := nats.Key(loadgen.SeedFile(cfg.NKeys, node))
				if err != nil {
					return err // it names the file
				}
				users[i] = nats.User{Role: nats.Node, Cluster: cfg.Cluster, Name: node, Key: key}
			}
			if err := nats.AddAll(dir, users); err != nil {
				return err // it names what is wrong
			}
			return say(cmd, fmt.Sprintf("%d users of cluster %s", len(users), cfg.Cluster))
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.NKeys, "nkeys", "", "folder of the hosts' seeds, made if missing")
	f.StringVar(&dir, "dir", "", "directory of the server's configuration")
	f.IntVar(&cfg.Nodes, "nodes", 10, "hosts")
	f.StringVar(&cfg.Cluster, "cluster", "loadgen", "cluster of the hosts")
	f.StringVar(&cfg.Prefix, "prefix", "lg", "beginning of the hosts' names")
	return cmd
}
