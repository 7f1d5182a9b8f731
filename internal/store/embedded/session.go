package embedded

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	defaultSessionTimeout = time.Minute
	maxSessionTimeout     = time.Hour
	maxSessions           = 64
)

// sessions are the connections that clients keep by session_id: temporary tables and settings live in them. Each belongs to one user.
type sessions struct {
	mu     sync.Mutex
	byID   map[sessionKey]*heldSession
	closed bool
	timer  *time.Timer
}

type sessionKey struct{ user, id string }

type heldSession struct {
	s        *session
	comment  string            // by which the engine knows its queries
	settings map[string]string // what SET statements set
	database string
	busy     bool
	timeout  time.Duration
	expires  time.Time
}

// connection is the engine's connection of a request, held to its role, with its settings and its database.
type connection struct {
	*session
	held *heldSession // nil: it ends with the request
}

// session gives the connection for a request: a fresh one, or the one its session_id names.
func (r *request) session() (*connection, func(), error) {
	id := r.q.Get("session_id")
	if id == "" {
		s, err := r.f.lib.open(r.f.args)
		if err != nil {
			return nil, nil, err
		}
		r.comment = r.id
		if err = errors.Join(r.assume(s), r.use(s, r.database()), r.set(s, r.settings)); err != nil {
			s.close()
			return nil, nil, err
		}
		return &connection{session: s}, s.close, nil
	}
	held, release, err := r.hold(id)
	if err != nil {
		return nil, nil, err
	}
	r.comment = held.comment
	undo, err := r.enterHeld(held)
	if err != nil {
		release()
		return nil, nil, err
	}
	return &connection{held.s, held}, func() { undo(); release() }, nil
}

// assume holds a fresh connection to the request's role: its grants, its profile's values, its profile's bounds. The query's comment is set before the
// bounds, which fix it: the engine takes no query id, and by the comment an abandoned query is found and killed.
func (r *request) assume(s *session) error {
	role := r.account.role
	if err := s.run("SET ROLE " + quoteName(role.name)); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("SET log_comment = " + quoteString(r.comment))
	var settings []limit
	if role.profile != nil {
		settings = role.profile.settings
	}
	if role.name != adminRole || !r.f.confined {
		settings = append(slices.Clip(settings), plainValues...)
	}
	if len(settings) > 0 {
		for _, l := range settings {
			v := l.value
			if l.name == "max_memory_usage" {
				v = smaller(v, r.f.lim.queryBytes())
			}
			if l.name == "max_concurrent_queries_for_user" {
				continue // all connections are of one user: the front bounds readers (see turns)
			}
			// In a kept session it could never be taken back; there the front alone sees to it (see serve).
			if l.name != "readonly" || r.q.Get("session_id") == "" {
				b.WriteString(", " + quoteName(l.name) + " = " + quoteString(v))
			}
		}
	}
	if err := s.run(b.String()); err != nil {
		return err
	}
	return s.run("SET profile = " + quoteString(role.profileName()))
}

func (r *request) database() string {
	if db := r.q.Get("database"); db != "" {
		return db
	}
	return r.r.Header.Get("X-ClickHouse-Database")
}

func (*request) use(s *session, db string) error {
	if db == "" || db == defaultDatabase {
		return nil
	}
	return s.run("USE " + quoteName(db))
}

// set gives a connection settings; readonly comes last, it forbids the others.
func (*request) set(s *session, settings []param) error {
	var list []string
	readonly := ""
	for _, p := range settings {
		if p.name == "readonly" {
			readonly = p.value
			continue
		}
		list = append(list, quoteName(p.name)+" = "+quoteString(p.value))
	}
	if readonly != "" {
		list = append(list, "readonly = "+quoteString(readonly))
	}
	if len(list) == 0 {
		return nil
	}
	return s.run("SET " + strings.Join(list, ", "))
}

