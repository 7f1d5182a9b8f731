package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

var update = flag.Bool("update", false, "write the golden files")

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCommentedFile: the file that is shipped says what the defaults are, and has every key.
func TestCommentedFile(t *testing.T) {
	shipped, err := os.ReadFile(filepath.Join(testenv.Root(t), "deploy/config/flopwatch-agent.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if string(shipped) != defaultFile {
		t.Error("deploy/config/flopwatch-agent.toml is not cmd/flopwatch-agent/flopwatch-agent.toml: copy it")
	}
	cfg, _, err := loadConfig(write(t, defaultFile), "")
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Cluster = "main" // it has no default
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("the file says\n%+v\nthe program\n%+v", cfg, want)
	}
	var all map[string]any
	meta, err := toml.Decode(defaultFile, &all)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, prefix string) {
		for f := range typ.Fields() {
			key := prefix + f.Tag.Get("toml")
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, key+".")
				continue
			}
			if f.Type.Kind() == reflect.Slice { // tables that come any number of times: each of their keys is shown in a comment
				for inner := range f.Type.Elem().Fields() {
					if !strings.Contains(defaultFile, "#   [["+key+"]]") || !strings.Contains(defaultFile, inner.Tag.Get("toml")+" = ") {
						t.Errorf("the file does not show [[%s]] %s", key, inner.Tag.Get("toml"))
					}
				}
				continue
			}
			keys = append(keys, key)
		}
	}
	walk(reflect.TypeFor[config](), "")
	for _, k := range keys {
		if !meta.IsDefined(strings.Split(k, ".")...) {
			t.Errorf("the file lacks %s", k)
		}
	}
	// What is marked [live] there is live here: a table's mark holds for all its keys.
	var live []string
	table, marked := "", false
	for line := range strings.Lines(defaultFile) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			marked = marked || strings.Contains(line, "[live]")
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[]") + "."
			if marked {
				live = append(live, table)
			}
			marked = false
		case line == "":
			marked = false
		default:
			key := table + strings.TrimSpace(strings.SplitN(line, "=", 2)[0])
			if marked {
				live = append(live, key)
			}
			marked = false
		}
	}
	isLive := func(key string) bool {
		return slices.ContainsFunc(live, func(l string) bool { return l == key || strings.HasSuffix(l, ".") && strings.HasPrefix(key, l) })
	}
	other := reflect.New(reflect.TypeFor[config]()).Elem()
	var change func(reflect.Value)
	change = func(v reflect.Value) {
		for _, f := range v.Fields() {
			switch f.Kind() {
			case reflect.Struct:
				change(f)
			case reflect.String:
				f.SetString("changed")
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Float64:
				f.SetFloat(77)
			case reflect.Slice: // live as a whole, see below
			default:
				f.SetInt(77)
			}
		}
	}
	change(other)
	cold := frozen(config{}, other.Interface().(config))
	for _, k := range keys {
		if slices.Contains(cold, k) == isLive(k) {
			t.Errorf("%s: marked live %v, frozen %v", k, isLive(k), slices.Contains(cold, k))
		}
	}
}

