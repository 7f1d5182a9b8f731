// Package probe holds what features of agent/kernel share: what the kernel allows (Try),
// where to put a probe into an ELF file and what it costs there (SelfTest), and reading of
// iterators. It knows no feature and keeps no state; the kernel's answers are returned as
// errors that hold the errno. Bytes of ELF files come from other users' containers: they
// are read in bounds, and never trusted.
//
// Buffers: an iterator is read in pieces of 64 KiB. Goroutines: none.
package probe
