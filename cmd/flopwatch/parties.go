package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/internal/durable"
)

// importParties seals the recording's register and stores the envelopes. The keys of a
// replay are its own: they lie in the working folder and go with it.
func (r *replayer) importParties(ctx context.Context) error {
	register, err := r.b.OpenParties()
	if errors.Is(err, os.ErrNotExist) {
		return nil // nobody is known: every account counts as unknown
	}
	if err != nil {
		return err
	}
	defer func() { _ = register.Close() }() // it was only read
	officer, err := key(filepath.Join(r.o.stack.DataDir, "officer.key"))
	if err != nil {
		return err
	}
	screening, err := key(filepath.Join(r.o.stack.DataDir, "screening.key"))
	if err != nil {
		return err
	}
	to := identity.Recipients{Officers: []age.Recipient{officer.Recipient()}, Screening: screening.Recipient()}
	n, issues, err := detector.ImportParties(ctx, r.s.store, register, to, r.b.Manifest.StartMs)
	if err != nil {
		return err
	}
	r.parties, r.register = n, issues
	r.say("sealed  %d parties", n)
	return nil
}

// key reads an age identity, or mints one that only the owner may read.
func key(path string) (*age.X25519Identity, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		id, bad := age.ParseX25519Identity(strings.TrimSpace(string(text)))
		if bad != nil {
			return nil, fmt.Errorf("read key %s: %w", path, bad)
		}
		return id, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read key: %w", err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", path, err)
	}
	if err := durable.WriteFile(durable.OS{}, path, []byte(id.String()+"\n")); err != nil {
		return nil, fmt.Errorf("write key %s: %w", path, err)
	}
	return id, nil
}
