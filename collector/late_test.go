package collector_test

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/store"
)

// gate is a proxy before the store that keeps one insert back.
type gate struct {
	table   string
	proxy   http.Handler
	once    sync.Once
	caught  chan struct{} // closed with the insert
	release chan struct{} // closed to let it go on
	through chan struct{} // closed when the store has answered it, with code
	code    int
}

func newGate(t *testing.T, target, table string) *gate {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return &gate{table: table, proxy: quietProxy(u), caught: make(chan struct{}), release: make(chan struct{}), through: make(chan struct{})}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first := false
	if strings.HasPrefix(r.URL.Query().Get("query"), "INSERT INTO") && strings.Contains(r.URL.Query().Get("query"), "`"+g.table+"`") {
		g.once.Do(func() { first = true })
	}
	if !first {
		g.proxy.ServeHTTP(w, r)
		return
	}
	close(g.caught)
	<-g.release
	answer := httptest.NewRecorder() // the store's, whether the one who asked still waits for it or not
	g.proxy.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
	g.code = answer.Code
	close(g.through)
	w.WriteHeader(answer.Code)
}

// TestLateInsert: a collector stands still while an insert of its is under way; another takes over
// and repeats the range; then the insert arrives, and then the collector goes on. What it may still
// say (that insert, its next intent, its acks and marks) changes nothing.
func TestLateInsert(t *testing.T) {
	t.Parallel()
	for _, table := range []string{store.TableGPUSamples, store.TableBatches} {
		t.Run(table, func(t *testing.T) {
			b, engine, cfg := newOwnEngine(t, "late")
			g := newGate(t, engine.URL(), table)
			front := &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
			ln := listen(t)
			go func() { _ = front.Serve(ln) }() // ends with Close
			t.Cleanup(func() { _ = front.Close() })
			cfg.URL = "http://" + ln.Addr().String()

			publish := func(from, to uint64) {
				for q := from; q <= to; q++ {
					w, frame := newFrame(t, 0, q, nil)
					b.publish(t, w, frame)
				}
			}
			publish(1, 12)
			first := childCommand(t, cfg)
			said := watch(t, first)
			if err := first.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = first.Process.Kill()
				_ = first.Wait()
			})
			<-g.caught
			if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			was := positionOf(t, b.js)
			second := b.collector(t, "second", nil)
			start(t, second)
			idle(t, second)
			wantRows(t, b.store, 12)
			close(g.release) // the store has the insert under the lost epoch, after all of the other's
			<-g.through
			if g.code != http.StatusOK {
				t.Errorf("the store answers the late insert with %d", g.code)
			}
			wantRows(t, b.store, 12)
			if err := first.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			publish(13, 20)
			idle(t, second)
			said("lease lost")
			wantRows(t, b.store, 20)
			now := positionOf(t, b.js)
			if now.Epoch <= was.Epoch || now.Done != 20 || was.From == 0 {
				t.Errorf("position %+v, then %+v", was, now)
			}
			raw, distinct, err := b.store.Count(t.Context(), store.TableBatches)
			if err != nil || raw != 20 || distinct != 20 {
				t.Errorf("batches: %d rows, %d distinct, %v", raw, distinct, err)
			}
		})
	}
}

type positionText struct{ Done, From, To, Epoch uint64 }

func positionOf(t *testing.T, js jetstream.JetStream) (p positionText) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), broker.BucketCursor)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), broker.NodeStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err = json.Unmarshal(e.Value(), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// watch keeps what a process will say; the answer waits for a text in it.
func watch(t *testing.T, cmd *exec.Cmd) (said func(text string)) {
	t.Helper()
	var mu sync.Mutex
	var all strings.Builder
	cmd.Stderr = writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return all.Write(p)
	})
	return func(text string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
			mu.Lock()
			ok := strings.Contains(all.String(), text)
			mu.Unlock()
			if ok {
				return
			}
		}
		mu.Lock()
		defer mu.Unlock()
		t.Errorf("it never said %q:\n%s", text, all.String())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// quietProxy passes on, and says nothing of who hangs up.
func quietProxy(u *url.URL) http.Handler {
	p := httputil.NewSingleHostReverseProxy(u)
	p.ErrorLog = log.New(io.Discard, "", 0)
	return p
}

// TestMoveToAnotherBroker: hosts move to another broker while batches are under way. Collectors of
// both write into one store; what was sent to both is there once.
func TestMoveToAnotherBroker(t *testing.T) {
	t.Parallel()
	was := newBench(t)
	is := newBroker(t)
	is.store = was.store
	send := func(b *bench, from, to uint64) {
		for q := from; q <= to; q++ {
			w, frame := newFrame(t, 0, q, nil)
			b.publish(t, w, frame)
		}
	}
	send(was, 1, 10)
	first := was.collector(t, "first", nil)
	start(t, first)
	send(is, 6, 20) // 6 to 10 had no commit mark yet
	second := is.collector(t, "second", nil)
	start(t, second)
	idle(t, first)
	idle(t, second)
	send(is, 1, 3) // sent again, long after
	idle(t, second)
	for table, per := range rowsOf {
		_, distinct, err := was.store.Count(t.Context(), table)
		if err != nil || distinct != 20*per {
			t.Errorf("%s: %d distinct, want %d, %v", table, distinct, 20*per, err)
		}
	}
	rows, err := was.store.BatchesAfter(t.Context(), cluster, 0, 0)
	if err != nil || len(rows) != 20 {
		t.Errorf("%d batches listed, %v", len(rows), err)
	}
}
