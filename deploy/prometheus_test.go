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
	code := ""
	for _, name := range []string{"health.go", "chains.go"} {
		text, rerr := os.ReadFile(filepath.Join(root, "cmd", "flopwatch-collector", name))
		if rerr != nil {
			t.Fatal(rerr)
		}
		code += string(text)
	}
	names := regexp.MustCompile(`flopwatch_(?:collector|chain)_(\w+)`).FindAllStringSubmatch(string(rules), -1)
	if len(names) < 12 || strings.Count(string(rules), "- alert:") != strings.Count(string(rules), "expr:") {
		t.Errorf("%d names of metrics", len(names))
	}
	for _, n := range names {
		if !strings.Contains(code, `"`+n[1]+`"`) && !strings.Contains(code, `"`+n[0]+`"`) {
			t.Errorf("no metric %s", n[0])
		}
	}
}
