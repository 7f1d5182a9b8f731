package embedded

import (
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	defaultSessionTimeout = time.Minute
	maxSessionTimeout     = time.Hour
	maxSessions           = 64
)

// sessions are the connections that clients keep by session_id: temporary tables and settings live in them.
type sessions struct {
	mu     sync.Mutex
	byID   map[string]*heldSession
	closed bool
}

type heldSession struct {
	s       *session
	busy    bool
	timeout time.Duration
	expires time.Time
}

// session gives the connection for a request: a fresh one, or the one its session_id names.
func (r *request) session() (*session, func(), error) {
	id := r.q.Get("session_id")
	if id == "" {
		s, err := r.f.lib.open(r.f.args)
		if err != nil {
			return nil, nil, err
		}
		return s, s.close, nil
	}
	timeout := defaultSessionTimeout
	if v := r.q.Get("session_timeout"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || time.Duration(n)*time.Second > maxSessionTimeout {
			return nil, nil, refuse(codeBadArguments, "INVALID_SESSION_TIMEOUT", "Invalid session timeout: %q", v)
		}
		timeout = time.Duration(n) * time.Second
	}
	h := &r.f.held
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expire(time.Now())
	held := h.byID[id]
	switch {
	case h.closed:
		return nil, nil, refuse(codeSessionUnknown, "SESSION_NOT_FOUND", "The engine is stopping")
	case held == nil && r.q.Get("session_check") == "1":
		return nil, nil, refuse(codeSessionUnknown, "SESSION_NOT_FOUND", "Session %q not found", id)
	case held == nil && len(h.byID) >= maxSessions:
		return nil, nil, refuse(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many sessions. Maximum: %d", maxSessions)
	case held == nil:
		s, err := r.f.lib.open(r.f.args)
		if err != nil {
			return nil, nil, err
		}
		held = &heldSession{s: s}
		if h.byID == nil {
			h.byID = make(map[string]*heldSession)
		}
		h.byID[id] = held
	case held.busy:
		return nil, nil, refuse(codeSessionLocked, "SESSION_IS_LOCKED", "Session %q is locked by a concurrent client", id)
	}
	held.busy, held.timeout = true, timeout
	return held.s, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		held.busy, held.expires = false, time.Now().Add(held.timeout)
		if h.closed {
			held.s.close()
			delete(h.byID, id)
		}
	}, nil
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
func (r *request) readExternal(query string) ([]external, string, error) {
	_, ps, err := mime.ParseMediaType(r.r.Header.Get("Content-Type"))
	if err != nil || ps["boundary"] == "" {
		return nil, "", refuse(codeBadArguments, "BAD_ARGUMENTS", "multipart/form-data without a boundary")
	}
	mr := multipart.NewReader(http.MaxBytesReader(r.w, r.r.Body, maxExternalBytes), ps["boundary"])
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
