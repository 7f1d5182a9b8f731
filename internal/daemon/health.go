package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// State of a daemon as a whole.
type State string

// States of a daemon.
const (
	OK       State = "ok"
	Degraded State = "degraded" // it works, and sees or does less than it could
	Failing  State = "failing"  // it does not do its work
)

// Health says how a daemon is, and why it is not well.
type Health struct {
	State   State    `json:"state"`
	Reasons []string `json:"reasons"` // sentences; none if all is well
	// Details are numbers and words for people who look closer, by name.
	Details map[string]any `json:"details,omitempty"`
}

// Listen takes an address for Serve. In use is an error that names the address.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

// Serve answers on ln until ctx ends: /metrics in Prometheus' format, /healthz (200 as long
// as the process answers, the health as JSON), /readyz (503 while it is failing). It closes
// ln.
func Serve(ctx context.Context, ln net.Listener, metrics prometheus.Gatherer, health func() Health) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	answer := func(always bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			h := health()
			if h.Reasons == nil {
				h.Reasons = []string{}
			}
			body, err := json.Marshal(h)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if h.State == Failing && !always {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = w.Write(append(body, '\n')) // the client has gone
		}
	}
	mux.Handle("GET /healthz", answer(true))
	mux.Handle("GET /readyz", answer(false))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve returns ErrServerClosed
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	return nil
}
