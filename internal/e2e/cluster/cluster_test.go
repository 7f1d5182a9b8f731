package cluster_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/broker/natsd"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// natsVar makes the test binary a NATS server: the path of its configuration.
const natsVar = "FLOPWATCH_TEST_NATSD"

func TestMain(m *testing.M) {
	if conf := os.Getenv(natsVar); conf != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		s, err := natsd.StartFile(ctx, conf, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err == nil {
			<-ctx.Done()
			err = s.Stop(context.Background())
		}
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	clusterName = "c1"
	// partitions of hosts; the provider's is a ninth to share. Half of what a fleet has: each is a group of
	// three that elects, on a machine that has all servers.
	partitions = broker.ClusterPartitions / 2
	shortLease = 3 * time.Second
	// within is how long something may take on a machine that has other things to do.
	within = 90 * time.Second
)

// TestCluster: three NATS servers on the shipped configuration (TLS, nkeys, R3) and three
// collectors, all of them processes, under hosts that publish all the while. One of each is killed,
// one collector is stopped past its lease and goes on, the leader of a stream is killed, and two
// servers of three are away at once. At the end the store has what was taken, once.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes more than a minute")
	}
	s := newClusterSite(t)
	hosts := s.startHosts()
	s.until("partitions are shared", func() bool { return s.shared(3, 3, 3) })
	s.flows("at the start")

	// A collector is killed: the others take its partitions when their leases are over. Another comes.
	s.collectors[0].kill()
	s.until("two hold what three held", func() bool { return s.shared(5, 4) })
	s.flows("with two collectors")
	s.startCollector(0)

	// Before that one has its part, another stands still for longer than its leases live, in the midst of
	// its work: the new one takes its place.
	before := s.epochs()
	still := s.collectors[1]
	still.signal(syscall.SIGSTOP)
	s.until("the others have what it held", func() bool {
		moved := 0
		for stream, e := range s.epochs() {
			if e > before[stream] {
				moved++
			}
		}
		return moved >= 3 && s.shared(5, 4)
	})
	s.flows("without the one that stands still")
	moved := s.epochs()
	still.signal(syscall.SIGCONT)
	// What it held it holds no longer: three share, and of each stream that moved the position was written under a later epoch. That it
	// wrote nothing under its own shows at the end, by rows.
	s.until("three share again, the new one and the one that was away", func() bool { return s.shared(3, 3, 3) })
	for stream, e := range s.epochs() {
		if e < moved[stream] {
			t.Errorf("%s: taken under epoch %d, the position goes back to %d", stream, moved[stream], e)
		}
	}

	// The leader of the stream of a host is killed while the host publishes.
	leader := s.leader(broker.NodeStream(wire.Partition(hosts[0].name, partitions)))
	s.servers[leader].kill()
	s.flows("without one server")
	s.startServer(leader)
	s.whole()

	// Two of three are away: nothing is acknowledged, spools keep.
	s.servers[0].kill()
	s.servers[2].kill()
	s.until("nothing is acknowledged", func() bool {
		before := s.acked()
		pause(2 * time.Second)
		return s.acked() == before
	})
	if waits := s.waiting(); waits == 0 {
		t.Error("no frame waits in a spool")
	}
	s.startServer(0)
	s.startServer(2)
	s.whole()
	s.flows("with three servers again")

	taken := s.stopHosts()
	for table, want := range map[string]uint64{store.TableBatches: taken, store.TableHostSamples: taken * hostRows} {
		raw, distinct, err := s.st.Count(t.Context(), table)
		if err != nil || distinct != want || raw != want {
			t.Errorf("%s: %d distinct of %d rows, %d taken: %v", table, distinct, raw, want, err)
		}
	}
	if raw, _, err := s.st.Count(t.Context(), store.TableQuarantine); err != nil || raw != 0 {
		t.Errorf("%d messages in quarantine, %v", raw, err)
	}
	rows, err := s.st.BatchesAfter(t.Context(), clusterName, 0, 0)
	if err != nil || uint64(len(rows)) != taken {
		t.Errorf("%d batches listed, %d taken, %v", len(rows), taken, err)
	}
}

// hostRows are the rows of a batch.
const hostRows = 3

// process is a server or a collector.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *lines
	done chan struct{}
	url  string // of a collector's health
}

