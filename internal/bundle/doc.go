// Package bundle reads recordings in the format flopwatch-bundle/1.
//
// It owns: the manifest, the row types of every file, what of a file is usable and what
// is an [Issue], the dropping of identical repeats, and the arrival time of a row.
//
// It must not know: labels (truth.json is never opened here; internal/bundle/score
// does), the wire, the store, or what a row means to the detector.
//
// Absent is not zero: an empty cell is NaN for a float, [Absent] for an integer, 0 for a
// time (no legal time is 0), "" for a name and nil for a list.
//
// A row is used whole or not at all. A row that cannot be used is an [Issue] of its
// file: counted always, listed up to [MaxListed]. What spoils a whole recording (no
// manifest, wrong format, a file that cannot be read) is an [*Error]. A gzip stream that
// breaks off is an issue: the complete lines before the break are used, the torn one is
// not.
//
// Buffers and goroutines: rows are passed by value and may be kept; their slices belong
// to the receiver. No goroutine is started. Memory is bounded by the longest line (1
// MiB) and a window of 2^20 row digests a file.
//
// On a crash nothing is lost: the package only reads.
package bundle
