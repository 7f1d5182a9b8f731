package embedded

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

func TestAcceptable(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"": "", "gzip": "gzip", "GZIP": "gzip", "deflate, gzip, br, zstd": "zstd", "gzip;q=0, br": "br", "gzip; q=0.0": "", "br;q=0.5, gzip;q=1.0": "gzip", "identity": "", "*": "", "lz4": "lz4", "x, deflate": "deflate",
	} {
		if got := acceptable(header); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}

// TestCodings writes each encoding of a response with its own library and reads it back as a request, in pieces, and cut.
func TestCodings(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("a line of a result\t1\n"), 100000)
	for _, name := range encodings {
		w := httptest.NewRecorder()
		enc, err := newEncoder(w, false, "", name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(data); at += 70001 {
			if _, err = enc.Write(data[at:min(len(data), at+70001)]); err != nil {
				t.Fatal(err)
			}
			if err = enc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err = errors.Join(enc.Plain([]byte("the end")), enc.Close()); err != nil {
			t.Fatal(err)
		}
		coded := w.Body.Bytes()
		if w.Header().Get("Content-Encoding") != name || len(coded) > len(data)/10 {
			t.Errorf("%s: %d bytes as %q", name, len(coded), w.Header().Get("Content-Encoding"))
		}
		r, free, err := decodeBody(bytes.NewReader(coded), name, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		free()
		if err != nil || !bytes.Equal(got, append(bytes.Clone(data), "the end"...)) {
			t.Errorf("%s: %d bytes back, %v", name, len(got), err)
		}
		r, free, err = decodeBody(bytes.NewReader(coded[:len(coded)/2]), name, false)
		if err == nil {
			_, err = io.ReadAll(r)
		}
		free()
		if err == nil {
			t.Errorf("%s: a body that was cut is read to its end", name)
		}
	}
}

// TestBombs: a small body that grows for ever is read in pieces, never as a whole: what limits a statement limits it.
func TestBombs(t *testing.T) {
	t.Parallel()
	zeros := make([]byte, 64<<20)
	for name, make := range map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, "deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }, "br": func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 1) },
		"lz4": func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) },
	} {
		var b bytes.Buffer
		w := make(&b)
		_, err := w.Write(zeros)
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		body, free, err := decodeBody(&b, name, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = readStatement("", body); err == nil || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%s: %v", name, err)
		}
		free()
	}
}
