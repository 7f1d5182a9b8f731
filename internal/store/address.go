package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// addressMs is for how long a node has an address that it said to have: agents say it again
// every hour, and one may be late. An address that another node took from one that fell silent
// is nobody's meanwhile.
const addressMs = 2 * 3_600_000

// aheadMs is how much later than it was known a row may say that it was measured.
const aheadMs = 5 * minuteMs

// tenure is a time in which a node had an address: [from, to).
type tenure struct {
	node     string
	from, to int64
}

// addressOwners are the nodes that had each address, by what stands for it.
type addressOwners map[string][]tenure

// at is the one node that had an address at a time; "": none, or several, as of a bridge's
// address, which is the same on every host.
func (o addressOwners) at(address string, tsMs int64) (node string) {
	for _, t := range o[address] {
		switch {
		case tsMs < t.from || tsMs >= t.to || t.node == node:
		case node != "":
			return ""
		default:
			node = t.node
		}
	}
	return node
}

// addressOwners reads who had which address in the stretch of q. What a node says of a subject
// (host, host/1, ...) holds until it says something else of it; no value is an address given
// up. Only what was said before a moment counts for it, so that the answer does not depend on
// the stretch that is read.
func (s *Store) addressOwners(ctx context.Context, q RowQuery) (addressOwners, error) {
	var sel selection
	node, subject, value, ts := sel.text("node"), sel.text("subject"), sel.optionalText("value"), sel.int("ts_ms")
	all := q
	all.Nodes = nil // peers are any node's
	var b strings.Builder
	// The rows are ordered by node: it is by when they could be known that most are passed over.
	fmt.Fprintf(&b, " FROM %s WHERE cluster = %s AND name = 'address' AND (subject = 'host' OR startsWith(subject, 'host/')) AND ts_ms >= %d AND ts_ms < %d AND available_ms >= %d",
		s.table(TableNodeFacts), quote(q.Cluster), q.FromMs-addressMs, q.ToMs, q.FromMs-addressMs-aheadMs)
	all.restrict(&b)
	b.WriteString(" ORDER BY node, subject, ts_ms, value_")
	owners := addressOwners{}
	var was claims
	err := s.native.query(ctx, sel.sql()+b.String(), sel.res, func(rows int) error {
		for i := range rows {
			was.take(owners, node.at(i), subject.at(i), value.at(i), (*ts)[i])
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses of nodes: %w", err)
	}
	was.flush(owners)
	return owners, nil
}

// claims are what a node says of one subject at one time, and said before.
type claims struct {
	node, subject string
	ts            int64
	now, before   []string
}

// take takes one row; they come by node, subject and time.
func (c *claims) take(owners addressOwners, node, subject, value string, ts int64) {
	switch {
	case node != c.node || subject != c.subject:
		c.flush(owners)
		c.node, c.subject, c.ts, c.before = node, subject, ts, c.before[:0]
	case ts != c.ts:
		c.flush(owners)
		c.ts = ts
	}
	// A network outside is many hosts' address.
	if value != "" && !strings.HasPrefix(value, "net-") && !slices.Contains(c.now, value) {
		c.now = append(c.now, value)
	}
}

// flush ends what is not said any more, and goes on with what is.
func (c *claims) flush(owners addressOwners) {
	for _, v := range c.before {
		if last := &owners[v][len(owners[v])-1]; last.to > c.ts {
			last.to = c.ts
		}
	}
	for _, v := range c.now {
		held := owners[v]
		if n := len(held) - 1; n >= 0 && held[n].node == c.node && held[n].to == c.ts && slices.Contains(c.before, v) {
			held[n].to = c.ts + addressMs
			continue
		}
		owners[v] = append(held, tenure{c.node, c.ts, c.ts + addressMs})
	}
	c.now, c.before = c.before[:0], c.now
}
