package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Log is a child's output: a file that is turned over at a size, the last lines in memory,
// and, if wanted, every line on another writer behind the child's name. Safe for concurrent use.
type Log struct {
	path     string
	maxBytes int64
	keep     int
	echo     io.Writer
	prefix   string

	mu    sync.Mutex // guards below
	file  *os.File
	size  int64
	part  []byte // of a line whose end has not come
	lines []string
	err   error // the first of writing, told by Close
}

const (
	tailLines    = 20
	maxLineBytes = 4096
)

// OpenLog opens the file at path, appending. A file of maxBytes becomes path.1, that path.2
// and so on; keep of them stay. echo may be nil.
func OpenLog(path string, maxBytes int64, keep int, echo io.Writer, prefix string) (*Log, error) {
	l := &Log{path: path, maxBytes: maxBytes, keep: keep, echo: echo, prefix: prefix}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	l.file, l.size = f, st.Size()
	return nil
}

// Write takes output. It never fails: a child must not die of a full disk under its log.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := b; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			l.part = append(l.part, rest[:min(len(rest), max(0, maxLineBytes-len(l.part)))]...)
			break
		}
		l.part = append(l.part, rest[:min(i, max(0, maxLineBytes-len(l.part)))]...)
		l.line()
		rest = rest[i+1:]
	}
	return len(b), nil
}

// line puts the line in part away.
func (l *Log) line() {
	text := string(l.part)
	l.part = l.part[:0]
	if strings.TrimSpace(text) != "" {
		if l.lines = append(l.lines, text); len(l.lines) > tailLines {
			l.lines = l.lines[1:]
		}
	}
	if l.echo != nil {
		_, _ = io.WriteString(l.echo, l.prefix+text+"\n") // for who watches
	}
	if l.file == nil {
		return
	}
	if l.size > 0 && l.size+int64(len(text))+1 > l.maxBytes {
		l.turn()
	}
	n, err := l.file.WriteString(text + "\n")
	l.size += int64(n)
	l.note(err)
}

// turn begins a new file. What cannot be renamed is written on to.
func (l *Log) turn() {
	for i := l.keep; i > 0; i-- {
		from := l.path
		if i > 1 {
			from += "." + strconv.Itoa(i-1)
		}
		if err := os.Rename(from, l.path+"."+strconv.Itoa(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.note(err)
			return
		}
	}
	old := l.file
	if err := l.open(); err != nil {
		l.note(err)
		return
	}
	l.note(old.Close())
}

func (l *Log) note(err error) {
	if l.err == nil && err != nil {
		l.err = fmt.Errorf("write log %s: %w", l.path, err)
	}
}

// forget drops the lines of an earlier child, so that Last tells of the present one.
func (l *Log) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines, l.part = nil, l.part[:0]
}

// Last gives the latest line that is not empty, "" without any.
func (l *Log) Last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		return ""
	}
	return l.lines[len(l.lines)-1]
}

// Close writes what is left and closes the file. The error is the first of all writing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return l.err
	}
	if len(l.part) > 0 {
		l.line()
	}
	l.note(l.file.Close())
	l.file = nil
	return l.err
}
