package deploy_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// dcgm-exporter's unit runs as root without a sandbox and appends its log to a file that nobody
// turns. Ours have a user of their own and log to the journal, which is bounded.
func TestUnitsLogToTheJournal(t *testing.T) {
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) != 4 {
		t.Fatalf("units %v: %v", units, err)
	}
	more, err := filepath.Glob("systemd/*.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(units, more...) {
		text := read(t, file)
		if found := regexp.MustCompile(`(?m)^(Standard(Output|Error)=|User=root|User=0|DynamicUser=no|PermissionsStartOnly=|ExecStart=[+!]).*`).FindString(text); found != "" {
			t.Errorf("%s has %s", file, found)
		}
		if strings.HasSuffix(file, ".service") {
			for _, want := range []string{`User=flopwatch-\w+`, `NoNewPrivileges=yes`, `ProtectSystem=strict`, `MemoryMax=\d+[MG]`, `CPUQuota=\d+%`} {
				if !strings.HasSuffix(file, "flopwatch-agent.service") && strings.HasPrefix(want, "CPUQuota") {
					continue // a host's customers come first; these have hosts of their own
				}
				if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(text) {
					t.Errorf("%s has no %s", file, want)
				}
			}
		}
	}
}

// gpud and others listen on every address of the host. A pod's agent has to be reached by the
// kubelet, so it listens beyond the loopback, but in the pod's own network: no port of the host's
// is taken, nothing leads to it from outside of the cluster, and by the shipped configuration the
// page has neither GPUs nor names of whom they are given to.
func TestPodListensInItsOwnNetwork(t *testing.T) {
	for _, file := range manifests {
		all := objects(t, file)
		if _, ok := all["Service"]; ok {
			t.Errorf("%s publishes a port", file)
		}
		set := all["DaemonSet"]
		if set == nil {
			continue
		}
		if on := get(set, "spec", "template", "spec", "hostNetwork"); on != nil && on != false {
			t.Errorf("%s: the host's network: %v", file, on)
		}
		ports, _ := get(set, "spec", "template", "spec", "containers", 0, "ports").([]any)
		if len(ports) != 1 {
			t.Errorf("%s: ports %v", file, ports)
		}
		for i := range ports {
			if port := get(set, "spec", "template", "spec", "containers", 0, "ports", i, "hostPort"); port != nil {
				t.Errorf("%s: takes the host's port %v", file, port)
			}
		}
	}
	text, _ := get(objects(t, manifests[0])["ConfigMap"], "data", "flopwatch-agent.toml").(string)
	metrics := regexp.MustCompile(`(?ms)^\[metrics\]$(.*?)(^\[|\z)`).FindString(text)
	if !strings.Contains(metrics, "listen = ") || regexp.MustCompile(`(?m)^(gpu|owners)\b`).MatchString(metrics) {
		t.Errorf("the page:\n%s", metrics)
	}
}
