package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// clockTicks a second is what /proc counts CPU time in, on every Linux that Go runs on.
const clockTicks = 100

// usage is what a tree of processes has used so far, and holds now.
type usage struct {
	Processes, Threads, FDs     int
	BPF                         int    // descriptors of BPF programs, maps and links
	UserTicks, SysTicks         uint64 // ended and reaped children included
	Switches                    uint64 // voluntary and not, of the threads that live
	RSSBytes, PSSBytes, AnonRSS int64
}

// readTree reads the process root and all below it. Processes that end meanwhile are left
// out; their parent has their CPU time once it has reaped them.
func readTree(root int) (usage, error) {
	pids, err := descendants(root)
	if err != nil {
		return usage{}, err
	}
	var all usage
	for _, pid := range pids {
		u, err := readProcess(pid)
		if pid != root && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)) {
			continue
		}
		if err != nil {
			return usage{}, err
		}
		all.add(u)
	}
	return all, nil
}

func (u *usage) add(v usage) {
	u.Processes += v.Processes
	u.Threads += v.Threads
	u.FDs += v.FDs
	u.BPF += v.BPF
	u.UserTicks += v.UserTicks
	u.SysTicks += v.SysTicks
	u.Switches += v.Switches
	u.RSSBytes += v.RSSBytes
	u.PSSBytes += v.PSSBytes
	u.AnonRSS += v.AnonRSS
}

// descendants lists root and what it started, parents first.
func descendants(root int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // no process
		}
		f, err := statFields(pid)
		if err != nil {
			continue // it has ended
		}
		parent, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("read parent of process %d: %w", pid, err)
		}
		children[parent] = append(children[parent], pid)
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// statFields returns the fields of /proc/PID/stat behind the name, state first.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(b, ')') // a name may hold blanks and brackets
	f := strings.Fields(string(b[end+1:]))
	if end < 0 || len(f) < 20 {
		return nil, fmt.Errorf("read %s: %q has too few fields", procPath(pid, "stat"), b)
	}
	return f, nil
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

func readProcess(pid int) (usage, error) {
	f, err := statFields(pid)
	if err != nil {
		return usage{}, err
	}
	u := usage{Processes: 1}
	var n [4]uint64 // utime, stime, cutime, cstime: fields 14 to 17 of proc(5)
	for i := range n {
		if n[i], err = strconv.ParseUint(f[11+i], 10, 64); err != nil {
			return usage{}, fmt.Errorf("read CPU time of process %d: %w", pid, err)
		}
	}
	u.UserTicks, u.SysTicks = n[0]+n[2], n[1]+n[3]
	if err = u.readMemory(pid); err != nil {
		return usage{}, err
	}
	fds, err := os.ReadDir(procPath(pid, "fd"))
	if err != nil {
		return usage{}, err
	}
	u.FDs = len(fds)
	for _, fd := range fds {
		if to, lerr := os.Readlink(filepath.Join(procPath(pid, "fd"), fd.Name())); lerr == nil && strings.HasPrefix(to, "anon_inode:bpf") {
			u.BPF++
		}
	}
	tasks, err := os.ReadDir(procPath(pid, "task"))
	if err != nil {
		return usage{}, err
	}
	for _, t := range tasks {
		b, err := os.ReadFile(filepath.Join(procPath(pid, "task"), t.Name(), "status"))
		if err != nil {
			continue // the thread has ended
		}
		u.Threads++
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.HasSuffix(name, "voluntary_ctxt_switches") {
				n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
				if err != nil {
					return usage{}, fmt.Errorf("read context switches of process %d: %w", pid, err)
				}
				u.Switches += n
			}
		}
	}
	return u, nil
}

func (u *usage) readMemory(pid int) error {
	b, err := os.ReadFile(procPath(pid, "smaps_rollup"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		var to *int64
		switch f[0] {
		case "Rss:":
			to = &u.RSSBytes
		case "Pss:":
			to = &u.PSSBytes
		case "Anonymous:":
			to = &u.AnonRSS
		default:
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return fmt.Errorf("read memory of process %d: %w", pid, err)
		}
		*to = kb << 10
	}
	return nil
}
