package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// keyBytes is the length of a site's key and of a node's.
const keyBytes = 32

// LoadOrCreateNodeKey reads the key by which a node signs the heads of its batches, the 64 hex
// digits of an Ed25519 seed, from a file, or makes one that only its owner can read. It is the
// host's own and never leaves it; with another file the node is another signer from then on. A
// file that others can read is refused.
func LoadOrCreateNodeKey(path string) (ed25519.PrivateKey, error) {
	seed, err := loadOrCreate("node key", path)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// loadOrCreate reads a key as readKey does, or makes one.
func loadOrCreate(what, path string) ([]byte, error) {
	key, err := readKey(what, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	files := durable.OS{}
	key = make([]byte, keyBytes)
	if _, err = rand.Read(key); err != nil {
		return nil, fmt.Errorf("make %s: %w", what, err)
	}
	if err = files.MkdirAll(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("make directory of %s: %w", what, err)
	}
	if err = durable.WriteFile(files, path, []byte(hex.EncodeToString(key)+"\n")); err != nil {
		return nil, fmt.Errorf("store %s: %w", what, err)
	}
	return key, nil
}

// readKey reads 64 hex digits. what names the file in errors.
func readKey(what, path string) ([]byte, error) {
	data, err := os.ReadFile(path) // for reading alone: the file may be read-only, or where it lies
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s %s can be read by others (mode %o): chmod 600 it", what, path, st.Mode().Perm())
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("%s %s is not %d hex digits", what, path, 2*keyBytes)
	}
	return key, nil
}
