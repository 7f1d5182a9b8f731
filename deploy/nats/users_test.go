package nats_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/durable"
)

var update = flag.Bool("update", false, "write golden files")

// someKey is the public half of a key that nobody has.
const someKey = "UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX"

// What each role may do, for a person to read.
func TestStanzas(t *testing.T) {
	var all strings.Builder
	for _, u := range []nats.User{
		nodeUser("gpu-1"), nodeUser("name that is no token\n}"), {Role: nats.Provider, Cluster: cluster}, {Role: nats.Collector}, {Role: nats.Detector}, {Role: nats.Detector, Cluster: cluster}, {Role: nats.Operator},
	} {
		u.Key = someKey
		text, err := u.Stanza()
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(text)
	}
	golden := filepath.Join("testdata", "users.golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if all.String() != string(want) {
		t.Errorf("got:\n%s", all.String())
	}
}

func TestFilesOfUsers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nats")
	conf := filepath.Join(dir, "flopwatch.conf")
	if err := nats.Init(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u := nodeUser("n")
	u.Key = someKey
	for range 2 { // twice is once
		if err := nats.Add(dir, u); err != nil {
			t.Fatal(err)
		}
	}
	edge, err := os.ReadFile(filepath.Join(dir, "edge.conf"))
	if err != nil || strings.Count(string(edge), someKey) != 1 {
		t.Errorf("%v:\n%s", err, edge)
	}
	if text, err := os.ReadFile(conf); err != nil || string(text) != "# mine\n" {
		t.Errorf("the operator's file is %q, %v", text, err)
	}
	// A server with a key twice does not start, so one is refused before it gets there.
	other := nodeUser("m")
	other.Key = someKey
	if err = nats.Add(dir, other); !errors.Is(err, nats.ErrKeyTaken) || !strings.Contains(err.Error(), "node.c1.n") {
		t.Errorf("the key of another user: %v", err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "edge.conf")); err != nil || string(again) != string(edge) {
		t.Errorf("%v:\n%s", err, again)
	}
	lock, err := durable.OS{}.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := nats.Remove(dir, u); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("two at once: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{conf, filepath.Join(dir, "edge.conf"), filepath.Join(dir, "fleet.conf")} {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o644 {
			t.Errorf("the server's user cannot read %s: %v, %v", f, st.Mode(), err)
		}
	}
}

// A seed where a public key belongs is a mistake that a terminal's log should not keep.
func TestSeedIsNotSaidAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.nk")
	if _, err := nats.Key(file); err != nil {
		t.Fatal(err)
	}
	seed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	u := nodeUser("n")
	u.Key = strings.TrimSpace(string(seed))
	if err = nats.Add(t.TempDir(), u); err == nil || strings.Contains(err.Error(), u.Key) {
		t.Errorf("a seed for a key: %v", err)
	}
}

func TestSeedsOfOthersAreRefused(t *testing.T) {
	seed := filepath.Join(t.TempDir(), "x.nk")
	for _, text := range []string{"", "nonsense", "SAAIDUTBCXG2UHRUHSVOVYOOPI3XHKMGZDHQYXNPKQRUYIFXH5DPGRDHE4"} {
		if err := os.WriteFile(seed, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := nats.Key(seed); err == nil || key != "" {
			t.Errorf("%q gives %q", text, key)
		}
		if got, err := os.ReadFile(seed); err != nil || string(got) != text {
			t.Errorf("a file that is there was replaced: %q, %v", got, err)
		}
	}
}
