package embedded

import (
	"net/http"
	"slices"
	"strings"
)

// ownStatement runs the statements that the front takes upon itself, since the engine's own would reach other requests or outlive this one:
// SET and USE, which last as long as the session, and KILL QUERY by query_id. The first result says whether it was one of them.
func (r *request) ownStatement(c *connection, text string) (bool, error) {
	ts := tokens(text)
	if n := len(ts); n > 0 && ts[n-1].punct(';') {
		ts = ts[:n-1]
	}
	switch {
	case len(ts) < 2 || ts[len(ts)-1].kind == tokenBroken:
		return false, nil
	case ts[0].is("USE"):
		name := ts[1]
		if len(ts) == 3 && ts[1].is("DATABASE") {
			name = ts[2]
		} else if len(ts) != 2 {
			return false, nil
		}
		if _, ok := name.name(); !ok {
			return false, nil
		}
		if err := c.run("USE " + quoteName(name.value)); err != nil {
			return true, err
		}
		if c.held != nil {
			c.held.database = name.value
		}
		return true, r.send(nil, nil)
	case ts[0].is("SET"):
		return r.setStatement(c, ts[1:])
	case words(ts, "KILL", "QUERY", "WHERE"):
		return r.killStatement(c, ts[3:])
	}
	return false, nil
}

// setStatement takes SET name = literal, ...; SET ROLE and the like are the guard's to refuse.
func (r *request) setStatement(c *connection, ts []token) (bool, error) {
	var settings []param
	for len(ts) > 0 {
		name, ok := ts[0].name()
		if !ok || len(ts) < 3 || !ts[1].punct('=') || !settingName.MatchString(name) || strings.HasPrefix(name, "param_") {
			return false, nil
		}
		value, n := ts[2].value, 3
		switch {
		case ts[2].punct('-') && len(ts) > 3 && ts[3].kind == tokenWord:
			value, n = "-"+ts[3].value, 4
		case ts[2].kind == tokenPunct || ts[2].kind == tokenQuoted:
			return false, nil
		}
		if n < len(ts) && ts[n].punct('.') && n+1 < len(ts) { // 0.5 is three tokens
			value, n = value+"."+ts[n+1].value, n+2
		}
		if ts[2].is("true") || ts[2].is("false") {
			value = map[bool]string{true: "1", false: "0"}[ts[2].is("true")]
		}
		switch name {
		case "profile", "readonly", "log_comment":
			return true, refuse(codeAccessDenied, "ACCESS_DENIED", "The setting %s is not to be SET here: readonly may be given as a URL parameter, the others are the front's", name)
		}
		settings = append(settings, param{name, value})
		if ts = ts[n:]; len(ts) > 0 {
			if !ts[0].punct(',') || len(ts) == 1 {
				return false, nil
			}
			ts = ts[1:]
		}
	}
	if err := r.set(c.session, settings); err != nil {
		return true, err
	}
	for _, p := range settings {
		if c.held != nil {
			c.held.settings[p.name] = p.value
		}
	}
	return true, r.send(nil, nil)
}

// killStatement takes KILL QUERY WHERE query_id = 'x' or query_id IN ('x', 'y'), with SYNC, ASYNC or TEST. A user ends their own, an administrator all.
func (r *request) killStatement(c *connection, ts []token) (bool, error) {
	only := refuse(codeNotImplemented, "NOT_IMPLEMENTED", "Of KILL QUERY the embedded engine takes WHERE query_id = '...' and WHERE query_id IN ('...'), with SYNC, ASYNC or TEST")
	wait, test := false, false
	format := ""
	if n := len(ts); n > 2 && ts[n-2].is("FORMAT") {
		format, ts = ts[n-1].value, ts[:n-2]
	}
	if n := len(ts); n > 0 {
		last := ts[n-1]
		if wait, test = last.is("SYNC"), last.is("TEST"); wait || test || last.is("ASYNC") {
			ts = ts[:n-1]
		}
	}
	if len(ts) < 3 || !strings.EqualFold(ts[0].value, "query_id") {
		return true, only
	}
	var ids []string
	switch {
	case ts[1].punct('=') && len(ts) == 3 && ts[2].kind == tokenString:
		ids = []string{ts[2].value}
	case ts[1].is("IN") && ts[2].punct('(') && ts[len(ts)-1].punct(')'):
		for i, t := range ts[3 : len(ts)-1] {
			if i%2 == 0 && t.kind != tokenString || i%2 == 1 && !t.punct(',') {
				return true, only
			}
			if i%2 == 0 {
				ids = append(ids, t.value)
			}
		}
	default:
		return true, only
	}
	if r.r.Method != http.MethodPost {
		return true, refuse(codeReadOnly, "READONLY", "%s: Cannot execute query in readonly mode", r.account.name)
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == r.id })
	var killed []string
	if !test {
		killed = r.f.running.kill(r.ctx, ids, r.account.name, r.account.role.name == adminRole, wait)
	}
	status := "waiting"
	if wait {
		status = "finished"
	}
	quoted := make([]string, len(killed))
	for i, id := range killed {
		quoted[i] = quoteString(id)
	}
	st := statement{format: format, text: "SELECT " + quoteString(status) + " AS kill_status, arrayJoin(CAST([" + strings.Join(quoted, ", ") + "], 'Array(String)')) AS query_id"}
	return true, r.selects(c.session, st, classReadOnly)
}
