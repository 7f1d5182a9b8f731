package embedded

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options are the arguments of the server process.
type Options struct {
	DataDir      string   // where the engine keeps its data; created if missing
	Listen       string   // host:port; not used with ListenFD
	LibPath      string   // libchdb.so
	User         string   // "" is DefaultUser
	PasswordFile string   // "" is <DataDir>/password; minted if missing
	UsersFile    string   // who else may sign in (TOML); "" is nobody
	RolesFile    string   // SQL with the roles of UsersFile, as for a real server; "" is Roles
	Roles        string   // the text itself
	MemoryBytes  uint64   // bound of the engine's memory; 0 is 4 GiB
	Queries      int      // statements at a time; 0 is 16, or four a core where that is more
	Patience     Patience // with clients

	AccountsFD int  // > 0: an inherited file with the accounts
	ListenFD   int  // > 0: an inherited listening socket
	ReadyFD    int  // > 0: an inherited pipe that gets one line when requests are taken
	WatchStdin bool // stop when stdin ends, as it does when the parent dies
	Sandboxed  bool // the process runs confined already
	Unconfined bool // do without Landlock, as on a kernel that has none
	Restoring  bool // the data directory's mark of a restore is this process's own
}

// DefaultUser is the user that always exists.
const DefaultUser = "default"

// drainTimeout is how long running requests may go on after a stop; then their queries are killed.
const drainTimeout = 5 * time.Second

// lockPatience is how long a start waits for the data directory's lock, looking every lockPoll.
const (
	lockPatience = 3 * time.Second
	lockPoll     = 50 * time.Millisecond
)

// complete fills in what may be left out and makes paths absolute.
func (o *Options) complete() (err error) {
	if o.LibPath == "" || o.DataDir == "" {
		return errors.New("data directory and engine library must be named")
	}
	for _, p := range []*string{&o.DataDir, &o.LibPath} {
		if *p, err = filepath.Abs(*p); err != nil {
			return fmt.Errorf("resolve path: %w", err)
		}
	}
	if err = checkLibrary(o.LibPath); err != nil {
		return err
	}
	if o.User == "" {
		o.User = DefaultUser
	}
	if o.PasswordFile == "" {
		o.PasswordFile = layout{o.DataDir}.password()
	}
	for _, p := range []*string{&o.PasswordFile, &o.UsersFile, &o.RolesFile} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return fmt.Errorf("resolve path: %w", err)
		}
	}
	return nil
}

