package bmc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Target{Node: "n1", Address: "https://bmc1.example:8443/", CredentialsFile: credentialsFile(t, "user = \"reader\"\npassword = \"x\"\n")}
	if _, err := New(Config{Targets: []Target{good}}); err != nil {
		t.Errorf("a good target: %v", err)
	}
	open := credentialsFile(t, "reader\nx\n")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Target){
		"node is missing": func(t *Target) { t.Node = "" },
		"must be https://HOST[:PORT], or \"local\"":             func(t *Target) { t.Address = "http://bmc1" },
		"holds a user name: put it into credentials_file":       func(t *Target) { t.Address = "https://a:b@bmc1" },
		"must not have a path":                                  func(t *Target) { t.Address = "https://bmc1/redfish" },
		"credentials_file is missing: nothing is asked without": func(t *Target) { t.CredentialsFile = "" },
		"can be read by others (mode 644): chmod 600 it":        func(t *Target) { t.CredentialsFile = open },
		"no such file":       func(t *Target) { t.CredentialsFile = "/nowhere/at/all" },
		"is no regular file": func(t *Target) { t.CredentialsFile = os.TempDir() },
		"method \"snmp\" is not one of auto, redfish, dcmi": func(t *Target) { t.Method = "snmp" },
		"interval 1s is not within 10s and 1m0s":            func(t *Target) { t.Interval = time.Second },
		"interval 1h0m0s is not within":                     func(t *Target) { t.Interval = time.Hour },
		"fingerprint \"ab\" is not the SHA-256":             func(t *Target) { t.Fingerprint = "ab" },
		"insecure together with ca_file or fingerprint":     func(t *Target) { t.Insecure, t.Fingerprint = true, "ab" },
		"ca_file together with fingerprint":                 func(t *Target) { t.CAFile, t.Fingerprint = "x", "ab" },
		"read ca_file":                                      func(t *Target) { t.CAFile = "/nowhere/at/all" },
		"holds no certificate":                              func(t *Target) { t.CAFile = t.CredentialsFile },
		"ipmi_credentials_file is of method auto":           func(t *Target) { t.IPMICredentialsFile, t.Method = t.CredentialsFile, MethodDCMI },
		"has the password of credentials_file":              func(t *Target) { t.IPMICredentialsFile = t.CredentialsFile },
		"read credentials":                                  func(t *Target) { t.IPMICredentialsFile = "/nowhere/at/all" },
		"which speaks no Redfish":                           func(t *Target) { t.Address, t.Method = Local, MethodRedfish },
	} {
		target := good
		change(&target)
		_, err := New(Config{Targets: []Target{target}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := New(Config{Targets: []Target{good, good}}); err == nil || err.Error() != `bmc target "n1": named twice` {
		t.Errorf("twice: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no target was taken")
	}
	if _, err := New(Config{Targets: []Target{{Node: "n1", Address: Local}}}); err != nil {
		t.Errorf("local: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"reader\npass word \n":                    "reader|pass word ",
		"reader\r\nx\r\n":                         "reader|x",
		"# of the rack\nreader\n#hash\n\n":        "reader|#hash",
		"user = \"reader\"\npassword = \"a=b\"\n": "reader|a=b",
		"\n# c\npassword = 'x'\nuser = 'y'":       "y|x",
		"a=b\nc":                                  "a=b|c",
		"":                                        "is empty: it must hold user and password",
		"\n\n":                                    "is empty: it must hold user and password",
		"reader\n":                                "cred:2: password is missing",
		"reader\n\nx":                             "cred:2: password is missing",
		"# c\nreader\nx\ny\n":                     "cred:4: more than two lines",
		"user = \"reader\"\n":                     "cred: password is missing",
		"password = \"x\"\n":                      "cred: user is missing",
		"user = \"reader\"\npassword = sesame\n":  "cred:2: not TOML: want user = ",
		"user = 1\npassword = \"sesame\"\n":       "cred: user and password must be strings",
		"user = \"r\"\npassword = \"sesame\"\ntoken = \"sesame\"": "cred: unknown key token",
	} {
		c, err := parseCredentials("cred", []byte(text))
		got := c.user + "|" + c.password
		if err != nil {
			got = err.Error()
			if strings.Contains(got, "sesame") {
				t.Errorf("%q: the error holds the password: %s", text, got)
			}
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if _, err := readCredentials(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there")
	}
	big := credentialsFile(t, strings.Repeat("x", maxCredentialBytes+1))
	if _, err := readCredentials(big); err == nil || !strings.Contains(err.Error(), "it is no account") {
		t.Errorf("a large file: %v", err)
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte("user = \"a\"\npassword = \"b\"\n"))
	f.Add([]byte("a\nb\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCredentials("cred", b)
		if err == nil && (c.user == "" || c.password == "") {
			t.Errorf("%q gives %q", b, c)
		}
	})
}
