package up

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

// probeTimeout bounds one question to a child.
const probeTimeout = 3 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// AskNATS reports whether a broker with JetStream answers at an address: it says so itself,
// to whoever connects.
func AskNATS(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("ask nats: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing was asked
	if deadline, ok := ctx.Deadline(); ok {
		if err = conn.SetReadDeadline(deadline); err != nil {
			return fmt.Errorf("ask nats: %w", err)
		}
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("ask nats: %w", err)
	}
	var info struct {
		JetStream bool `json:"jetstream"`
	}
	text, is := strings.CutPrefix(line, "INFO ")
	if err = json.Unmarshal([]byte(text), &info); !is || err != nil {
		return fmt.Errorf("ask nats: %s is no NATS", addr)
	}
	if !info.JetStream {
		return fmt.Errorf("ask nats: %s has no JetStream", addr)
	}
	return nil
}

// AskHTTP reports whether something answers at a URL with 200, and gives the answer's body.
func AskHTTP(ctx context.Context, url string) (body []byte, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, 0, fmt.Errorf("ask %s: %w", url, err)
	}
	res, err := probeClient.Do(req)
	if err != nil {
		return nil, 0, err //nolint:wrapcheck // it names the URL
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer)); err != nil {
		return nil, res.StatusCode, fmt.Errorf("read answer of %s: %w", url, err)
	}
	return body, res.StatusCode, nil
}

// probeClient keeps no connection: a child that was restarted is asked anew. It does not
// heed proxies: what is asked is on this machine.
var probeClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// AskHealth asks a daemon of ours at its base URL how it is.
func AskHealth(ctx context.Context, base string) (daemon.Health, error) {
	var h daemon.Health
	body, code, err := AskHTTP(ctx, base+"/readyz")
	if err != nil {
		return h, err
	}
	if err = json.Unmarshal(body, &h); err != nil || h.State == "" {
		return h, fmt.Errorf("ask %s: answer %d is no health", base, code)
	}
	return h, nil
}

// NoAnswer begins the reason of a child that cannot be asked how it is.
const NoAnswer = "it does not answer"

func reachable(err error) supervise.Report {
	if err == nil {
		return supervise.Report{State: supervise.Ready}
	}
	reason := NoAnswer + ": " + err.Error()
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		reason = NoAnswer + " within " + Plain(probeTimeout)
	}
	return supervise.Report{State: supervise.Failing, Reasons: []string{reason}}
}

// checkNATS, checkClickHouse and checkDaemon ask children.
func checkNATS(addr string) func(context.Context) supervise.Report {
	return func(ctx context.Context) supervise.Report { return reachable(AskNATS(ctx, addr)) }
}

func checkClickHouse(base string) func(context.Context) supervise.Report {
	return func(ctx context.Context) supervise.Report {
		_, code, err := AskHTTP(ctx, base+"/ping")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("ask %s/ping: answer %d", base, code)
		}
		return reachable(err)
	}
}

func checkDaemon(base string) func(context.Context) supervise.Report {
	return func(ctx context.Context) supervise.Report {
		h, err := AskHealth(ctx, base)
		if err != nil {
			return reachable(err)
		}
		r := supervise.Report{State: supervise.Ready, Reasons: h.Reasons, Details: h.Details}
		switch h.State {
		case daemon.OK:
		case daemon.Degraded:
			r.State = supervise.Degraded
		default:
			r.State = supervise.Failing
		}
		return r
	}
}
