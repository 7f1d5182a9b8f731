package embedded

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/cpu"
)

// library is libchdb with the functions this package needs bound. It is loaded once a process and never unloaded: the engine's threads outlive any handle.
type library struct {
	version string

	connect, closeConn, shutdown            uintptr
	query, streamQuery, fetch, cancel       uintptr
	insert, appendData, done, cancelIn      uintptr
	insertError, destroyInsert              uintptr
	buffer, length, rowsRead, bytesRead     uintptr
	rowsWritten, bytesWritten, resultErr    uintptr
	destroyResult, classify, storageRows    uintptr
	signalHandlers, storageBytes, versionFn uintptr
}

// errNoAVX2 is returned where the processor lacks what the engine was compiled for; without the check it dies of SIGILL.
var errNoAVX2 = errors.New("the embedded ClickHouse engine needs an x86-64-v3 processor (AVX2, BMI2, FMA); this one lacks it: configure a ClickHouse server instead")

// libraryVersion is what chdb_version says of the library that engine/fetch.sh fetches.
const libraryVersion = "26.7.3"

var errFetch = errors.New("`make engine` fetches the right one")

func checkCPU(has ...bool) error {
	if slices.Contains(has, false) {
		return errNoAVX2
	}
	return nil
}

// checkLibrary looks at the file before it is loaded: a truncated library kills the process that loads it.
func checkLibrary(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return missingLibrary(path)
	}
	if err != nil {
		return fmt.Errorf("find engine library: %w", err)
	}
	// The package and its digest, as the fetch found them, and the size.
	if stamp, serr := os.ReadFile(filepath.Join(filepath.Dir(path), "stamp")); serr == nil {
		if f := strings.Fields(string(stamp)); len(f) == 3 && f[2] != strconv.FormatInt(info.Size(), 10) {
			return fmt.Errorf("load engine library %s: it has %d bytes, and had %s when it was fetched: %w", path, info.Size(), f[2], errFetch)
		}
	}
	e, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("load engine library %s: no library, or truncated: %w: %w", path, err, errFetch)
	}
	defer func() { _ = e.Close() }() // only read
	if e.Machine != elf.EM_X86_64 || e.Type != elf.ET_DYN {
		return fmt.Errorf("load engine library %s: a %s %s, not a library for x86-64: %w", path, e.Machine, e.Type, errFetch)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_LOAD && p.Off+p.Filesz > uint64(info.Size()) {
			return fmt.Errorf("load engine library %s: truncated: %d bytes, and its segments need %d: %w", path, info.Size(), p.Off+p.Filesz, errFetch)
		}
	}
	return nil
}

// openLibrary loads libchdb from path, an absolute file name. Signal handlers are switched off before anything else is called: the engine's would replace Go's.
func openLibrary(path string) (*library, error) {
	if err := checkCPU(cpu.X86.HasAVX2, cpu.X86.HasBMI2, cpu.X86.HasFMA); err != nil {
		return nil, err
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load engine library %s: %w", path, err)
	}
	l := &library{}
	for _, s := range []struct {
		at   *uintptr
		name string
	}{
		{&l.connect, "chdb_connect"}, {&l.closeConn, "chdb_close_conn"}, {&l.shutdown, "chdb_shutdown"},
		{&l.query, "chdb_query_with_params_n"}, {&l.streamQuery, "chdb_stream_query_with_params_n"},
		{&l.fetch, "chdb_stream_fetch_result"}, {&l.cancel, "chdb_stream_cancel_query"},
		{&l.insert, "chdb_stream_insert_with_params_n"}, {&l.appendData, "chdb_stream_append"}, {&l.done, "chdb_stream_done"},
		{&l.cancelIn, "chdb_stream_cancel_insert"}, {&l.insertError, "chdb_stream_insert_error"}, {&l.destroyInsert, "chdb_destroy_insert_stream"},
		{&l.buffer, "chdb_result_buffer"}, {&l.length, "chdb_result_length"}, {&l.rowsRead, "chdb_result_rows_read"}, {&l.bytesRead, "chdb_result_bytes_read"},
		{&l.rowsWritten, "chdb_result_rows_written"}, {&l.bytesWritten, "chdb_result_bytes_written"}, {&l.resultErr, "chdb_result_error"},
		{&l.storageRows, "chdb_result_storage_rows_read"}, {&l.storageBytes, "chdb_result_storage_bytes_read"},
		{&l.destroyResult, "chdb_destroy_query_result"}, {&l.classify, "chdb_classify_query_n"},
		{&l.signalHandlers, "chdb_set_signal_handlers_enabled"}, {&l.versionFn, "chdb_version"},
	} {
		if *s.at, err = purego.Dlsym(handle, s.name); err != nil {
			return nil, fmt.Errorf("engine library %s has no %s (is it libchdb 26.7.3-stable.1?): %w", path, s.name, err)
		}
	}
	purego.SyscallN(l.signalHandlers, 0)
	v, _, _ := purego.SyscallN(l.versionFn)
	if l.version = goString(v); l.version != libraryVersion {
		return nil, fmt.Errorf("engine library %s is libchdb %s, and this program is made for %s: %w", path, l.version, libraryVersion, errFetch)
	}
	if err = hookDisk(handle, path); err != nil {
		return nil, err
	}
	return l, nil
}

