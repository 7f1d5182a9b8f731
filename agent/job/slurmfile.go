package job

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
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
	// restarts is how often it was started again, plus one; 0: not known.
	restarts int64

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
		if !isName(value) { // the reason leaves the host in clear, the name must not
			return fmt.Errorf("%s is not a name without blanks", key)
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
	case "restarts":
		v, ok := number([]byte(value))
		if !ok || v >= maxRestarts {
			return bad("how often the job was started again")
		}
		j.restarts = int64(v) + 1
	case "start":
		v, ok := number([]byte(value))
		if !ok || v == 0 || v > 1<<40 {
			return bad("a time in seconds since 1970")
		}
		j.startMs = int64(v) * 1000
	}
	return nil
}
