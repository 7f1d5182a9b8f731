package agent

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// Privacy says what leaves a host in place of names, each with 16 hex digits of an
// HMAC-SHA256 under the site key:
//
//	u-, p-, w-  users, projects (namespaces, accounts), workloads (names of pods and jobs)
//	c-          containers, where somebody gave them a name; ids that runtimes give stay
//	net-        addresses outside, cut to their /24 or /48
//	addr-       addresses inside (private, unique local), whole: the same on all hosts of a
//	            site, so that who talks to whom can be joined with who has which address
//	f-          files, by their path
//	r-          where the processes of a run meet
//
// Node names and job ids stay as they are.
type Privacy struct {
	key   []byte
	clear bool
}

// NewPrivacy returns the privacy of a site that replaces names.
func NewPrivacy(siteKey []byte) (*Privacy, error) {
	if len(siteKey) != keyBytes {
		return nil, fmt.Errorf("site key of %d bytes, must be %d", len(siteKey), keyBytes)
	}
	return &Privacy{key: append([]byte(nil), siteKey...)}, nil
}

// ClearPrivacy is that of a site which keeps names in clear, by its own choice.
func ClearPrivacy() *Privacy { return &Privacy{clear: true} }

// LoadOrCreateSiteKey reads the site key from a file as ReadSiteKey does, or makes one that only
// its owner can read.
func LoadOrCreateSiteKey(path string) ([]byte, error) { return loadOrCreate("site key", path) }

// ReadSiteKey reads the site key, 64 hex digits, from a file. All hosts of a site have the same. A
// file that others can read is refused.
func ReadSiteKey(path string) ([]byte, error) { return readKey("site key", path) }

// User returns what stands for a user's name; "" stays "".
func (p *Privacy) User(name string) string { return p.token("u-", name) }

// Project returns what stands for a project's name; "" stays "".
func (p *Privacy) Project(name string) string { return p.token("p-", name) }

// Workload returns what stands for the name of a pod or a job; "" stays "".
func (p *Privacy) Workload(name string) string { return p.token("w-", name) }

// Container returns what stands for containers of a job, separated by blanks: names that somebody
// gave them are replaced, the first digits of ids are not.
func (p *Privacy) Container(list string) string {
	if p.clear {
		return list
	}
	words := strings.Fields(list)
	for i, name := range words {
		if !isRuntimeID(name) {
			words[i] = p.token("c-", name)
		}
	}
	return strings.Join(words, " ")
}

// isRuntimeID reports whether a container's name is the short id that a runtime gave it.
func isRuntimeID(name string) bool {
	return len(name) == 12 && strings.Trim(name, "0123456789abcdef") == ""
}

// File returns what stands for a path; "" stays "".
func (p *Privacy) File(path string) string { return p.token("f-", path) }

// Rendezvous returns what stands for the place where the processes of a run meet, such as an
// address and a port; "" stays "".
func (p *Privacy) Rendezvous(place string) string { return p.token("r-", place) }

