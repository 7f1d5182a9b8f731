package doctor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

func find(checks []Check, what string) Check {
	for _, c := range checks {
		if c.What == what {
			return c
		}
	}
	return Check{}
}

// TestLookAtNothing visits a directory on which nothing ever ran.
func TestLookAtNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	checks, err := Look(t.Context(), Options{Data: dir, Exe: filepath.Join(t.TempDir(), "flopwatch"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if c := find(checks, "up"); c.Status != Fail || !strings.Contains(c.Text, "has never run") || c.Remedy != "flopwatch up --data "+dir {
		t.Errorf("%+v", c)
	}
	if c := find(checks, "binaries"); c.Status != Fail || !strings.Contains(c.Text, "flopwatch-collector") {
		t.Errorf("%+v", c)
	}
	if c := find(checks, "engine"); c.Status != Fail {
		t.Errorf("%+v", c)
	}
	if !Failed(checks) {
		t.Error("all passed")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("doctor made the directory: %v", err)
	}
}

// TestLookAtAFolderOfOthers does not advise to shut what is not flopwatch's.
func TestLookAtAFolderOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	checks, err := Look(t.Context(), Options{Data: dir, Exe: "/nowhere/flopwatch", Now: time.Now})
	if c := find(checks, "data"); err != nil || c.What != "" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestRemedyOfAChild(t *testing.T) {
	t.Parallel()
	v := &visit{l: up.Layout{Root: "/data"}}
	hangs := supervise.Status{Name: "agent", PID: 7}
	hangs.State, hangs.Reasons = supervise.Failing, []string{up.NoAnswer + " within 3s"}
	unwell := supervise.Status{Name: "agent", PID: 7}
	unwell.State, unwell.Reasons = supervise.Degraded, []string{"no GPUs"}
	for _, c := range []struct {
		name   string
		child  supervise.Status
		status Status
		want   string
	}{
		{"well", unwell, OK, ""},
		{"hangs", hangs, Fail, "look at /data/log/agent.log; if it goes on, kill -9 7: flopwatch up starts it again"},
		{"unwell", unwell, Warn, "look at /data/log/agent.log"},
	} {
		if got := v.remedy(&c.child, c.status); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestLookAtACrash visits what a killed tree leaves: state that says it runs.
func TestLookAtACrash(t *testing.T) {
	t.Parallel()
	l := up.Layout{Root: t.TempDir()}
	for _, dir := range []string{l.Run(), filepath.Join(l.Agent(), "spool", "x", "quarantine")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	state, err := json.Marshal(up.State{PID: os.Getpid(), Data: l.Root, Source: up.Source{Kind: up.RealGPUs, Cluster: "c"}, UpdatedAt: time.UnixMilli(1_760_000_000_000)})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		l.State(): string(state), filepath.Join(l.Run(), "lock"): "12345\n",
		filepath.Join(l.Agent(), "spool", "x", "0001.seg"): "frames", filepath.Join(l.Agent(), "spool", "x", "quarantine", "0001-7.bad"): "?",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err = os.Chmod(l.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	checks, err := Look(t.Context(), Options{Data: l.Root, Exe: "/nowhere/flopwatch", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]Check{
		"up":    {Status: Fail, Text: "not running: it ended without a stop"},
		"data":  {Status: Warn, Text: "may be entered by other users"},
		"spool": {Status: Warn, Text: "1 B damaged"},
	} {
		if c := find(checks, what); c.Status != want.Status || !strings.Contains(c.Text, want.Text) || c.Remedy == "" {
			t.Errorf("%s: %+v; want %+v", what, c, want)
		}
	}
	if err = os.WriteFile(l.State(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	checks, err = Look(t.Context(), Options{Data: l.Root, Exe: "/nowhere/flopwatch", Now: time.Now})
	if c := find(checks, "up"); err != nil || c.Status != Fail || !strings.Contains(c.Text, l.State()) {
		t.Errorf("half a state: %+v, %v", c, err)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	checks := []Check{{"a", OK, "fine", "nothing"}, {"long name", Warn, "so\nso", "sleep"}, {"c", Fail, "bad", "run"}}
	if err := Print(&b, checks); err != nil {
		t.Fatal(err)
	}
	want := "ok    a          fine\nwarn  long name  so so\n                 -> sleep\nfail  c          bad\n                 -> run\n\n1 failed, 1 to look at\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Print(&b, checks[:1]); err != nil || !strings.HasSuffix(b.String(), "All is well\n") {
		t.Errorf("%v %q", err, b.String())
	}
	b.Reset()
	if err := PrintJSON(&b, checks[:1]); err != nil || b.String() != `{"what":"a","status":"ok","text":"fine","remedy":"nothing"}`+"\n" {
		t.Errorf("%v %q", err, b.String())
	}
}
