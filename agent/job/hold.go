package job

import (
	"cmp"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Fields of wire.KindHold.
const (
	holdStart      = 1
	holdUUID       = 2
	holdJobSource  = 3
	holdJobID      = 4
	holdGPU        = 10
	holdDevice     = 11
	holdEnd        = 12
	holdSeen       = 13
	holdEvidence   = 14
	holdConfidence = 15
	holdShares     = 16
	holdUser       = 17
	holdProject    = 18
	holdWorkload   = 19
	holdContainer  = 20
	holdRestarts   = 21
)

// Kinds of evidence.
const (
	byCgroup       = "cgroup"
	byEnviron      = "environ"
	byPodResources = "podresources"
	bySlurmFile    = "slurm_file"
	byMapping      = "dcgm_mapping"
	byDRA          = "dra"
)

const (
	maxHolds   = 4096
	maxDevText = 512     // bytes of a device's names
	sayAgainMs = 300_000 // between two rows of a hold that has not changed: it was seen since
)

// Confidence of what names a holder, before the device's own and the sharers are counted.
const (
	holdConf    = 9900
	suspectConf = 5000 // the job's control groups are gone
)

// feed is who says which GPUs are held.
type feed uint8

// Feeds, those that know more first.
const (
	feedKubelet feed = iota
	feedSlurm
	feedMapping
	feeds
)

// holdKey is what a hold is of: its start aside, the key of its rows.
type holdKey struct{ uuid, source, id string }

// claim is one statement of a feed: a job holds a device.
type claim struct {
	holdKey
	gpu       int
	device    string
	container string
	evidence  string
	conf      int64 // of one who has it alone
	user      string
	project   string
	workload  string
	startMs   int64 // since when, where the feed says so; 0: since it is seen
	alias     string
	restarts  int64 // how often the job was started again, plus one; 0: not known
}

// hold is a claim that stands.
type hold struct {
	claim
	feed    feed
	startMs int64
	old     bool  // it was there when its feed was first heard: it began before
	shares  int   // how many jobs of this scheduler hold the device
	seenMs  int64 // wall ms at which the feed was last heard to say it
	saidMs  int64 // boot ms of the last row; 0: none
	dirty   bool
	mark    uint64
	// missedMs is the wall ms at which its feed did not say it any more, for the first time and
	// not yet for good; 0: it does.
	missedMs int64
}

// holds are all that stand.
type holds struct {
	known   map[holdKey]*hold
	order   []*hold // by key
	round   uint64
	begun   [feeds]bool // the feed was heard
	version uint64      // changes with whatever an attribution may rest on
	dropped int         // beyond maxHolds
	row     *hold
	endMs   int64
	fill    func(b *wire.Builder)
}

func newHolds() *holds {
	h := &holds{known: map[holdKey]*hold{}}
	h.fill = h.fillRow
	return h
}

// heard takes what a feed says at wallMs, all of it: what it says no more has ended, except
// where unknown reports that it could not be heard. everyMs is how often the feed is asked. A
// kubelet that has just started does not know its pods yet and names none: of what nobody else
// has now, only its second silence is an end, as of the first.
func (h *holds) heard(f feed, claims []claim, unknown func(*hold) bool, everyMs int64, t source.Tick, wallMs int64, out source.Sink) {
	h.round++
	for i := range claims {
		h.claim(f, &claims[i], wallMs, out)
	}
	ended := false
	for _, o := range h.order {
		if o.feed != f || o.mark == h.round || unknown != nil && unknown(o) {
			continue
		}
		if f == feedKubelet && (o.missedMs == 0 || o.missedMs == wallMs) && !h.passedOn(o) {
			o.missedMs = wallMs
			continue
		}
		// Where nobody has listened since, it ended when it was last heard of.
		end := cmp.Or(o.missedMs, wallMs)
		if end-o.seenMs > 2*everyMs+minAskMs || end < o.seenMs {
			end = o.seenMs
		}
		h.end(o, max(end, o.startMs), out)
		ended = true
	}
	if ended {
		h.order = slices.DeleteFunc(h.order, func(o *hold) bool { return h.known[o.holdKey] != o })
		h.version++
	}
	h.begun[f] = true
	h.share()
	h.say(t, out)
}

// passedOn reports whether another has a hold's device by what was said in this round.
func (h *holds) passedOn(o *hold) bool {
	at, _ := slices.BinarySearchFunc(h.order, o.uuid, func(o *hold, uuid string) int { return strings.Compare(o.uuid, uuid) })
	for ; at < len(h.order) && h.order[at].uuid == o.uuid; at++ {
		if h.order[at].mark == h.round {
			return true
		}
	}
	return false
}

// share counts who shares each device: nobody of several is given it whole.
func (h *holds) share() {
	for from := 0; from < len(h.order); {
		to := from + 1
		for to < len(h.order) && h.order[to].uuid == h.order[from].uuid && h.order[to].source == h.order[from].source {
			to++
		}
		for _, o := range h.order[from:to] {
			if o.shares != to-from {
				o.shares, o.dirty = to-from, true
				h.version++
			}
		}
		from = to
	}
}

// confidence is a hold's, divided among all who share the device.
func (o *hold) confidence() int64 { return o.conf / int64(max(o.shares, 1)) }

// claim takes one statement in.
func (h *holds) claim(f feed, c *claim, wallMs int64, out source.Sink) {
	o := h.known[c.holdKey]
	if o != nil && o.feed < f && o.mark != 0 {
		return // one that knows more says so already
	}
	if o != nil && c.startMs != 0 && c.startMs != o.startMs && o.feed == f {
		// The job was started anew under the same id.
		h.end(o, max(o.startMs, c.startMs), out)
		h.order = slices.DeleteFunc(h.order, func(x *hold) bool { return x == o })
		o = nil
	}
	if o == nil {
		start, before := cmp.Or(c.startMs, wallMs), !h.begun[f] && c.startMs == 0
		if c.alias != "" && c.alias != c.id {
			// The job's own id has become known: the hold goes on under it, and what was told
			// under the other is taken back by a row that ends when it began.
			other := holdKey{c.uuid, c.source, c.alias}
			if old := h.known[other]; old != nil {
				start, before = old.startMs, old.old
				h.end(old, old.startMs, out)
				h.order = slices.DeleteFunc(h.order, func(o *hold) bool { return o == old })
			}
		}
		if len(h.known) >= maxHolds {
			h.dropped++
			return
		}
		o = &hold{claim: *c, feed: f, startMs: start, old: before, dirty: true}
		h.adopt(o)
	} else if !same(&o.claim, c) {
		o.claim, o.dirty = *c, true
		h.version++
	}
	o.feed, o.seenMs, o.mark, o.missedMs = f, wallMs, h.round, 0
}

// adopt takes a hold into the list.
func (h *holds) adopt(o *hold) {
	h.known[o.holdKey] = o
	at, found := slices.BinarySearchFunc(h.order, o.holdKey, func(o *hold, k holdKey) int { return compareHolds(o.holdKey, k) })
	if found {
		h.order[at] = o
	} else {
		h.order = slices.Insert(h.order, at, o)
	}
	h.version++
}

func same(a, b *claim) bool {
	x, y := *a, *b
	x.startMs, x.alias, y.startMs, y.alias = 0, "", 0, ""
	return x == y
}

func compareHolds(a, b holdKey) int {
	return cmp.Or(strings.Compare(a.uuid, b.uuid), strings.Compare(a.source, b.source), strings.Compare(a.id, b.id))
}

// say puts rows of what is new or has changed, and now and then of all.
func (h *holds) say(t source.Tick, out source.Sink) {
	for _, o := range h.order {
		if o.dirty || t.BootMs-o.saidMs >= sayAgainMs {
			o.dirty, o.saidMs = false, t.BootMs
			h.put(o, 0, out)
		}
	}
}

func (h *holds) end(o *hold, endMs int64, out source.Sink) {
	delete(h.known, o.holdKey)
	h.put(o, max(endMs, 1), out)
}

// put adds a row; endMs is 0 for a hold that stands.
func (h *holds) put(o *hold, endMs int64, out source.Sink) {
	h.row, h.endMs = o, endMs
	out.Row(wire.KindHold, wire.SourceDeclared, "hold", nil, h.fill)
}

func (h *holds) fillRow(b *wire.Builder) {
	o := h.row
	b.SetInt(holdStart, o.startMs)
	b.SetStr(holdUUID, o.uuid)
	b.SetStr(holdJobSource, o.source)
	b.SetStr(holdJobID, o.id)
	if o.gpu >= 0 {
		b.SetInt(holdGPU, int64(o.gpu))
	}
	if h.endMs > 0 {
		b.SetInt(holdEnd, h.endMs)
	}
	b.SetInt(holdSeen, o.seenMs)
	b.SetInt(holdConfidence, o.confidence())
	b.SetInt(holdShares, int64(max(o.shares, 1)))
	if o.restarts > 0 {
		b.SetInt(holdRestarts, o.restarts-1)
	}
	for _, v := range [...]struct {
		field uint8
		value string
	}{
		{holdDevice, o.device}, {holdEvidence, o.evidence}, {holdUser, o.user}, {holdProject, o.project}, {holdWorkload, o.workload}, {holdContainer, o.container},
	} {
		if v.value != "" {
			b.SetStr(v.field, v.value)
		}
	}
}

// byAlias is the id under which a pod holds a device, by what stands for its name.
func (h *holds) byAlias(uuid, alias string) string {
	at, _ := slices.BinarySearchFunc(h.order, uuid, func(o *hold, uuid string) int { return strings.Compare(o.uuid, uuid) })
	for ; at < len(h.order) && h.order[at].uuid == uuid; at++ {
		if h.order[at].alias == alias {
			return h.order[at].id
		}
	}
	return ""
}

// exclusive is the job that alone holds a device; nil: nobody, or several.
func (h *holds) exclusive(uuid string) (one *hold, several bool) {
	at, _ := slices.BinarySearchFunc(h.order, uuid, func(o *hold, uuid string) int { return strings.Compare(o.uuid, uuid) })
	switch {
	case at == len(h.order) || h.order[at].uuid != uuid:
		return nil, false
	case at+1 < len(h.order) && h.order[at+1].uuid == uuid:
		return nil, true
	case h.order[at].missedMs != 0: // it may be over
		return nil, false
	}
	return h.order[at], false
}
