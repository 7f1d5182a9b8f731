package store

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
)

// native moves blocks of columns in ClickHouse's Native format without rows between.
type native interface {
	// insert sends one block. buf is scratch that the caller owns.
	insert(ctx context.Context, sql string, settings map[string]string, in proto.Input, buf *proto.Buffer) error
	// query decodes into res and calls onBlock for each block; res is used again for the next.
	query(ctx context.Context, sql string, res proto.Results, onBlock func(rows int) error) error
	close()
}

// Error is an exception of the server.
type Error struct {
	Status  int    // HTTP status, 0 over TCP
	Code    int    // ClickHouse's code, 0: not known
	Message string // shortened
}

func (e *Error) Error() string {
	return fmt.Sprintf("clickhouse code %d (http %d): %s", e.Code, e.Status, e.Message)
}

const maxErrorText = 2048

// tlsConfig verifies the name of the server; of several each has its own.
func tlsConfig(u *url.URL, addrs []string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(addrs) == 1 {
		c.ServerName = u.Hostname()
	}
	return c
}

func newNative(u *url.URL, addrs []string, cfg Config) native {
	switch u.Scheme {
	case "http", "https":
		return newHTTPNative(u, addrs, cfg)
	}
	return &tcpNative{addrs: addrs, cfg: cfg}
}

// httpNative asks one server until it cannot be reached, then the next. A statement that may have
// arrived is not sent again by it: who asked knows whether it may be.
type httpNative struct {
	scheme string
	addrs  []string
	at     atomic.Uint32 // of addrs, modulo their number
	cfg    Config
	client *http.Client
}

func newHTTPNative(u *url.URL, addrs []string, cfg Config) *httpNative {
	tr := &http.Transport{
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10,
		DisableCompression: true,
	}
	if u.Scheme == "https" {
		tr.TLSClientConfig = tlsConfig(u, addrs)
	}
	return &httpNative{scheme: u.Scheme, addrs: addrs, cfg: cfg, client: &http.Client{Transport: tr, Timeout: cfg.Timeout}}
}

func (h *httpNative) close() { h.client.CloseIdleConnections() }

func (h *httpNative) post(ctx context.Context, params url.Values, body []byte) (*http.Response, error) {
	if h.cfg.Cluster != "" {
		for name, v := range h.cfg.settings() {
			params.Set(name, v)
		}
	}
	var resp *http.Response
	var last error
	for range h.addrs {
		at := h.at.Load()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.scheme+"://"+h.addrs[int(at)%len(h.addrs)]+"/?"+params.Encode(), bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("make request: %w", err)
		}
		req.Header.Set("X-ClickHouse-User", h.cfg.User)
		req.Header.Set("X-ClickHouse-Key", h.cfg.Password)
		req.Header.Set("Content-Type", "application/octet-stream")
		resp, err = h.client.Do(req)
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			h.at.CompareAndSwap(at, at+1)
		}
		// The url holds the statement: too long for a log line, and of no use there.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		err = fmt.Errorf("post to store: %w", err)
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			return nil, err
		}
		last = err // nothing was sent
	}
	if resp == nil {
		return nil, last
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-ClickHouse-Exception-Code") != "" {
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
		if err != nil {
			return nil, fmt.Errorf("read exception of store: %w", err)
		}
		code, _ := strconv.Atoi(resp.Header.Get("X-ClickHouse-Exception-Code")) // absent: 0, not known
		return nil, &Error{Status: resp.StatusCode, Code: code, Message: strings.TrimSpace(string(text))}
	}
	return resp, nil
}