// Address returns what stands for an address: one inside becomes a token of its own, one
// outside its network's, as with Peer. Anything else stands for itself alone.
func (p *Privacy) Address(text string) string {
	if p.clear || text == "" {
		return text
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		ap, aerr := netip.ParseAddrPort(text)
		if aerr != nil {
			return p.token("addr-", text)
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	if inside(addr) {
		return p.token("addr-", addr.String())
	}
	return p.Peer(addr.String())
}

// shared is the address space that carriers and clouds use within (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// inside reports whether an address means nothing beyond the site.
func inside(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || shared.Contains(a)
}

// Peer returns what stands for a peer: an address, with or without a port, becomes its
// network's token; anything else is a node's name and stays.
func (p *Privacy) Peer(peer string) string {
	if p.clear {
		return peer
	}
	addr, err := netip.ParseAddr(peer)
	if err != nil {
		ap, aerr := netip.ParseAddrPort(peer)
		if aerr != nil {
			return peer
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	network, err := addr.Prefix(bits)
	if err != nil { // bits fit the family
		return p.token("net-", peer)
	}
	return p.token("net-", network.String())
}

// token separates the kinds, so that a user and a project of one name differ.
func (p *Privacy) token(kind, name string) string {
	if p.clear || name == "" {
		return name
	}
	mac := hmac.New(sha256.New, p.key)
	_, _ = mac.Write([]byte(kind)) // a hash's Write does not fail
	_, _ = mac.Write([]byte(name))
	return kind + hex.EncodeToString(mac.Sum(nil)[:8])
}

// Fields of the wire that hold names, by kind.
const (
	fieldPeer       = 2  // of flow and tcp
	fieldUser       = 16 // of process
	fieldProject    = 17 // of process
	fieldRendezvous = 22 // of process
	fieldContainer  = 28 // of process
	fieldHoldUser   = 17 // of hold
	fieldHoldProj   = 18 // of hold
	fieldHoldWork   = 19 // of hold
	fieldHoldCont   = 20 // of hold
	fieldFile       = 3  // of checkpoint
	fieldFactName   = 3  // of fact
	fieldFactValue  = 10 // of fact
)

// factAddress is the name of facts whose values are addresses.
const factAddress = "address"

// maxMemo bounds the tokens that a hider remembers.
const maxMemo = 4096

// hider applies privacy to tables.
type hider struct {
	privacy *Privacy
	memo    map[string]string
}

// table returns t with names replaced; t itself is not changed.
func (h *hider) table(t wire.Table) (wire.Table, error) {
	if h.privacy.clear {
		return t, nil
	}
	p := h.privacy
	switch t.Kind {
	case wire.KindProcess:
		h.own(&t)
		h.column(t.Column(fieldUser), "u", p.User)
		h.column(t.Column(fieldProject), "p", p.Project)
		h.column(t.Column(fieldRendezvous), "r", p.Rendezvous)
		h.column(t.Column(fieldContainer), "c", p.Container)
	case wire.KindFlow:
		h.own(&t)
		if h.column(t.Column(fieldPeer), "n", p.Peer) {
			return sumRows(t)
		}
	case wire.KindTCP:
		h.own(&t)
		if h.column(t.Column(fieldPeer), "a", p.Address) {
			return sumRows(t)
		}
	case wire.KindHold:
		h.own(&t)
		h.column(t.Column(fieldHoldUser), "u", p.User)
		h.column(t.Column(fieldHoldProj), "p", p.Project)
		h.column(t.Column(fieldHoldWork), "w", p.Workload)
		h.column(t.Column(fieldHoldCont), "c", p.Container)
	case wire.KindCheckpoint:
		h.own(&t)
		h.column(t.Column(fieldFile), "f", p.File)
	case wire.KindFact:
		return h.facts(t)
	default: // no names
	}
	return t, nil
}

// own makes the columns the table's own, so that the caller's stay as they are.
func (*hider) own(t *wire.Table) { t.Columns = append([]wire.Column(nil), t.Columns...) }

// facts hides the values of those facts alone that are addresses: other facts may have the
// same value.
func (h *hider) facts(t wire.Table) (wire.Table, error) {
	names, values := t.Column(fieldFactName), t.Column(fieldFactValue)
	if names == nil || values == nil {
		return t, nil
	}
	h.own(&t)
	values = t.Column(fieldFactValue)
	dict := append([]string(nil), values.Dict...)
	refs := append([]uint32(nil), values.Ref...)
	for r := range t.Rows {
		if names.Str(r) != factAddress || !values.Has(r) {
			continue
		}
		dict = append(dict, h.hide("a", values.Str(r), h.privacy.Address))
		refs[r] = uint32(len(dict) - 1)
	}
	// What is not referred to any more must not travel.
	values.Dict, values.Ref = nil, refs
	at := map[string]uint32{}
	for r := range t.Rows {
		if !values.Has(r) {
			continue
		}
		s := dict[refs[r]]
		i, ok := at[s]
		if !ok {
			i = uint32(len(values.Dict))
			at[s] = i
			values.Dict = append(values.Dict, s)
		}
		refs[r] = i
	}
	return t, nil
}

// column replaces the column's dictionary by a new one, and reports whether entries that
// differed have become equal.
func (h *hider) column(c *wire.Column, kind string, token func(string) string) (joined bool) {
	if c == nil {
		return false
	}
	dict := make([]string, len(c.Dict))
	seen := make(map[string]bool, len(dict))
	for i, name := range c.Dict {
		hidden := h.hide(kind, name, token)
		dict[i] = hidden
		joined = joined || seen[hidden]
		seen[hidden] = true
	}
	c.Dict = dict
	return joined
}

// hide remembers tokens: they are asked for again and again.
func (h *hider) hide(kind, name string, token func(string) string) string {
	hidden, ok := h.memo[kind+name]
	if !ok {
		if len(h.memo) >= maxMemo {
			clear(h.memo)
		}
		hidden = token(name)
		h.memo[kind+name] = hidden
	}
	return hidden
}

// sumRows joins rows whose keys have become equal by hiding: integers that are not keys are
// added up, strings are the first's. A value that no row measured stays absent.
func sumRows(t wire.Table) (wire.Table, error) {
	fields := wire.Schema[t.Kind]
	type sum struct {
		row    int // the first
		values map[uint8]int64
	}
	at := map[string]int{}
	var sums []sum
	var key []byte
	for r := range t.Rows {
		key = key[:0]
		for _, f := range fields {
			c := t.Column(f.ID)
			if !f.Key || c == nil {
				continue // the encoder will say what lacks
			}
			if f.Type == wire.Str {
				key = append(append(key, c.Str(r)...), 0)
			} else {
				key = binary.AppendVarint(key, c.Int[r])
			}
		}
		i, ok := at[string(key)]
		if !ok {
			i = len(sums)
			at[string(key)] = i
			sums = append(sums, sum{row: r, values: map[uint8]int64{}})
		}
		for _, f := range fields {
			if c := t.Column(f.ID); !f.Key && f.Type == wire.Int && c != nil && c.Has(r) {
				sums[i].values[f.ID] += c.Int[r]
			}
		}
	}
	b := wire.NewBuilder(t.Kind, t.Columns[0].Source)
	for i := range t.Columns {
		b.SetSource(t.Columns[i].Field, t.Columns[i].Source)
	}
	for _, s := range sums {
		b.Begin()
		for i := range t.Columns {
			c := &t.Columns[i]
			f, _ := wire.FieldOf(t.Kind, c.Field)
			v, summed := s.values[f.ID]
			switch {
			case summed:
				b.SetInt(f.ID, v)
			case !c.Has(s.row):
			case f.Type == wire.Str:
				b.SetStr(f.ID, c.Str(s.row))
			case f.Key:
				b.SetInt(f.ID, c.Int[s.row])
			}
		}
		if err := b.End(); err != nil {
			return t, err
		}
	}
	return *b.Build(), nil
}
