package bmc

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Bounds and defaults.
const (
	defaultInterval    = 15 * time.Second
	minInterval        = 10 * time.Second
	maxInterval        = 60 * time.Second
	defaultTimeout     = 10 * time.Second
	defaultConcurrency = 4
	maxTargets         = 4096
	maxCredentialBytes = 4096
	ipmiPort           = 623
)

// Methods of asking.
const (
	MethodAuto    = "auto"    // redfish; where no Redfish answers dcmi, if it has an account of its own
	MethodRedfish = "redfish" // HTTPS alone
	MethodDCMI    = "dcmi"    // IPMI over the network, or /dev/ipmi0: the power of the node and nothing else
)

// Local is the Address of the host's own controller, asked through /dev/ipmi0 without
// credentials (method dcmi).
const Local = "local"

// Config of the instrument.
type Config struct {
	Targets []Target
	// Concurrency is how many controllers are asked at once; default 4.
	Concurrency int
	// Devices knows the GPUs of this host: those of a target that are the same get their
	// index. May be nil.
	Devices source.DeviceLister

	minInterval time.Duration // of tests
}

// Target is one management controller.
type Target struct {
	Node    string // the host that it manages, as it is named elsewhere
	Address string // https://HOST[:PORT]; "local": /dev/ipmi0
	// CredentialsFile holds the controller's account, which needs no more than to read: TOML
	// with user and password, or the two on a line each. Nobody but its owner may read it.
	CredentialsFile string
	// CAFile (PEM) or Fingerprint (SHA-256 of the controller's certificate, hex, colons or
	// not) says whom to trust; neither: the system's authorities.
	CAFile      string
	Fingerprint string
	// Insecure believes any certificate, and is told as degraded.
	Insecure bool
	Interval time.Duration // 10 s to 60 s; default 15 s
	Timeout  time.Duration // of one request; default 10 s
	Method   string        // auto (default), redfish, dcmi
	IPMIPort int           // default 623
	// IPMICredentialsFile holds an account for IPMI alone, in the form of CredentialsFile: method
	// auto asks by IPMI with no other, as IPMI lets anybody who takes the controller's address
	// collect material to guess the password. Method dcmi uses CredentialsFile.
	IPMICredentialsFile string
}

// credentials of a controller.
type credentials struct{ user, password string }

// complete checks a target and fills its defaults.
func (t Target) complete(least time.Duration) (Target, error) {
	fail := func(format string, args ...any) (Target, error) {
		return t, fmt.Errorf("bmc target %q: %w", t.Node, fmt.Errorf(format, args...))
	}
	if t.Node == "" {
		return t, fmt.Errorf("bmc target with address %q: node is missing: the name of the host that the controller manages", t.Address)
	}
	if t.Method == "" {
		t.Method = MethodAuto
	}
	if t.Interval == 0 {
		t.Interval = defaultInterval
	}
	if t.Timeout == 0 {
		t.Timeout = defaultTimeout
	}
	if t.IPMIPort == 0 {
		t.IPMIPort = ipmiPort
	}
	switch {
	case t.Method != MethodAuto && t.Method != MethodRedfish && t.Method != MethodDCMI:
		return fail("method %q is not one of auto, redfish, dcmi", t.Method)
	case t.Interval < least || t.Interval > maxInterval:
		return fail("interval %s is not within %s and %s", t.Interval, minInterval, maxInterval)
	case t.Timeout < 0 || t.Timeout > maxInterval:
		return fail("timeout %s is not within 0s and %s", t.Timeout, maxInterval)
	case t.IPMIPort < 1 || t.IPMIPort > 65535:
		return fail("ipmi port %d is no port", t.IPMIPort)
	}
	if t.IPMICredentialsFile != "" && (t.Method != MethodAuto || t.Address == Local) {
		return fail("ipmi_credentials_file is of method auto: dcmi uses credentials_file, redfish and \"local\" ask for none")
	}
	if t.Address == Local {
		if t.Method == MethodRedfish {
			return fail("address \"local\" is /dev/ipmi0, which speaks no Redfish: use method dcmi, or an https address")
		}
		t.Method = MethodDCMI
		return t, nil
	}
	u, err := url.Parse(t.Address)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return fail("address %q must be https://HOST[:PORT], or \"local\"", t.Address)
	case u.User != nil:
		return fail("the address holds a user name: put it into credentials_file")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return fail("address %q must not have a path", t.Address)
	case t.CredentialsFile == "":
		return fail("credentials_file is missing: nothing is asked without an account; a read-only one is enough")
	case t.Insecure && (t.CAFile != "" || t.Fingerprint != ""):
		return fail("insecure together with ca_file or fingerprint: leave one of them out")
	case t.CAFile != "" && t.Fingerprint != "":
		return fail("ca_file together with fingerprint: leave one of them out")
	}
	t.Address = "https://" + u.Host
	if _, err = t.tls(); err != nil {
		return fail("%w", err)
	}
	if _, err = readCredentials(t.CredentialsFile); err != nil {
		return fail("%w", err)
	}
	if t.byIPMI() {
		if _, err = t.ipmiAccount(); err != nil {
			return fail("%w", err)
		}
	}
	return t, nil
}

// byIPMI reports whether the target may be asked by IPMI.
func (t Target) byIPMI() bool { return t.Method == MethodDCMI || t.IPMICredentialsFile != "" }