func (h *httpNative) insert(ctx context.Context, sql string, settings map[string]string, in proto.Input, buf *proto.Buffer) error {
	rows := 0
	if len(in) > 0 {
		rows = in[0].Data.Rows()
	}
	buf.Reset()
	b := proto.Block{Columns: len(in), Rows: rows}
	if err := b.EncodeRawBlock(buf, 0, in); err != nil {
		return fmt.Errorf("encode block: %w", err)
	}
	params := url.Values{"query": {sql + " FORMAT Native"}}
	for k, v := range settings {
		params.Set(k, v)
	}
	resp, err := h.post(ctx, params, buf.Buf)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	if err != nil {
		return fmt.Errorf("read answer to insert: %w", err)
	}
	if len(bytes.TrimSpace(text)) > 0 { // an exception after the headers were sent
		return &Error{Status: resp.StatusCode, Message: string(text)}
	}
	return nil
}

// tailReader keeps the last bytes that passed: a server that stumbles in the middle of a
// result writes its exception there.
type tailReader struct {
	r    io.Reader
	tail []byte
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n >= maxErrorText {
		t.tail = append(t.tail[:0], p[n-maxErrorText:n]...)
	} else if n > 0 {
		t.tail = append(t.tail, p[:n]...)
		if over := len(t.tail) - maxErrorText; over > 0 {
			t.tail = append(t.tail[:0], t.tail[over:]...)
		}
	}
	return n, err // io.Reader's contract: io.EOF as it is
}

func (h *httpNative) query(ctx context.Context, sql string, res proto.Results, onBlock func(rows int) error) error {
	resp, err := h.post(ctx, url.Values{"default_format": {"Native"}}, []byte(sql))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	tail := &tailReader{r: resp.Body}
	r := proto.NewReader(tail)
	for {
		var b proto.Block
		err := b.DecodeRawBlock(r, 0, res)
		if errors.Is(err, io.EOF) && b.Columns == 0 && b.Rows == 0 {
			if bytes.Contains(tail.tail, []byte("__exception__")) {
				return &Error{Status: resp.StatusCode, Message: string(tail.tail)}
			}
			return nil
		}
		if err != nil {
			if i := bytes.Index(tail.tail, []byte("Code: ")); i >= 0 {
				return &Error{Status: resp.StatusCode, Message: string(tail.tail[i:])}
			}
			return fmt.Errorf("decode result: %w", err)
		}
		if b.Rows == 0 {
			continue
		}
		if err := onBlock(b.Rows); err != nil {
			return err
		}
	}
}

// tcpNative speaks the native protocol, a connection per statement. For real servers;
// the embedded engine has HTTP alone.
type tcpNative struct {
	addrs []string
	cfg   Config
}

func (t *tcpNative) close() {}

func (t *tcpNative) do(ctx context.Context, q ch.Query) (err error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	var c *ch.Client
	for _, addr := range t.addrs {
		if c, err = ch.Dial(ctx, ch.Options{Address: addr, User: t.cfg.User, Password: t.cfg.Password}); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("dial store: %w", err)
	}
	if t.cfg.Cluster != "" {
		for name, v := range t.cfg.settings() {
			q.Settings = append(q.Settings, ch.Setting{Key: name, Value: v, Important: true})
		}
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Do(ctx, q); err != nil {
		if ex, ok := ch.AsException(err); ok {
			return &Error{Code: int(ex.Code), Message: ex.Message}
		}
		return fmt.Errorf("query store: %w", err)
	}
	return nil
}

func (t *tcpNative) insert(ctx context.Context, sql string, settings map[string]string, in proto.Input, _ *proto.Buffer) error {
	q := ch.Query{Body: sql + " VALUES", Input: in}
	for k, v := range settings {
		q.Settings = append(q.Settings, ch.Setting{Key: k, Value: v, Important: true})
	}
	return t.do(ctx, q)
}

func (t *tcpNative) query(ctx context.Context, sql string, res proto.Results, onBlock func(rows int) error) error {
	return t.do(ctx, ch.Query{Body: sql, Result: res, OnResult: func(_ context.Context, b proto.Block) error {
		if b.Rows == 0 {
			return nil
		}
		return onBlock(b.Rows)
	}})
}
