package job

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	partSlurm = "job/slurm"

	maxJobFiles = 4096
	maxJobFile  = 16 << 10         // bytes
	rescanMs    = 30_000           // between looks at a directory in which nothing seems to change
	goneMs      = 10 * 60_000      // for how long a job's groups are gone before its epilog counts as lost
	forgottenMs = 7 * 24 * 3600000 // how long a hold lasts whose job was never seen to have groups
	maxRestarts = 1 << 24
	fileHead    = "flopwatch-slurm 1"
	fileEnd     = "end"
)

// slurm reads the directory of files that prologs write and epilogs remove.
type slurm struct {
	dir     string
	cgroups string // where control groups are mounted
	bootID  string

	jobs    map[string]*slurmJob // by path
	bad     map[string]error
	seen    bool // the directory, ever
	dirTime time.Time
	scanMs  int64 // boot ms
	scanned bool
	heardMs int64 // wall ms of the last scan; 0: none
	version uint64
	err     error
	before  []string // jobs that had a control group when the last agent ended
	scopes  []string // groups that Slurm's jobs are in
	odd     string   // what is wrong with devices
	told    source.Status
}

func newSlurm(dir, cgroups, bootID string) *slurm {
	return &slurm{dir: dir, cgroups: cgroups, bootID: bootID, jobs: map[string]*slurmJob{}, bad: map[string]error{}}
}

// tick looks whether jobs came and went. running reports whether a job has processes.
func (s *slurm) tick(t source.Tick, running func(id string) bool) (looked bool) {
	st, err := os.Stat(s.dir)
	due := !s.scanned || t.BootMs-s.scanMs >= rescanMs
	if err == nil && (due || !st.ModTime().Equal(s.dirTime)) {
		s.dirTime = st.ModTime()
		s.scan(t)
		s.alive(t, running)
		return true
	}
	if !due && (err == nil || s.err != nil) {
		return false
	}
	s.scanned, s.scanMs, s.err = true, t.BootMs, err
	return true
}