// lines keeps what a process says.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func startProcess(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, out: new(lines), done: make(chan struct{})}
	cmd.Stderr = p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text := p.out.String()
			t.Logf("%s:\n%s", name, text[max(0, len(text)-8000):])
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	<-p.done
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// clusterSite is the fleet's side.
type clusterSite struct {
	t          *testing.T
	dir        string
	ports      [3]int // of clients
	servers    [3]*process
	collectors [3]*process
	exe        string // of the collector
	storeURL   string
	user       string
	st         *store.Store
	js         jetstream.JetStream // of the collector's user
	hosts      []*clusterHost
	stop       context.CancelFunc // ends publishing
	publishing sync.WaitGroup
}

// clusterHosts is how many hosts publish.
const clusterHosts = 6

var collectorUser = nats.User{Role: nats.Collector}

func hostUser(i int) nats.User {
	return nats.User{Role: nats.Node, Cluster: clusterName, Name: fmt.Sprintf("host-%d", i)}
}

func newClusterSite(t *testing.T) *clusterSite {
	t.Helper()
	s := &clusterSite{t: t, dir: t.TempDir()}
	url, user, password := testenv.ClickHouse(t)
	s.storeURL, s.user = url, user
	s.write("password", password)
	var err error
	if s.st, err = store.Open(t.Context(), store.Config{URL: url, User: user, Password: password}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cerr := s.st.Close(); cerr != nil {
			t.Error(cerr)
		}
	})
	if err = s.st.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.exe = filepath.Join(s.dir, "flopwatch-collector")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.exe, "./cmd/flopwatch-collector")
	build.Dir = testenv.Root(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, berr := build.CombinedOutput(); berr != nil {
		t.Fatalf("build: %v\n%s", berr, out)
	}
	s.configure()
	for i := range s.servers {
		s.startServer(i)
	}
	js, err := jetstream.New(s.connect(collectorUser))
	if err != nil {
		t.Fatal(err)
	}
	s.js = js
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{Partitions: partitions, Replicas: 3, MaxBytes: 64 << 20, LeaseTTL: shortLease, Patience: within}); err != nil {
		t.Fatal(err)
	}
	for i := range s.collectors {
		s.startCollector(i)
	}
	return s
}

func (s *clusterSite) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// configure makes three directories as an operator does: flopwatch nats-user cluster, nats-user
// add, and in flopwatch.conf other ports and folders.
func (s *clusterSite) configure() {
	t := s.t
	t.Helper()
	ca, cert, key := s.certificates()
	var peers []string
	var ports [6]int
	for i := range ports {
		ports[i] = freePort(t)
	}
	for i := range s.servers {
		s.ports[i] = ports[i]
		peers = append(peers, fmt.Sprintf("127.0.0.1:%d", ports[3+i]))
	}
	for i := range s.servers {
		dir := s.serverDir(i)
		err := nats.InitCluster(dir, nats.Cluster{Server: fmt.Sprintf("nats-%d", i+1), Peers: peers, Listen: peers[i], CAFile: ca, CertFile: cert, KeyFile: key, Domain: ""})
		if err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(dir, "flopwatch.conf")
		text, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		edited := strings.NewReplacer(`"0.0.0.0:4222"`, fmt.Sprintf(`"127.0.0.1:%d"`, ports[i]), "/var/lib/nats/flopwatch", filepath.Join(dir, "js")).Replace(string(text))
		if err = os.WriteFile(conf, []byte(edited), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.add(collectorUser)
	for i := range clusterHosts {
		s.add(hostUser(i))
	}
}

func (s *clusterSite) serverDir(i int) string {
	return filepath.Join(s.dir, fmt.Sprintf("nats-%d", i+1))
}

// add puts a user in on every server.
func (s *clusterSite) add(u nats.User) {
	s.t.Helper()
	var err error
	if u.Key, err = nats.Key(s.seed(u)); err != nil {
		s.t.Fatal(err)
	}
	for i := range s.servers {
		if err = nats.Add(s.serverDir(i), u); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *clusterSite) seed(u nats.User) string {
	return filepath.Join(s.dir, strings.ReplaceAll(u.InboxPrefix(), ".", "-")+".nk")
}

func (s *clusterSite) url() string {
	var all []string
	for _, p := range s.ports {
		all = append(all, fmt.Sprintf("tls://127.0.0.1:%d", p))
	}
	return strings.Join(all, ",")
}

func (s *clusterSite) connect(u nats.User) *client.Conn {
	s.t.Helper()
	nc, err := broker.Connect(broker.ConnectConfig{URL: s.url(), Name: u.InboxPrefix(), NKeyFile: s.seed(u), InboxPrefix: u.InboxPrefix(), RootCAFile: filepath.Join(s.dir, "ca.crt"),
		Options: []client.Option{client.ReconnectWait(100 * time.Millisecond), client.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond)}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

func (s *clusterSite) startServer(i int) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), natsVar+"="+filepath.Join(s.serverDir(i), "cluster.conf"))
	s.servers[i] = startProcess(s.t, fmt.Sprintf("server %d", i+1), cmd)
	s.until("the server listens", func() bool {
		nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.ports[i]))
		return err == nil && nc.Close() == nil
	})
}