// roles reads the roles.
func (o *Options) roles() (*roleSet, error) {
	text, name := o.Roles, "roles"
	if o.RolesFile != "" {
		b, err := os.ReadFile(o.RolesFile)
		if err != nil {
			return nil, fmt.Errorf("read roles: %w", err)
		}
		text, name = string(b), o.RolesFile
	}
	roles, err := parseRoles(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return roles, nil
}

// accounts reads who may sign in: from files, or in a confined process, to which passwords are out of reach, from what it was handed.
func (o *Options) accounts(roles *roleSet) ([]account, error) {
	if o.AccountsFD > 0 {
		return receiveAccounts(os.NewFile(uintptr(o.AccountsFD), "accounts"), roles)
	}
	password, err := loadPassword(o.PasswordFile)
	if err != nil {
		return nil, err
	}
	accounts := []account{{name: o.User, secret: sha256.Sum256([]byte(password)), role: &role{name: adminRole}}}
	if o.UsersFile == "" {
		return accounts, nil
	}
	more, err := loadUsers(o.UsersFile, roles)
	if err != nil {
		return nil, err
	}
	for _, a := range more {
		if a.name == o.User {
			return nil, fmt.Errorf("users file %s: user %q is the administrator that always exists", o.UsersFile, a.name)
		}
	}
	return append(accounts, more...), nil
}

// Run serves ClickHouse's HTTP interface until ctx ends, then stops in order: HTTP, connections, engine.
// It may be called once a process, since the engine cannot be started again.
func Run(ctx context.Context, o Options, lg *slog.Logger) error {
	if err := o.complete(); err != nil {
		return err
	}
	d := layout{o.DataDir}
	if err := d.create(); err != nil {
		return err
	}
	lock, err := takeLock(ctx, d.lock())
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // the kernel frees the lock in any case
	if err = d.mayStart(o.Restoring); err != nil {
		return err
	}
	lim := defaultLimits()
	lim.noMerges = o.Restoring
	if o.MemoryBytes > 0 {
		lim.memoryBytes = o.MemoryBytes
	}
	if lim.queries = max(lim.queries, 4*runtime.GOMAXPROCS(0)); o.Queries > 0 {
		lim.queries = o.Queries
	}
	roles, err := o.roles()
	if err != nil {
		return err
	}
	accounts, err := o.accounts(roles)
	if err != nil {
		return err
	}
	configFile, err := d.writeConfig(lim, roles, o.Sandboxed)
	if err != nil {
		return err
	}
	ln, err := listen(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }() // http.Server closes it first
	lib, err := openLibrary(o.LibPath)
	if err != nil {
		return err
	}
	if err = d.mayRun(lib.version); err != nil {
		return err
	}
	if err = d.removeSnapshots(); err != nil {
		return err
	}
	watching, unwatch := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { watchDisk(watching, lg, o.DataDir) })
	defer watch.Wait()
	defer unwatch()
	args := d.args(configFile)
	anchor, err := lib.open(args)
	if err != nil {
		return fmt.Errorf("start engine on %s: %w (the engine's own words are on stderr)", o.DataDir, err)
	}
	for _, table := range othersWords {
		if err = anchor.run("DETACH TABLE IF EXISTS system." + table); err != nil {
			anchor.close()
			return fmt.Errorf("take away system.%s, which holds what others asked: %w", table, err)
		}
	}
	version, err := anchor.text("SELECT version()")
	if err != nil {
		anchor.close()
		return fmt.Errorf("ask engine for its version: %w", err)
	}
	if err = note(d.url(), []byte("http://"+reachable(ln.Addr())+"\n")); err != nil {
		anchor.close()
		return fmt.Errorf("note the engine's address: %w", err)
	}
	if err = note(d.owner(), []byte(lib.version+"\n")); err != nil {
		anchor.close()
		return fmt.Errorf("note the engine's version: %w", err)
	}
	stopped, draining := make(chan struct{}), make(chan struct{})
	stop, drain := sync.OnceFunc(func() { close(stopped) }), sync.OnceFunc(func() { close(draining) })
	defer stop()
	patience := o.Patience.orDefault()
	f := &front{lg: lg, lib: lib, args: args, version: version, lim: lim, user: o.User, accounts: accounts, roles: roles, data: d,
		turns: newTurns(lim.queries, patience.Turn), patience: patience, confined: o.Sandboxed, stopped: stopped, draining: draining}
	f.holdDefiners("")
	srv := &http.Server{Handler: f, ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 4 << 20, ErrorLog: slog.NewLogLogger(lg.Handler(), slog.LevelWarn)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	lg.LogAttrs(ctx, slog.LevelInfo, "engine ready", slog.String("listen", ln.Addr().String()), slog.String("version", version), slog.String("data", o.DataDir))
	if o.ReadyFD > 0 {
		ready := os.NewFile(uintptr(o.ReadyFD), "ready")
		if _, werr := io.WriteString(ready, "ready "+version+"\n"); werr != nil {
			lg.LogAttrs(ctx, slog.LevelWarn, "tell parent", slog.Any("err", werr))
		}
		_ = ready.Close() // nobody waits for more
	}
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	return errors.Join(err, f.shutdown(srv, anchor, drain, stop))
}

// reachable is an address by which this machine reaches a listener.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return a.String()
}

// mayStart refuses a data directory into which a restore is under way, or was cut off.
func (d layout) mayStart(restoring bool) error {
	switch _, err := os.Lstat(d.restoring()); {
	case errors.Is(err, os.ErrNotExist) && restoring:
		return fmt.Errorf("data directory %s is not being restored", d.root)
	case err == nil && !restoring:
		return fmt.Errorf("data directory %s holds a restore that was cut off, or is under way: `flopwatch clickhouse restore` into it again, or remove it", d.root)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("look at data directory: %w", err)
	}
	return nil
}

