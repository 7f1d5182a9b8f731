package embedded

import "strings"

// statement is what the front must know about a text before it hands it to the engine.
type statement struct {
	text string // as the engine shall run it; for an insert with data the head alone, without FORMAT, VALUES or data

	insert bool   // INSERT that takes data: format is the data's, dataAt its offset in the text it was split from
	format string // of the FORMAT clause, "" without one
	dataAt int

	selects bool // SELECT or WITH: the only kind that can be streamed
}

// split reads the head of a text. atEnd says whether text is all there is; if it is not and the end of an insert's head is not in sight, more is true.
func split(text string, atEnd bool) (st statement, more bool) {
	lx := lexer{src: text}
	first, ok := lx.next()
	for ok && first.punct('(') {
		first, ok = lx.next()
	}
	if !ok {
		return statement{text: text}, !atEnd
	}
	if !first.is("INSERT") {
		if !atEnd {
			return statement{}, true
		}
		st = statement{text: text, selects: first.is("SELECT") || first.is("WITH") || first.is("FROM")}
		st.format = formatClause(text)
		return st, false
	}
	// INSERT [INTO] [TABLE] [FUNCTION f(...)] name[.name] [(columns)] [SETTINGS ...] (VALUES | FORMAT f | SELECT ... | FROM INFILE ...)
	depth, named := 0, false
	for {
		t, more := lx.next()
		if !more || t.kind == tokenBroken {
			if !atEnd {
				return statement{}, true
			}
			// Only a head: the data, if any, comes in ClickHouse's default input format.
			return statement{text: text, insert: true, format: "Values", dataAt: len(text)}, false
		}
		switch {
		case t.punct('('):
			if depth++; depth == 1 && named {
				peek := lx
				if n, okn := peek.next(); okn && (n.is("SELECT") || n.is("WITH")) {
					return selectInsert(text, atEnd)
				}
			}
			continue
		case t.punct(')'):
			depth--
			continue
		case depth > 0:
			continue
		case !named && (t.is("INTO") || t.is("TABLE")):
			continue
		case !named:
			named = true
			continue
		}
		prevDot := t.start > 0 && strings.HasSuffix(strings.TrimRight(text[:t.start], " \t\r\n"), ".")
		switch {
		case prevDot: // the second half of database.table, whatever it is called
		case t.is("SELECT"), t.is("WITH"), t.is("FROM"), t.is("WATCH"):
			return selectInsert(text, atEnd)
		case t.is("VALUES"):
			if !atEnd && t.end == len(text) {
				return statement{}, true // it may be the beginning of a longer word
			}
			return statement{text: text[:t.start], insert: true, format: "Values", dataAt: t.end}, false
		case t.is("FORMAT"):
			f, okf := lx.next()
			if !okf || !atEnd && f.end == len(text) {
				if !atEnd {
					return statement{}, true
				}
				return statement{text: text}, false
			}
			if f.is("Values") {
				return statement{text: text[:t.start], insert: true, format: "Values", dataAt: f.end}, false
			}
			at := skipToData(text, f.end)
			if !atEnd && at == len(text) {
				return statement{}, true // there may be more to skip
			}
			return statement{text: text[:t.start], insert: true, format: f.value, dataAt: at}, false
		}
	}
}

// selectInsert is an INSERT whose rows come from a query: it has no data, so all of the text is the statement.
func selectInsert(text string, atEnd bool) (statement, bool) {
	return statement{text: text}, !atEnd
}

// skipToData skips what ClickHouse skips between the name of the format and the data: blanks and one line end.
func skipToData(text string, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\f') {
		at++
	}
	if at < len(text) && text[at] == '\r' {
		at++
	}
	if at < len(text) && text[at] == '\n' {
		at++
	}
	return at
}

// formatClause finds the FORMAT clause of a statement that is no insert; "" without one.
func formatClause(text string) string {
	toks := tokens(text)
	depth, format := 0, ""
	for i, t := range toks {
		switch {
		case t.punct('('):
			depth++
		case t.punct(')'):
			depth--
		case depth == 0 && t.is("FORMAT") && i+1 < len(toks) && toks[i+1].kind == tokenWord && (i == 0 || !toks[i-1].punct('.')):
			if i+2 == len(toks) || toks[i+2].is("SETTINGS") || toks[i+2].punct(';') || toks[i+2].is("INTO") {
				format = toks[i+1].value
			}
		}
	}
	return format
}

// canonicalFormat gives the format's name as the engine's stream knows it, and whether its chunks can be sent one after the other:
// other formats begin a new document with each chunk.
func canonicalFormat(name string) (canonical string, streams bool) {
	switch strings.ToLower(name) {
	case "native":
		return "Native", true
	case "tsv", "tabseparated":
		return "TabSeparated", true
	case "csv":
		return "CSV", true
	case "jsoneachrow", "jsonlines", "ndjson":
		return "JSONEachRow", true
	case "jsoncompacteachrow":
		return "JSONCompactEachRow", true
	case "rowbinary":
		return "RowBinary", true
	}
	return name, false
}

// contentType is the media type a ClickHouse server gives for a format.
func contentType(format string) string {
	switch f := strings.ToLower(format); {
	case strings.HasPrefix(f, "tabseparated") || strings.HasPrefix(f, "tsv"):
		return "text/tab-separated-values; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		return "text/csv; charset=UTF-8; header=absent"
	case f == "jsoneachrow" || f == "jsonlines" || f == "ndjson" || strings.HasPrefix(f, "jsoncompacteachrow") || strings.HasSuffix(f, "eachrowwithprogress"):
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(f, "json"):
		return "application/json; charset=UTF-8"
	case f == "native" || strings.HasPrefix(f, "rowbinary") || f == "parquet" || strings.HasPrefix(f, "arrow") || f == "orc":
		return "application/octet-stream"
	case f == "xml":
		return "application/xml; charset=UTF-8"
	}
	return "text/plain; charset=UTF-8"
}
