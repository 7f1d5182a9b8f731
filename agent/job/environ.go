package job

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
)

const (
	maxEnviron   = 1 << 20 // bytes of a process's environment that are looked at
	maxValue     = 64      // bytes of a value
	maxPlace     = 256     // bytes of a rendezvous
	maxRank      = 1 << 24
	chunk        = 4096
	maxEnvName   = 32
	placeNoRunID = "none" // what torchrun writes where nobody named the run
)

// variable is one that is read of an environment. All others are passed over byte by byte
// and never copied.
type variable uint8

// Variables, those of one meaning in the order in which they count.
const (
	envNone variable = iota
	envRank
	envOMPIRank
	envPMIRank
	envPMIXRank
	envSlurmRank
	envWorld
	envOMPIWorld
	envPMIWorld
	envSlurmWorld
	envLocalRank
	envOMPILocalRank
	envSlurmLocalRank
	envLocalWorld
	envSlurmJob
	envSlurmRestarts
	envAddr
	envPort
	envRunID
	envRay
	variables
)

// allowed is the list of all that is read of an environment.
var allowed = map[string]variable{
	"RANK": envRank, "OMPI_COMM_WORLD_RANK": envOMPIRank, "PMI_RANK": envPMIRank, "PMIX_RANK": envPMIXRank, "SLURM_PROCID": envSlurmRank,
	"WORLD_SIZE": envWorld, "OMPI_COMM_WORLD_SIZE": envOMPIWorld, "PMI_SIZE": envPMIWorld, "SLURM_NTASKS": envSlurmWorld,
	"LOCAL_RANK": envLocalRank, "OMPI_COMM_WORLD_LOCAL_RANK": envOMPILocalRank, "SLURM_LOCALID": envSlurmLocalRank, "LOCAL_WORLD_SIZE": envLocalWorld,
	"SLURM_JOB_ID": envSlurmJob, "SLURM_RESTART_COUNT": envSlurmRestarts,
	"MASTER_ADDR": envAddr, "MASTER_PORT": envPort, "TORCHELASTIC_RUN_ID": envRunID, "RAY_JOB_ID": envRay,
}

// environ is what a process's environment declares. It is its own word, fixed when the
// program was started, and easily made up.
type environ struct {
	read       bool
	rank       int64 // -1: not said, as in all below
	world      int64
	localRank  int64
	localWorld int64
	restarts   int64
	slurmJob   string
	place      string // where the processes of the run meet, or the run's id; leaves the host as a keyed hash
	launcher   string
}

var noEnviron = environ{rank: -1, world: -1, localRank: -1, localWorld: -1, restarts: -1}

// environReader reads environments through one buffer, which is zeroed behind every read, and
// copies out of it the values of allowed variables alone, if they are short and plain.
type environReader struct {
	buf    [chunk]byte
	name   [maxEnvName]byte
	values [variables][maxValue]byte
	sizes  [variables]int
	has    [variables]bool
	place  [2][maxPlace]byte // of MASTER_ADDR and TORCHELASTIC_RUN_ID
	placeN [2]int
}

// read reads the environment of a process. It needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH
// for processes of other users. batch says that it is in a batch script's step, where Slurm's
// own ranks are the script's.
func (r *environReader) read(p *procfs, pid int32, batch bool) (environ, error) {
	fd, err := open(p.file(pid, "environ"))
	if err != nil {
		return noEnviron, gone(err)
	}
	defer func() { _ = syscall.Close(fd) }() // it was open for reading
	defer r.wipe()
	var s scanner
	for total := 0; total < maxEnviron; {
		n, rerr := syscall.Read(fd, r.buf[:])
		if errors.Is(rerr, syscall.EINTR) {
			continue
		}
		if rerr != nil {
			return noEnviron, gone(rerr)
		}
		if n <= 0 {
			break
		}
		total += n
		for _, c := range r.buf[:n] {
			s.next(r, c)
		}
	}
	s.next(r, 0)
	if batch {
		r.has[envSlurmRank], r.has[envSlurmWorld], r.has[envSlurmLocalRank] = false, false, false
	}
	return r.declared(), nil
}

// wipe zeroes all that was read.
func (r *environReader) wipe() { *r = environReader{} }