func (s *clusterSite) startCollector(i int) {
	s.t.Helper()
	port := freePort(s.t)
	conf := s.write(fmt.Sprintf("collector-%d.toml", i), fmt.Sprintf(`store_password_file = %q
migrate = false
linger = "100ms"
[nats]
url = %q
nkey_file = %q
inbox_prefix = %q
root_ca_file = %q
partitions = %d
replicas = 3
stream_max_bytes = %d
lease_ttl = %q
[store]
url = %q
user = %q
[metrics]
listen = "127.0.0.1:%d"
`, filepath.Join(s.dir, "password"), s.url(), s.seed(collectorUser), collectorUser.InboxPrefix(), filepath.Join(s.dir, "ca.crt"), partitions, 64<<20, shortLease, s.storeURL, s.user, port))
	s.collectors[i] = startProcess(s.t, fmt.Sprintf("collector %d", i+1), exec.Command(s.exe, "-config", conf))
	s.collectors[i].url = fmt.Sprintf("http://127.0.0.1:%d/healthz", port)
}

// shared reports whether the collectors that answer hold so many partitions, most first, and all of
// them together. Of one that was stopped and has not looked at its leases yet, nothing is asked.
func (s *clusterSite) shared(want ...int) bool {
	var got []int
	for _, c := range s.collectors {
		if n, ok := c.held(); ok {
			got = append(got, n)
		}
	}
	slices.Sort(got)
	slices.Reverse(got)
	return slices.Equal(got, want)
}

func (p *process) held() (n int, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return 0, false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Details struct {
			Held *int `json:"partitions_held"`
		} `json:"details"`
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(text, &answer) != nil || answer.Details.Held == nil {
		return 0, false
	}
	return *answer.Details.Held, true
}

// epochs are those under which the streams were taken last.
func (s *clusterSite) epochs() map[string]uint64 {
	s.t.Helper()
	kv, err := s.js.KeyValue(s.t.Context(), broker.BucketCursor)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]uint64{}
	for p := range partitions {
		e, err := kv.Get(s.t.Context(), broker.NodeStream(p))
		if err != nil {
			continue
		}
		var pos struct {
			Epoch uint64 `json:"epoch"`
		}
		if err := json.Unmarshal(e.Value(), &pos); err != nil {
			s.t.Fatal(err)
		}
		out[broker.NodeStream(p)] = pos.Epoch
	}
	return out
}

// leader is the server that leads a stream.
func (s *clusterSite) leader(stream string) int {
	s.t.Helper()
	info := s.info(stream)
	if info == nil || info.Cluster == nil {
		s.t.Fatalf("stream %s tells no cluster", stream)
	}
	for i := range s.servers {
		if info.Cluster.Leader == fmt.Sprintf("nats-%d", i+1) {
			return i
		}
	}
	s.t.Fatalf("stream %s is led by %q", stream, info.Cluster.Leader)
	return 0
}

func (s *clusterSite) info(stream string) *jetstream.StreamInfo {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return nil
	}
	return st.CachedInfo()
}

// whole waits until every stream has three copies that are up to date: then the next server may go.
func (s *clusterSite) whole() {
	s.t.Helper()
	names := []string{broker.ProviderStream, broker.CommitStream, "KV_" + broker.BucketLease, "KV_" + broker.BucketCursor}
	for p := range partitions {
		names = append(names, broker.NodeStream(p))
	}
	for _, name := range names {
		s.until(name+" is whole", func() bool {
			info := s.info(name)
			return info != nil && info.Cluster != nil && info.Cluster.Leader != "" && len(info.Cluster.Replicas) == 2 &&
				!slices.ContainsFunc(info.Cluster.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline })
		})
	}
}

// clusterHost is a spool and its ship, as an agent has them.
type clusterHost struct {
	name string
	sp   *spool.Spool
	ship *ship.Ship
}

