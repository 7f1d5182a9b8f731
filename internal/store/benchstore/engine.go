package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// bench is an engine of its own, a migrated store in it, and a connection for what the store does not ask.
type bench struct {
	dir    string
	keep   bool
	server *embedded.Server
	store  *store.Store
	conn   driver.Conn
	// firstHour is the first hour of the fleet that was stored.
	firstHour int64
}

const database = "flopwatch"

func open(ctx context.Context, c common) (*bench, error) {
	b := &bench{dir: c.dir, keep: c.dir != ""}
	var err error
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "benchstore-"); err != nil {
			return nil, fmt.Errorf("make a directory: %w", err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	if b.server, err = embedded.Start(ctx, embedded.Config{Exe: exe, LibPath: c.lib, DataDir: b.dir}); err != nil {
		return nil, errors.Join(err, b.close())
	}
	user, password := b.server.Auth()
	cfg := store.Config{URL: b.server.URL(), User: user, Password: password, Database: database, Timeout: 30 * time.Minute}
	if b.store, err = store.Open(ctx, cfg); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if err = b.store.Migrate(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("parse url: %w", err), b.close())
	}
	b.conn, err = clickhouse.Open(&clickhouse.Options{
		Addr: []string{u.Host}, Auth: clickhouse.Auth{Username: user, Password: password}, Protocol: clickhouse.HTTP, ReadTimeout: 30 * time.Minute,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open engine: %w", err), b.close())
	}
	return b, nil
}

// close ends everything and removes the directory, unless it was named by the caller.
func (b *bench) close() error {
	var errs []error
	if b.conn != nil {
		errs = append(errs, b.conn.Close())
	}
	if b.store != nil {
		errs = append(errs, b.store.Close())
	}
	if b.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		errs = append(errs, b.server.Stop(ctx))
	}
	if !b.keep {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

func (b *bench) exec(ctx context.Context, sql string) error {
	if err := b.conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%.200s: %w", sql, err)
	}
	return nil
}
