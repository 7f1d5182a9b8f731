package fakebmc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// GPU is what a board's controller knows of one GPU at one moment.
type GPU struct {
	Tensor, SM, Occupancy, HMMA, IMMA, DMMA, FP64, FP32, FP16, Integer, Graphics, DRAM float64 // percent
	NVLinkTx, NVLinkRx, PCIeTx, PCIeRx                                                 float64 // Gbit/s
	Watts, Joules, Celsius, MHz                                                        float64
}

// Training is a scenario: all GPUs train, at 52 % tensor activity and 650 W.
func Training(gpu int, at time.Time) GPU {
	return GPU{
		Tensor: 52, SM: 92.5, Occupancy: 28, HMMA: 51.5, IMMA: 0, DMMA: 0, FP64: 0, FP32: 6.25, FP16: 1, Integer: 18, Graphics: 99, DRAM: 41,
		NVLinkTx: 1200, NVLinkRx: 1200, PCIeTx: 8, PCIeRx: 16, Watts: 650 + float64(gpu), Joules: 650 * float64(at.Unix()%1_000_000), Celsius: 61, MHz: 1755,
	}
}

// Faults are what can go wrong.
type Faults struct {
	Frozen    bool          // reports say the same time for ever
	OldBy     time.Duration // their time is this long ago
	NoTime    bool          // they carry no time
	StaleGPU  string        // the values of this GPU are marked stale
	GoneGPU   string        // this GPU is in no report
	NoReports []string      // these are not listed, and 404
	Broken    []string      // these answer 500
	NotNumber bool          // all values are "nan"
	Delay     time.Duration // before every answer
	Garbage   bool          // answers are no JSON
	Huge      bool          // reports never end
	Redirect  string        // everything is elsewhere
	NoPower   bool          // the node's power is not told
	NotRedfish,
	NoSessions bool // sessions answer 404: basic authentication alone
}

// Options of a controller. Zero values are those in brackets.
type Options struct {
	Address        string // to listen on [127.0.0.1:0]
	User, Password string // [admin, secret]
	Vendor         string // [supermicro]
	GPUs           int    // [8]
	Scenario       func(gpu int, at time.Time) GPU
	Now            func() time.Time
	Expired        bool   // its certificate is of last year
	Name           string // its certificate is for this name alone [for 127.0.0.1, ::1 and localhost]
}

// Server is a controller that runs.
type Server struct {
	opt      Options
	web      *http.Server
	listener net.Listener
	cert     []byte

	mu       sync.Mutex // guards below
	faults   Faults
	frozenAt time.Time
	sessions map[string]string // by id: token
	next     int
	logins   int
	logouts  int
	denied   int
	writes   []string
	asked    map[string]int
	now      int // requests
	most     int
}

// Start listens and serves.
func Start(opt Options) (*Server, error) {
	if opt.Address == "" {
		opt.Address = "127.0.0.1:0"
	}
	if opt.User == "" {
		opt.User, opt.Password = "admin", "secret"
	}
	if opt.Vendor == "" {
		opt.Vendor = "supermicro"
	}
	if opt.GPUs == 0 {
		opt.GPUs = 8
	}
	if opt.Scenario == nil {
		opt.Scenario = Training
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if _, ok := trees[opt.Vendor]; !ok {
		return nil, fmt.Errorf("start fake BMC: vendor %q is not known", opt.Vendor)
	}
	cert, raw, err := certificate(&opt)
	if err != nil {
		return nil, fmt.Errorf("start fake BMC: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", opt.Address)
	if err != nil {
		return nil, fmt.Errorf("start fake BMC: %w", err)
	}
	s := &Server{opt: opt, listener: l, cert: raw, sessions: map[string]string{}, asked: map[string]int{}}
	s.web = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() {
		// Close ends it; what a peer does is not this server's fault.
		_ = s.web.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	}()
	return s, nil
}

// Close ends the server and its connections.
func (s *Server) Close() error {
	if err := s.web.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close fake BMC: %w", err)
	}
	return nil
}

// URL is where the controller listens.
func (s *Server) URL() string { return "https://" + s.listener.Addr().String() }

// Fingerprint is the SHA-256 of the certificate, in hex.
func (s *Server) Fingerprint() string {
	sum := sha256.Sum256(s.cert)
	return hex.EncodeToString(sum[:])
}

// CertificatePEM is the certificate, which is its own authority.
func (s *Server) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert})
}

