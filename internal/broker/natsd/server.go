package natsd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// ServerConfig of an embedded server. Dir is needed.
type ServerConfig struct {
	// Dir keeps the streams.
	Dir string
	// Port on the loopback address; 0 and -1: any free one.
	Port int
	// Token that clients must show; "": a random one. Any local user can reach a loopback
	// port, so there is always a token.
	Token string
	// MaxStoreBytes bounds all streams together; default 8 GiB.
	MaxStoreBytes int64
	// SyncInterval of JetStream's files; default two minutes. Negative: after every write.
	SyncInterval time.Duration
	// Log gets the server's warnings and errors; nil: nobody does.
	Log *slog.Logger
}

// Server is an embedded NATS server.
type Server struct {
	srv   *server.Server
	lock  io.Closer
	token string
	full  *fullDisk
	fatal chan string // the first thing that the server could not go on from
}

const (
	startTimeout = 60 * time.Second       // bounds how long recovering the streams may take
	startLook    = 250 * time.Millisecond // how often a start is looked at
)

// StartServer starts a server on the loopback address. durable.ErrLocked says that another
// one has the directory. Stop it.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start broker: no directory")
	}
	files := durable.OS{}
	if err := files.MkdirAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("start broker: make directory: %w", err)
	}
	lock, err := files.Lock(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("start broker in %s: %w", cfg.Dir, err)
	}
	if cfg.Token == "" {
		cfg.Token = rand.Text()
	}
	if cfg.MaxStoreBytes <= 0 {
		cfg.MaxStoreBytes = 8 << 30
	}
	if cfg.Port == 0 {
		cfg.Port = server.RANDOM_PORT
	}
	opts := &server.Options{
		ServerName:         "flopwatch",
		Host:               "127.0.0.1",
		Port:               cfg.Port,
		Authorization:      cfg.Token,
		JetStream:          true,
		StoreDir:           cfg.Dir,
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  cfg.MaxStoreBytes,
		SyncInterval:       max(0, cfg.SyncInterval),
		SyncAlways:         cfg.SyncInterval < 0,
		NoSigs:             true,
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start broker: %w", err), lock.Close())
	}
	s := &Server{srv: srv, lock: lock, token: cfg.Token, full: newFullDisk(cfg.Dir), fatal: make(chan string, 1)}
	s.listen(cfg.Log)
	if err = s.start(ctx); err != nil {
		return nil, fmt.Errorf("start broker in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

// listen hears what the server logs, and hands it on to lg; nil: to nobody.
func (s *Server) listen(lg *slog.Logger) {
	if lg == nil {
		lg = slog.New(slog.DiscardHandler)
	}
	s.srv.SetLoggerV2(serverLog{lg, s.full, s.fatal}, false, false, false)
}

// start waits until the server takes connections. What it cannot go on from, such as a port that is
// taken, it logs and then waits for ever: that ends the wait.
func (s *Server) start(ctx context.Context) error {
	s.srv.Start() // it returns once its own goroutines run
	why := "not ready within " + startTimeout.String()
	for end := time.Now().Add(startTimeout); time.Now().Before(end) && ctx.Err() == nil; {
		if s.srv.ReadyForConnections(startLook) && s.srv.JetStreamEnabled() {
			return nil
		}
		select {
		case why = <-s.fatal:
			return errors.Join(errors.New(why), s.Stop(ctx))
		default:
		}
	}
	if ctx.Err() != nil {
		why = "told to stop"
	}
	return errors.Join(errors.New(why), s.Stop(context.WithoutCancel(ctx)))
}

// URL is where clients connect; it contains the token: do not log it.
func (s *Server) URL() string {
	if s.token == "" { // of a file: users are its own
		return s.srv.ClientURL()
	}
	return strings.Replace(s.srv.ClientURL(), "nats://", "nats://"+url.User(s.token).String()+"@", 1)
}

// InProcess makes Connect use a pipe instead of a socket, in the server's own process.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.srv) }

// Stop stops the server and waits for it, at most as long as ctx.
func (s *Server) Stop(ctx context.Context) error {
	s.full.stop()
	s.srv.Shutdown()
	done := make(chan struct{})
	go func() { // ends with the server
		s.srv.WaitForShutdown()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("stop broker: %w", ctx.Err())
	}
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("stop broker: unlock: %w", err)
	}
	return nil
}

// serverLog hands the server's warnings and errors on. Its notices are start-up banners.
type serverLog struct {
	lg    *slog.Logger
	full  *fullDisk
	fatal chan<- string
}

func (l serverLog) log(level slog.Level, format string, args ...any) {
	text := fmt.Sprintf(format, args...) // it names stream and file
	l.lg.LogAttrs(context.Background(), level, "broker", slog.String("text", text))
	if level >= slog.LevelWarn {
		l.full.heard(text)
	}
}

func (l serverLog) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v...) }
func (l serverLog) Warnf(format string, v ...any)   { l.log(slog.LevelWarn, format, v...) }
func (l serverLog) Errorf(format string, v ...any)  { l.log(slog.LevelError, format, v...) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

// Fatalf hears what the server cannot go on from: the first is why it does not start.
func (l serverLog) Fatalf(format string, v ...any) {
	l.log(slog.LevelError, format, v...)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default: // the first is kept
	}
}
