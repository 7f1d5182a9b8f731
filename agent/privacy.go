package agent

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// siteKeyBytes is the length of a site key.
const siteKeyBytes = 32

// Privacy says what leaves a host in place of names: users become "u-", projects "p-" and
// outside addresses, cut to their /24 or /48, "net-", each with 16 hex digits of an
// HMAC-SHA256 under the site key. Node names and job ids stay as they are.
type Privacy struct {
	key   []byte
	clear bool
}

// NewPrivacy returns the privacy of a site that replaces names.
func NewPrivacy(siteKey []byte) (*Privacy, error) {
	if len(siteKey) != siteKeyBytes {
		return nil, fmt.Errorf("site key of %d bytes, must be %d", len(siteKey), siteKeyBytes)
	}
	return &Privacy{key: append([]byte(nil), siteKey...)}, nil
}

// ClearPrivacy is that of a site which keeps names in clear, by its own choice.
func ClearPrivacy() *Privacy { return &Privacy{clear: true} }

// LoadOrCreateSiteKey reads the site key, 64 hex digits, from a file, or makes one that
// only its owner can read. All hosts of a site have the same. A file that others can read
// is refused.
func LoadOrCreateSiteKey(path string) ([]byte, error) {
	files := durable.OS{}
	data, err := os.ReadFile(path) // for reading alone: the file may be read-only, or where it lies
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, siteKeyBytes)
		if _, err = rand.Read(key); err != nil {
			return nil, fmt.Errorf("make site key: %w", err)
		}
		if err = files.MkdirAll(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("make directory of site key: %w", err)
		}
		if err = durable.WriteFile(files, path, []byte(hex.EncodeToString(key)+"\n")); err != nil {
			return nil, fmt.Errorf("store site key: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read site key: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read site key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("site key %s can be read by others (mode %o): chmod 600 it", path, st.Mode().Perm())
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != siteKeyBytes {
		return nil, fmt.Errorf("site key %s is not %d hex digits", path, 2*siteKeyBytes)
	}
	return key, nil
}

// User returns what stands for a user's name; "" stays "".
func (p *Privacy) User(name string) string { return p.token("u-", name) }

// Project returns what stands for a project's name; "" stays "".
func (p *Privacy) Project(name string) string { return p.token("p-", name) }

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

// Fields of the wire that hold names.
const (
	fieldTs      = 1  // of a flow
	fieldPeer    = 2  // of a flow
	fieldTx      = 10 // of a flow
	fieldUser    = 16 // of a process
	fieldProject = 17 // of a process
)

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
	switch t.Kind {
	case wire.KindProcess:
		t.Columns = append([]wire.Column(nil), t.Columns...)
		h.column(t.Column(fieldUser), "u", h.privacy.User)
		h.column(t.Column(fieldProject), "p", h.privacy.Project)
	case wire.KindFlow:
		t.Columns = append([]wire.Column(nil), t.Columns...)
		if h.column(t.Column(fieldPeer), "n", h.privacy.Peer) {
			return sumFlows(t)
		}
	default: // no names
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
		hidden, ok := h.memo[kind+name]
		if !ok {
			if len(h.memo) >= maxMemo {
				clear(h.memo)
			}
			hidden = token(name)
			h.memo[kind+name] = hidden
		}
		dict[i] = hidden
		joined = joined || seen[hidden]
		seen[hidden] = true
	}
	c.Dict = dict
	return joined
}

// sumFlows joins the rows of one time and peer: addresses of one network have become one
// peer, and the store keeps one row a key. A row without a measured value adds nothing.
func sumFlows(t wire.Table) (wire.Table, error) {
	type key struct {
		tsMs int64
		peer string
	}
	type sum struct {
		key
		tx       int64
		measured bool
	}
	ts, peer, tx := t.Column(fieldTs), t.Column(fieldPeer), t.Column(fieldTx)
	if ts == nil || peer == nil {
		return t, nil // the encoder will say so
	}
	at := map[key]int{}
	var sums []sum
	for r := range t.Rows {
		k := key{ts.Int[r], peer.Str(r)}
		i, ok := at[k]
		if !ok {
			i = len(sums)
			at[k] = i
			sums = append(sums, sum{key: k})
		}
		if tx != nil && tx.Has(r) {
			sums[i].tx += tx.Int[r]
			sums[i].measured = true
		}
	}
	b := wire.NewBuilder(wire.KindFlow, ts.Source)
	b.SetSource(fieldPeer, peer.Source)
	if tx != nil {
		b.SetSource(fieldTx, tx.Source)
	}
	for _, s := range sums {
		b.Begin()
		b.SetInt(fieldTs, s.tsMs)
		b.SetStr(fieldPeer, s.peer)
		if s.measured {
			b.SetInt(fieldTx, s.tx)
		}
		if err := b.End(); err != nil {
			return t, err
		}
	}
	return *b.Build(), nil
}
