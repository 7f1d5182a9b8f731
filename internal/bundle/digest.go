package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"io/fs"
)

// Digest is the SHA-256 of everything that the product reads of the recording, so that
// two recordings, or two states of one, are told apart. It reads every file as it lies
// there, labels excepted.
func (b *Bundle) Digest() (string, error) {
	sum := sha256.New()
	for _, name := range append([]string{manifestName}, fileOrder...) {
		for _, n := range []string{name, name + ".gz"} {
			if err := b.digest(sum, n); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// digest adds a file's name, content and length; a file that is absent or that its reader
// will refuse adds nothing.
func (b *Bundle) digest(sum io.Writer, name string) error {
	info, err := fs.Stat(b.fsys, name)
	if err != nil || !info.Mode().IsRegular() {
		return nil // the file's reader says what is wrong with it
	}
	f, err := b.fsys.Open(name)
	if err != nil {
		return &Error{File: name, Problem: "cannot be opened", Cause: cause(err)}
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	if _, err = io.WriteString(sum, name+"\n"); err == nil {
		var n int64
		if n, err = io.Copy(sum, f); err == nil {
			err = binary.Write(sum, binary.LittleEndian, n)
		}
	}
	if err != nil {
		return &Error{File: name, Problem: "cannot be read", Cause: cause(err)}
	}
	return nil
}
