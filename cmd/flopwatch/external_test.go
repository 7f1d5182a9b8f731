package main

import (
	"bufio"
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// clickhouse runs `flopwatch clickhouse` as a person would and gives its URL and the file
// with the password.
func clickhouse(t *testing.T, user string) (at, passwordFile string) {
	t.Helper()
	_, engine := binary(t)
	data := filepath.Join(t.TempDir(), "clickhouse")
	cmd, _, _ := command(context.WithoutCancel(t.Context()), t, nil, "clickhouse", "--data", data, "--listen", "127.0.0.1:0", "--lib", engine, "--user", user)
	cmd.Stderr = nil
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listen := regexp.MustCompile(`engine ready.* listen=(\S+)`)
	ready := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			if m := listen.FindStringSubmatch(s.Text()); m != nil {
				ready <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		if serr := cmd.Process.Signal(syscall.SIGTERM); serr != nil {
			t.Error(serr)
		}
		<-read
		if werr := cmd.Wait(); werr != nil {
			t.Errorf("flopwatch clickhouse: %v", werr)
		}
	})
	select {
	case addr := <-ready:
		return "http://" + addr, filepath.Join(data, "password")
	case <-read:
	case <-time.After(patience):
	}
	t.Fatal("flopwatch clickhouse said no address")
	return "", ""
}

// TestServersByName replays against servers that run already, and says what is wrong with
// what it was given to sign in.
func TestServersByName(t *testing.T) {
	t.Parallel()
	binary(t)
	at, passwordFile := clickhouse(t, "analyst")
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if werr := os.WriteFile(path, []byte(text), 0o600); werr != nil {
			t.Fatal(werr)
		}
		return path
	}
	fresh := func() (string, []string) { // a replay wants a broker of its own
		u, err := url.Parse(testenv.NATSServer(t, t.TempDir()).URL())
		if err != nil {
			t.Fatal(err)
		}
		token := file("token", u.User.Username()+"\n")
		u.User = nil
		return u.Host, []string{"--nats", u.String(), "--nats-token-file", token, "--clickhouse", at, "--clickhouse-user", "analyst", "--clickhouse-password-file", passwordFile}
	}
	dir := writeBundle(t, tinyFiles(), nil)
	want, _ := replayed(t, dir)
	usedHost, used := fresh()
	first, _ := replayed(t, dir, used...)
	same(t, first, want, "servers by name")
	_, again := fresh()
	second, _ := replayed(t, dir, again...) // other spools, the same rows
	same(t, second, want, "the same database again")
	host, servers := fresh()

	other := writeBundle(t, tinyFiles(), map[string]string{"manifest.json": strings.Replace(tinyFiles()["manifest.json"], `"cluster": "tiny"`, `"cluster": "other"`, 1)})
	free := freeAddress(t)
	for _, c := range []struct {
		name, dir string
		args      []string // that take the place of, or follow, the right ones
		code      int
		want      []string
	}{
		{"wrong password", dir, []string{"--clickhouse-password-file", file("wrong", "no\n")}, 1, []string{"sign in", "analyst", "--clickhouse-password-file"}},
		{"wrong user", dir, []string{"--clickhouse-user", "nobody"}, 1, []string{"sign in", "nobody", "--clickhouse-user"}},
		{"password file is missing", dir, []string{"--clickhouse-password-file", filepath.Join(t.TempDir(), "none")}, 1, []string{"--clickhouse-password-file", "none", "no such file"}},
		{"no clickhouse there", dir, []string{"--clickhouse", "http://" + free}, 1, []string{free, "connection refused"}},
		{"not a clickhouse URL", dir, []string{"--clickhouse", "localhost"}, 2, []string{"--clickhouse", "scheme", "http"}},
		{"password in the URL", dir, []string{"--clickhouse", "http://u:secret@" + free}, 2, []string{"--clickhouse", "password file"}},
		{"wrong token", dir, []string{"--nats-token-file", file("wrong", "no\n")}, 1, []string{host, "Authorization", "--nats-token-file"}},
		{"token file is missing", dir, []string{"--nats-token-file", filepath.Join(t.TempDir(), "none")}, 1, []string{"--nats-token-file", "no such file"}},
		{"credentials file is missing", dir, []string{"--nats-creds", filepath.Join(t.TempDir(), "none")}, 1, []string{"none", "no such file"}},
		{"nats in use", dir, used[:4], 1, []string{usedHost, "of its own"}},
		{"no nats there", dir, []string{"--nats", "nats://" + free}, 1, []string{free}},
		{"not a nats URL", dir, []string{"--nats", "somewhere"}, 2, []string{"--nats", "nats://HOST:PORT"}},
		{"bad database", dir, []string{"--database", "a b"}, 2, []string{"a b", "letters, digits"}},
		{"another cluster's database", other, nil, 1, []string{"another recording", "--database"}},
	} {
		args := append([]string{"replay", c.dir, "--out", filepath.Join(t.TempDir(), "answers")}, servers...)
		r := flopwatch(t, append(args, c.args...)...)
		if r.code != c.code {
			t.Errorf("%s: exit code %d, want %d: %s", c.name, r.code, c.code, r.stderr)
		}
		for _, part := range c.want {
			if !strings.Contains(r.stderr, part) {
				t.Errorf("%s: stderr lacks %q: %s", c.name, part, r.stderr)
			}
		}
		if strings.Contains(r.stderr, "secret") {
			t.Errorf("%s: stderr shows a password: %s", c.name, r.stderr)
		}
	}

	// A refusal stays one when it is repeated, and leaves nothing behind over which the next
	// try would trip.
	data := filepath.Join(t.TempDir(), "data")
	for try := range 2 {
		args := append([]string{"replay", dir, "--out", filepath.Join(t.TempDir(), "answers"), "--data", data}, used...)
		if r := flopwatch(t, args...); r.code != 1 || !strings.Contains(r.stderr, "of its own") {
			t.Errorf("nats in use, try %d: exit code %d: %s", try+1, r.code, r.stderr)
		}
	}
	replayed(t, other, append(slices.Clone(servers), "--database", "other")...)
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return addr
}
