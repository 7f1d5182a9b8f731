package embedded

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind says what a token of ClickHouse's SQL is.
type tokenKind uint8

const (
	tokenWord   tokenKind = iota // bare identifier, keyword or number
	tokenQuoted                  // `x` or "x"; value is decoded
	tokenString                  // 'x' or $tag$x$tag$; value is decoded
	tokenPunct                   // one byte of punctuation
	tokenBroken                  // an unclosed quote or comment; always the last
)

// token is one token; [start, end) are byte offsets in the text.
type token struct {
	kind       tokenKind
	value      string
	start, end int
}

func (t token) is(word string) bool  { return t.kind == tokenWord && strings.EqualFold(t.value, word) }
func (t token) punct(c byte) bool    { return t.kind == tokenPunct && t.value[0] == c }
func (t token) name() (string, bool) { return t.value, t.kind == tokenWord || t.kind == tokenQuoted }

// lexer splits a statement as ClickHouse's own lexer does. It never fails: what it cannot read becomes a tokenBroken.
type lexer struct {
	src string
	at  int
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v' || c == 0
}

// blank is the length of the white space beyond ASCII that s begins with: all that the engine skips, and what looks like it.
func blank(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if unicode.IsSpace(r) || r == 0x180e || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff {
		return n
	}
	return 0
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// next gives the next token and false at the end. Comments and white space are skipped.
func (l *lexer) next() (token, bool) {
	s := l.src
	for l.at < len(s) {
		c := s[l.at]
		start := l.at
		switch {
		case isSpace(c):
			l.at++
			continue
		case c >= utf8.RuneSelf && blank(s[start:]) > 0:
			l.at += blank(s[start:])
			continue
		case strings.HasPrefix(s[start:], "--") || strings.HasPrefix(s[start:], "# ") || strings.HasPrefix(s[start:], "#!") || strings.HasPrefix(s[start:], "//"):
			if n := strings.IndexByte(s[start:], '\n'); n >= 0 {
				l.at += n + 1
			} else {
				l.at = len(s)
			}
			continue
		case strings.HasPrefix(s[start:], "/*"):
			n := strings.Index(s[start+2:], "*/")
			if n < 0 {
				l.at = len(s)
				return token{tokenBroken, "", start, len(s)}, true
			}
			l.at += n + 4
			continue
		case c == '\'':
			return l.quoted(tokenString, c), true
		case c == '`' || c == '"':
			return l.quoted(tokenQuoted, c), true
		case c == '$':
			if t, ok := l.heredoc(); ok {
				return t, true
			}
			l.at++
			for l.at < len(s) && (isWord(s[l.at]) || s[l.at] == '$') {
				l.at++
			}
			return token{tokenWord, s[start:l.at], start, l.at}, true
		case isWord(c):
			for l.at < len(s) && (isWord(s[l.at]) || s[l.at] == '$') {
				l.at++
			}
			return token{tokenWord, s[start:l.at], start, l.at}, true
		default:
			l.at++
			return token{tokenPunct, s[start:l.at], start, l.at}, true
		}
	}
	return token{}, false
}

// quoted reads a quoted token that begins at l.at; a backslash escapes, a doubled quote stands for itself.
func (l *lexer) quoted(kind tokenKind, q byte) token {
	start := l.at
	var b strings.Builder
	for i := start + 1; i < len(l.src); i++ {
		c := l.src[i]
		switch {
		case c == '\\' && i+1 < len(l.src):
			i++
			switch e := l.src[i]; {
			case e == 'x' && i+2 < len(l.src) && unhex(l.src[i+1]) < 16 && unhex(l.src[i+2]) < 16:
				b.WriteByte(unhex(l.src[i+1])<<4 | unhex(l.src[i+2]))
				i += 2
			case e == 'n':
				b.WriteByte('\n')
			case e == 't':
				b.WriteByte('\t')
			case e == 'r':
				b.WriteByte('\r')
			default:
				b.WriteByte(e)
			}
		case c == q && i+1 < len(l.src) && l.src[i+1] == q:
			b.WriteByte(q)
			i++
		case c == q:
			l.at = i + 1
			return token{kind, b.String(), start, l.at}
		default:
			b.WriteByte(c)
		}
	}
	l.at = len(l.src)
	return token{tokenBroken, b.String(), start, l.at}
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// heredoc reads $tag$...$tag$ at l.at, if there is one.
func (l *lexer) heredoc() (token, bool) {
	i := l.at + 1
	for i < len(l.src) && isWord(l.src[i]) {
		i++
	}
	if i >= len(l.src) || l.src[i] != '$' {
		return token{}, false
	}
	tag := l.src[l.at : i+1]
	n := strings.Index(l.src[i+1:], tag)
	if n < 0 {
		return token{}, false
	}
	t := token{tokenString, l.src[i+1 : i+1+n], l.at, i + 1 + n + len(tag)}
	l.at = t.end
	return t, true
}

// tokens gives all tokens of text.
func tokens(text string) []token {
	var out []token
	for l := (lexer{src: text}); ; {
		t, ok := l.next()
		if !ok {
			return out
		}
		out = append(out, t)
	}
}
