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
	if err != nil || len(units) != 3 {
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
