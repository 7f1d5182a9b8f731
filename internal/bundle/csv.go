package bundle

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

const (
	maxLine = 1 << 20 // bytes of one record
	// maxJoined is how many lines one quoted record may span. An unclosed quote costs
	// its own line and no other, because the lines behind it are read again.
	maxJoined = 16
)

var (
	bom = []byte{0xEF, 0xBB, 0xBF}

	errLong  = errors.New("longer than 1 MiB")
	errQuote = errors.New("a quote is out of place or never closed")
)

// lineReader gives lines without their ends, counted from 1. Lines can be put back.
type lineReader struct {
	r    *bufio.Reader
	line int    // number of the line given last
	back []line // lines put back, next first
	err  error  // what ended the stream, io.EOF included
}

// line is a line put back: its text, or errLong in its place.
type line struct {
	text   []byte
	number int
	err    error
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 256<<10)}
}

// next returns the next line, valid until next is called again, or errLong for a line
// that was skipped. After the last line it returns what ended the stream: io.EOF or a
// read error. A last line without an end is given at io.EOF and dropped at any other
// error, because a torn number may read like a whole one.
func (l *lineReader) next() ([]byte, error) {
	if len(l.back) > 0 {
		b := l.back[0]
		l.back = l.back[1:]
		l.line = b.number
		return b.text, b.err
	}
	if l.err != nil {
		return nil, l.err
	}
	b, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append([]byte(nil), b...)
		for errors.Is(err, bufio.ErrBufferFull) {
			b, err = l.r.ReadSlice('\n')
			if len(long) <= maxLine {
				long = append(long, b...)
			}
		}
		b = long
	}
	if err != nil {
		l.err = err
		if !errors.Is(err, io.EOF) || len(b) == 0 {
			return nil, err
		}
	}
	l.line++
	b = bytes.TrimSuffix(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if l.line == 1 {
		b = bytes.TrimPrefix(b, bom)
	}
	if len(b) > maxLine {
		return nil, errLong
	}
	return b, nil
}

// unread puts lines back, first line first. The reader keeps them.
func (l *lineReader) unread(lines []line) {
	l.back = append(lines, l.back...)
}

// recordReader splits lines into records as RFC 4180 has it.
type recordReader struct {
	lines  *lineReader
	want   int // fields in a record; 0 before the header
	fields [][]byte
	buf    []byte // unescaped text of quoted fields
}

// next returns the fields of the next record and the number of its first line. Blank
// lines are passed over. The fields are valid until next is called again. errLong,
// errQuote and errCount concern this record alone; any other error ends the stream.
func (r *recordReader) next() ([][]byte, int, error) {
	for {
		b, err := r.lines.next()
		line := r.lines.line
		if err != nil {
			return nil, line, err
		}
		if len(b) == 0 {
			continue
		}
		if bytes.IndexByte(b, '"') < 0 { // nearly every line
			r.fields = r.fields[:0]
			for {
				i := bytes.IndexByte(b, ',')
				if i < 0 {
					break
				}
				r.fields = append(r.fields, b[:i])
				b = b[i+1:]
			}
			r.fields = append(r.fields, b)
			if r.want > 0 && len(r.fields) != r.want {
				return r.fields, line, errCount
			}
			return r.fields, line, nil
		}
		fields, err := r.quoted(b)
		return fields, line, err
	}
}

var errCount = errors.New("wrong number of fields")

// quoted reads a record that holds quotes and may run over several lines.
func (r *recordReader) quoted(first []byte) ([][]byte, error) {
	record := append([]byte(nil), first...)
	var joined []line // the lines behind the first
	for {
		open, err := r.split(record)
		if err == nil && !open {
			if r.want == 0 || len(r.fields) == r.want {
				return r.fields, nil
			}
			err = errCount
		}
		if err == nil && len(joined) < maxJoined {
			b, nextErr := r.lines.next()
			if nextErr == nil || errors.Is(nextErr, errLong) {
				joined = append(joined, line{append([]byte(nil), b...), r.lines.line, nextErr})
			}
			if nextErr == nil && len(record)+len(b) <= maxLine {
				record = append(append(record, '\n'), b...)
				continue
			}
		}
		if err == nil {
			err = errQuote
		}
		r.lines.unread(joined)
		return r.fields, err
	}
}

// split cuts a record into r.fields. open: it ends inside quotes.
func (r *recordReader) split(record []byte) (open bool, err error) {
	r.fields, r.buf = r.fields[:0], r.buf[:0]
	if cap(r.buf) < len(record) {
		r.buf = make([]byte, 0, 2*len(record)) // never grown below: fields point into it
	}
	for {
		if len(record) == 0 || record[0] != '"' {
			i := bytes.IndexByte(record, ',')
			field := record
			if i >= 0 {
				field = record[:i]
			}
			if bytes.IndexByte(field, '"') >= 0 {
				return false, errQuote
			}
			r.fields = append(r.fields, field)
			if i < 0 {
				return false, nil
			}
			record = record[i+1:]
			continue
		}
		record = record[1:]
		start := len(r.buf)
		for {
			i := bytes.IndexByte(record, '"')
			if i < 0 {
				return true, nil
			}
			r.buf = append(r.buf, record[:i]...)
			record = record[i+1:]
			if len(record) == 0 || record[0] != '"' {
				break
			}
			r.buf = append(r.buf, '"')
			record = record[1:]
		}
		r.fields = append(r.fields, r.buf[start:len(r.buf):len(r.buf)])
		if len(record) == 0 {
			return false, nil
		}
		if record[0] != ',' {
			return false, errQuote
		}
		record = record[1:]
	}
}
