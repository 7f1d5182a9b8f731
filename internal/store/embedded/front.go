package embedded

import (
	"bytes"
	"cmp"
	"context"
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
	maxStatementBytes = 4 << 20   // of a statement without data
	headBytes         = 64 << 10  // how much of a body is read at first to find the end of an insert's head
	appendBytes       = 1 << 20   // how much insert data is handed to the engine at a time
	maxExternalBytes  = 64 << 20  // of the external tables of a request, which lie in memory
	maxDrainBytes     = 256 << 20 // of a refused request's body
	helloQuery        = "SELECT displayName(), version(), revision(), timezone()"
	helloRevision     = 54460 // the protocol revision in which clickhouse-go decodes the answer to helloQuery
	nativeRevision    = 0     // the only one the engine writes
	timeZone          = "UTC"
	displayName       = "flopwatch"
	maxQueue          = 256 // readers that wait for their turn, and as many others; more are told at once
	defaultDatabase   = "default"
)

// Patience is how long clients are waited for, and wait. What is zero is that of defaultPatience.
type Patience struct {
	Turn    time.Duration // for a turn
	Receive time.Duration // for a client that says it sends and does not
	Send    time.Duration // for one that takes nothing of its result
}

var defaultPatience = Patience{30 * time.Second, time.Minute, 5 * time.Minute}

func (p Patience) orDefault() Patience {
	return Patience{cmp.Or(p.Turn, defaultPatience.Turn), cmp.Or(p.Receive, defaultPatience.Receive), cmp.Or(p.Send, defaultPatience.Send)}
}

// front serves ClickHouse's HTTP interface over an engine.
type front struct {
	lg       *slog.Logger
	lib      *library
	args     []string // of a connection
	version  string   // of the engine, as SELECT version() gives it
	lim      limits
	data     layout
	user     string // who signs in without a name
	accounts []account
	roles    *roleSet
	turns    turns
	patience Patience
	confined bool            // by Landlock
	draining <-chan struct{} // closed when nothing new is to begin
	stopped  <-chan struct{} // closed when what still runs is to be killed
	held     sessions
	running  registry
	gate     gate
}

