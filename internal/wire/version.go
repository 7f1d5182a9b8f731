package wire

import (
	"crypto/sha256"
	"errors"
)

// Version is the newest version of the contract that this code writes. The collector
// reads every version ever shipped.
//
//   - 1: 2026-11-21: columnar batches, kinds 1-6 and 32-34, gaps, commit marks.
//     2026-11-22: kinds 7-17 and further fields; a reader that does not know them keeps the batch.
//     Then key and signature of the head, first_tick and missed_ticks of a batch.
const Version = 1

// Limits of a frame. They are checked by encoder and decoder alike.
const (
	// MaxFrameBytes bounds an encoded frame: NATS' default payload limit of 1 MiB, less
	// room for headers.
	MaxFrameBytes = 1<<20 - 4096
	// MaxDecodedBytes bounds the protobuf message inside a frame.
	MaxDecodedBytes = 8 << 20
	// MaxRows bounds the rows of a batch, all its tables together.
	MaxRows = 65536
	// MaxTables bounds the tables of a batch.
	MaxTables = 64
	// MaxGaps bounds the gaps that a batch reports.
	MaxGaps = 256
	// MaxDictEntries bounds the dictionary of a column.
	MaxDictEntries = MaxRows
	// MaxStringBytes bounds one string.
	MaxStringBytes = 1024
)

// Errors of the decoder. Others are FrameErrors that wrap none of these.
var (
	// ErrCorrupt marks bytes that are no frame of any version: bad magic, bad compression,
	// bad protobuf.
	ErrCorrupt = errors.New("corrupt frame")
	// ErrUnknownVersion marks a frame of a newer contract: keep it, do not drop it.
	ErrUnknownVersion = errors.New("unknown contract version")
	// ErrUnknownKind marks a batch with a table of a kind that this code does not know.
	ErrUnknownKind = errors.New("unknown record kind")
	// ErrInvalid marks a batch that is readable but breaks the contract.
	ErrInvalid = errors.New("invalid batch")
	// ErrTooLarge marks a batch or frame beyond the limits.
	ErrTooLarge = errors.New("too large")
)

// Digest is the SHA-256 of a frame as it travels: what the next frame of the spool
// carries as PrevDigest, and what batch heads are signed over.
func Digest(frame []byte) [32]byte { return sha256.Sum256(frame) }