// scan reads what has changed.
func (s *slurm) scan(t source.Tick) {
	s.scanned, s.seen, s.scanMs = true, true, t.BootMs
	entries, err := os.ReadDir(s.dir)
	if s.err = err; err != nil {
		return
	}
	s.heardMs = t.WallMs
	there := map[string]bool{}
	for _, e := range entries {
		if e.Name()[0] == '.' || len(there) >= maxJobFiles { // being written
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		info, ierr := e.Info()
		if ierr != nil {
			continue // it was removed just now
		}
		there[path] = true
		if j := s.jobs[path]; j != nil && j.mtime.Equal(info.ModTime()) && j.size == info.Size() {
			continue
		}
		j, rerr := s.read(path, e.Name())
		if errors.Is(rerr, fs.ErrNotExist) {
			delete(there, path)
			continue
		}
		s.version++
		if rerr != nil {
			s.bad[path] = rerr
			if old := s.jobs[path]; old != nil {
				old.refused, old.mtime, old.size = true, info.ModTime(), info.Size()
			}
			continue
		}
		delete(s.bad, path)
		// One that was started anew, under its number, may be an allocation as yet: groups of its
		// earlier run say nothing of it.
		switch old := s.jobs[path]; {
		case old != nil && old.id == j.id && old.startMs == j.startMs:
			j.grouped, j.seenMs = old.grouped, old.seenMs
		case old == nil && slices.Contains(s.before, j.id):
			j.grouped, j.seenMs = true, t.BootMs
		}
		j.path, j.mtime, j.size, j.modMs = path, info.ModTime(), info.Size(), info.ModTime().UnixMilli()
		j.stale = s.bootID != "" && j.bootID != s.bootID
		s.jobs[path] = j
	}
	s.before = nil // what comes from now on was not there when the last agent ended
	for path := range s.jobs {
		if !there[path] {
			delete(s.jobs, path)
			s.version++
		}
	}
	for path := range s.bad {
		if !there[path] {
			delete(s.bad, path)
		}
	}
}

// read reads one file, if nobody but root and the agent can have written it.
func (s *slurm) read(path, name string) (*slurmJob, error) {
	b, err := readOwn(path, maxJobFile)
	if err != nil {
		return nil, err
	}
	j, err := parseSlurmFile(b)
	if err != nil {
		return nil, err
	}
	if id, node, _ := strings.Cut(name, "."); id != j.id || node != "" && node != j.node {
		return nil, fmt.Errorf("its name is not JOBID or JOBID.NODE of what it says, %s", j.id)
	}
	return j, nil
}

// readOwn reads at most limit bytes of a regular file that belongs to root or to the agent's
// user, and that no others can write.
func readOwn(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was open for reading
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch sys, ok := st.Sys().(*syscall.Stat_t); {
	case !st.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid():
		return nil, fmt.Errorf("it belongs to user %d, not to root", sys.Uid)
	case st.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("others can write it (mode %o): chmod go-w", st.Mode().Perm())
	case st.Size() > limit:
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// alive finds out which jobs still have control groups or processes: where an epilog did not
// run, that is all that tells the end of a job. A job that never had a group may be an
// allocation in which nothing has been started yet, and holds its GPUs.
func (s *slurm) alive(t source.Tick, running func(id string) bool) {
	s.findScopes()
	for _, j := range s.jobs {
		before := j.suspect || j.lost
		group := s.hasGroup(j)
		if group || running(j.id) {
			j.grouped, j.seenMs, j.suspect, j.lost = true, t.BootMs, false, false
		} else if len(s.scopes) > 0 || !j.grouped {
			j.suspect = j.grouped
			j.lost = j.grouped && t.BootMs-j.seenMs >= goneMs || !j.grouped && t.WallMs-j.modMs >= forgottenMs
		}
		if before != (j.suspect || j.lost) || j.lost {
			s.version++
		}
	}
}

// findScopes finds the groups below which Slurm puts jobs.
func (s *slurm) findScopes() {
	s.scopes = s.scopes[:0]
	for _, pattern := range []string{"system.slice/slurmstepd.scope", "system.slice/*_slurmstepd.scope", "*/slurm", "*/slurm_*"} {
		found, err := filepath.Glob(filepath.Join(s.cgroups, pattern))
		if err == nil {
			s.scopes = append(s.scopes, found...)
		}
	}
}

// groupedJobs are the jobs that have had a control group, for the next agent.
func (s *slurm) groupedJobs() []string {
	var ids []string
	for _, j := range s.jobs {
		if j.grouped {
			ids = append(ids, j.id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (s *slurm) hasGroup(j *slurmJob) bool {
	for _, scope := range s.scopes {
		for _, name := range []string{"job_" + j.id, filepath.Join("uid_"+j.uid, "job_"+j.id), j.sluid} {
			if name == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join(scope, name)); err == nil {
				return true
			}
		}
	}
	return false
}

// sluids maps SLUIDs to the numbers of jobs.
func (s *slurm) sluids() map[string]string {
	m := map[string]string{}
	for _, j := range s.jobs {
		if j.sluid == "" || j.stale {
			continue
		}
		if other, twice := m[j.sluid]; twice && other != j.id {
			m[j.sluid] = "" // two jobs cannot have one SLUID
			continue
		}
		m[j.sluid] = j.id
	}
	return m
}

// tell says how the files are, if that has changed.
func (s *slurm) tell(out source.Sink) {
	st := source.Status{Instrument: partSlurm, State: source.Active}
	var reasons []string
	switch {
	case s.err != nil && !s.seen && errors.Is(s.err, fs.ErrNotExist):
		st.State = source.Unavailable
		reasons = append(reasons, fmt.Sprintf("there is no %s: on a node of Slurm, install deploy/slurm/prolog-flopwatch.sh and epilog-flopwatch.sh, so that GPUs are seen that are allocated and not used", s.dir))
	case s.err != nil:
		st.State = source.Lost
		reasons = append(reasons, fmt.Sprintf("read jobs' files: %v", s.err))
	}
	if n := len(s.bad); n > 0 {
		first := slices.Min(keysOf(s.bad))
		reasons = append(reasons, fmt.Sprintf("%d files are refused, and name no holder: %s: %v", n, first, s.bad[first]))
	}
	stale, lost := "", ""
	staleN, lostN := 0, 0
	for path, j := range s.jobs {
		switch {
		case j.stale:
			staleN++
			if stale == "" || path < stale {
				stale = path
			}
		case j.lost:
			lostN++
			if lost == "" || path < lost {
				lost = path
			}
		}
	}
	if staleN > 0 {
		reasons = append(reasons, fmt.Sprintf("%d files are of an earlier boot of the host, and name no holder (%s): remove them", staleN, stale))
	}
	if lostN > 0 {
		reasons = append(reasons, fmt.Sprintf("%d jobs have ended and their files remain (%s): the epilog has to remove them", lostN, lost))
	}
	if s.odd != "" {
		reasons = append(reasons, s.odd)
	}
	if len(reasons) > 0 {
		if st.State == source.Active {
			st.State = source.Degraded
		}
		st.Reason = strings.Join(reasons, "; ")
	}
	if st != s.told {
		s.told = st
		out.Status(st)
	}
}

func keysOf(m map[string]error) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}
