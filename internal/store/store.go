package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Store is a connection pool to one ClickHouse database. Safe for concurrent use.
type Store struct {
	cfg    Config
	conn   driver.Conn
	native native
	// inserts go here: native, or the servers of the shard that this is for (see Shard).
	inserts native
	shards  []native
	local   bool // inserts go to the shard's local tables
}

// Open connects and checks that the server answers. It creates nothing: see Migrate.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	u, addrs, err := servers(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("store url: %w", err)
	}
	opt := &clickhouse.Options{
		// No database in the connection: Migrate creates it. Statements qualify tables.
		Addr:        addrs,
		Auth:        clickhouse.Auth{Username: cfg.User, Password: cfg.Password},
		Protocol:    clickhouse.HTTP,
		ReadTimeout: cfg.Timeout,
		Settings:    clickhouse.Settings{},
	}
	for name, v := range cfg.settings() {
		opt.Settings[name] = v
	}
	switch u.Scheme {
	case "http":
	case "https":
		opt.TLS = tlsConfig(u, addrs)
	default:
		opt.Protocol = clickhouse.Native
	}
	n := newNative(u, addrs, cfg)
	var shards []native
	for text := range strings.FieldsSeq(cfg.Shards) {
		at, of, serr := servers(text)
		if serr != nil {
			return nil, fmt.Errorf("store shards: %w", serr)
		}
		shards = append(shards, newNative(at, of, cfg))
	}
	conn, err := clickhouse.Open(opt)
	if err != nil {
		n.close()
		return nil, fmt.Errorf("open store %s: %w", u.Host, err)
	}
	s := &Store{cfg: cfg, conn: conn, native: n, inserts: n, shards: shards}
	if err := conn.Ping(ctx); err != nil {
		_ = s.Close()
		if refused(err) {
			return nil, fmt.Errorf("sign in to store %s as %s: %w", u.Host, cfg.User, ErrSignIn)
		}
		return nil, fmt.Errorf("reach store %s: %w", u.Host, err)
	}
	return s, nil
}

// ErrSignIn says that the server knows no such user, or another password.
var ErrSignIn = errors.New("wrong user or password")

// refused reports whether the server refused user or password. Over HTTP the exception
// comes as text alone.
func refused(err error) bool {
	const authenticationFailed = 516
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return e.Code == authenticationFailed
	}
	return strings.Contains(err.Error(), "AUTHENTICATION_FAILED")
}

// Close releases connections. It is idempotent.
func (s *Store) Close() error {
	s.native.close()
	for _, n := range s.shards {
		n.close()
	}
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Database is the name of the database, as a quoted prefix of table names wants it.
func (s *Store) Database() string { return s.cfg.Database }

// table qualifies a table's name. Names are constants of this package, never input.
func (s *Store) table(name string) string { return "`" + s.cfg.Database + "`.`" + name + "`" }

// Count returns the rows of one of the store's tables: as they lie in parts, and as a
// reader counts them, one row per key.
func (s *Store) Count(ctx context.Context, table string) (raw, distinct uint64, err error) {
	if !isTable(table) {
		return 0, 0, fmt.Errorf("count rows: no table %q", table)
	}
	sql := "SELECT (SELECT count() FROM " + s.table(table) + "), (SELECT count() FROM " + s.table(table) + " FINAL)"
	if err := s.conn.QueryRow(ctx, sql).Scan(&raw, &distinct); err != nil {
		return 0, 0, fmt.Errorf("count rows of %s: %w", table, err)
	}
	return raw, distinct, nil
}
