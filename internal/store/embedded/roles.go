package embedded

import (
	"fmt"
	"slices"
	"strings"
)

// adminRole is the role of the user that always exists: all of grants, without limits of a profile.
const adminRole = "admin"

// role is what a user may do. The engine holds a connection to it (SET ROLE), so that views, subqueries and table functions are held as well.
type role struct {
	name    string // as users.xml has it
	grants  []string
	profile *profile // nil: nothing but the frozen settings
}

// readOnly says that the role's profile lets nobody write.
func (r *role) readOnly() bool {
	return r.profile != nil && slices.ContainsFunc(r.profile.settings, func(s limit) bool { return s.name == "readonly" && s.value != "0" })
}

// profile is a settings profile: values and how far a client may change them.
type profile struct {
	name     string
	settings []limit
}

// limit is a setting of a profile; an empty bound does not bound.
type limit struct {
	name, value string
	fixed       bool // CONST
	low, high   string
}

// roleSet is what a file of roles says, as far as the engine can hold to it.
type roleSet struct {
	roles    []*role
	definers map[string][]string // users that views run as, with their grants
	security []string            // statements that let views run as them, to be run whenever views are made
}

func (s *roleSet) role(name string) *role {
	for _, r := range s.roles {
		if r.name == name || strings.HasSuffix(r.name, "_"+name) {
			return r
		}
	}
	return nil
}

func (s *roleSet) names() []string {
	var out []string
	for _, r := range s.roles {
		out = append(out, r.name)
	}
	return out
}

// parseRoles reads SQL as a ClickHouse server takes it: CREATE ROLE, GRANT, CREATE SETTINGS PROFILE, CREATE USER and ALTER TABLE ... MODIFY SQL SECURITY.
// Users who can sign in are not its business; of the others it keeps those that views run as.
func parseRoles(text string) (*roleSet, error) {
	s := &roleSet{definers: map[string][]string{}}
	line := 1
	for _, sql := range statements(text) {
		at := line + strings.Count(text[:sql.start], "\n")
		if err := s.take(sql.text, tokens(sql.text)); err != nil {
			return nil, fmt.Errorf("line %d: %w", at, err)
		}
	}
	for _, r := range s.roles {
		if len(r.grants) == 0 {
			return nil, fmt.Errorf("role %s has no grants", r.name)
		}
	}
	return s, nil
}

// piece is one statement of a script, without its semicolon.
type piece struct {
	text  string
	start int
}

// statements splits a script at its semicolons.
func statements(text string) []piece {
	var out []piece
	from := -1
	end := 0
	for _, t := range tokens(text) {
		switch {
		case t.punct(';'):
			if from >= 0 {
				out = append(out, piece{text[from:end], from})
			}
			from = -1
		case from < 0:
			from, end = t.start, t.end
		default:
			end = t.end
		}
	}
	if from >= 0 {
		out = append(out, piece{text[from:end], from})
	}
	return out
}

// words says whether the tokens begin with these words.
func words(ts []token, want ...string) bool {
	if len(ts) < len(want) {
		return false
	}
	for i, w := range want {
		if !ts[i].is(w) {
			return false
		}
	}
	return true
}

// skipIfNot drops IF NOT EXISTS.
func skipIfNot(ts []token) []token {
	if words(ts, "IF", "NOT", "EXISTS") {
		return ts[3:]
	}
	return ts
}