// reserved are the URL parameters that are no settings.
var reserved = []string{
	"query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check", "user", "password", "quota_key", "role",
	"compress", "decompress", "buffer_size", "wait_end_of_query", "stacktrace", "client_protocol_version", "enable_http_compression",
	"http_write_exception_in_output_format", "http_response_headers", "send_progress_in_http_headers", "log_comment", "add_http_cors_header",
	"replace_running_query", "http_headers_progress_interval_ms", "cancel_http_readonly_queries_on_client_close",
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]{0,127}$`)

// request is one query over HTTP.
type request struct {
	f        *front
	w        http.ResponseWriter
	r        *http.Request
	q        url.Values
	ctx      context.Context //nolint:containedctx // of one request: ended by its client, by KILL QUERY, by its end
	account  *account
	id       string
	comment  string // by which the engine knows the query
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
	case r.URL.Path != "/" && r.URL.Path != "/query" && r.URL.Path != backupPath:
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
	given, err := credentialsOf(r, q)
	if err == nil {
		req.account = f.authenticate(given)
	}
	if req.account == nil {
		req.refuseStranger(given, err)
		return
	}
	if isClosed(f.draining) {
		req.fail(errStopping())
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	req.ctx = ctx
	if r.URL.Path == backupPath {
		req.backup()
		return
	}
	done, err := f.running.enter(req, cancel)
	if err == nil {
		err = req.serve()
		done()
	}
	if err != nil {
		req.fail(asException(err))
	}
}

// holdDefiners lets views run as their definers again after a statement that may have made one anew. What it cannot do leaves readers with less.
func (f *front) holdDefiners(text string) {
	if len(f.roles.security) == 0 || text != "" && !strings.Contains(strings.ToUpper(text), "VIEW") {
		return
	}
	s, err := f.lib.open(f.args)
	if err != nil {
		return
	}
	defer s.close()
	for _, sql := range f.roles.security {
		// ALTER TABLE db.view ...: one statement makes one view.
		if ts := tokens(sql); text != "" && len(ts) > 4 && !strings.Contains(text, ts[4].value) {
			continue
		}
		if err = s.run(sql); err != nil && asException(err).code() != codeUnknownTable && asException(err).code() != codeUnknownDatabase {
			f.lg.LogAttrs(context.Background(), slog.LevelWarn, "let a view run as its definer", slog.Any("err", err))
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func errStopping() *exception { return refuse(codeAborted, "ABORTED", "The engine is stopping") }

// refuseStranger answers as a server does: 401 to one who gave no name at all, so that browsers ask for it, else 403.
func (r *request) refuseStranger(given credentials, why error) {
	name, text := given.user, "password is incorrect, or there is no user with such name"
	if name == "" {
		name = r.f.user
	}
	if why != nil {
		text = why.Error()
	}
	e := refuse(codeAuthentication, "AUTHENTICATION_FAILED", "%s: Authentication failed: %s", headerSafe(name), text)
	if !given.given {
		r.w.Header().Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
		e.http = http.StatusUnauthorized
	}
	r.fail(e)
}

func headerSafe(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
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
		r.patience(r.f.patience.Receive)
		_, _ = io.CopyN(io.Discard, r.r.Body, maxDrainBytes) // what is left may be cut
		r.patience(0)
	}
	r.w.WriteHeader(e.status())
	_, _ = io.WriteString(r.w, text+"\n") // the client may be gone
	if e.code() == codeAuthentication {
		r.f.lg.LogAttrs(r.r.Context(), slog.LevelWarn, "refused a request", slog.String("peer", r.r.RemoteAddr), slog.Int("code", e.code()))
	}
}

// patience gives the client so long to send something; 0 for as long as it likes, which must follow, since the server reads ahead to see whether it is gone.
func (r *request) patience(d time.Duration) {
	until := time.Time{}
	if d > 0 {
		until = time.Now().Add(d)
	}
	_ = http.NewResponseController(r.w).SetReadDeadline(until) // a writer that cannot is a test's
}

// upload is a request's body, each piece of which must come in time.
type upload struct{ r *request }

func (u upload) Read(p []byte) (int, error) {
	if err := context.Cause(u.r.ctx); err != nil {
		return 0, err
	}
	u.r.patience(u.r.f.patience.Receive)
	n, err := u.r.r.Body.Read(p)
	u.r.patience(0)
	if cause := context.Cause(u.r.ctx); err != nil && cause != nil {
		return n, cause // killed: that is why the read ended
	}
	return n, err
}

// serve runs the request. An error returned means that nothing of the body has been sent.
func (r *request) serve() error {
	if err := r.readSettings(); err != nil {
		return err
	}
	turn, err := r.f.turns.take(r.ctx, r.account.role.readOnly(), r.f.draining)
	if err != nil {
		return err
	}
	defer turn()
	body, free, err := decodeBody(upload{r}, r.r.Header.Get("Content-Encoding"), r.q.Get("decompress") == "1")
	if err != nil {
		return err
	}
	defer free()
	var tables []external
	query := r.q.Get("query")
	if strings.HasPrefix(r.r.Header.Get("Content-Type"), "multipart/form-data") {
		if tables, query, err = r.readExternal(query, body); err != nil {
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
	s, release, err := r.session()
	if err != nil {
		return err
	}
	defer release()
	for _, t := range tables {
		if err = t.create(s.session); err != nil {
			return err
		}
		defer t.drop(s.session)
	}
	if own, oerr := r.ownStatement(s, st.text); own || oerr != nil {
		return oerr
	}
	class, err := guard{s.session, r.f.confined, r.account.role.name == adminRole}.check(st)
	if err != nil {
		return err
	}
	if r.readOnly() && class != classReadOnly {
		return refuse(codeReadOnly, "READONLY", "%s: Cannot execute query in readonly mode", r.account.name)
	}
	if class != classReadOnly {
		if err = r.f.haveRoom(st.text); err != nil {
			return err
		}
		leave, gerr := r.f.gate.enter(r.ctx)
		if gerr != nil {
			return gerr
		}
		defer leave()
	}
	ended := r.killWhenGone()
	defer ended()
	if st.insert {
		return r.insert(s.session, st, data)
	}
	err = r.selects(s.session, st, class)
	if class != classReadOnly {
		r.f.holdDefiners(st.text)
	}
	return err
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
		case k == "profile":
			return refuse(codeAccessDenied, "ACCESS_DENIED", "The settings profile is the role's and cannot be changed")
		case !settingName.MatchString(k):
			return refuse(115, "UNKNOWN_SETTING", "Unknown setting %q", k)
		case k == "readonly" && v == "0":
		default:
			r.settings = append(r.settings, param{k, v})
		}
	}
	if own := r.account.role.name; r.q.Has("role") && r.q.Get("role") != own {
		return refuse(codeNotGranted, "SET_NON_GRANTED_ROLE", "Role %s should be granted to set as a current: this user's is %s", headerSafe(r.q.Get("role")), own)
	}
	if r.r.Method != http.MethodPost && r.q.Get("readonly") == "" && !r.account.role.readOnly() {
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

// killWhenGone kills the request's query when its client goes away. The returned function ends the watch and waits for it.
func (r *request) killWhenGone() func() {
	ctx, done := r.ctx, make(chan struct{})
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
			if err = s.run("KILL QUERY WHERE Settings['log_comment'] = " + quoteString(r.comment) + " ASYNC"); err != nil {
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
		r.allow(r.f.patience.Send)
		if _, err := enc.Write(b); err != nil || next == nil {
			return
		}
		if err := errors.Join(enc.Flush(), flush.Flush()); err != nil {
			return
		}
		var err error
		if b, err = next(); err != nil {
			if r.r.Context().Err() == nil {
				r.allow(r.f.patience.Send)
				_ = enc.Plain(appendMidStream(nil, r.tag, asException(err).wire(r.f.version))) // the client may be gone
			}
			return
		}
	}
}

// allow gives the client so long to take what is written next.
func (r *request) allow(d time.Duration) {
	_ = http.NewResponseController(r.w).SetWriteDeadline(time.Now().Add(d)) // a writer that cannot is a test's
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
