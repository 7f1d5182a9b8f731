package job

import (
	"bytes"
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
	fileHead    = "flopwatch-slurm 1"
	fileEnd     = "end"
)

// slurmJob is what a prolog wrote of a job on this host.
type slurmJob struct {
	path    string
	id      string
	sluid   string
	node    string // Slurm's name of the host, which has several where it runs several slurmd
	bootID  string
	uid     string
	user    string
	account string
	uuids   []string
	minors  []int
	startMs int64

	mtime   time.Time
	size    int64
	modMs   int64
	grouped bool  // its control group was seen
	seenMs  int64 // boot ms of the last time that it had a group or a process
	suspect bool  // it had, and has not now
	lost    bool  // for so long that its epilog counts as lost
	stale   bool  // of another boot
	refused bool  // the file has changed to one that is refused: what it said is not known any more
}

// errField is an error in a line of a file.
func errField(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...))
}

// parseSlurmFile reads a file of deploy/slurm/prolog-flopwatch.sh: lines of a key and a value,
// the first and the last of them fixed. A file that is not whole, or holds what the script
// does not write, is refused as a whole: half a file would accuse the wrong user.
func parseSlurmFile(b []byte) (*slurmJob, error) {
	if len(b) > maxJobFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxJobFile)
	}
	j := &slurmJob{}
	seen := map[string]bool{}
	n, ended := 0, false
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		b = rest
		n++
		text := string(line)
		switch {
		case !whole:
			return nil, errField(n, "it has no end of line: the file was cut off")
		case n == 1 && text != fileHead:
			return nil, errField(n, "it has to be %q", fileHead)
		case n == 1:
			continue
		case ended:
			return nil, errField(n, "there is more behind %q", fileEnd)
		case text == fileEnd:
			ended = true
			continue
		}
		key, value, _ := strings.Cut(text, " ")
		if seen[key] {
			return nil, errField(n, "a second %q", clean(key))
		}
		seen[key] = true
		if err := j.set(key, value); err != nil {
			return nil, errField(n, "%v", err)
		}
	}
	switch {
	case !ended:
		return nil, errField(n+1, "%q is missing: the file was cut off", fileEnd)
	case j.id == "":
		return nil, errors.New("no line job_id")
	case j.bootID == "":
		return nil, errors.New("no line boot_id")
	}
	return j, nil
}

// set takes one line of a file. What is not known is passed over, for scripts of later versions.
func (j *slurmJob) set(key, value string) error {
	bad := func(want string) error { return fmt.Errorf("%s %q is not %s", key, clean(value), want) }
	if len(value) > maxJobFile/4 {
		return bad("so short as it has to be")
	}
	switch key {
	case "job_id":
		if !isNumbered(value, "") {
			return bad("a number of at most 10 digits")
		}
		j.id = value
	case "sluid":
		if !isSLUID(value) {
			return bad("a SLUID, as s5K1KKYAYG5D00")
		}
		j.sluid = value
	case "node":
		if !isName(value) {
			return bad("a name")
		}
		j.node = value
	case "boot_id":
		if !isUUID(value) {
			return bad("the contents of /proc/sys/kernel/random/boot_id")
		}
		j.bootID = value
	case "uid":
		if !isNumbered(value, "") {
			return bad("a number of a user")
		}
		j.uid = value
	case "user", "account":
		if !isName(value) {
			return bad("a name without blanks")
		}
		if key == "user" {
			j.user = value
		} else {
			j.account = value
		}
	case "gpus":
		for id := range strings.SplitSeq(value, ",") {
			uuid, ok := findUUID(id)
			if !ok || uuid != id || len(j.uuids) >= maxGPUs {
				return bad("a list of UUIDs as GPU-... and MIG-..., with commas in between")
			}
			j.uuids = append(j.uuids, uuid)
		}
	case "minors":
		for id := range strings.SplitSeq(value, ",") {
			n, rest, ok := index(id)
			if !ok || rest != "" || len(j.minors) >= maxGPUs {
				return bad("a list of numbers with commas in between")
			}
			j.minors = append(j.minors, n)
		}
	case "start":
		v, ok := number([]byte(value))
		if !ok || v == 0 || v > 1<<40 {
			return bad("a time in seconds since 1970")
		}
		j.startMs = int64(v) * 1000
	}
	return nil
}

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
		if old := s.jobs[path]; old != nil && old.id == j.id {
			j.grouped, j.seenMs = old.grouped, old.seenMs
		} else if slices.Contains(s.before, j.id) {
			j.grouped, j.seenMs = true, t.BootMs
		}
		j.path, j.mtime, j.size, j.modMs = path, info.ModTime(), info.Size(), info.ModTime().UnixMilli()
		j.stale = s.bootID != "" && j.bootID != s.bootID
		s.jobs[path] = j
	}
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