// scanner walks over NAME=VALUE, each ended by a zero byte.
type scanner struct {
	at      variable
	nameN   int
	inValue bool
	bad     bool // of a value that is kept: too long, or not plain
	n       int
}

// next takes one byte.
func (s *scanner) next(r *environReader, c byte) {
	switch {
	case c == 0:
		if s.inValue && s.at != envNone && !s.bad && !r.has[s.at] { // of two the first, as programs see it
			r.has[s.at], r.sizes[s.at] = true, s.n
			if i := placeOf(s.at); i >= 0 {
				r.placeN[i] = s.n
			}
		}
		*s = scanner{}
	case !s.inValue && c == '=':
		s.inValue = true
		if s.nameN <= maxEnvName {
			s.at = allowed[string(r.name[:s.nameN])]
		}
		if r.has[s.at] {
			s.at = envNone
		}
	case !s.inValue:
		if s.nameN < maxEnvName {
			r.name[s.nameN] = c
		}
		s.nameN++
	case s.at == envNone || s.bad:
	default:
		to := r.values[s.at][:]
		if i := placeOf(s.at); i >= 0 {
			to = r.place[i][:]
		}
		if s.n == len(to) || !plain(c) {
			s.bad = true
			return
		}
		to[s.n] = c
		s.n++
	}
}

// placeOf is where a long value goes; -1: it is a short one.
func placeOf(v variable) int {
	switch v {
	case envAddr:
		return 0
	case envRunID:
		return 1
	}
	return -1
}

// plain reports whether a byte may be in a value that is kept.
func plain(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(",._:[]-", c) >= 0
}

// declared turns values into what they mean.
func (r *environReader) declared() environ {
	e := noEnviron
	e.read = true
	first := func(names ...variable) int64 {
		for _, v := range names {
			if n, ok := number(r.values[v][:r.sizes[v]]); ok && r.has[v] && n < maxRank {
				return int64(n)
			}
		}
		return -1
	}
	e.rank = first(envRank, envOMPIRank, envPMIRank, envPMIXRank, envSlurmRank)
	e.world = first(envWorld, envOMPIWorld, envPMIWorld, envSlurmWorld)
	e.localRank = first(envLocalRank, envOMPILocalRank, envSlurmLocalRank)
	e.localWorld = first(envLocalWorld)
	e.restarts = first(envSlurmRestarts)
	if e.world == 0 || e.rank >= 0 && e.world >= 0 && e.rank >= e.world {
		e.rank, e.world = -1, -1 // no such rank in such a world
	}
	if e.localWorld == 0 || e.localWorld > 0 && (e.localRank >= e.localWorld || e.world >= 0 && e.localWorld > e.world) {
		e.localRank, e.localWorld = -1, -1
	}
	if v := r.values[envSlurmJob][:r.sizes[envSlurmJob]]; isNumbered(string(v), "") {
		e.slurmJob = string(v)
	}
	e.place = r.rendezvous()
	switch {
	case r.has[envRunID]:
		e.launcher = "torchrun"
	case r.has[envRay]:
		e.launcher = "ray"
	case r.has[envOMPIRank]:
		e.launcher = "mpirun"
	}
	return e
}

// rendezvous is where the processes of a run meet, ADDRESS:PORT, or else the run's id. An
// address that every host has says nothing.
func (r *environReader) rendezvous() string {
	addr, port := bytes.Trim(r.place[0][:r.placeN[0]], "[]"), r.values[envPort][:r.sizes[envPort]]
	if n, ok := number(port); ok && n > 0 && n < 1<<16 && len(addr) > 0 && !isLocal(string(addr)) {
		return string(addr) + ":" + strconv.FormatUint(n, 10)
	}
	if id := string(r.place[1][:r.placeN[1]]); id != placeNoRunID {
		return id
	}
	return ""
}

// isLocal reports whether an address is a host's own.
func isLocal(addr string) bool {
	if a, err := netip.ParseAddr(addr); err == nil {
		return a.IsLoopback() || a.IsUnspecified()
	}
	name, _, _ := strings.Cut(strings.ToLower(addr), ".")
	return name == "localhost"
}