// goString copies the NUL-terminated C string at p; p may be 0.
func goString(p uintptr) string {
	if p == 0 {
		return ""
	}
	base := foreign(p)
	n := 0
	for *(*byte)(unsafe.Add(base, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(base), n))
}

// foreign turns an address of the engine's own memory into a pointer; the indirection is what vet asks for, since the garbage collector does not own it.
func foreign(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

func bytesAddr(b []byte) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}

// session is one engine connection. It runs one statement at a time and is not safe for concurrent use.
type session struct {
	l      *library
	handle uintptr // chdb_connection*, owned by the engine until close
	conn   uintptr // *handle
}

// open makes a connection with the given command-line arguments; the first connection of the process starts the engine.
// The engine says why it failed only on stderr.
func (l *library) open(args []string) (*session, error) {
	argv := make([]*byte, len(args)+1)
	var pin runtime.Pinner
	defer pin.Unpin()
	for i, a := range args {
		b := append([]byte(a), 0)
		argv[i] = &b[0]
		pin.Pin(argv[i])
	}
	pin.Pin(&argv[0])
	h, _, _ := purego.SyscallN(l.connect, uintptr(len(args)), uintptr(unsafe.Pointer(&argv[0])))
	runtime.KeepAlive(argv)
	if h == 0 {
		return nil, errors.New("engine refused to connect")
	}
	return &session{l: l, handle: h, conn: *(*uintptr)(foreign(h))}, nil
}

// close ends the connection; open results and streams must be destroyed before. Idempotent.
func (s *session) close() {
	if s.handle != 0 {
		purego.SyscallN(s.l.closeConn, s.handle)
		s.handle, s.conn = 0, 0
	}
}

// stop joins the engine's threads; every connection must be closed before.
func (l *library) stop() error {
	if r, _, _ := purego.SyscallN(l.shutdown); int32(r) != 0 {
		return errors.New("engine did not stop all threads")
	}
	return nil
}

// param is one value of a {name:Type} placeholder.
type param struct{ name, value string }

// call runs one of the three "with params" entry points, which share a signature, and returns the handle.
func (s *session) call(fn uintptr, query, format string, params []param) uintptr {
	var pin runtime.Pinner
	defer pin.Unpin()
	q, f := append([]byte(query), 0), append([]byte(format), 0)
	pin.Pin(&q[0])
	pin.Pin(&f[0])
	var pn, pv **byte
	var nl, vl *uintptr
	if n := len(params); n > 0 {
		names, values := make([]*byte, n), make([]*byte, n)
		nameLens, valueLens := make([]uintptr, n), make([]uintptr, n)
		for i, p := range params {
			nb, vb := append([]byte(p.name), 0), append([]byte(p.value), 0)
			names[i], values[i] = &nb[0], &vb[0]
			nameLens[i], valueLens[i] = uintptr(len(p.name)), uintptr(len(p.value))
			pin.Pin(names[i])
			pin.Pin(values[i])
		}
		pn, pv, nl, vl = &names[0], &values[0], &nameLens[0], &valueLens[0]
		pin.Pin(pn)
		pin.Pin(pv)
		pin.Pin(nl)
		pin.Pin(vl)
	}
	r, _, _ := purego.SyscallN(fn, s.conn, uintptr(unsafe.Pointer(&q[0])), uintptr(len(query)), uintptr(unsafe.Pointer(&f[0])), uintptr(len(format)),
		uintptr(unsafe.Pointer(pn)), uintptr(unsafe.Pointer(nl)), uintptr(unsafe.Pointer(pv)), uintptr(unsafe.Pointer(vl)), uintptr(len(params)))
	return r
}

// result is an engine result; destroy frees its memory.
type result struct {
	l *library
	p uintptr
}

// err is the engine's error text or nil.
func (r result) err() error {
	if r.p == 0 {
		return refuse(codeLogicalError, "LOGICAL_ERROR", "the engine gave no result")
	}
	e, _, _ := purego.SyscallN(r.l.resultErr, r.p)
	return engineError(goString(e))
}

// data is the result's bytes, which belong to the engine and live until destroy.
func (r result) data() []byte {
	n, _, _ := purego.SyscallN(r.l.length, r.p)
	b, _, _ := purego.SyscallN(r.l.buffer, r.p)
	if b == 0 || n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(foreign(b)), int(n))
}

