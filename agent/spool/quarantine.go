package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// maxQuarantineFiles bounds the files in quarantine.
const maxQuarantineFiles = 4096

// countQuarantine finds what is in quarantine already.
func (s *Spool) countQuarantine() error {
	names, err := s.fs.List(s.path("quarantine"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list quarantine: %w", err)
	}
	for _, name := range names {
		f, err := s.fs.Open(s.path(filepath.Join("quarantine", name)))
		if err != nil {
			continue // no file, or none of the spool's
		}
		size, err := f.Size()
		if err = errors.Join(err, f.Close()); err == nil {
			s.stats.QuarantineFiles++
			s.stats.QuarantineBytes += size
		}
	}
	return nil
}

// quarantine keeps damaged bytes; they stay in their segment too, until it is freed. What it
// has no room for is counted.
func (s *Spool) quarantine(segment string, off int64, data []byte) error {
	s.stats.CorruptStretches++
	name := s.path(fmt.Sprintf("quarantine/%s-%d.bad", segment, off))
	if f, err := s.fs.Open(name); err == nil { // found before, by an earlier Open
		size, serr := f.Size()
		if err = errors.Join(serr, f.Close()); err != nil {
			return fmt.Errorf("read quarantine: %w", err)
		}
		if size == int64(len(data)) {
			return nil
		}
	}
	if s.stats.QuarantineBytes+int64(len(data)) > s.cfg.MaxQuarantine || s.stats.QuarantineFiles >= maxQuarantineFiles {
		s.stats.Unkept++
		return nil
	}
	err := s.fs.MkdirAll(s.path("quarantine"))
	if err == nil {
		err = durable.WriteFile(s.fs, name, data)
	}
	if noRoom(err) {
		s.stats.Unkept++
		return nil
	}
	if err != nil {
		return fmt.Errorf("put into quarantine: %w", err)
	}
	s.stats.QuarantineFiles++
	s.stats.QuarantineBytes += int64(len(data))
	return nil
}

// setAside moves a file into quarantine whole.
func (s *Spool) setAside(name string) error {
	if f, err := s.fs.Open(s.path(name)); err != nil {
		return fmt.Errorf("set %s aside: %w", name, err)
	} else if err = f.Close(); err != nil {
		return fmt.Errorf("set %s aside: %w", name, err)
	}
	if err := s.fs.MkdirAll(s.path("quarantine")); err != nil {
		return fmt.Errorf("make quarantine: %w", err)
	}
	names, err := s.fs.List(s.path("quarantine"))
	if err != nil {
		return fmt.Errorf("list quarantine: %w", err)
	}
	taken := map[string]bool{}
	for _, n := range names {
		taken[n] = true
	}
	to := name + ".whole"
	for i := 1; taken[to]; i++ {
		to = fmt.Sprintf("%s.%d.whole", name, i)
	}
	if err := s.fs.Rename(s.path(name), s.path("quarantine/"+to)); err != nil {
		return fmt.Errorf("set %s aside: %w", name, err)
	}
	if err := errors.Join(s.fs.SyncDir(s.path("quarantine")), s.fs.SyncDir(s.cfg.Dir)); err != nil {
		return fmt.Errorf("set %s aside: %w", name, err)
	}
	s.stats.SetAside++
	s.stats.CorruptStretches++
	return nil
}
