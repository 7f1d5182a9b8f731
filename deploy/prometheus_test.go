package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestAlertsNameMetrics: every metric that an alert names is one that the collector has.
func TestAlertsNameMetrics(t *testing.T) {
	root := testenv.Root(t)
	rules, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "flopwatch-collector.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(filepath.Join(root, "cmd", "flopwatch-collector", "health.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`flopwatch_collector_(\w+)`).FindAllStringSubmatch(string(rules), -1)
	if len(names) < 7 || strings.Count(string(rules), "- alert:") != strings.Count(string(rules), "expr:") {
		t.Errorf("%d names of metrics", len(names))
	}
	for _, n := range names {
		if !strings.Contains(string(code), `"`+n[1]+`"`) {
			t.Errorf("no metric flopwatch_collector_%s", n[1])
		}
	}
}