// TestMistakes: what is said about them, as a golden file that a person can read.
func TestMistakes(t *testing.T) {
	var got strings.Builder
	for _, text := range []string{
		``,
		`cluster = ""`,
		`cluster = "two words"`,
		`clutser = "main"`,
		"cluster = \"main\"\n[gpu]\nlibery = \"/x\"",
		"cluster = \"main\"\n[gpus]\nenabled = true",
		"cluster = \"main\"\ncluster = \"x\"",
		`cluster = 7`,
		"cluster = \"main\"\ninterval = 1",
		"cluster = \"main\"\n[burst]\nevery = 600",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\ninterval = 15",
		"cluster = \"main\"\ninterval = \"50ms\"",
		"cluster = \"main\"\ninterval = \"2 minutes\"",
		"cluster = \"main\"\ninterval = \"500ms\"",
		"cluster = \"main\"\ninterval = \"1500ms500us\"",
		"cluster = \"main\"\nseal_every = \"500ms\"",
		"cluster = \"main\"\nseal_every = \"1h\"",
		"cluster = \"main\"\ndata_dir = \"data\"",
		"cluster = \"main\"\nsite_key_file = \"site.key\"",
		"cluster = \"main\"\n[gpu]\nprocess_interval = \"0s\"",
		"cluster = \"main\"\n[host]\nsysfs = \"\"",
		"cluster = \"main\"\n[spool]\nmax_bytes = 1000",
		"cluster = \"main\"\n[spool]\nmax_age = \"1s\"",
		"cluster = \"main\"\n[nats]\nurl = \"\"",
		"cluster = \"main\"\n[nats]\nurl = \"http://user:secret@h\"",
		"cluster = \"main\"\n[nats]\nurl = \"nats://a:4222, h\"",
		"cluster = \"main\"\n[nats]\ncreds_file = \"/a\"\ntoken_file = \"/b\"",
		"cluster = \"main\"\n[nats]\ncert_file = \"/a\"",
		"cluster = \"main\"\n[nats]\ninbox_prefix = \"_INBOX.>\"",
		"cluster = \"main\"\n[metrics]\nlisten = \"9469\"",
		"cluster = \"main\"\n[metrics]\nlisten = \"127.0.0.1:99999\"",
		"cluster = \"main\"\n[log]\nformat = \"xml\"",
		"cluster = \"main\"\n[log]\nlevel = \"loud\"",
		"cluster = \"main\"\n[burst]\nevery = \"30s\"",
		"cluster = \"main\"\n[burst]\nspacing = \"50ms\"",
		"cluster = \"main\"\n[gpu]\nslow_interval = \"1s\"",
		"cluster = \"main\"\n[gpu]\ndriver_share = nan",
		"cluster = \"main\"\n[job]\npodresources = \"kubelet.sock\"",
		"cluster = \"main\"\n[kernel]\nmax_load = 2.0",
		"cluster = \"main\"\n[kernel]\nargv = true",
		"cluster = \"main\"\n[spool]\nmin_free_bytes = -1",
		"cluster = \"main\"\n[nats]\nbacklog_rate = 1000",
		"cluster = \"main\"\n[[bmc.target]]\naddress = \"https://10.0.0.1\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"http://10.0.0.1\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://admin:secret@10.0.0.1\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\nmethod = \"snmp\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\ninterval = \"1s\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\nfingerprint = \"ab\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\npassword = \"secret\"",
		"cluster = \"main\"\n[bmc]\nconcurrency = 0",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1/redfish/v1\"\ncredentials_file = \"/c\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\ntimeout = \"5m\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\nipmi_port = 70000",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\nmethod = \"dcmi\"\nipmi_credentials_file = \"/d\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\ninsecure = true\nca_file = \"/ca\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"local\"\nmethod = \"redfish\"",
		"cluster = \"main\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://a\"\ncredentials_file = \"/c\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://b\"\ncredentials_file = \"/c\"",
	} {
		path := write(t, text)
		_, _, err := loadConfig(path, "")
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		fmt.Fprintf(&got, "%s\n  %s\n", strings.ReplaceAll(text, "\n", "; "), strings.ReplaceAll(err.Error(), path, "agent.toml"))
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("a secret is said: %v", err)
		}
	}
	golden := filepath.Join("testdata", "mistakes.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("run with -update and look at the change; got\n%s", got.String())
	}
	if _, _, err := loadConfig("/no/such/file", ""); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("got %v", err)
	}
}