// take adds one statement.
func (s *roleSet) take(sql string, ts []token) error {
	if n := len(ts); n == 0 || ts[n-1].kind == tokenBroken {
		return fmt.Errorf("a quote or comment is not closed")
	}
	switch {
	case words(ts, "CREATE", "ROLE"):
		if ts = skipIfNot(ts[2:]); len(ts) != 1 || !settingName.MatchString(ts[0].value) || strings.Contains(ts[0].value, ".") {
			return fmt.Errorf("%q: wanted CREATE ROLE [IF NOT EXISTS] name", sql)
		}
		if ts[0].value == adminRole || s.role(ts[0].value) != nil {
			return fmt.Errorf("role %s is there already", ts[0].value)
		}
		s.roles = append(s.roles, &role{name: ts[0].value})
	case words(ts, "CREATE", "USER"):
		if ts = skipIfNot(ts[2:]); len(ts) == 0 || !settingName.MatchString(ts[0].value) || strings.Contains(ts[0].value, ".") {
			return fmt.Errorf("%q: wanted CREATE USER [IF NOT EXISTS] name and what follows", sql)
		}
		if !slices.ContainsFunc(ts, func(t token) bool { return t.is("ROLE") }) {
			s.definers[ts[0].value] = nil
		}
	case words(ts, "GRANT"):
		return s.grant(sql, ts)
	case words(ts, "CREATE", "SETTINGS", "PROFILE"):
		return s.takeProfile(sql, skipIfNot(ts[3:]))
	case words(ts, "ALTER", "TABLE"):
		if !slices.ContainsFunc(ts, func(t token) bool { return t.is("SECURITY") }) {
			return fmt.Errorf("%q: of ALTER TABLE only MODIFY SQL SECURITY is taken", sql)
		}
		s.security = append(s.security, sql)
	default:
		return fmt.Errorf("%q: not a statement about roles", sql)
	}
	return nil
}

// grant adds GRANT privileges ON what TO name; the grant of a role to a user is the users file's business.
func (s *roleSet) grant(sql string, ts []token) error {
	n := len(ts)
	if n < 4 || !ts[n-2].is("TO") {
		return fmt.Errorf("%q: wanted GRANT ... TO name", sql)
	}
	if !slices.ContainsFunc(ts, func(t token) bool { return t.is("ON") }) {
		return nil
	}
	text, to := strings.TrimSpace(sql[:ts[n-2].start]), ts[n-1].value
	if slices.ContainsFunc(ts, func(t token) bool { return t.kind == tokenString }) {
		return fmt.Errorf("%q: strings are not taken in a grant", sql)
	}
	if r := s.role(to); r != nil {
		r.grants = append(r.grants, text)
		return nil
	}
	if _, ok := s.definers[to]; ok {
		s.definers[to] = append(s.definers[to], text)
		return nil
	}
	return fmt.Errorf("%q: %s was not created before", sql, to)
}

// takeProfile adds CREATE SETTINGS PROFILE name SETTINGS a = 1 [CONST] [MIN x] [MAX y], ... TO role, ...
func (s *roleSet) takeProfile(sql string, ts []token) error {
	bad := fmt.Errorf("%q: wanted CREATE SETTINGS PROFILE name SETTINGS name = value [CONST] [MIN x] [MAX y], and so on, TO role, and so on", sql)
	if len(ts) < 5 || !settingName.MatchString(ts[0].value) || !ts[1].is("SETTINGS") {
		return bad
	}
	p := &profile{name: ts[0].value}
	i := 2
	for {
		if i+2 >= len(ts) || !settingName.MatchString(ts[i].value) || !ts[i+1].punct('=') {
			return bad
		}
		l := limit{name: ts[i].value, value: ts[i+2].value}
		for i += 3; i < len(ts) && !ts[i].punct(',') && !ts[i].is("TO"); i++ {
			switch {
			case ts[i].is("CONST"):
				l.fixed = true
			case ts[i].is("MIN") && i+1 < len(ts):
				i++
				l.low = ts[i].value
			case ts[i].is("MAX") && i+1 < len(ts):
				i++
				l.high = ts[i].value
			default:
				return bad
			}
		}
		p.settings = append(p.settings, l)
		if i == len(ts) {
			return bad
		}
		if ts[i].is("TO") {
			break
		}
		i++
	}
	for i++; i < len(ts); i++ {
		if ts[i].punct(',') {
			continue
		}
		r := s.role(ts[i].value)
		if r == nil {
			return fmt.Errorf("%q: there is no role %s", sql, ts[i].value)
		}
		r.profile = p
	}
	return nil
}