// Set changes what goes wrong.
func (s *Server) Set(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.frozenAt = f, s.opt.Now()
}

// Forget drops all sessions, as a controller does that restarts.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// Password changes the account.
func (s *Server) Password(p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opt.Password = p
}

// Counts is what the controller saw.
type Counts struct {
	Open, Logins, Logouts, Denied int
	Most                          int            // requests at once
	Writes                        []string       // methods and paths besides reading and sessions
	Asked                         map[string]int // by path
}

// Counts returns what the controller has seen so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Counts{Open: len(s.sessions), Logins: s.logins, Logouts: s.logouts, Denied: s.denied, Most: s.most, Writes: slices.Clone(s.writes), Asked: maps.Clone(s.asked)}
}

const (
	root     = "/redfish/v1"
	sessions = root + "/SessionService/Sessions"
)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f := s.faults
	path := strings.TrimSuffix(r.URL.Path, "/")
	s.asked[path]++
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-r.Context().Done():
			return
		case <-timer.C:
		}
	}
	switch {
	case f.NotRedfish:
		http.NotFound(w, r)
	case f.Redirect != "":
		w.Header().Set("Location", f.Redirect+path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case path == root && r.Method == http.MethodGet:
		s.answer(w, map[string]any{
			"@odata.id": root + "/", "Id": "RootService", "RedfishVersion": "1.17.0", "Vendor": s.opt.Vendor, "Systems": id(root + "/Systems"), "Chassis": id(root + "/Chassis"),
			"TelemetryService": id(root + "/TelemetryService"), "Links": map[string]any{"Sessions": id(sessions)},
		})
	case path == sessions && r.Method == http.MethodPost:
		s.login(w, r, f)
	case !s.known(r):
		s.mu.Lock()
		s.denied++
		s.mu.Unlock()
		refuse(w, http.StatusUnauthorized)
	case strings.HasPrefix(path, sessions+"/") && r.Method == http.MethodDelete:
		s.mu.Lock()
		delete(s.sessions, strings.TrimPrefix(path, sessions+"/"))
		s.logouts++
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case r.Method != http.MethodGet:
		s.mu.Lock()
		s.writes = append(s.writes, r.Method+" "+path)
		s.mu.Unlock()
		refuse(w, http.StatusForbidden)
	case f.Garbage:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"MetricValues": [{"MetricProperty": "/redfish`) // a peer that is gone is its own affair
	default:
		s.resource(w, path, f)
	}
}

func id(path string) map[string]any { return map[string]any{"@odata.id": path} }

func (s *Server) login(w http.ResponseWriter, r *http.Request, f Faults) {
	var body struct{ UserName, Password string }
	if f.NoSessions || json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&body) != nil {
		refuse(w, http.StatusNotFound)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if body.UserName != s.opt.User || body.Password != s.opt.Password {
		s.denied++
		refuse(w, http.StatusUnauthorized)
		return
	}
	s.next++
	s.logins++
	name, token := fmt.Sprint(s.next), rand.Text()
	s.sessions[name] = token
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", sessions+"/"+name)
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"Id":"`+name+`"}`) // see serve
}

func (s *Server) known(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if user, password, ok := r.BasicAuth(); ok {
		return user == s.opt.User && password == s.opt.Password
	}
	token := r.Header.Get("X-Auth-Token")
	for _, t := range s.sessions {
		if t == token {
			return true
		}
	}
	return false
}

func refuse(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, `{"error":{"code":"Base.1.12.GeneralError","message":"refused"}}`) // see serve
}

func (s *Server) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Date", s.opt.Now().UTC().Format(http.TimeFormat))
	_ = json.NewEncoder(w).Encode(v) // see serve
}

// certificate makes a key and a certificate of its own.
func certificate(opt *Options) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make key: %w", err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "fake BMC"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * 365 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if opt.Expired {
		t.NotBefore, t.NotAfter = now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0)
	}
	if opt.Name != "" {
		t.IPAddresses, t.DNSNames = nil, []string{opt.Name}
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, raw, nil
}
