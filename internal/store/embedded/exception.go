package embedded

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// ClickHouse's error codes that this package gives by itself or maps to an HTTP status.
const (
	codeBadArguments    = 36
	codeSyntax          = 62
	codeUnknownFormat   = 73
	codeReadOnly        = 164
	codeTooManyQueries  = 202
	codeMemoryLimit     = 241
	codeQuerySize       = 307
	codeSessionUnknown  = 372
	codeSessionLocked   = 373
	codeTooManyRows     = 396
	codeAccessDenied    = 497
	codeNotImplemented  = 48
	codeLogicalError    = 49
	codeAuthentication  = 516
	codeUnsupportedUser = 344
	codeAborted         = 236
	codeNotEnoughSpace  = 243
	codeTimeout         = 159
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
	codeSameQueryID     = 216
	codeCancelled       = 394
	codeNotGranted      = 512
)

// exception is an error in ClickHouse's own words: "Code: N. DB::Exception: ... (NAME)".
type exception struct {
	text string
	http int // 0: by the code
}

func (e *exception) Error() string { return e.text }

var codePattern = regexp.MustCompile(`Code: ([0-9]+)\.`)

// code is the number in the text, or 1002 (UNKNOWN_EXCEPTION).
func (e *exception) code() int {
	if m := codePattern.FindStringSubmatch(e.text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return 1002
}

// refuse makes an exception of this front's own.
func refuse(code int, name, format string, args ...any) *exception {
	return &exception{text: fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format, args...), name)}
}

// asException gives err as an exception; errors that are not the engine's become UNKNOWN_EXCEPTION.
func asException(err error) *exception {
	if e, ok := errors.AsType[*exception](err); ok {
		return e
	}
	return refuse(1002, "UNKNOWN_EXCEPTION", "%s", strings.TrimSuffix(err.Error(), "."))
}

// wire is the text as a ClickHouse server sends it: from "Code:" on, with the version at the end.
func (e *exception) wire(version string) string {
	text := strings.TrimSpace(e.text)
	if i := strings.Index(text, "Code: "); i > 0 {
		text = text[i:]
	}
	if !strings.Contains(text, "(version ") {
		text += " (version " + version + " (flopwatch embedded))"
	}
	return text
}

// status is the HTTP status a ClickHouse server gives for the code.
func (e *exception) status() int {
	if e.http != 0 {
		return e.http
	}
	switch e.code() {
	case 194: // required password
		return http.StatusUnauthorized
	case 193, 192, codeAuthentication, codeNotGranted, codeAccessDenied, codeReadOnly: // wrong password, unknown user
		return http.StatusForbidden
	case 6, 26, 27, 28, 38, 41, 43, 53, 54, 62, 70, 72, 117, 130, 131, 158, 167, 168, 321, 386, 396, 456, 457, 636, codeBadArguments:
		// What cannot be parsed, wrong types, values out of range, a result beyond its bound: the request is at fault.
		return http.StatusBadRequest
	case 46, 47, 50, 56, 60, 63, 79, 81, 115, 336, 511, codeUnknownFormat, codeSessionUnknown:
		// Unknown function, identifier, type, storage, table, aggregate function, sorting, database, setting, database engine, role, format, session.
		return http.StatusNotFound
	case 159: // TIMEOUT_EXCEEDED
		return http.StatusRequestTimeout
	case codeQuerySize:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 209, 252, codeAborted: // socket timeout, too many parts, the engine stops: come again
		return http.StatusServiceUnavailable
	case codeTooManyQueries:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

// exceptionTag mints the random tag which marks an exception in the middle of a body.
func exceptionTag() string {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "flopwatchflopwat"
	}
	return hex.EncodeToString(b[:])
}

// appendMidStream appends the block by which a ClickHouse server reports an error after the status line has gone.
func appendMidStream(dst []byte, tag, message string) []byte {
	return fmt.Appendf(dst, "\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", tag, message, len(message)+1, tag)
}
