package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

const (
	saltBytes = 32
	// padBytes: envelopes are padded to a multiple, so that a size tells little about a name.
	padBytes      = 1024
	commitContext = "flopwatch party commitment v1\x00"
)

// ErrShredded means that the wraps of an envelope were deleted: nobody can open it.
var ErrShredded = errors.New("envelope is shredded")

// ErrTampered means that the clear part or the commitment does not fit the envelope.
var ErrTampered = errors.New("clear part or commitment does not fit the envelope")

// Recipients are who may open an envelope. Both kinds are needed: the screening process
// reads without an officer present, an officer reads without the screening process.
type Recipients struct {
	Officers  []age.Recipient
	Screening age.Recipient
}

// Sealed is one version of a party as it may be stored. Wraps is the age header: the
// data key of this version alone, wrapped for each recipient. Body is the payload.
type Sealed struct {
	Clear      Clear    `json:"clear"`
	Wraps      []byte   `json:"wraps"`      // empty: shredded
	Body       []byte   `json:"body"`       // worth nothing without Wraps
	Commitment [32]byte `json:"commitment"` // SHA-256 over context, salt and the party's JSON; the salt is in the envelope
}

// Shred deletes the wraps. The data key existed nowhere else.
func (s *Sealed) Shred() {
	clear(s.Wraps)
	s.Wraps = nil
}

// envelope is what is inside.
type envelope struct {
	Salt  []byte          `json:"salt"`
	Party json.RawMessage `json:"party"`
	Clear Clear           `json:"clear"`
}

// Seal seals each party under a data key of its own, fresh at every call. A nil locate
// leaves the countries of access absent. The caller drops the parties in clear.
func Seal(parties []Party, to Recipients, locate Locate) ([]Sealed, error) {
	if len(to.Officers) == 0 || to.Screening == nil {
		return nil, errors.New("seal parties: needs at least one officer and the screening process as recipients")
	}
	all := append(append([]age.Recipient(nil), to.Officers...), to.Screening)
	out := make([]Sealed, 0, len(parties))
	for i := range parties {
		s, err := seal(&parties[i], all, locate)
		if err != nil {
			return nil, fmt.Errorf("seal party %s: %w", parties[i].ID, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func seal(p *Party, to []age.Recipient, locate Locate) (Sealed, error) {
	party, err := json.Marshal(p)
	if err != nil {
		return Sealed{}, fmt.Errorf("encode: %w", err)
	}
	env := envelope{Salt: make([]byte, saltBytes), Party: party, Clear: p.Clear(locate)}
	if _, err = rand.Read(env.Salt); err != nil {
		return Sealed{}, fmt.Errorf("draw salt: %w", err)
	}
	plain, err := json.Marshal(env)
	if err != nil {
		return Sealed{}, fmt.Errorf("encode envelope: %w", err)
	}
	// JSON ends before the blanks that fill the last block.
	if rest := len(plain) % padBytes; rest != 0 {
		plain = append(plain, bytes.Repeat([]byte{' '}, padBytes-rest)...)
	}
	var file bytes.Buffer
	w, err := age.Encrypt(&file, to...)
	if err != nil {
		return Sealed{}, fmt.Errorf("wrap data key: %w", err)
	}
	if _, err = w.Write(plain); err != nil {
		return Sealed{}, fmt.Errorf("encrypt: %w", err)
	}
	if err = w.Close(); err != nil {
		return Sealed{}, fmt.Errorf("encrypt: %w", err)
	}
	header, err := age.ExtractHeader(bytes.NewReader(file.Bytes()))
	if err != nil {
		return Sealed{}, fmt.Errorf("split envelope: %w", err)
	}
	return Sealed{
		Clear: env.Clear, Wraps: header, Body: bytes.Clone(file.Bytes()[len(header):]), Commitment: commitment(env.Salt, party),
	}, nil
}

// Open opens an envelope for who holds a key, and checks that clear part and commitment
// belong to it. Errors: ErrShredded, ErrTampered, or age's (no identity matched).
func Open(s Sealed, identities ...age.Identity) (Party, error) {
	if len(s.Wraps) == 0 {
		return Party{}, fmt.Errorf("open party %s: %w", s.Clear.ID, ErrShredded)
	}
	r, err := age.Decrypt(io.MultiReader(bytes.NewReader(s.Wraps), bytes.NewReader(s.Body)), identities...)
	if err != nil {
		return Party{}, fmt.Errorf("open party %s: %w", s.Clear.ID, err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return Party{}, fmt.Errorf("open party %s: %w", s.Clear.ID, err)
	}
	var env envelope
	if err = json.Unmarshal(plain, &env); err != nil {
		return Party{}, fmt.Errorf("decode envelope of %s: %w", s.Clear.ID, err)
	}
	inside, err := json.Marshal(env.Clear)
	if err != nil {
		return Party{}, fmt.Errorf("encode clear part of %s: %w", s.Clear.ID, err)
	}
	outside, err := json.Marshal(s.Clear)
	if err != nil {
		return Party{}, fmt.Errorf("encode clear part of %s: %w", s.Clear.ID, err)
	}
	if got := commitment(env.Salt, env.Party); subtle.ConstantTimeCompare(got[:], s.Commitment[:]) != 1 || !bytes.Equal(inside, outside) {
		return Party{}, fmt.Errorf("open party %s: %w", s.Clear.ID, ErrTampered)
	}
	var p Party
	if err = json.Unmarshal(env.Party, &p); err != nil {
		return Party{}, fmt.Errorf("decode party %s: %w", s.Clear.ID, err)
	}
	return p, nil
}

func commitment(salt, party []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(commitContext))
	h.Write(salt)
	h.Write(party)
	return [32]byte(h.Sum(nil))
}