// hold finds or makes the session id of the request's user.
func (r *request) hold(id string) (*heldSession, func(), error) {
	timeout := defaultSessionTimeout
	if v := r.q.Get("session_timeout"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || time.Duration(n)*time.Second > maxSessionTimeout {
			return nil, nil, refuse(codeBadArguments, "INVALID_SESSION_TIMEOUT", "Invalid session timeout: %q", v)
		}
		timeout = time.Duration(n) * time.Second
	}
	key := sessionKey{r.account.name, id}
	h := &r.f.held
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expire(time.Now())
	held := h.byID[key]
	switch {
	case h.closed:
		return nil, nil, errStopping()
	case held == nil && r.q.Get("session_check") == "1":
		return nil, nil, refuse(codeSessionUnknown, "SESSION_NOT_FOUND", "Session %q not found", id)
	case held == nil && len(h.byID) >= maxSessions:
		return nil, nil, refuse(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many sessions. Maximum: %d", maxSessions)
	case held == nil:
		s, err := r.f.lib.open(r.f.args)
		if err != nil {
			return nil, nil, err
		}
		held = &heldSession{s: s, comment: "session " + uuid.NewString(), settings: map[string]string{}}
		r.comment = held.comment
		if err = r.assume(s); err != nil {
			s.close()
			return nil, nil, err
		}
		if h.byID == nil {
			h.byID = make(map[sessionKey]*heldSession)
		}
		h.byID[key] = held
	case held.busy:
		return nil, nil, refuse(codeSessionLocked, "SESSION_IS_LOCKED", "Session %q is locked by a concurrent client", id)
	}
	held.busy, held.timeout = true, timeout
	return held, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		held.busy, held.expires = false, time.Now().Add(held.timeout)
		if h.closed {
			held.s.close()
			delete(h.byID, key)
			return
		}
		if h.timer != nil {
			h.timer.Stop()
		}
		h.timer = time.AfterFunc(held.timeout+time.Second, h.sweep)
	}, nil
}

// enterHeld gives a kept connection the database and settings of one request; the function it gives takes them back, since a server's end with the query, too.
func (r *request) enterHeld(held *heldSession) (func(), error) {
	var mine []param
	for _, p := range r.settings {
		if p.name != "readonly" { // the front sees to it
			mine = append(mine, p)
		}
	}
	undo := func() {
		for _, p := range mine {
			back := "DEFAULT"
			if v, ok := held.settings[p.name]; ok {
				back = quoteString(v)
			} else if v, ok = r.account.role.value(p.name); ok {
				back = quoteString(v)
			}
			_ = held.s.run("SET " + quoteName(p.name) + " = " + back) // at worst it stays as long as the session
		}
		if db := r.database(); db != "" {
			back := held.database
			if back == "" {
				back = defaultDatabase
			}
			_ = held.s.run("USE " + quoteName(back)) // the database may be gone
		}
	}
	if err := errors.Join(r.use(held.s, r.database()), r.set(held.s, mine)); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// value is what the role's profile sets name to.
func (r *role) value(name string) (string, bool) {
	if r.profile != nil {
		for _, l := range r.profile.settings {
			if l.name == name {
				return l.value, true
			}
		}
	}
	return "", false
}

// sweep closes what has expired and comes back for the rest.
func (h *sessions) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.expire(now)
	next := time.Duration(0)
	for _, s := range h.byID {
		if d := s.expires.Sub(now); !s.busy && (next == 0 || d < next) {
			next = d
		}
	}
	if next > 0 && !h.closed {
		h.timer = time.AfterFunc(next+time.Second, h.sweep)
	}
}

// expire closes the sessions whose time is over. The caller holds mu.
func (h *sessions) expire(now time.Time) {
	for id, s := range h.byID {
		if !s.busy && now.After(s.expires) {
			s.s.close()
			delete(h.byID, id)
		}
	}
}

// close closes the idle sessions; busy ones close when their request ends.
func (h *sessions) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.timer != nil {
		h.timer.Stop()
	}
	for id, s := range h.byID {
		if !s.busy {
			s.s.close()
			delete(h.byID, id)
		}
	}
}

// external is a table that came with the request (multipart/form-data).
type external struct {
	name, structure, format string
	data                    []byte
}

