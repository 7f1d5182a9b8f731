package embedded

import (
	"encoding/xml"
	"errors"
	"io"
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

// FuzzTokens shows that no text makes the lexer fail, that tokens follow each other through it, and that a judgement does not hang on the white space between
// them: a tool that hides a call by blanks or comments hides nothing.
func FuzzTokens(f *testing.F) {
	for _, s := range []string{
		"SELECT file('x')", "SELECT file\u2003('x')", "SELECT `fil\\x65`/**/('x')", "a--b\n#!c\nd", "$a$ file( $a$", "INSERT INTO t FROM\u200bINFILE 'x'", "SELECT 1 SETTINGS a=1, dialect='x'", "CREATE TABLE t ENGINE=File(CSV)", "\xff\xfe$", "'\\x4", "/*/**/", "1.5e-3",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		toks := tokens(text)
		at := 0
		var spread strings.Builder
		for i, k := range toks {
			if k.start < at || k.end <= k.start || k.end > len(text) {
				t.Fatalf("token %d of %q: [%d, %d) after %d", i, text, k.start, k.end, at)
			}
			if k.kind == tokenBroken && i != len(toks)-1 {
				t.Fatalf("%q: a broken token is not the last", text)
			}
			at = k.end
			spread.WriteString(text[k.start:k.end] + "\n")
		}
		if n := len(toks); n > 0 && toks[n-1].kind == tokenBroken {
			return // it runs to the end of whatever follows
		}
		again := tokens(spread.String())
		if len(again) != len(toks) {
			t.Fatalf("%q: %d tokens, and %d when spread", text, len(toks), len(again))
		}
		for i := range again {
			if again[i].kind != toks[i].kind || again[i].value != toks[i].value {
				t.Fatalf("%q: token %d is %+v, and %+v when spread", text, i, toks[i], again[i])
			}
		}
		if strings.Contains(strings.ToLower(text), "infile") {
			return // judged by substring
		}
		for _, lax := range []bool{true, false} {
			if a, b := checkTokens(text, lax), checkTokens(spread.String(), lax); (a == nil) != (b == nil) {
				t.Fatalf("%q: %v, and %v when spread", text, a, b)
			}
		}
		_ = temporary(text)
	})
}

// FuzzRoles shows that no text makes the reader of roles fail otherwise than by an error, and that what it takes makes well-formed XML.
func FuzzRoles(f *testing.F) {
	f.Add("CREATE ROLE a;\nGRANT SELECT ON x.y TO a;\nCREATE SETTINGS PROFILE p SETTINGS b = 1 MIN 0 MAX 2, c = 'd' CONST TO a;")
	f.Add("CREATE USER v NOT IDENTIFIED; GRANT SELECT ON `<x>`.\"&\" TO v; ALTER TABLE a.b MODIFY SQL SECURITY DEFINER DEFINER = v")
	f.Fuzz(func(t *testing.T, text string) {
		roles, err := parseRoles(text)
		if err != nil {
			return
		}
		d := xml.NewDecoder(strings.NewReader(string(usersXML(defaultLimits(), roles, true))))
		for {
			if _, err = d.Token(); errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}
