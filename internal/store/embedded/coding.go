package embedded

import (
	"bufio"
	"compress/bzip2"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// frameBytes is how much of a result goes into one compressed frame.
const frameBytes = 1 << 20

// decodeBody undoes the Content-Encoding and then, with native, ClickHouse's own framing (decompress=1).
// The closer frees the decoder; it does not close the body.
func decodeBody(body io.Reader, encoding string, native bool) (io.Reader, func(), error) {
	free := func() {}
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, free, badBody("gzip", err)
		}
		body, free = z, func() { _ = z.Close() }
	case "deflate":
		z, err := zlib.NewReader(body)
		if err != nil {
			return nil, free, badBody("deflate", err)
		}
		body, free = z, func() { _ = z.Close() }
	case "zstd":
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, free, badBody("zstd", err)
		}
		body, free = z, z.Close
	case "br":
		body = brotli.NewReader(body)
	case "lz4":
		body = lz4.NewReader(body)
	case "bz2":
		body = bzip2.NewReader(body)
	default:
		return nil, free, refuse(codeNotImplemented, "NOT_IMPLEMENTED", "Content-Encoding %q is not supported", encoding)
	}
	if native {
		body = &nativeReader{r: compress.NewReader(bufio.NewReaderSize(body, 64<<10))}
	}
	return body, free, nil
}

func badBody(encoding string, err error) error {
	return refuse(codeBadArguments, "BAD_ARGUMENTS", "Cannot decode the %s body: %s", encoding, err)
}

// nativeReader reads ClickHouse's compressed frames. ch-go's reader wraps the end of the input, which io.Copy would take for an error.
type nativeReader struct {
	r   *compress.Reader
	any bool
}

func (n *nativeReader) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	n.any = n.any || k > 0
	if err == nil {
		return k, nil
	}
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return k, io.EOF
	}
	return k, badBody("native", err)
}

// encoder writes a result's bytes the way the request asked for.
type encoder interface {
	io.Writer
	// Plain writes b so that the client sees it even where it expects compression: the block of an exception.
	Plain(b []byte) error
	Flush() error
	Close() error
}

// newEncoder picks the encoding of the response and sets the header for it.
func newEncoder(w http.ResponseWriter, native bool, method, acceptEncoding string) (encoder, error) {
	switch {
	case native:
		m := compress.LZ4
		switch strings.ToUpper(method) {
		case "", "LZ4", "LZ4HC":
		case "ZSTD":
			m = compress.ZSTD
		case "NONE":
			m = compress.None
		default:
			return nil, refuse(codeBadArguments, "BAD_ARGUMENTS", "Unknown network_compression_method %q", method)
		}
		return &nativeEncoder{w: w, c: compress.NewWriter(compress.LevelZero, m)}, nil
	case acceptEncoding == "":
		return plainEncoder{w}, nil
	}
	w.Header().Set("Content-Encoding", acceptEncoding)
	var z flusher
	var err error
	switch acceptEncoding {
	case "gzip":
		z, err = gzip.NewWriterLevel(w, gzip.BestSpeed)
	case "zstd":
		z, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	case "deflate":
		z, err = zlib.NewWriterLevel(w, zlib.BestSpeed)
	case "br":
		z = brotli.NewWriterLevel(w, brotliLevel)
	default:
		l := lz4.NewWriter(w)
		err = l.Apply(lz4.BlockSizeOption(lz4.Block256Kb))
		z = l
	}
	if err != nil {
		return nil, fmt.Errorf("%s response: %w", acceptEncoding, err)
	}
	return wholeEncoder{z}, nil
}

type plainEncoder struct{ io.Writer }

func (e plainEncoder) Plain(b []byte) error { _, err := e.Write(b); return err }
func (plainEncoder) Flush() error           { return nil }
func (plainEncoder) Close() error           { return nil }

// flusher is what the encodings of a whole body have in common.
type flusher interface {
	io.WriteCloser
	Flush() error
}

type wholeEncoder struct{ flusher }

func (e wholeEncoder) Plain(b []byte) error { _, err := e.Write(b); return err }

// nativeEncoder writes ClickHouse's compressed frames.
type nativeEncoder struct {
	w io.Writer
	c *compress.Writer
}

func (e *nativeEncoder) Write(b []byte) (int, error) {
	for off := 0; off < len(b); off += frameBytes {
		if err := e.c.Compress(b[off:min(len(b), off+frameBytes)]); err != nil {
			return off, fmt.Errorf("compress response: %w", err)
		}
		if _, err := e.w.Write(e.c.Data); err != nil {
			return off, err
		}
	}
	return len(b), nil
}

// Plain writes an uncompressed frame: zstd clients cannot take up an LZ4 or bare block.
func (e *nativeEncoder) Plain(b []byte) error {
	c := compress.NewWriter(compress.LevelZero, compress.None)
	if err := c.Compress(b); err != nil {
		return fmt.Errorf("frame exception: %w", err)
	}
	_, err := e.w.Write(c.Data)
	return err
}

func (*nativeEncoder) Flush() error { return nil }
func (*nativeEncoder) Close() error { return nil }

// brotliLevel is quick rather than small.
const brotliLevel = 2

// encodings are those of a response, the cheapest first.
var encodings = []string{"zstd", "lz4", "gzip", "deflate", "br"}

// acceptable picks the response's HTTP encoding of an Accept-Encoding header, "" for none.
func acceptable(header string) string {
	best := len(encodings)
	for part := range strings.SplitSeq(header, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		never := strings.Trim(strings.ReplaceAll(q, " ", ""), "q=0.") == "" && strings.TrimSpace(q) != ""
		if i := slices.Index(encodings, strings.ToLower(strings.TrimSpace(name))); i >= 0 && i < best && !never {
			best = i
		}
	}
	if best == len(encodings) {
		return ""
	}
	return encodings[best]
}