// readExternal reads the parts of a multipart body: a field "query" and the tables.
func (r *request) readExternal(query string, body io.Reader) ([]external, string, error) {
	_, ps, err := mime.ParseMediaType(r.r.Header.Get("Content-Type"))
	if err != nil || ps["boundary"] == "" {
		return nil, "", refuse(codeBadArguments, "BAD_ARGUMENTS", "multipart/form-data without a boundary")
	}
	mr := multipart.NewReader(http.MaxBytesReader(r.w, io.NopCloser(body), maxExternalBytes), ps["boundary"])
	var tables []external
	for {
		p, perr := mr.NextPart()
		if perr == io.EOF { // bare; the end of a cut body is wrapped
			return tables, query, nil
		}
		if perr != nil {
			return nil, "", badBody("multipart", perr)
		}
		b, rerr := io.ReadAll(p)
		if rerr != nil {
			return nil, "", badBody("multipart", rerr)
		}
		name := p.FormName()
		switch {
		case name == "query" && p.FileName() == "":
			if query != "" {
				query += "\n"
			}
			query += string(b)
		case strings.HasPrefix(name, "param_"):
			r.params = append(r.params, param{strings.TrimPrefix(name, "param_"), string(b)})
		default:
			t := external{name: name, structure: r.q.Get(name + "_structure"), format: r.q.Get(name + "_format"), data: b}
			if t.format == "" {
				t.format = "TabSeparated"
			}
			if t.structure == "" && r.q.Get(name+"_types") != "" {
				var cols []string
				for i, ty := range splitTypes(r.q.Get(name + "_types")) {
					cols = append(cols, "_"+strconv.Itoa(i+1)+" "+ty)
				}
				t.structure = strings.Join(cols, ", ")
			}
			if err = t.valid(); err != nil {
				return nil, "", err
			}
			tables = append(tables, t)
		}
	}
}

// splitTypes splits "UInt8,Tuple(String, UInt8)" at the commas outside brackets.
func splitTypes(s string) []string {
	var out []string
	depth, from := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, strings.TrimSpace(s[from:i]))
				from = i + 1
			}
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

// valid refuses names and structures that would change the statement they are put into: a structure is words, punctuation and strings in closed brackets.
func (t external) valid() error {
	bad := refuse(codeBadArguments, "BAD_ARGUMENTS", "The external table %q has no usable name, structure or format", t.name)
	if strings.EqualFold(t.format, "Values") { // whose data are expressions
		return refuse(codeBadArguments, "BAD_ARGUMENTS", "The external table %q may not come as Values: TSV, CSV, JSONEachRow and Native are taken", t.name)
	}
	if !settingName.MatchString(t.name) || strings.Contains(t.name, ".") || !formatName.MatchString(t.format) || t.structure == "" {
		return bad
	}
	depth := 0
	for _, k := range tokens(t.structure) {
		switch {
		case k.punct('('):
			depth++
		case k.punct(')'):
			depth--
		case k.kind == tokenBroken || k.punct(';') || k.is("DEFAULT") || k.is("MATERIALIZED") || k.is("ALIAS") || k.is("EPHEMERAL"):
			return bad
		}
		if depth < 0 {
			return bad
		}
	}
	if depth != 0 {
		return bad
	}
	return nil
}

// create makes the table in the connection and fills it.
func (t external) create(s *session) error {
	if err := s.run("CREATE TEMPORARY TABLE " + quoteName(t.name) + " (" + t.structure + "\n) ENGINE = Memory"); err != nil {
		return err
	}
	in, err := s.insert("INSERT INTO "+quoteName(t.name), t.format, nil)
	defer in.destroy()
	if err != nil {
		return err
	}
	if _, err = in.Write(t.data); err != nil {
		in.abort()
		return err
	}
	res, err := in.finish()
	res.destroy()
	return err
}

// drop removes the table, for connections that are kept.
func (t external) drop(s *session) {
	_ = s.run("DROP TEMPORARY TABLE IF EXISTS " + quoteName(t.name)) // at worst it lives as long as the connection
}
