package job

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
)

// mapping reads the directory of dcgm-exporter's job mapping: a file for each GPU, named by
// its index, or INDEX.GI for a MIG device, that holds the ids of jobs.
type mapping struct {
	dir     string
	files   map[string][]string // ids by name
	bad     map[string]error
	seen    bool
	scanMs  int64
	scanned bool
	heardMs int64
	version uint64
	err     error
	odd     string
	told    source.Status
}

const (
	partMapping  = "job/dcgm_mapping"
	mapEveryMs   = 10_000
	maxMapFile   = 4 << 10
	maxMapped    = 64  // jobs of one GPU
	maxJobMapped = 128 // bytes of an id
)

func newMapping(dir string) *mapping { return &mapping{dir: dir} }

// tick reads the files again when it is time.
func (m *mapping) tick(t source.Tick) (looked bool) {
	if m.scanned && t.BootMs-m.scanMs < mapEveryMs {
		return false
	}
	m.scanned, m.scanMs = true, t.BootMs
	m.scan(t)
	return true
}

// tell says how the files are, if that has changed.
func (m *mapping) tell(out source.Sink) {
	st := source.Status{Instrument: partMapping, State: source.Active}
	switch {
	case m.err != nil && !m.seen && errors.Is(m.err, fs.ErrNotExist):
		st.State, st.Reason = source.Unavailable, fmt.Sprintf("there is no %s: name the directory that the site's prolog writes for dcgm-exporter", m.dir)
	case m.err != nil:
		st.State, st.Reason = source.Lost, fmt.Sprintf("read jobs of GPUs: %v", m.err)
	case len(m.bad) > 0:
		first := slices.Min(keysOf(m.bad))
		st.State, st.Reason = source.Degraded, fmt.Sprintf("%d files are refused, and name no holder: %s: %v", len(m.bad), filepath.Join(m.dir, first), m.bad[first])
	case m.odd != "":
		st.State, st.Reason = source.Degraded, m.odd
	}
	if st != m.told {
		m.told = st
		out.Status(st)
	}
}

func (m *mapping) scan(t source.Tick) {
	entries, err := os.ReadDir(m.dir)
	if m.err = err; err != nil {
		return
	}
	m.seen, m.heardMs = true, t.WallMs
	files, bad := map[string][]string{}, map[string]error{}
	for i, e := range entries {
		if i == maxJobFiles {
			break
		}
		gpu, gi, isMIG := strings.Cut(e.Name(), ".")
		if !isNumber(gpu) || isMIG && !isNumber(gi) {
			continue // another's file
		}
		var ids []string
		info, rerr := e.Info()
		if rerr == nil && info.ModTime().UnixMilli() < t.WallMs-t.BootMs {
			rerr = errors.New("it is of an earlier boot of the host: remove it")
		}
		if rerr == nil {
			var b []byte
			if b, rerr = readOwn(filepath.Join(m.dir, e.Name()), maxMapFile); rerr == nil {
				ids, rerr = parseMapFile(b)
			}
		}
		if errors.Is(rerr, fs.ErrNotExist) {
			continue
		}
		if rerr != nil {
			bad[e.Name()] = rerr
			continue
		}
		files[e.Name()] = ids
	}
	if !slices.EqualFunc(flat(files), flat(m.files), func(a, b string) bool { return a == b }) {
		m.version++
	}
	m.files, m.bad = files, bad
}

// flat is a map as a list that can be compared.
func flat(files map[string][]string) []string {
	var l []string
	for name, ids := range files {
		l = append(l, name+" "+strings.Join(ids, " "))
	}
	slices.Sort(l)
	return l
}

// parseMapFile reads ids of jobs, separated by blanks or ends of lines.
func parseMapFile(b []byte) ([]string, error) {
	var ids []string
	n := 0
	for line := range bytes.Lines(b) {
		n++
		for word := range bytes.FieldsSeq(line) {
			id := string(word)
			if !isName(id) || len(id) > maxJobMapped || strings.Trim(id, "0123456789_.[]-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
				return nil, errField(n, "%q is not the id of a job", clean(id))
			}
			if len(ids) == maxMapped {
				return nil, errField(n, "more than %d jobs", maxMapped)
			}
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}