func (r result) number(fn uintptr) uint64 {
	v, _, _ := purego.SyscallN(fn, r.p)
	return uint64(v)
}

// addTo adds the result's counters to t.
func (r result) addTo(t *totals) {
	t.resultRows += r.number(r.l.rowsRead)
	t.readRows += r.number(r.l.storageRows)
	t.readBytes += r.number(r.l.storageBytes)
	t.writtenRows += r.number(r.l.rowsWritten)
	t.writtenBytes += r.number(r.l.bytesWritten)
}

func (r result) destroy() {
	if r.p != 0 {
		purego.SyscallN(r.l.destroyResult, r.p)
	}
}

// exec runs one statement to its end in memory. The caller destroys the result, also with an error.
func (s *session) exec(query, format string, params []param) (result, error) {
	r := result{s.l, s.call(s.l.query, query, format, params)}
	return r, r.err()
}

// run is exec for statements whose result nobody reads.
func (s *session) run(query string) error {
	r, err := s.exec(query, "Null", nil)
	r.destroy()
	return err
}

// stream starts a SELECT; next gives its chunks. The caller destroys the result, also with an error.
func (s *session) stream(query, format string, params []param) (result, error) {
	r := result{s.l, s.call(s.l.streamQuery, query, format, params)}
	return r, r.err()
}

// next gives the stream's next chunk; a chunk without data is the end.
func (s *session) next(stream result) (result, error) {
	p, _, _ := purego.SyscallN(s.l.fetch, s.conn, stream.p)
	r := result{s.l, p}
	return r, r.err()
}

// cancel ends a stream early.
func (s *session) cancel(stream result) { purego.SyscallN(s.l.cancel, s.conn, stream.p) }

// inserter is an INSERT that takes its data in pieces. It occupies the session until destroy.
type inserter struct {
	l *library
	p uintptr
}

// insert starts an INSERT. query has neither a FORMAT clause nor data. The caller destroys the inserter, also with an error.
func (s *session) insert(query, format string, params []param) (inserter, error) {
	in := inserter{s.l, s.call(s.l.insert, query, format, params)}
	return in, in.err()
}

func (in inserter) err() error {
	e, _, _ := purego.SyscallN(in.l.insertError, in.p)
	return engineError(goString(e))
}

// Write hands b to the engine, which copies it; it blocks while the engine is behind.
func (in inserter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	r, _, _ := purego.SyscallN(in.l.appendData, in.p, uintptr(unsafe.Pointer(bytesAddr(b))), uintptr(len(b)))
	runtime.KeepAlive(b)
	if int32(r) != 0 {
		if err := in.err(); err != nil {
			return 0, err
		}
		return 0, refuse(codeLogicalError, "LOGICAL_ERROR", "the engine refused insert data")
	}
	return len(b), nil
}

// finish commits. The caller destroys the result, also with an error.
func (in inserter) finish() (result, error) {
	p, _, _ := purego.SyscallN(in.l.done, in.p)
	r := result{in.l, p}
	return r, r.err()
}

// abort ends the insert without committing what has not yet been flushed.
func (in inserter) abort() { purego.SyscallN(in.l.cancelIn, in.p) }

func (in inserter) destroy() {
	if in.p != 0 {
		purego.SyscallN(in.l.destroyInsert, in.p)
	}
}

// statementClass is the engine parser's judgement of a statement (chdb_query_class).
type statementClass uint32

const (
	classReadOnly statementClass = iota
	classMutating
	classMutatingGlobal
	classControl
	classUnknown
)

// analysis is chdb_query_analysis_v1: four 32-bit words, the first of which the caller sets to its size.
type analysis struct {
	size, statements, flags uint32
	class                   statementClass
}

// classify asks the engine's own parser what query is, without running it.
func (s *session) classify(query string) (analysis, error) {
	a := &analysis{size: uint32(unsafe.Sizeof(analysis{}))}
	q := append([]byte(query), 0)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(a)
	pin.Pin(&q[0])
	r, _, _ := purego.SyscallN(s.l.classify, s.conn, uintptr(unsafe.Pointer(&q[0])), uintptr(len(query)), 0, 0, uintptr(unsafe.Pointer(a)))
	if int32(r) != 0 {
		return *a, refuse(codeLogicalError, "LOGICAL_ERROR", "the engine could not classify the statement")
	}
	return *a, nil
}

// totals are a request's counters for X-ClickHouse-Summary.
type totals struct{ readRows, readBytes, writtenRows, writtenBytes, resultRows, resultBytes uint64 }

// engineError makes an error of the engine's text; "" is nil.
func engineError(text string) error {
	if text == "" {
		return nil
	}
	return &exception{text: text}
}
