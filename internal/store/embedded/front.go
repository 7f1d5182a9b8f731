package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
)

const (
	maxStatementBytes = 4 << 20  // of a statement without data
	headBytes         = 64 << 10 // how much of a body is read at first to find the end of an insert's head
	appendBytes       = 1 << 20  // how much insert data is handed to the engine at a time
	maxExternalBytes  = 256 << 20
	maxDrainBytes     = 256 << 20 // of a refused request's body
	helloQuery        = "SELECT displayName(), version(), revision(), timezone()"
	helloRevision     = 54460 // the protocol revision in which clickhouse-go decodes the answer to helloQuery
	nativeRevision    = 0     // the only one the engine writes
	timeZone          = "UTC"
	displayName       = "flopwatch"
	queueTimeout      = 30 * time.Second
	defaultDatabase   = "default"
)

// front serves ClickHouse's HTTP interface over an engine.
type front struct {
	lg       *slog.Logger
	lib      *library
	args     []string // of a connection
	version  string   // of the engine, as SELECT version() gives it
	lim      limits
	user     string
	secret   [sha256.Size]byte
	slots    chan struct{}
	confined bool            // by Landlock
	stopped  <-chan struct{} // closed when what still runs is to be killed
	held     sessions
}

// reserved are the URL parameters that are no settings.
var reserved = []string{
	"query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check", "user", "password", "quota_key", "role",
	"compress", "decompress", "buffer_size", "wait_end_of_query", "stacktrace", "client_protocol_version", "enable_http_compression",
	"http_write_exception_in_output_format", "http_response_headers", "send_progress_in_http_headers", "log_comment", "add_http_cors_header",
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]{0,127}$`)

// request is one query over HTTP.
type request struct {
	f        *front
	w        http.ResponseWriter
	r        *http.Request
	q        url.Values
	id       string
	params   []param
	settings []param
	began    time.Time
	total    totals
	tag      string
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.URL.Path == "/ping", r.URL.Path == "/replicas_status",
		r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) && !q.Has("query"):
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		_, _ = io.WriteString(w, "Ok.\n") // the client's business
		return
	case r.URL.Path != "/" && r.URL.Path != "/query":
		http.Error(w, "There is no handle "+r.URL.Path, http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, POST, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	req := &request{f: f, w: w, r: r, q: q, began: time.Now(), id: q.Get("query_id"), tag: exceptionTag()}
	if req.id == "" {
		req.id = uuid.NewString()
	}
	h := w.Header()
	h.Set("X-ClickHouse-Server-Display-Name", displayName)
	h.Set("X-ClickHouse-Query-Id", headerSafe(req.id))
	h.Set("X-ClickHouse-Timezone", timeZone)
	if !f.authentic(r, q) {
		if _, _, basic := r.BasicAuth(); basic || r.Header.Get("Authorization") == "" {
			h.Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
		}
		req.fail(refuse(codeAuthentication, "AUTHENTICATION_FAILED", "Authentication failed: password is incorrect, or there is no user with such name"))
		return
	}
	if err := req.serve(); err != nil {
		req.fail(asException(err))
	}
}

func headerSafe(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}

// authentic checks the user and password of a request, given as Basic, as headers or as parameters.
func (f *front) authentic(r *http.Request, q url.Values) bool {
	user, password, ok := r.BasicAuth()
	switch {
	case ok:
	case r.Header.Get("X-ClickHouse-User") != "" || r.Header.Get("X-ClickHouse-Key") != "":
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	default:
		user, password = q.Get("user"), q.Get("password")
	}
	if user == "" {
		user = f.user
	}
	sum := sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(sum[:], f.secret[:]) == 1
	return subtle.ConstantTimeCompare([]byte(user), []byte(f.user)) == 1 && same
}

// fail sends an error before any of the body has been sent.
func (r *request) fail(e *exception) {
	h := r.w.Header()
	text := e.wire(r.f.version)
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.code()))
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Del("Content-Encoding")
	h.Del("X-ClickHouse-Format")
	h.Del("Content-Length")
	// Otherwise the server closes the connection on a client that still sends, which then sees the close and not the error.
	if e.code() != codeAuthentication { // strangers are not listened to
		_, _ = io.CopyN(io.Discard, r.r.Body, maxDrainBytes) // what is left may be cut
	}
	r.w.WriteHeader(e.status())
	_, _ = io.WriteString(r.w, text+"\n") // the client may be gone
	if e.code() == codeAuthentication {
		r.f.lg.LogAttrs(r.r.Context(), slog.LevelWarn, "refused a request", slog.String("peer", r.r.RemoteAddr), slog.Int("code", e.code()))
	}
}

// serve runs the request. An error returned means that nothing of the body has been sent.
func (r *request) serve() error {
	if err := r.readSettings(); err != nil {
		return err
	}
	body, free, err := decodeBody(r.r.Body, r.r.Header.Get("Content-Encoding"), r.q.Get("decompress") == "1")
	if err != nil {
		return err
	}
	defer free()
	var tables []external
	query := r.q.Get("query")
	if strings.HasPrefix(r.r.Header.Get("Content-Type"), "multipart/form-data") {
		if tables, query, err = r.readExternal(query); err != nil {
			return err
		}
		body = bytes.NewReader(nil)
	}
	st, data, err := readStatement(query, body)
	if err != nil {
		return err
	}
	if r.q.Has("client_protocol_version") && strings.TrimRight(strings.TrimSpace(st.text), ";") == helloQuery {
		return r.hello()
	}

	ctx := r.r.Context()
	wait := time.NewTimer(queueTimeout)
	defer wait.Stop()
	select {
	case r.f.slots <- struct{}{}:
		defer func() { <-r.f.slots }()
	case <-ctx.Done():
		return nil
	case <-wait.C:
		return refuse(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries. Maximum: %d", cap(r.f.slots))
	}
	s, release, err := r.session()
	if err != nil {
		return err
	}
	defer release()
	if err = r.prepare(s); err != nil {
		return err
	}
	for _, t := range tables {
		if err = t.create(s); err != nil {
			return err
		}
		defer t.drop(s)
	}
	class, err := guard{s, r.f.confined}.check(st)
	if err != nil {
		return err
	}
	if r.readOnly() && class != classReadOnly {
		return refuse(codeReadOnly, "READONLY", "Cannot execute query in readonly mode")
	}
	ended := r.killWhenGone()
	defer ended()
	if st.insert {
		return r.insert(s, st, data)
	}
	return r.selects(s, st, class)
}

func (r *request) readOnly() bool {
	return r.r.Method != http.MethodPost || r.q.Get("readonly") == "1" || r.q.Get("readonly") == "2"
}

// readSettings takes the parameters and settings out of the URL.
func (r *request) readSettings() error {
	multipart := strings.HasPrefix(r.r.Header.Get("Content-Type"), "multipart/form-data")
	names := make([]string, 0, len(r.q))
	for k := range r.q {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		v := r.q.Get(k)
		switch {
		case slices.Contains(reserved, k):
		case strings.HasPrefix(k, "param_"):
			r.params = append(r.params, param{strings.TrimPrefix(k, "param_"), v})
		case multipart && (strings.HasSuffix(k, "_structure") || strings.HasSuffix(k, "_types") || strings.HasSuffix(k, "_format")):
		case !settingName.MatchString(k):
			return refuse(115, "UNKNOWN_SETTING", "Unknown setting %q", k)
		case k == "readonly" && v == "0":
		default:
			r.settings = append(r.settings, param{k, v})
		}
	}
	if r.r.Method != http.MethodPost && r.q.Get("readonly") == "" {
		r.settings = append(r.settings, param{"readonly", "2"})
	}
	return nil
}

// readStatement finds the statement in the query parameter and the body, and gives what follows it as data.
func readStatement(query string, body io.Reader) (statement, io.Reader, error) {
	if strings.TrimSpace(query) != "" {
		// ClickHouse reads the parameter, a line end and the body as one text.
		st, _ := split(query, true)
		if st.insert {
			if st.dataAt >= len(query) {
				return st, body, nil
			}
			return st, io.MultiReader(strings.NewReader(query[st.dataAt:]+"\n"), body), nil
		}
		rest, err := readLimited(body, maxStatementBytes)
		if err != nil {
			return st, nil, err
		}
		if len(bytes.TrimSpace(rest)) > 0 {
			st, _ = split(query+"\n"+string(rest), true)
			if st.insert {
				return st, strings.NewReader((query + "\n" + string(rest))[st.dataAt:]), nil
			}
		}
		return st, bytes.NewReader(nil), nil
	}
	head, want := make([]byte, 0, headBytes), headBytes
	for {
		n, err := fill(body, head[len(head):want])
		head = head[:len(head)+n]
		atEnd := err == io.EOF //nolint:errorlint // fill gives the bare end
		if err != nil && !atEnd {
			return statement{}, nil, err
		}
		st, more := split(string(head), atEnd)
		if !more {
			if !st.insert {
				return st, bytes.NewReader(nil), nil
			}
			return st, io.MultiReader(bytes.NewReader(head[st.dataAt:]), body), nil
		}
		if len(head) >= maxStatementBytes {
			return statement{}, nil, refuse(codeSyntax, "SYNTAX_ERROR", "The statement is longer than %d bytes", maxStatementBytes)
		}
		want = min(2*want, maxStatementBytes)
		head = slices.Grow(head, want-len(head))
	}
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, refuse(codeSyntax, "SYNTAX_ERROR", "The statement is longer than %d bytes", limit)
	}
	return b, nil
}

// prepare gives the connection the database and settings of the request.
func (r *request) prepare(s *session) error {
	db := r.q.Get("database")
	if db == "" {
		db = r.r.Header.Get("X-ClickHouse-Database")
	}
	if db != "" && db != defaultDatabase {
		if err := s.run("USE " + quoteName(db)); err != nil {
			return err
		}
	}
	var b strings.Builder
	// The engine takes no query id: the comment stands in its place, so that the query can be found and killed.
	b.WriteString("SET log_comment = " + quoteString(r.id))
	readonly := ""
	for _, p := range r.settings {
		if p.name == "readonly" { // must come last, it forbids the others
			readonly = p.value
			continue
		}
		b.WriteString(", " + quoteName(p.name) + " = " + quoteString(p.value))
	}
	if readonly != "" {
		b.WriteString(", readonly = " + quoteString(readonly))
	}
	return s.run(b.String())
}

// killWhenGone kills the request's query when its client goes away. The returned function ends the watch and waits for it.
func (r *request) killWhenGone() func() {
	ctx, done := r.r.Context(), make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-done:
			return
		case <-ctx.Done():
		case <-r.f.stopped:
		}
		s, err := r.f.lib.open(r.f.args)
		if err != nil {
			return
		}
		defer s.close()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for { // again and again: the query may be between two stages when the first KILL looks for it
			if err = s.run("KILL QUERY WHERE Settings['log_comment'] = " + quoteString(r.id) + " ASYNC"); err != nil {
				r.f.lg.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "kill abandoned query", slog.Any("err", err))
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(done); <-finished }
}

// insert streams data into the engine.
func (r *request) insert(s *session, st statement, data io.Reader) error {
	in, err := s.insert(st.text, st.format, r.params)
	defer in.destroy()
	if err != nil {
		return err
	}
	buf := make([]byte, appendBytes)
	for {
		n, rerr := fill(data, buf)
		if _, err = in.Write(buf[:n]); err != nil {
			in.abort()
			return err
		}
		if rerr == io.EOF { //nolint:errorlint // fill gives the bare end; a wrapped one is a body that was cut
			break
		}
		if rerr != nil {
			// Half a body must never be committed.
			in.abort()
			return rerr
		}
	}
	res, err := in.finish()
	defer res.destroy()
	if err != nil {
		return err
	}
	res.addTo(&r.total)
	r.summary()
	r.w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	r.w.Header().Set("Content-Length", "0")
	r.w.WriteHeader(http.StatusOK)
	return nil
}

// fill reads until buf is full or r ends. Unlike io.ReadFull it keeps the end of the data (io.EOF) apart from a body that was cut (io.ErrUnexpectedEOF).
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

// summary sets the header by which clients learn how much was read and written.
func (r *request) summary() {
	u := func(n uint64) string { return strconv.FormatUint(n, 10) }
	b, err := json.Marshal(map[string]string{
		"read_rows": u(r.total.readRows), "read_bytes": u(r.total.readBytes), "written_rows": u(r.total.writtenRows), "written_bytes": u(r.total.writtenBytes),
		"total_rows_to_read": "0", "result_rows": u(r.total.resultRows), "result_bytes": u(r.total.resultBytes), "elapsed_ns": u(uint64(time.Since(r.began).Nanoseconds())),
	})
	if err == nil { // a map of strings always marshals
		r.w.Header().Set("X-ClickHouse-Summary", string(b))
	}
}

// selects runs everything that is no insert of data and sends the result.
func (r *request) selects(s *session, st statement, class statementClass) error {
	format := st.format
	if format == "" {
		if format = r.q.Get("default_format"); format == "" {
			format = r.r.Header.Get("X-ClickHouse-Format")
		}
		if format == "" {
			format = "TabSeparated"
		}
	}
	if !formatName.MatchString(format) {
		return refuse(codeUnknownFormat, "UNKNOWN_FORMAT", "Unknown format %q", format)
	}
	format, streams := canonicalFormat(format)
	h := r.w.Header()
	h.Set("X-ClickHouse-Format", format)
	h.Set("Content-Type", contentType(format))
	if streams && st.selects && class == classReadOnly && r.q.Get("wait_end_of_query") != "1" {
		return r.stream(s, st.text, format)
	}
	if class == classReadOnly && r.readOnlyCap() {
		if err := s.run("SET max_result_bytes = " + strconv.FormatUint(r.f.lim.resultBytes, 10) + ", result_overflow_mode = 'throw'"); err != nil {
			return err
		}
	}
	res, err := s.exec(st.text, format, r.params)
	defer res.destroy()
	if err != nil {
		return err
	}
	res.addTo(&r.total)
	return r.send(res.data(), nil)
}

// readOnlyCap says whether the front may bound the result by a setting: under readonly=1 settings cannot be changed any more, and neither where the client gave its own bound.
func (r *request) readOnlyCap() bool {
	return r.q.Get("readonly") != "1" && !r.q.Has("max_result_bytes")
}

// stream sends a SELECT chunk by chunk.
func (r *request) stream(s *session, text, format string) error {
	str, err := s.stream(text, format, r.params)
	defer str.destroy()
	if err != nil {
		return err
	}
	chunk, err := s.next(str)
	if err != nil || len(chunk.data()) == 0 {
		defer chunk.destroy()
		if err != nil {
			s.cancel(str)
			return err
		}
		return r.send(nil, nil)
	}
	chunk.addTo(&r.total)
	err = r.send(chunk.data(), func() ([]byte, error) {
		chunk.destroy()
		chunk = result{}
		if r.r.Context().Err() != nil {
			return nil, r.r.Context().Err()
		}
		var nerr error
		chunk, nerr = s.next(str)
		if nerr != nil {
			return nil, nerr
		}
		return chunk.data(), nil
	})
	chunk.destroy()
	s.cancel(str)
	return err
}

// send writes first and then what next gives until it gives nothing. It always returns nil: from here on errors go into the body.
func (r *request) send(first []byte, next func() ([]byte, error)) error {
	h := r.w.Header()
	r.summary()
	if len(first) == 0 {
		// clickhouse-go knows an empty result by the length alone.
		h.Set("Content-Length", "0")
		r.w.WriteHeader(http.StatusOK)
		return nil
	}
	accept := ""
	if r.q.Get("enable_http_compression") != "0" {
		accept = acceptable(r.r.Header.Get("Accept-Encoding"))
	}
	enc, err := newEncoder(r.w, r.q.Get("compress") == "1", r.q.Get("network_compression_method"), accept)
	if err != nil {
		return err
	}
	h.Set("X-ClickHouse-Exception-Tag", r.tag)
	if _, plain := enc.(plainEncoder); plain && next == nil {
		h.Set("Content-Length", strconv.Itoa(len(first)))
	}
	r.w.WriteHeader(http.StatusOK)
	if r.r.Method == http.MethodHead {
		return nil
	}
	r.pour(enc, first, next)
	_ = enc.Close() // the client may be gone
	return nil
}

// pour writes first and then what next gives, until it gives nothing, fails, or the
// client is gone, whose query ends with the stream.
func (r *request) pour(enc encoder, first []byte, next func() ([]byte, error)) {
	flush := http.NewResponseController(r.w)
	for b := first; len(b) > 0; {
		if _, err := enc.Write(b); err != nil || next == nil {
			return
		}
		if err := errors.Join(enc.Flush(), flush.Flush()); err != nil {
			return
		}
		var err error
		if b, err = next(); err != nil {
			if r.r.Context().Err() == nil {
				_ = enc.Plain(appendMidStream(nil, r.tag, asException(err).wire(r.f.version))) // the client may be gone
			}
			return
		}
	}
}

// hello answers clickhouse-go's first question by hand: it decodes the answer in its own revision, which the engine cannot write,
// and takes from it the revision of everything that follows, which the engine can.
func (r *request) hello() error {
	display, version, zone := new(proto.ColStr), new(proto.ColStr), new(proto.ColStr)
	revision := new(proto.ColUInt32)
	display.Append(displayName)
	version.Append(r.f.version)
	revision.Append(nativeRevision)
	zone.Append(timeZone)
	block := proto.Block{Columns: 4, Rows: 1, Info: proto.BlockInfo{BucketNum: -1}}
	var buf proto.Buffer
	rev := nativeRevision
	if v, err := strconv.Atoi(r.q.Get("client_protocol_version")); err == nil && v >= helloRevision {
		rev = helloRevision
	} else if err == nil && v > 0 {
		rev = v
	}
	if err := block.EncodeBlock(&buf, rev, []proto.InputColumn{
		{Name: "displayName()", Data: display}, {Name: "version()", Data: version}, {Name: "revision()", Data: revision}, {Name: "timezone()", Data: zone},
	}); err != nil {
		return fmt.Errorf("encode hello: %w", err)
	}
	r.w.Header().Set("X-ClickHouse-Format", "Native")
	r.w.Header().Set("Content-Type", "application/octet-stream")
	return r.send(buf.Buf, nil)
}