// mayRun refuses a data directory that a later engine wrote.
func (d layout) mayRun(version string) error {
	b, err := os.ReadFile(d.owner())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the engine's version: %w", err)
	}
	if was := strings.TrimSpace(string(b)); older(version, was) {
		return fmt.Errorf("data directory %s was written by engine %s, and this one is %s: run the later one (`make engine` fetches what the program is made for), or restore a backup into a new directory", d.root, was, version)
	}
	return nil
}

// shutdown lets what runs come to its end while it tells newcomers to come again, kills what still runs after drainTimeout, closes every connection and
// then the engine.
func (f *front) shutdown(srv *http.Server, anchor *session, drain, stop func()) error {
	ctx := context.Background()
	drain()
	if !f.running.idle(drainTimeout) {
		stop() // handlers kill their queries
	}
	diskHurry.Store(1) // who waits for room by now has not been told that anything is stored
	grace, done := context.WithTimeout(ctx, drainTimeout)
	err := srv.Shutdown(grace)
	done()
	if errors.Is(err, context.DeadlineExceeded) {
		stop()
		grace, done = context.WithTimeout(ctx, drainTimeout)
		err = srv.Shutdown(grace)
		done()
	}
	if err != nil {
		err = errors.Join(err, srv.Close())
	}
	f.held.close()
	anchor.close()
	if err != nil {
		return fmt.Errorf("stop HTTP: %w", err)
	}
	// Every acknowledged row is on disk already: a thread of the engine that will not end is no reason to fail.
	if serr := f.lib.stop(); serr != nil {
		f.lg.LogAttrs(ctx, slog.LevelDebug, "stop engine", slog.Any("err", serr))
	}
	return nil
}

// text runs a query with one row and column.
func (s *session) text(query string) (string, error) {
	r, err := s.exec(query, "TabSeparatedRaw", nil)
	defer r.destroy()
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(r.data()), "\n"), nil
}

// takeLock takes the lock of a data directory and writes this process's id into it. It waits a moment for the lock: a child whose parent
// was killed dies at once but takes its time to free what it holds.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock %s: %w", path, err)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for try := lockPatience / lockPoll; ; try-- {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			break
		}
		if errors.Is(err, syscall.EWOULDBLOCK) && try > 0 {
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
			}
		}
		b, _ := io.ReadAll(io.LimitReader(f, 32)) // only to name the holder
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another engine (pid %s)", filepath.Dir(path), strings.TrimSpace(string(b)))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err = writeAll(f, fmt.Sprintf("%-10d\n", os.Getpid())); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write lock %s: %w", path, err)
	}
	return f, nil
}

func writeAll(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// listen opens the socket, or takes over the inherited one.
func listen(ctx context.Context, o Options) (net.Listener, error) {
	if o.ListenFD <= 0 {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", o.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return ln, nil
	}
	file := os.NewFile(uintptr(o.ListenFD), "listener")
	ln, err := net.FileListener(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("take over listener: %w", err)
	}
	return ln, nil
}

// watchStdin calls stop when stdin ends; a parent that dies closes it. The goroutine it starts ends with the process.
func watchStdin(stop func()) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the end is all that matters
		stop()
	}()
}

// ServeProcess is Run as the body of a process: it confines the process (see confine), watches stdin if asked to, and bounds the Go heap, which holds only buffers.
func ServeProcess(ctx context.Context, o Options, lg *slog.Logger) error {
	if err := o.complete(); err != nil {
		return err
	}
	if !o.Sandboxed {
		if err := (layout{o.DataDir}).create(); err != nil {
			return err
		}
		err := errNoLandlock
		if !o.Unconfined {
			err = confine(o, os.Args, childEnv())
		}
		if !errors.Is(err, errNoLandlock) {
			return err
		}
		lg.LogAttrs(ctx, slog.LevelWarn, "engine runs unconfined: statements are held by guard and grants alone", slog.Any("err", err))
	}
	debug.SetGCPercent(50)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.WatchStdin {
		watchStdin(cancel)
	}
	return Run(ctx, o, lg)
}
