package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/flopwatch/flopwatch/internal/wire"
)

func signedBatch(t *testing.T) (*wire.Batch, ed25519.PrivateKey, []byte) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	table := wire.NewBuilder(wire.KindHost, wire.SourceNVML)
	for s := range int64(3) {
		table.Begin()
		table.SetInt(1, 1_700_000_000_000+s*1000)
		if err := table.End(); err != nil {
			t.Fatal(err)
		}
	}
	b := &wire.Batch{Cluster: "c", Node: "n", Spool: [16]byte{1, 2}, Sequence: 9, Ticks: 3, PrevDigest: [32]byte{5}, Tables: []wire.Table{*table.Build()},
		Gaps: []wire.Gap{{From: 2, To: 4, Reason: wire.GapBytes, Digest: [32]byte{6}}}}
	frame, err := wire.AppendSigned(nil, b, key)
	if err != nil {
		t.Fatal(err)
	}
	return b, key, frame
}

func decode(t *testing.T, frame []byte) (*wire.Batch, error) {
	t.Helper()
	d, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var b wire.Batch
	return &b, d.Decode(frame, &b)
}

func TestSigned(t *testing.T) {
	sent, key, frame := signedBatch(t)
	got, err := decode(t, frame)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Key[:], key.Public().(ed25519.PublicKey)) {
		t.Errorf("key %x", got.Key)
	}
	h := got.Head()
	if err = h.Verify(got.Key, got.Signature); err != nil {
		t.Error(err)
	}
	// The sum is a contract with everybody who verifies later: it must never change.
	const want = "f9f5959f46cce71c1cc8261c6fba34383d1014a809988755ad8b480ee5cad245"
	golden := wire.Head{Cluster: "c", Node: "n", Spool: [16]byte{1, 2}, Sequence: 9, PrevDigest: [32]byte{5}, BodyDigest: [32]byte{8}, Gaps: sent.Gaps}
	if sum := golden.Sum(); hex.EncodeToString(sum[:]) != want {
		t.Errorf("sum of the golden head is %x, want %s", sum, want)
	}
	// Whatever is changed, the signature is another's.
	for name, change := range map[string]func(h *wire.Head){
		"cluster": func(h *wire.Head) { h.Cluster, h.Node = "cn", "" }, "node": func(h *wire.Head) { h.Node = "m" }, "spool": func(h *wire.Head) { h.Spool[15] = 1 },
		"sequence": func(h *wire.Head) { h.Sequence++ }, "previous": func(h *wire.Head) { h.PrevDigest[0]++ }, "body": func(h *wire.Head) { h.BodyDigest[31]++ },
		"no gap": func(h *wire.Head) { h.Gaps = nil }, "gap from": func(h *wire.Head) { h.Gaps[0].From-- }, "gap to": func(h *wire.Head) { h.Gaps[0].To++ },
		"gap reason": func(h *wire.Head) { h.Gaps[0].Reason = wire.GapAge }, "gap digest": func(h *wire.Head) { h.Gaps[0].Digest[1] = 1 },
	} {
		changed := got.Head()
		changed.Gaps = slices.Clone(changed.Gaps)
		change(&changed)
		if verr := changed.Verify(got.Key, got.Signature); !errors.Is(verr, wire.ErrSignature) {
			t.Errorf("%s changed: %v", name, verr)
		}
	}
	if err = h.Verify([32]byte{}, [64]byte{}); !errors.Is(err, wire.ErrUnsigned) {
		t.Error(err)
	}
	if err = h.Verify(got.Key, [64]byte{}); !errors.Is(err, wire.ErrSignature) {
		t.Error(err)
	}
	if _, err = wire.AppendSigned(nil, sent, key[:10]); err == nil {
		t.Error("signed with a part of a key")
	}
}

// TestUnsignedStaysAsItWas holds the frames of nodes without a key to what they were.
func TestUnsignedStaysAsItWas(t *testing.T) {
	sent, _, _ := signedBatch(t)
	frame, err := wire.AppendBatch(nil, sent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(t, frame)
	if err != nil {
		t.Fatal(err)
	}
	h := got.Head()
	if err = h.Verify(got.Key, got.Signature); !errors.Is(err, wire.ErrUnsigned) || got.BodyDigest != [32]byte{} {
		t.Errorf("%v, body %x", err, got.BodyDigest)
	}
}

// TestTampered turns every bit of the message in a signed frame: each either breaks it, or the
// signature.
func TestTampered(t *testing.T) {
	_, _, frame := signedBatch(t)
	zr, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	message, err := zr.DecodeAll(frame[2:], nil)
	if err != nil {
		t.Fatal(err)
	}
	pack := func(m []byte) []byte { return zw.EncodeAll(m, slices.Clone(frame[:2])) }
	for i := range message {
		for bit := range 8 {
			m := slices.Clone(message)
			m[i] ^= 1 << bit
			b, err := decode(t, pack(m))
			if err != nil {
				continue
			}
			h := b.Head()
			if h.Verify(b.Key, b.Signature) == nil {
				t.Fatalf("bit %d of byte %d of %d turned, and it verifies", bit, i, len(message))
			}
		}
	}
	const tail = 2 + 32 + 2 + 64 // key and signature with their heads
	body, key, signature := message[:len(message)-tail], message[len(message)-tail:len(message)-66], message[len(message)-66:]
	for name, m := range map[string][]byte{
		"a key alone":             slices.Concat(body, key),
		"a signature alone":       slices.Concat(body, signature),
		"the wrong way round":     slices.Concat(body, signature, key),
		"twice":                   slices.Concat(body, key, key, signature),
		"something behind":        slices.Concat(message, []byte{7 << 3, 1}),
		"something unknown":       slices.Concat(message, []byte{0x80, 2, 1}),
		"something between":       slices.Concat(body, key, []byte{7 << 3, 1}, signature),
		"a signature that's long": slices.Concat(body, key, []byte{15<<3 | 2, 65}, bytes.Repeat([]byte{1}, 65)),
	} {
		if _, err := decode(t, pack(m)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