func TestGoodFiles(t *testing.T) {
	for text, check := range map[string]func(config) bool{
		"cluster = \"c\"\ninterval = \"200ms\"\nseal_every = \"200ms\"\n[gpu]\nenabled = false": func(c config) bool { return c.SealEvery == 200*time.Millisecond },
		"cluster = \"c\"\n[nats]\nurl = \"nats://a:1, tls://b:2\"":                              func(c config) bool { return c.NATS.URL == "nats://a:1, tls://b:2" },
		"cluster = \"c\"\n[gpu]\nenabled = false":                                               func(c config) bool { return !c.Job.Enabled },
		"cluster = \"c\"\n[log]\nlevel = \"DEBUG\"":                                             func(c config) bool { return c.Log.Level == "DEBUG" },
		"cluster = \"c\"\nnode = \"h-1.example\"\nclear_names = true":                           func(c config) bool { return c.ClearNames && c.Node == "h-1.example" },
		"cluster = \"c\"\n[metrics]\nlisten = \"\"\ngpu = true":                                 func(c config) bool { return c.Metrics.Listen == "" && c.Metrics.GPU },
		"cluster = \"c\"\n[burst]\nevery = \"10m\"":                                             func(c config) bool { return c.Burst.Every == 10*time.Minute && c.Burst.Spacing == 200*time.Millisecond },
		"cluster = \"c\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"": func(c config) bool {
			return len(c.BMC.Targets) == 1 && c.BMC.Targets[0].Method == "auto" && c.BMC.Targets[0].Interval == 15*time.Second && c.BMC.Targets[0].Timeout == 10*time.Second && c.BMC.Targets[0].IPMIPort == 623
		},
		"cluster = \"c\"\n[[bmc.target]]\nnode = \"n\"\naddress = \"https://10.0.0.1\"\ncredentials_file = \"/c\"\nipmi_credentials_file = \"/d\"": func(c config) bool {
			return len(targets(c.BMC)) == 1 && targets(c.BMC)[0].IPMICredentialsFile == "/d"
		},
		"cluster = \"c\"\n[bmc]\nconcurrency = 16\n[[bmc.target]]\nnode = \"n\"\naddress = \"local\"": func(c config) bool {
			return c.BMC.Concurrency == 16 && c.BMC.Targets[0].Address == "local"
		},
		"cluster = \"c\"\n[spool]\nmax_bytes = 1048576\nmax_age=\"24h\"": func(c config) bool { return c.Spool.MaxAge == 24*time.Hour },
	} {
		cfg, _, err := loadConfig(write(t, text), "")
		if err != nil || !check(cfg) {
			t.Errorf("%q: %+v, %v", text, cfg, err)
		}
	}
}

func TestNodeByFlag(t *testing.T) {
	path := write(t, "cluster = \"c\"\nnode = \"a\"")
	if cfg, _, err := loadConfig(path, "b"); err != nil || cfg.Node != "b" {
		t.Errorf("node %q, %v", cfg.Node, err)
	}
	if _, _, err := loadConfig(path, "b c"); err == nil {
		t.Error("a bad name is taken")
	}
}

func TestFlags(t *testing.T) {
	var out, errs bytes.Buffer
	good := write(t, defaultFile)
	for _, c := range []struct {
		args []string
		out  func(string) bool
		err  string
	}{
		{[]string{"-version"}, func(s string) bool { return strings.Contains(s, "go1.") }, ""},
		{[]string{"-print-config"}, func(s string) bool { return s == defaultFile }, ""},
		{[]string{"-config", good, "-check"}, func(s string) bool { return len(strings.TrimSpace(s)) == 64 }, ""},
		{[]string{"-config", write(t, "x = 1"), "-check"}, func(s string) bool { return s == "" }, "unknown key x"},
		{nil, func(s string) bool { return s == "" }, "usage"},
		{[]string{"-config", good, "more"}, func(s string) bool { return s == "" }, "usage"},
		{[]string{"-confg", good}, func(s string) bool { return s == "" }, "confg"},
		{[]string{"doctor"}, func(s string) bool { return s == "" }, "-config FILE is needed"},
		{[]string{"doctor", "-config", good, "-seconds", "1"}, func(s string) bool { return s == "" }, "from 2 to 600"},
		{[]string{"doctor", "-config", good, "more"}, func(s string) bool { return s == "" }, `unexpected "more"`},
		{[]string{"doctor", "-h"}, func(s string) bool { return s == "" }, ""},
		{[]string{"-h"}, func(s string) bool { return s == "" }, ""},
	} {
		out.Reset()
		err := run(t.Context(), c.args, &out, &errs)
		if !c.out(out.String()) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, printed %q", c.args, err, out.String())
		}
	}
}
