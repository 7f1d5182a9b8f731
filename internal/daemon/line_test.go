package daemon

import (
	"flag"
	"io"
	"strings"
	"testing"
)

func TestParseLine(t *testing.T) {
	for _, c := range []struct {
		args  string
		want  Line
		done  bool
		print string // on stdout
		err   string // a part of it
	}{
		{"-config f", Line{Config: "f"}, false, "", ""},
		{"-config f -check -node n", Line{"f", true}, false, "", ""},
		{"-print-config", Line{}, true, "# all keys\n", ""},
		{"-version", Line{}, true, ReadBuild().String() + "\n", ""},
		{"-help", Line{}, true, "", ""},
		{"", Line{}, false, "", "usage: x -config FILE"},
		{"-config f g", Line{Config: "f"}, false, "", "usage: x -config FILE"},
		{"-confg f", Line{}, false, "", "-confg"},
	} {
		var out strings.Builder
		node := ""
		l, done, err := ParseLine("x", "-config FILE", "# all keys\n", strings.Fields(c.args), &out, io.Discard, func(f *flag.FlagSet) { f.StringVar(&node, "node", "", "") })
		if l != c.want || done != c.done || out.String() != c.print || (err == nil) != (c.err == "") || (node == "n") != strings.Contains(c.args, "-node") {
			t.Errorf("%q: %+v, %v, %q, %v", c.args, l, done, out.String(), err)
		}
		if err != nil && (exitCode(t.Context(), err) != ExitUsage || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
