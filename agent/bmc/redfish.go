package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"
)

// maxAnswerBytes bounds one answer of a controller; of the reports that are read the largest
// known has 300 kB.
const maxAnswerBytes = 4 << 20

var (
	errTooLarge = fmt.Errorf("the answer has more than %d MiB", maxAnswerBytes>>20)
	errReadOnly = errors.New("the agent only reads: the request was not sent")
	errAway     = errors.New("the controller redirects to somewhere else, where its session must not go")
)

// redfish is a session with a controller.
type redfish struct{ api *gofish.APIClient }

// login opens a session.
func login(ctx context.Context, t Target) (*redfish, error) {
	account, err := readCredentials(t.CredentialsFile) // anew: it may have been changed
	if err != nil {
		return nil, err
	}
	trust, err := t.tls()
	if err != nil {
		return nil, err
	}
	web := &http.Client{
		Timeout:       t.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errAway },
		Transport: guard{&http.Transport{
			TLSClientConfig: trust, TLSHandshakeTimeout: t.Timeout, MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost: 1, MaxIdleConns: 1, IdleConnTimeout: 2 * maxInterval, ReadBufferSize: 4096, WriteBufferSize: 4096,
		}},
	}
	cfg := gofish.ClientConfig{
		Endpoint: t.Address, Username: account.user, Password: account.password, HTTPClient: web, ReuseConnections: true, NoModifyTransport: true,
	}
	api, err := gofish.ConnectContext(ctx, cfg)
	if code := status(err); code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code == http.StatusNotImplemented {
		if r, rerr := rooted(ctx, cfg); rerr == nil { // it has a root, and no sessions
			return r, nil
		}
	}
	if err != nil {
		web.CloseIdleConnections()
		return nil, err
	}
	return &redfish{api}, nil
}

// rooted asks with every request's own authentication, for controllers without sessions.
func rooted(ctx context.Context, cfg gofish.ClientConfig) (*redfish, error) {
	cfg.BasicAuth = true
	api, err := gofish.ConnectContext(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &redfish{api}, nil
}

// logout gives the session back; controllers have few.
func (r *redfish) logout(ctx context.Context) {
	api := r.api.WithContext(ctx)
	if s, err := r.api.GetSession(); err == nil && s.ID != "" {
		api.Logout()
		return
	}
	api.HTTPClient.CloseIdleConnections()
}

// get reads a resource; each is given what comes. date is the controller's clock, if it says.
func (r *redfish) get(ctx context.Context, path string, each func(io.Reader) error) (date time.Time, err error) {
	if !strings.HasPrefix(path, "/redfish/") || strings.ContainsAny(path, "@\\ \r\n") {
		return date, fmt.Errorf("%.64q is no path of Redfish", path)
	}
	resp, err := r.api.WithContext(ctx).Get(path)
	if err != nil {
		return date, err
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so that the connection can be used again
		_ = resp.Body.Close()
	}()
	date, _ = http.ParseTime(resp.Header.Get("Date"))
	return date, each(resp.Body)
}

// into reads a resource into a value.
func (r *redfish) into(ctx context.Context, path string, v any) error {
	_, err := r.get(ctx, path, func(body io.Reader) error { return json.NewDecoder(body).Decode(v) })
	return err
}

// link is a reference to a resource.
type link struct {
	ID string `json:"@odata.id"`
}

// members lists a collection, of which at most limit are returned.
func (r *redfish) members(ctx context.Context, path string, limit int) ([]string, error) {
	var c struct{ Members []link }
	if err := r.into(ctx, path, &c); err != nil {
		return nil, err
	}
	var out []string
	for _, m := range c.Members[:min(len(c.Members), limit)] {
		if m.ID != "" {
			out = append(out, m.ID)
		}
	}
	return out, nil
}

// status is the HTTP status that an error stands for; 0: none.
func status(err error) int {
	if e, ok := errors.AsType[*schemas.Error](err); ok {
		return e.HTTPReturnedStatusCode
	}
	return 0
}

// guard lets only reading pass, and sessions; and bounds what comes back.
type guard struct{ next *http.Transport }

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	path := strings.TrimSuffix(req.URL.Path, "/")
	switch {
	case req.Method == http.MethodGet || req.Method == http.MethodHead:
	case req.Method == http.MethodPost && strings.HasSuffix(path, "/Sessions"):
	case req.Method == http.MethodDelete && strings.Contains(path, "/Sessions/"):
	default:
		return nil, errReadOnly
	}
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{resp.Body, maxAnswerBytes}
	return resp, nil
}

// CloseIdleConnections is looked for by http.Client.
func (g guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// bounded is a body that ends in an error when it gets too long.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
