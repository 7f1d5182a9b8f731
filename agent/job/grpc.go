package job

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	maxReply = 16 << 20 // bytes of a reply
	maxItem  = 1 << 20  // bytes of one entry of it
	window   = 64 << 10 // bytes that a server may send ahead
)

// errTooLarge says that a reply is beyond what is read.
var errTooLarge = errors.New("the reply is larger than " + strconv.Itoa(maxReply) + " bytes")

// caller asks a gRPC service behind a unix socket, by net/http alone: the agent has that
// anyway for its metrics, and gRPC's own library is more than the rest of the agent.
//
// A reply is read entry by entry and never held as a whole: one of 16 MiB costs no more
// memory than its largest entry.
type caller struct {
	path      string
	transport *http.Transport
}

func newCaller(path string) *caller {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	dialer := &net.Dialer{}
	return &caller{path: path, transport: &http.Transport{
		Protocols:          protocols,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) },
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window, MaxReadFrameSize: 16 << 10},
		MaxConnsPerHost:    1, MaxResponseHeaderBytes: 16 << 10,
	}}
}

// list calls a method that takes nothing, and gives every entry of field 1 of its reply to
// each, which must not keep it. large counts entries that are too large and were left out.
func (c *caller) list(ctx context.Context, method string, each func(item []byte) error) (large int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(make([]byte, 5))) // a frame of no bytes
	if err != nil {
		return 0, err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"flopwatch-agent"}}
	// Nothing stays open in between: a connection holds two goroutines and its buffers.
	defer c.transport.CloseIdleConnections()
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read as far as it was wanted
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers HTTP status %d, which no gRPC service does", resp.StatusCode)
	}
	if err = grpcStatus(resp.Header); err != nil {
		return 0, err
	}
	if large, err = items(resp.Body, each); err != nil {
		return large, err
	}
	if resp.Trailer.Get("Grpc-Status") == "" && resp.Header.Get("Grpc-Status") == "" {
		return large, errors.New("the reply has no gRPC status: it was cut off, or is another protocol's")
	}
	return large, grpcStatus(resp.Trailer)
}

// grpcStatus is the error in headers or trailers, if there is one.
func grpcStatus(h http.Header) error {
	code := h.Get("Grpc-Status")
	if code == "" || code == "0" {
		return nil
	}
	message, err := url.PathUnescape(h.Get("Grpc-Message"))
	if err != nil {
		message = h.Get("Grpc-Message")
	}
	n, err := strconv.Atoi(code)
	if err != nil || n < 0 || n > 16 {
		return fmt.Errorf("gRPC status %q", clean(code))
	}
	return &statusError{code: n, message: strings.TrimSpace(clean(message))}
}

// statusError is an error that a gRPC service answers.
type statusError struct {
	code    int
	message string
}

// codeUnimplemented is gRPC's code for a method that the service has not.
const codeUnimplemented = 12

func (e *statusError) Error() string {
	return fmt.Sprintf("it answers gRPC status %d: %s", e.code, e.message)
}

// items reads one framed message and gives every entry of its field 1 to each.
func items(r io.Reader, each func(item []byte) error) (large int, err error) {
	var head [5]byte
	br := bufio.NewReaderSize(r, 16<<10)
	if _, err = io.ReadFull(br, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, nil // no message: the trailers say why
		}
		return 0, fmt.Errorf("read the reply: %w", err)
	}
	if head[0] != 0 {
		return 0, errors.New("the reply is compressed, which was not asked for")
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxReply {
		return 0, fmt.Errorf("%w (%d)", errTooLarge, size)
	}
	body := &io.LimitedReader{R: br, N: int64(size)}
	in := bufio.NewReaderSize(body, 4<<10)
	var item []byte
	for {
		tag, rerr := binary.ReadUvarint(in)
		if errors.Is(rerr, io.EOF) && body.N == 0 {
			_, err = io.Copy(io.Discard, br) // the trailers come behind the end
			return large, err
		}
		if rerr != nil {
			return large, fmt.Errorf("read the reply: %w", within(rerr))
		}
		n, discard := uint64(0), true
		switch tag & 7 {
		case 0:
			_, err = binary.ReadUvarint(in)
		case 1:
			n = 8
		case 2:
			n, err = binary.ReadUvarint(in)
			discard = tag>>3 != 1
		case 5:
			n = 4
		default:
			err = errProto
		}
		if err == nil && n > maxReply {
			err = errProto
		}
		switch {
		case err != nil:
		case !discard && n <= maxItem:
			if uint64(cap(item)) < n {

				item = make([]byte, n, max(2*n, 4<<10))
			}
			item = item[:n]
			if _, err = io.ReadFull(in, item); err == nil {
				err = each(item)
			}
		default:
			if !discard {
				large++
			}
			_, err = in.Discard(int(n))
		}
		if err != nil {
			return large, fmt.Errorf("read the reply: %w", within(err))
		}
	}
}

// within makes an end within a message no mere end.
func within(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
