package embedded

import (
	"regexp"
	"slices"
	"strings"
)

// formatName is what may stand after FORMAT.
var formatName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

// fileCall finds a call of a scalar function that reads files of the host in the text of a string, where a table function would evaluate it as a default expression.
var fileCall = regexp.MustCompile(`(?i)\b(file|catboostEvaluate)\b\W{0,8}\(`)

// engines of tables and databases that keep what they have in the data directory, or in no place.
var engines = []string{
	"MergeTree", "ReplacingMergeTree", "AggregatingMergeTree", "SummingMergeTree", "CollapsingMergeTree", "VersionedCollapsingMergeTree", "CoalescingMergeTree",
	"Memory", "Null", "View", "MaterializedView", "Merge", "Log", "TinyLog", "StripeLog", "Set", "Join", "Buffer", "Atomic",
}

// guard judges statements before they run. The engine accepts several statements in a text, statements that stop it, and clauses by which it
// reads and writes files as this process; its own parser (classify) says what a statement is, so that the guard and the engine cannot disagree on syntax.
// A second layer are the grants of users.xml, a third the Landlock rules of the process (see sandbox.go).
type guard struct {
	s        *session
	confined bool // the process is under Landlock
	admin    bool // may read whatever the process may
}

// check refuses st or returns its class.
func (g guard) check(st statement) (statementClass, error) {
	text := st.text
	if st.insert {
		if !formatName.MatchString(st.format) {
			return classUnknown, refuse(codeUnknownFormat, "UNKNOWN_FORMAT", "Unknown format %q", st.format)
		}
		// The engine's parser wants to see the clause; the statement that runs is the same head with the same format.
		text += "\nFORMAT " + st.format
	}
	a, err := g.s.classify(text)
	if err != nil {
		return classUnknown, err
	}
	switch {
	case a.class == classUnknown || a.statements == 0:
		return a.class, g.syntaxError(text)
	case a.statements != 1:
		return a.class, refuse(codeSyntax, "SYNTAX_ERROR", "Multi-statements are not allowed")
	case a.class == classControl && temporary(text):
		a.class = classMutating // held to the session, which is to be kept or ends with the request
	case a.class == classControl:
		return a.class, refuse(codeAccessDenied, "ACCESS_DENIED",
			"The embedded engine does not take session, file, backup and SYSTEM statements (SET ROLE, ATTACH, DETACH, BACKUP, INTO OUTFILE, INSERT INTO FUNCTION, ...) over HTTP: `flopwatch clickhouse backup` and restore, SETTINGS and URL parameters do what is wanted of them")
	}
	if a.class == classMutatingGlobal {
		return a.class, refuse(codeAccessDenied, "ACCESS_DENIED",
			"The embedded engine has no users, roles, functions and named collections of SQL's making, and its system tables are not to be changed")
	}
	lax := g.confined && g.admin
	if err = checkTokens(text, lax); err != nil || lax {
		return a.class, err
	}
	// The statement as the engine's own parser reads it, so that nothing can be hidden from the lexer.
	r, err := g.s.exec("SELECT formatQuery({query:String})", "TabSeparatedRaw", []param{{"query", escapeParam(text)}})
	defer r.destroy()
	if err != nil {
		return a.class, err
	}
	return a.class, checkTokens(string(r.data()), lax)
}

// temporary says whether a statement makes or drops a temporary table.
func temporary(text string) bool {
	ts := tokens(text)
	return words(ts, "CREATE", "TEMPORARY", "TABLE") || words(ts, "DROP", "TEMPORARY", "TABLE") || words(ts, "CREATE", "OR", "REPLACE", "TEMPORARY", "TABLE")
}

// syntaxError asks the engine's parser what is wrong with text, without running it.
func (g guard) syntaxError(text string) error {
	if strings.TrimSpace(text) == "" {
		return refuse(codeSyntax, "SYNTAX_ERROR", "Empty query")
	}
	r, err := g.s.exec("SELECT formatQuery({query:String})", "Null", []param{{"query", escapeParam(text)}})
	r.destroy()
	if err != nil {
		return err
	}
	return refuse(codeSyntax, "SYNTAX_ERROR", "The statement does not parse")
}

