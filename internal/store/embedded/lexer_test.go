package embedded

import (
	"slices"
	"strings"
	"testing"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"SELECT 1":                           {"SELECT", "1"},
		"a--b\nc":                            {"a", "c"},
		"a/*b*/c # d\ne #!f":                 {"a", "c", "e"},
		"`a\\x62`.\"c\"\"d\" 'e''f\\'g'":     {"ab", ".", "c\"d", "e'f'g"},
		"$x$ 'a' $x$ b":                      {" 'a' ", "b"},
		"f('--',/*')*/x)":                    {"f", "(", "--", ",", "x", ")"},
		"'open":                              {"open"},
		"a /* open":                          {"a", ""},
		"x\u00a0y\ufeffz":                    {"x", "y", "z"},
		"SELECT 'a' INTO OUTFILE -- '\n 'b'": {"SELECT", "a", "INTO", "OUTFILE", "b"},
	} {
		var got []string
		for _, k := range tokens(text) {
			got = append(got, k.value)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, head, format, data string
		insert, selects          bool
	}{
		{text: "SELECT 1 FORMAT CSV", head: "SELECT 1 FORMAT CSV", format: "CSV", selects: true},
		{text: "WITH 1 AS format SELECT format", head: "WITH 1 AS format SELECT format", selects: true},
		{text: "(SELECT 1) FORMAT Native;", head: "(SELECT 1) FORMAT Native;", format: "Native", selects: true},
		{text: "SHOW TABLES FORMAT TSV SETTINGS a = 1", head: "SHOW TABLES FORMAT TSV SETTINGS a = 1", format: "TSV"},
		{text: "INSERT INTO t FORMAT CSV\n1,2\n", head: "INSERT INTO t ", format: "CSV", data: "1,2\n", insert: true},
		{text: "INSERT INTO t FORMAT CSV \r\n\n1", head: "INSERT INTO t ", format: "CSV", data: "\n1", insert: true},
		{text: "INSERT INTO d.t (a, b) VALUES (1, ')')", head: "INSERT INTO d.t (a, b) ", format: "Values", data: " (1, ')')", insert: true},
		{text: "insert into values.format(a) settings x = 'VALUES' format values (1)", head: "insert into values.format(a) settings x = 'VALUES' ", format: "Values", data: " (1)", insert: true},
		{text: "INSERT INTO TABLE t (`FORMAT`, \"x)\") FORMAT Native", head: "INSERT INTO TABLE t (`FORMAT`, \"x)\") ", format: "Native", insert: true},
		{text: "INSERT INTO FUNCTION file('a') FORMAT CSV\n1", head: "INSERT INTO FUNCTION file('a') ", format: "CSV", data: "1", insert: true},
		{text: "INSERT INTO t", head: "INSERT INTO t", format: "Values", insert: true},
		{text: "INSERT INTO t SELECT 1 FORMAT CSV", head: "INSERT INTO t SELECT 1 FORMAT CSV"},
		{text: "INSERT INTO t (a) WITH 1 AS x SELECT x", head: "INSERT INTO t (a) WITH 1 AS x SELECT x"},
		{text: "INSERT INTO t (SELECT 1)", head: "INSERT INTO t (SELECT 1)"},
		{text: "/* INSERT */ CREATE TABLE t", head: "/* INSERT */ CREATE TABLE t"},
		{text: "", head: ""},
	} {
		st, more := split(c.text, true)
		data := ""
		if st.insert {
			data = c.text[st.dataAt:]
		}
		if more || st.text != c.head || st.format != c.format || st.insert != c.insert || data != c.data || st.selects != c.selects {
			t.Errorf("%q: %+v, data %q, more %v", c.text, st, data, more)
		}
	}
}

// FuzzSplit shows that a text is split the same way whether it comes at once or in pieces, and that what is not head is data.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"INSERT INTO t FORMAT CSV\n1", "INSERT INTO t (a) VALUES (1)", "SELECT 'a'", "insert into `a\\x62`.\"c\" settings x='y' format Native \x00\n\n", "INSERT/*", "$a$ $a$"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, text string, cut int) {
		whole, more := split(text, true)
		if more {
			t.Fatal("a text that is all there asks for more")
		}
		if whole.insert && (whole.dataAt > len(text) || !strings.HasPrefix(text, whole.text) || whole.dataAt < len(whole.text)) {
			t.Fatalf("head and data overlap: %+v", whole)
		}
		if cut < 0 || cut > len(text) {
			return
		}
		if part, wants := split(text[:cut], false); !wants && part != whole {
			t.Fatalf("the first %d bytes give %+v, all give %+v", cut, part, whole)
		}
		if err := checkTokens(text, true); err == nil && strings.Contains(strings.ToLower(text), "infile") && strings.Contains(strings.ToLower(text), "insert") {
			t.Fatal("FROM INFILE slipped through")
		}
	})
}
