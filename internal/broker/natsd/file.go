package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// maxSyncInterval is far beyond what anybody means: until then an ack is no durability.
const maxSyncInterval = 24 * time.Hour

// StartFile starts a server as a file in nats-server's own language says: listeners, TLS,
// accounts, routes to the other servers of a cluster, JetStream and its limits. It does not
// wait for the others, so that one can be started first. durable.ErrLocked says that another
// server of ours has the store. Stop it.
func StartFile(ctx context.Context, path string, lg *slog.Logger) (*Server, error) {
	opts, err := server.ProcessConfigFile(path)
	if err != nil {
		return nil, fmt.Errorf("read broker configuration: %w", err) // it names file and line
	}
	switch {
	case !opts.JetStream:
		return nil, fmt.Errorf("broker configuration %s: no jetstream block, and nothing keeps the streams without", path)
	case !filepath.IsAbs(opts.StoreDir):
		return nil, fmt.Errorf("broker configuration %s: jetstream.store_dir %q: an absolute path", path, opts.StoreDir)
	case opts.SyncInterval > maxSyncInterval:
		return nil, fmt.Errorf("broker configuration %s: jetstream.sync_interval %s: at most %s (in quotes, \"2m\": without them m is a million)", path, opts.SyncInterval, maxSyncInterval)
	case opts.Cluster.Name != "" && opts.ServerName == "":
		return nil, fmt.Errorf("broker configuration %s: server_name is missing: each server of a cluster needs one of its own", path)
	}
	if opts.Cluster.Name != "" {
		if err = wasAlone(opts.StoreDir); err != nil {
			return nil, fmt.Errorf("broker configuration %s: %w", path, err)
		}
	}
	files := durable.OS{}
	if err = files.MkdirAll(opts.StoreDir); err != nil {
		return nil, fmt.Errorf("start broker: make directory: %w", err)
	}
	lock, err := files.Lock(filepath.Join(opts.StoreDir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("start broker in %s: %w", opts.StoreDir, err)
	}
	opts.NoSigs = true
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start broker: %w", err), lock.Close())
	}
	s := &Server{srv: srv, lock: lock, full: newFullDisk(opts.StoreDir), fatal: make(chan string, 1)}
	s.listen(lg)
	if err = s.start(ctx); err != nil {
		return nil, fmt.Errorf("start broker of %s: %w", path, err)
	}
	return s, nil
}

// ErrWasAlone says that a store is that of a server without a cluster. In a cluster nobody knows of
// its streams, and the server deletes them as left over (nats-server 2.15.2, tried).
var ErrWasAlone = errors.New("the store has streams of a server that was alone, which a cluster would delete: start with an empty one, and see deploy/nats/README.md, From one server to three")

// wasAlone looks for streams in a store without the journal of a cluster.
func wasAlone(dir string) error {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
	if err != nil {
		return fmt.Errorf("look into %s: %w", dir, err)
	}
	journals, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "_js_", "_meta_"))
	if err != nil {
		return fmt.Errorf("look into %s: %w", dir, err)
	}
	if len(streams) > 0 && len(journals) == 0 {
		return ErrWasAlone
	}
	return nil
}

// Reload takes up what changed in the file of StartFile, such as users; what cannot change
// while the server runs is an error, and nothing is taken up then.
func (s *Server) Reload() error {
	if err := s.srv.Reload(); err != nil {
		return fmt.Errorf("reload broker configuration: %w", err)
	}
	return nil
}

// Name is the server's own in its cluster.
func (s *Server) Name() string { return s.srv.Name() }