// checkTokens refuses what the classes do not cover: files read by INSERT ... FROM INFILE and by scalar functions, engines and disks that reach outside, and frozen
// settings in a subquery, which the engine does not check. All but an administrator of a confined process also lose the table functions that take column definitions as a string, since the string can be put together so that no check of the text sees a call in it.
func checkTokens(text string, lax bool) error {
	lower := strings.ToLower(text)
	if strings.Contains(lower, "infile") && strings.Contains(lower, "insert") {
		// By substring, so that no trick of quoting can hide it; a false alarm costs a renamed alias.
		return refuse(codeAccessDenied, "ACCESS_DENIED", "INSERT ... FROM INFILE is not allowed (nor the word in an INSERT)")
	}
	toks := tokens(text)
	settings := false
	made := len(toks) > 0 && (toks[0].is("CREATE") || toks[0].is("ATTACH") || toks[0].is("REPLACE"))
	for i, t := range toks {
		settings = settings || t.is("SETTINGS") || t.is("SETTING")
		name, named := t.name()
		next := i+1 < len(toks) && toks[i+1].punct('(')
		applied := i > 0 && (toks[i-1].is("APPLY") || toks[i-1].punct('(') && i > 1 && toks[i-2].is("APPLY"))
		source := i > 0 && (toks[i-1].is("FROM") || toks[i-1].is("JOIN") || toks[i-1].punct(','))
		switch {
		case !lax && named && next && source && (strings.EqualFold(name, "format") || strings.EqualFold(name, "input") || strings.EqualFold(name, "values")):
			return refuse(codeAccessDenied, "ACCESS_DENIED", "The table function %s is an administrator's, where the kernel confines the engine", name)
		case named && next && (strings.EqualFold(name, "Executable") || strings.EqualFold(name, "ExecutablePool")):
			return refuse(codeAccessDenied, "ACCESS_DENIED", "Running programs (Executable) is not allowed")
		case named && i > 0 && i+1 < len(toks) && toks[i+1].punct('=') && (toks[i-1].is("SETTINGS") || toks[i-1].is("SETTING") || toks[i-1].punct(',') && settings) &&
			(name == "profile" || name == "log_comment" || slices.Contains(frozenSettings, name)):
			return refuse(codeAccessDenied, "ACCESS_DENIED", "The setting %s cannot be changed", name)
		case named && next && (strings.EqualFold(name, "disk") || strings.EqualFold(name, "eval")):
			return refuse(codeAccessDenied, "ACCESS_DENIED", "%s(...) is not allowed: the engine keeps its data in its own directory, and runs what it is sent", name)
		case made && t.is("ENGINE") && i+1 < len(toks):
			e := toks[i+1]
			if e.punct('=') && i+2 < len(toks) {
				e = toks[i+2]
			}
			if en, ok := e.name(); ok && !slices.Contains(engines, en) {
				return refuse(codeAccessDenied, "ACCESS_DENIED", "The engine %s is not allowed: there are %s", en, strings.Join(engines, ", "))
			}
			made = false
		case made && t.is("SELECT"):
			made = false // an engine's name comes before the query
		case t.is("OUTFILE"):
			return refuse(codeAccessDenied, "ACCESS_DENIED", "INTO OUTFILE is not allowed")
		case named && (next || applied) && (strings.EqualFold(name, "file") || strings.EqualFold(name, "catboostEvaluate")),
			t.kind == tokenString && fileCall.MatchString(t.value):
			return refuse(codeAccessDenied, "ACCESS_DENIED", "Functions that read files of the host (file, catboostEvaluate) are not allowed")
		}
	}
	return nil
}

// escapeParam writes a value as the engine reads a String parameter: in TabSeparated escaping.
func escapeParam(s string) string {
	return strings.NewReplacer("\\", "\\\\", "\t", "\\t", "\n", "\\n", "\r", "\\r", "\x00", "\\0", "\b", "\\b", "\f", "\\f").Replace(s)
}

// quoteString writes s as a string literal.
func quoteString(s string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'", "\n", "\\n", "\t", "\\t", "\r", "\\r", "\x00", "\\0").Replace(s) + "'"
}

// quoteName writes s as an identifier.
func quoteName(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}