// ipmiFile is where the account for IPMI is.
func (t Target) ipmiFile() string {
	if t.Method == MethodDCMI {
		return t.CredentialsFile
	}
	return t.IPMICredentialsFile
}

// ipmiAccount reads the account for IPMI. One that shares its password with Redfish's would give
// that away.
func (t Target) ipmiAccount() (credentials, error) {
	c, err := readCredentials(t.ipmiFile())
	if err != nil || t.Method == MethodDCMI {
		return c, err
	}
	other, err := readCredentials(t.CredentialsFile)
	if err != nil {
		return c, err
	}
	if c.password == other.password {
		return credentials{}, fmt.Errorf("ipmi_credentials_file %s has the password of credentials_file: IPMI gives away material to guess it, so it needs one of its own", t.IPMICredentialsFile)
	}
	return c, nil
}

// host is the target's name without a port.
func (t Target) host() string {
	u, err := url.Parse(t.Address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// tls says whom the target's connection believes.
func (t Target) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case t.Insecure:
		c.InsecureSkipVerify = true
	case t.CAFile != "":
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no certificate in PEM form", t.CAFile)
		}
	case t.Fingerprint != "":
		want, err := hex.DecodeString(strings.ReplaceAll(t.Fingerprint, ":", ""))
		if err != nil || len(want) != sha256.Size {
			return nil, fmt.Errorf("fingerprint %q is not the SHA-256 of a certificate: 64 hex digits (openssl x509 -noout -fingerprint -sha256)", t.Fingerprint)
		}
		// The name and the chain are not looked at: the certificate itself is known.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the controller shows no certificate")
			}
			if got := sha256.Sum256(s.PeerCertificates[0].Raw); !bytes.Equal(got[:], want) {
				return &pinError{got: hex.EncodeToString(got[:])}
			}
			return nil
		}
	}
	return c, nil
}

// pinError says that a controller showed another certificate than the pinned one.
type pinError struct{ got string }

func (e *pinError) Error() string {
	return "the controller shows another certificate than the pinned one; its SHA-256 is " + e.got
}

// readCredentials reads an account from a file that only its owner may read.
func readCredentials(path string) (c credentials, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, fmt.Errorf("read credentials: %w", err)
	}
	defer func() { _ = f.Close() }() // it was open for reading
	st, err := f.Stat()
	switch {
	case err != nil:
		return c, fmt.Errorf("read credentials: %w", err)
	case !st.Mode().IsRegular():
		return c, fmt.Errorf("credentials %s is no regular file", path)
	case st.Mode().Perm()&0o077 != 0:
		return c, fmt.Errorf("credentials %s can be read by others (mode %o): chmod 600 it", path, st.Mode().Perm())
	case st.Size() > maxCredentialBytes:
		return c, fmt.Errorf("credentials %s has %d bytes, more than %d: it is no account", path, st.Size(), maxCredentialBytes)
	}
	b := make([]byte, maxCredentialBytes)
	n, err := f.Read(b)
	if err != nil && n == 0 {
		return c, fmt.Errorf("credentials %s is empty: it must hold user and password", path)
	}
	return parseCredentials(path, b[:n])
}

// parseCredentials takes both forms: TOML if the first line that says something is a key.
func parseCredentials(path string, b []byte) (c credentials, err error) {
	var lines []string
	var at []int
	s := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; s.Scan(); n++ {
		line := strings.TrimRight(s.Text(), "\r")
		if len(lines) == 0 && (strings.TrimSpace(line) == "" || strings.HasPrefix(strings.TrimSpace(line), "#")) {
			continue
		}
		lines, at = append(lines, line), append(at, n)
	}
	if len(lines) == 0 {
		return c, fmt.Errorf("credentials %s is empty: it must hold user and password", path)
	}
	if key, _, ok := strings.Cut(lines[0], "="); ok && (strings.TrimSpace(key) == "user" || strings.TrimSpace(key) == "password") {
		var doc struct {
			User     string `toml:"user"`
			Password string `toml:"password"`
		}
		meta, derr := toml.Decode(string(b), &doc)
		var perr toml.ParseError
		switch {
		case errors.As(derr, &perr):
			return c, fmt.Errorf("credentials %s:%d: not TOML: want user = \"...\" and password = \"...\"", path, perr.Position.Line) // the parser's own words may quote the password
		case derr != nil:
			return c, fmt.Errorf("credentials %s: user and password must be strings", path)
		case len(meta.Undecoded()) > 0:
			return c, fmt.Errorf("credentials %s: unknown key %s: only user and password", path, meta.Undecoded()[0])
		case doc.User == "":
			return c, fmt.Errorf("credentials %s: user is missing", path)
		case doc.Password == "":
			return c, fmt.Errorf("credentials %s: password is missing", path)
		}
		return credentials{doc.User, doc.Password}, nil
	}
	for len(lines) > 1 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	switch {
	case strings.TrimSpace(lines[0]) == "":
		return c, fmt.Errorf("credentials %s:%d: user is missing", path, at[0])
	case len(lines) < 2 || lines[1] == "":
		return c, fmt.Errorf("credentials %s:%d: password is missing: it belongs on the line after the user", path, at[0]+1)
	case len(lines) > 2:
		return c, fmt.Errorf("credentials %s:%d: more than two lines: user on the first, password on the second", path, at[2])
	}
	return credentials{strings.TrimSpace(lines[0]), lines[1]}, nil
}
