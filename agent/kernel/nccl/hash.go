package nccl

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"strconv"
)

// idBytes is the size of a communicator's unique id.
const idBytes = 128

// hashOld is the hash of an id that NCCL up to 2.25 prints as the communicator's: DJB2a over
// signed characters.
func hashOld(id []byte) uint64 {
	h := uint64(5381)
	for _, c := range id {
		h = h*33 ^ uint64(int64(int8(c)))
	}
	return h
}

// hashNew is the same of NCCL from 2.26: two words that are mixed with each word of input.
func hashNew(id []byte) uint64 {
	a, b := uint64(1)^uint64(len(id)), uint64(1)
	for len(id) > 0 {
		a += b
		b ^= a
		a = (a ^ a>>31) * 0x9de62bbc8cef3ce3
		b = (b ^ b>>32) * 0x485cd6311b599e79
		var word [8]byte
		n := copy(word[:], id)
		id = id[n:]
		a += binary.LittleEndian.Uint64(word[:])
	}
	h := (a^a>>31)*0xbac3bd562846de6b + b
	return (h ^ h>>32) * 0x995a187a14e7b445
}

// digestBytes is how much of a SHA-256 names a communicator.
const digestBytes = 16

// digest makes a name of what is known of a communicator. kind keeps names of different
// knowledge apart.
func digest(kind string, parts ...[]byte) string {
	h := sha256.New()
	_, _ = h.Write([]byte("flopwatch " + kind + "\n")) // never fails
	for _, p := range parts {
		_, _ = h.Write(p) // never fails
	}
	return hex.EncodeToString(h.Sum(nil)[:digestBytes])
}

func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// busNumber is a PCI address as NCCL keeps it: the digits of 0000:1b:00.0 read as one number.
func busNumber(pci string) (uint64, bool) {
	digits := make([]byte, 0, 16)
	for i := range len(pci) {
		switch c := pci[i]; {
		case c == ':' || c == '.':
		case len(digits) == 16:
			return 0, false
		default:
			digits = append(digits, c)
		}
	}
	v, err := strconv.ParseUint(string(digits), 16, 64)
	return v, err == nil && bits.Len64(v) <= 48
}
