package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/deploy/nats"
)

// natsDir is where an installation keeps the server's configuration.
const natsDir = "/etc/flopwatch/nats"

// newNATSUserCommand keeps the users of a fleet's NATS server: files alone, no server is
// asked.
func newNATSUserCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "nats-user",
		Short: "Make keys and permissions for a fleet's NATS server",
		Long: `nats-user makes nkeys and keeps who may say what on a NATS server for a fleet.

For each host:       flopwatch nats-user key --seed agent.nk
makes a seed for the host's nkey_file and prints its public key. On the server:
                     flopwatch nats-user add --role node --cluster C --node N --key U...
which prints what the daemon's configuration needs; then
                     systemctl reload flopwatch-nats   (nats-server --signal reload)`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var dir, seed, role string
	var u nats.User
	key := &cobra.Command{
		Use: "key", Short: "Make a seed, unless the file is there, and print its public key", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if seed == "" {
				return usageError{Err: errors.New("--seed is needed: the file that keeps the seed")}
			}
			public, err := nats.Key(seed)
			if err != nil {
				return err // it names the file
			}
			return say(cmd, public)
		},
	}
	key.Flags().StringVar(&seed, "seed", "", "`file` that keeps the seed; it is made with mode 0600")

	// who makes a command that is about one user.
	who := func(use, short string, run func(*cobra.Command) error) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			u.Role = nats.Role(role)
			return run(cmd)
		}}
		f := cmd.Flags()
		f.StringVar(&dir, "dir", natsDir, "`directory` of the server's configuration")
		f.StringVar(&role, "role", "", fmt.Sprintf("what the user is: one of %v", nats.Roles()))
		f.StringVar(&u.Cluster, "cluster", "", "cluster of a node or provider, or of a detector that is not the only one on the broker")
		f.StringVar(&u.Name, "node", "", "name of a node, as its agent reports it")
		return cmd
	}
	add := who("add", "Put a user in, or give it another key", func(cmd *cobra.Command) error {
		if err := nats.Add(dir, u); err != nil {
			return err // it names what is wrong
		}
		line := fmt.Sprintf("inbox_prefix = %q", u.InboxPrefix())
		if u.Role == nats.Detector {
			line = fmt.Sprintf("lease = %q\n", u.Lease()) + line
		}
		return say(cmd, line)
	})
	add.Flags().StringVar(&u.Key, "key", "", "public `key` of the user, U...")
	remove := who("remove", "Take a user out", func(*cobra.Command) error { return nats.Remove(dir, u) })
	initialize := &cobra.Command{
		Use: "init", Short: "Make the directory with the server's configuration, without users", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return nats.Init(dir) },
	}
	initialize.Flags().StringVar(&dir, "dir", natsDir, "`directory` of the server's configuration")
	root.AddCommand(initialize, newNATSClusterCommand(), key, add, remove)
	return root
}

// newNATSClusterCommand makes one server's configuration in a cluster.
func newNATSClusterCommand() *cobra.Command {
	var dir string
	var c nats.Cluster
	cmd := &cobra.Command{
		Use: "cluster", Short: "Make the configuration of one server of a cluster, cluster.conf, beside flopwatch.conf", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return nats.InitCluster(dir, c) },
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", natsDir, "`directory` of the server's configuration")
	f.StringVar(&c.Server, "server", "", "`name` of this server, other than the others'")
	f.StringVar(&c.Name, "name", "flopwatch", "`name` of the cluster, the same on all")
	f.StringSliceVar(&c.Peers, "peer", nil, "`host` of a server, HOST or HOST:PORT; once for each, this one too")
	f.StringVar(&c.Listen, "listen", "0.0.0.0:6222", "`address` where the other servers find this one")
	f.StringVar(&c.CAFile, "ca", "", "`file` of the authority that signs the servers, and nobody else")
	f.StringVar(&c.CertFile, "cert", "", "`file` of this server's certificate")
	f.StringVar(&c.KeyFile, "cert-key", "", "`file` of its key")
	f.StringVar(&c.Domain, "domain", "", "JetStream `domain`, where leaf nodes join sites")
	return cmd
}

func say(cmd *cobra.Command, line string) error {
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
