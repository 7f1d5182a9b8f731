package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNATSUser(t *testing.T) {
	dir := t.TempDir()
	seed := filepath.Join(dir, "agent.nk")
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := newNATSUserCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return strings.TrimSpace(out.String()), err
	}
	key, err := run("key", "--seed", seed)
	if err != nil || !strings.HasPrefix(key, "U") || len(key) != 56 {
		t.Fatalf("%q, %v", key, err)
	}
	if again, err := run("key", "--seed", seed); err != nil || again != key {
		t.Errorf("another key the second time: %q, %v", again, err)
	}
	if st, err := os.Stat(seed); err != nil || st.Mode() != 0o600 {
		t.Errorf("seed: %v, %v", st.Mode(), err)
	}
	conf := filepath.Join(dir, "nats")
	out, err := run("add", "--dir", conf, "--role", "node", "--cluster", "c", "--node", "gpu-1", "--key", key)
	if err != nil || out != `inbox_prefix = "_INBOX.node.c.gpu-1"` {
		t.Errorf("%q, %v", out, err)
	}
	edge := func() string {
		text, err := os.ReadFile(filepath.Join(conf, "edge.conf"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	secret, err := os.ReadFile(seed)
	if err != nil {
		t.Fatal(err)
	}
	if text := edge(); !strings.Contains(text, key) || strings.Contains(text, strings.TrimSpace(string(secret))) {
		t.Errorf("edge.conf:\n%s", text)
	}
	for want, args := range map[string][]string{
		"needs its cluster":    {"add", "--dir", conf, "--role", "node", "--node", "x", "--key", key},
		"wanted one of":        {"add", "--dir", conf, "--role", "king", "--key", key},
		"not the public key":   {"add", "--dir", conf, "--role", "collector", "--key", "SUA"},
		"neither cluster nor":  {"add", "--dir", conf, "--role", "collector", "--cluster", "c", "--key", key},
		"has no name":          {"add", "--dir", conf, "--role", "detector", "--node", "n", "--key", key},
		"--seed is needed":     {"key"},
		"no such file":         {"remove", "--dir", conf, "--role", "node", "--cluster", "c", "--node", "gpu-2"},
		"takes no argument":    {"init", "x"},
		"unknown flag: --nose": {"init", "--nose"},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	if _, err := run("remove", "--dir", conf, "--role", "node", "--cluster", "c", "--node", "gpu-1"); err != nil {
		t.Error(err)
	}
	if text := edge(); strings.Contains(text, key) {
		t.Errorf("a removed user stays:\n%s", text)
	}
}
