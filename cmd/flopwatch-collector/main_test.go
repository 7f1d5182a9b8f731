package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "collector.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigIsStrict(t *testing.T) {
	const good = "[nats]\nurl = \"nats://h:4222\"\n[store]\nurl = \"http://h:8123\"\n"
	for name, c := range map[string]struct{ text, want string }{
		"good":       {good, ""},
		"linger":     {"linger = \"2s\"\n" + good, ""},
		"unknown":    {"lingre = \"2s\"\n" + good, "unknown key lingre"},
		"duplicate":  {good + "url = \"http://x\"\n", "has already been defined"},
		"no broker":  {"[store]\nurl = \"http://h:8123\"\n", "nats.url is missing"},
		"partitions": {"[nats]\nurl = \"nats://h\"\npartitions = 3\n[store]\nurl = \"http://h\"\n", "does not divide"},
		"store":      {"[nats]\nurl = \"nats://h\"\n[store]\nurl = \"ftp://h\"\n", "scheme"},
		"password":   {good + "password = \"x\"\n", "unknown key store.password"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			err := run(t.Context(), []string{"-config", write(t, c.text), "-check"}, &out, &errs)
			switch {
			case c.want == "" && (err != nil || len(strings.TrimSpace(out.String())) != 64):
				t.Errorf("%v, printed %q", err, out.String())
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// endingLog is a log that calls end when it takes a line with word.
type endingLog struct {
	bytes.Buffer
	word string
	end  func()
}

func (l *endingLog) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(l.word)) {
		l.end()
	}
	return l.Buffer.Write(line)
}

func TestRunStartsAndStops(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	_, natsURL := testenv.NATS(t)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := write(t, fmt.Sprintf("store_password_file = %q\nlinger = \"50ms\"\n[nats]\nurl = %q\npartitions = 1\n[store]\nurl = %q\nuser = %q\n", secret, natsURL, url, user))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	errs := endingLog{word: "collecting", end: func() { time.AfterFunc(500*time.Millisecond, cancel) }} // long enough to take a lease
	if err := run(ctx, []string{"-config", path}, &out, &errs); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	if !strings.Contains(errs.String(), "collecting") || !strings.Contains(errs.String(), "stopped") || strings.Contains(errs.String(), password) {
		t.Errorf("log:\n%s", errs.String())
	}
}