// startHosts starts hosts that each make a few batches a second until stopHosts.
func (s *clusterSite) startHosts() []*clusterHost {
	t := s.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s.stop = cancel
	for i := range clusterHosts {
		u := hostUser(i)
		nc := s.connect(u)
		// As ship.JetStream, but for the ten seconds after which an ack is given up.
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<10), jetstream.WithPublishAsyncTimeout(3*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		sp, err := spool.Open(spool.Config{Dir: t.TempDir(), FS: durable.NoSync(durable.OS{})})
		if err != nil {
			t.Fatal(err)
		}
		h := &clusterHost{name: u.Name, sp: sp}
		if h.ship, err = ship.New(ship.Config{Conn: nc, JetStream: js, Spool: sp, Cluster: clusterName, Node: u.Name, BackoffMax: time.Second, AskAfter: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		s.hosts = append(s.hosts, h)
		shipping, end := context.WithCancel(context.WithoutCancel(t.Context()))
		ended := make(chan error, 1)
		go func() { ended <- h.ship.Run(shipping) }()
		t.Cleanup(func() {
			end()
			if err := errors.Join(<-ended, sp.Close()); err != nil {
				t.Error(err)
			}
		})
		s.publishing.Go(func() { // ends with stopHosts, or the test
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if err := h.take(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		s.publishing.Wait()
	})
	return s.hosts
}

// take makes a batch.
func (h *clusterHost) take() error {
	seq, now := h.sp.NextSequence(), time.Now().UnixMilli()
	rows := wire.NewBuilder(wire.KindHost, wire.SourceProcfs)
	for i := range int64(hostRows) {
		rows.Begin()
		rows.SetInt(1, now+i)
		rows.SetInt(10, 7_000_000)
		if err := rows.End(); err != nil {
			return err
		}
	}
	frame, err := wire.AppendBatch(nil, &wire.Batch{Cluster: clusterName, Node: h.name, Spool: h.sp.ID(), Sequence: seq, Ticks: seq, Tables: []wire.Table{*rows.Build()}})
	if err != nil {
		return err
	}
	return errors.Join(h.sp.Append(seq, frame), h.sp.Sync())
}

// stopHosts waits until all that was taken is committed, and says how many batches that is.
func (s *clusterSite) stopHosts() (taken uint64) {
	s.t.Helper()
	s.stop()
	s.publishing.Wait()
	for _, h := range s.hosts {
		ctx, cancel := context.WithTimeout(s.t.Context(), within)
		err := h.ship.Drain(ctx)
		cancel()
		if err != nil {
			s.t.Errorf("%v; %+v", err, h.ship.Stats())
		}
		taken += h.sp.NextSequence() - 1
	}
	return taken
}

func (s *clusterSite) acked() (n uint64) {
	for _, h := range s.hosts {
		n += h.ship.Stats().Acked
	}
	return n
}

// waiting counts frames that are taken and not acknowledged.
func (s *clusterSite) waiting() (n uint64) {
	for _, h := range s.hosts {
		n += h.sp.NextSequence() - 1 - h.sp.Acked()
	}
	return n
}

// flows waits until what every host has taken by now is stored.
func (s *clusterSite) flows(when string) {
	s.t.Helper()
	for _, h := range s.hosts {
		to := h.sp.NextSequence() - 1
		s.until(h.name+" is stored "+when, func() bool { return h.sp.Committed() >= to })
	}
}

func (s *clusterSite) until(what string, ok func() bool) {
	s.t.Helper()
	began := time.Now()
	for deadline := began.Add(within); !ok(); pause(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			var held []string
			for _, c := range s.collectors {
				if c != nil {
					n, answers := c.held()
					held = append(held, fmt.Sprintf("%d %v", n, answers))
				}
			}
			s.t.Fatalf("waited in vain for %s: %s; held %v", within, what, held)
		}
	}
	if d := time.Since(began); d > time.Second {
		s.t.Logf("%s after %s", what, d.Round(100*time.Millisecond))
	}
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

// certificates makes an authority and one certificate of it for all servers, which are one host's.
func (s *clusterSite) certificates() (ca, cert, key string) {
	t := s.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	must(err)
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // of routes it is both
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	serverDER, err := x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, authorityKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	must(err)
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return s.write("ca.crt", text("CERTIFICATE", authorityDER)), s.write("server.crt", text("CERTIFICATE", serverDER)), s.write("server.key", text("PRIVATE KEY", keyDER))
}
