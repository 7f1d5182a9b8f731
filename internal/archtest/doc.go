// Package archtest holds the import directions of DESIGN.md as a test: which room may
// import which, which outside dependency belongs to which room, which rooms are pure,
// and that every package says what it is.
//
// A new package needs a row in the table, in the same commit. The package has no code
// outside of its tests, and imports nothing of ours.
package archtest
