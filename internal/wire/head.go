package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// KeySize and SignatureSize are those of Ed25519, in bytes.
const (
	KeySize       = ed25519.PublicKeySize
	SignatureSize = ed25519.SignatureSize
)

// ErrUnsigned says that a batch carries no signature, ErrSignature that it carries one that is
// not its key's.
var (
	ErrUnsigned  = errors.New("not signed")
	ErrSignature = errors.New("the signature is not that of its key")
)

// headDomain keeps a signature of a head from being taken for one of anything else.
const headDomain = "flopwatch head 1\x00"

// Head is what a node signs of a batch: whose it is, its place in the chain, what its spool gave
// up, and a digest of the rest. A store that keeps heads and frames' digests can show, without the
// frames, that no batch was left out, put in or moved.
type Head struct {
	Cluster, Node string
	Spool         [16]byte
	Sequence      uint64
	// PrevDigest is that of the frame before it, as it travelled; BodyDigest that of the batch's
	// own message, decompressed and without key and signature.
	PrevDigest, BodyDigest [32]byte
	Gaps                   []Gap
}

// Sum is the SHA-256 that is signed: of every field at its full width, names and gaps behind
// their number.
func (h *Head) Sum() [32]byte {
	d := sha256.New()
	var b [8]byte
	put := func(v uint64) {
		binary.BigEndian.PutUint64(b[:], v)
		_, _ = d.Write(b[:]) // a hash's Write does not fail
	}
	text := func(s string) {
		put(uint64(len(s)))
		_, _ = d.Write([]byte(s))
	}
	_, _ = d.Write([]byte(headDomain))
	text(h.Cluster)
	text(h.Node)
	_, _ = d.Write(h.Spool[:])
	put(h.Sequence)
	_, _ = d.Write(h.PrevDigest[:])
	_, _ = d.Write(h.BodyDigest[:])
	put(uint64(len(h.Gaps)))
	for _, g := range h.Gaps {
		put(g.From)
		put(g.To)
		put(uint64(g.Reason))
		_, _ = d.Write(g.Digest[:])
	}
	return [32]byte(d.Sum(nil))
}

// Verify reports whether signature is key's of the head: nil, ErrUnsigned where both are zero, or
// ErrSignature.
func (h *Head) Verify(key [KeySize]byte, signature [SignatureSize]byte) error {
	if key == [KeySize]byte{} && signature == [SignatureSize]byte{} {
		return ErrUnsigned
	}
	sum := h.Sum()
	if !ed25519.Verify(key[:], sum[:], signature[:]) {
		return ErrSignature
	}
	return nil
}

// Head of a decoded batch. It borrows the batch's gaps.
func (b *Batch) Head() Head {
	return Head{Cluster: b.Cluster, Node: b.Node, Spool: b.Spool, Sequence: b.Sequence, PrevDigest: b.PrevDigest, BodyDigest: b.BodyDigest, Gaps: b.Gaps}
}

// AppendSigned is AppendBatch with the node's key: the frame carries the public key and the
// signature of the batch's head. The batch's own Key, Signature and BodyDigest are not read.
func AppendSigned(dst []byte, b *Batch, key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return dst, fmt.Errorf("sign batch: a key of %d bytes, wanted %d", len(key), ed25519.PrivateKeySize)
	}
	return appendBatch(dst, b, key)
}

// sign appends key and signature to an encoded message.
func sign(m []byte, b *Batch, key ed25519.PrivateKey) []byte {
	h := b.Head()
	h.BodyDigest = sha256.Sum256(m)
	sum := h.Sum()
	m = appendBytes(m, 14, key[KeySize:]) // the second half of a private key is the public one
	return appendBytes(m, 15, ed25519.Sign(key, sum[:]))
}
