package main

import (
	"fmt"
	"os"

	"github.com/flopwatch/flopwatch/agent/bmc"
)

// files says what is wrong with files that the configuration names, as this user sees them now.
// It is no mistake in the configuration: it may be checked before they are there, or elsewhere.
func (c *config) files() (notes []string) {
	note := func(key string, err error) {
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s: %v", key, err))
		}
	}
	if c.SiteKeyFile != "" && !c.ClearNames {
		_, err := siteKey(*c)
		note("site_key_file", err)
	}
	for _, f := range []struct{ key, path string }{
		{"nats.creds_file", c.NATS.CredsFile}, {"nats.nkey_file", c.NATS.NKeyFile}, {"nats.token_file", c.NATS.TokenFile},
		{"nats.root_ca_file", c.NATS.RootCAFile}, {"nats.cert_file", c.NATS.CertFile}, {"nats.key_file", c.NATS.KeyFile},
	} {
		if f.path != "" {
			note(f.key, readable(f.path))
		}
	}
	if c.GPU.Enabled {
		for _, f := range []struct{ key, path string }{{"gpu.library", c.GPU.Library}, {"gpu.child", c.GPU.Child}} {
			if f.path != "" {
				note(f.key, readable(f.path))
			}
		}
	}
	for _, t := range targets(c.BMC) { // each by itself, as the first that fails would hide the others
		_, err := bmc.New(bmc.Config{Targets: []bmc.Target{t}, Concurrency: c.BMC.Concurrency})
		note("bmc.target", err)
	}
	return notes
}

// readable says why a file cannot be read.
func readable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look for the file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	return nil
}
