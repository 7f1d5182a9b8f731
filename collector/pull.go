package collector

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// puller asks a consumer for messages with a bound on their number and on their bytes at once,
// which the client library's Fetch does not, and over one subscription. One goroutine owns it.
type puller struct {
	conn    *nats.Conn
	sub     *nats.Subscription
	subject string // of requests
	inbox   string
	asked   uint64
}

// pullGrace is how long the broker may be late with its word that a request is over.
const pullGrace = time.Second

func newPuller(conn *nats.Conn, stream, consumer string) (*puller, error) {
	p := &puller{conn: conn, subject: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer, inbox: conn.NewInbox()}
	var err error
	if p.sub, err = conn.SubscribeSync(p.inbox + ".*"); err != nil {
		return nil, fmt.Errorf("listen for messages of %s: %w", stream, err)
	}
	// The requests bound what comes, and what is lost of it shows in the numbers of deliveries.
	if err = p.sub.SetPendingLimits(-1, -1); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for messages of %s: %w", stream, err), p.sub.Unsubscribe())
	}
	return p, nil
}

func (p *puller) close() { _ = p.sub.Unsubscribe() } // the connection may be gone, and the subscription with it

// pull asks once and waits until the request is met or over, at most for maxWait; more: the broker has
// others at hand. Messages of a request that this side gave up come with the next one's.
func (p *puller) pull(ctx context.Context, most, maxBytes int, maxWait time.Duration) (msgs []*nats.Msg, more bool, err error) {
	p.asked++
	reply := p.inbox + "." + strconv.FormatUint(p.asked, 10)
	ask := fmt.Appendf(nil, `{"expires":%d,"batch":%d,"max_bytes":%d}`, maxWait.Nanoseconds(), most, maxBytes)
	if err := p.conn.PublishRequest(p.subject, reply, ask); err != nil {
		return nil, false, fmt.Errorf("ask for messages: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, maxWait+pullGrace)
	defer cancel()
	for len(msgs) < most {
		m, err := p.sub.NextMsgWithContext(waiting)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, false, fmt.Errorf("wait for messages: %w", ctx.Err())
		case errors.Is(err, context.DeadlineExceeded):
			return msgs, false, nil
		default:
			return nil, false, fmt.Errorf("wait for messages: %w", err)
		}
		status := ""
		if len(m.Data) == 0 && m.Header != nil {
			status = m.Header.Get("Status")
		}
		switch {
		case status == "":
			msgs = append(msgs, m)
		case m.Subject != reply, status == "100": // of an earlier request; a sign of life
		case status == "404", status == "408":
			return msgs, false, nil
		case status == "409" && overBySize(m):
			return msgs, true, nil
		default: // the consumer is gone, or the broker
			return nil, false, fmt.Errorf("ask for messages: the broker answers %s %s", status, m.Header.Get("Description"))
		}
	}
	return msgs, true, nil
}

// overBySize tells that a request is over as the next message would be too much.
func overBySize(m *nats.Msg) bool {
	switch m.Header.Get("Description") {
	case "Message Size Exceeds MaxBytes", "Batch Completed":
		return true
	}
	return false
}
