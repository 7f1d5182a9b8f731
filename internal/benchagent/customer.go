package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// callsEach are the collectives of each process a second.
const callsEach = 2000

const (
	slurmJob  = "4242"
	unified   = "/sys/fs/cgroup/unified" // where version 1 is mounted beside it
	onlyV2    = "/sys/fs/cgroup"
	slurmStep = "system.slice/slurmstepd.scope/job_" + slurmJob + "/step_0/user/task_0"
)

//go:embed testdata/customer.c
var customerSource []byte

// customer is who uses the GPUs.
type customer struct {
	pids []uint32
	note string // what it does
	// slurmDir is a folder as Slurm's prolog leaves it; "": none.
	slurmDir string
}

// idle is a customer of processes that do nothing: the driver lists them, and the agent
// finds out whose they are.
func idle(g *group, dir string) (*customer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	c := &customer{note: "a process on each GPU that does nothing"}
	for range gpus {
		p, err := start("train", dir, nil, "/bin/sleep", "86400")
		if err != nil {
			return nil, err
		}
		g.add(p.kill)
		c.pids = append(c.pids, uint32(p.pid()))
	}
	return c, nil
}

// busy is a customer whose processes are a training to all instruments: testdata/customer.c.
// nccl is the folder of the stub library of collectives.
func busy(ctx context.Context, g *group, dir, nccl string) (*customer, error) {
	dir = filepath.Join(dir, "customer")
	c := &customer{slurmDir: filepath.Join(dir, "slurm")}
	if err := os.MkdirAll(c.slurmDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the customer's folder: %w", err)
	}
	// A copy, so that no other process has the file mapped.
	source, library, program := filepath.Join(dir, "customer.c"), filepath.Join(dir, "libnccl.so.2"), filepath.Join(dir, "customer")
	if err := copyFile(library, filepath.Join(nccl, "libnccl.so.2")); err != nil {
		return nil, err
	}
	if err := os.WriteFile(source, customerSource, 0o600); err != nil {
		return nil, fmt.Errorf("write the customer's source: %w", err)
	}
	if out, err := exec.CommandContext(ctx, "gcc", "-O1", "-o", program, source, library, "-Wl,-rpath,$ORIGIN").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the customer: %w: %s", err, out)
	}
	argv := []string{program, strconv.Itoa(gpus), strconv.Itoa(callsEach), dir}
	whose := "job " + slurmJob + " of Slurm by its files alone (no control group could be made)"
	if group, gerr := makeGroup(g); gerr == nil {
		argv = append(argv, filepath.Join(group, "cgroup.procs"))
		whose = "job " + slurmJob + " of Slurm by files and control group"
	}
	p, out, err := startPiped(g, dir, argv)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	network := ""
	for len(c.pids) < gpus && lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "net "); ok {
			network = name
			continue
		}
		pid, perr := strconv.ParseUint(lines.Text(), 10, 32)
		if perr != nil {
			return nil, fmt.Errorf("the customer says %q", lines.Text())
		}
		c.pids = append(c.pids, uint32(pid))
	}
	if len(c.pids) < gpus {
		return nil, fmt.Errorf("the customer started %d processes of %d: %w", len(c.pids), gpus, errors.Join(lines.Err(), p.ended()))
	}
	c.note = fmt.Sprintf("%d processes, each %d collectives a second, %d TCP connections among them (%s), a checkpoint of 100 MB a minute, %s",
		gpus, callsEach, gpus*(gpus-1)/2, map[bool]string{true: "a network of their own", false: "loopback: the agent leaves these out"}[network == "private"], whose)
	return c, nil
}

// startPiped starts the customer, whose standard input lasts as long as this process, and
// returns what it prints.
func startPiped(g *group, dir string, argv []string) (*process, *os.File, error) {
	stdin, hold, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the customer: %w", err)
	}
	g.add(hold.Close)
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the customer: %w", err)
	}
	g.add(out.Close)
	p, err := startOn("customer", dir, []string{"PATH=" + os.Getenv("PATH")}, stdin, stdout, argv...)
	if err = errors.Join(err, stdin.Close(), stdout.Close()); err != nil {
		return nil, nil, err
	}
	g.add(p.kill)
	return p, out, nil
}

// makeGroup makes a control group as slurmstepd does, and removes it at the end.
func makeGroup(g *group) (string, error) {
	root := onlyV2
	if _, err := os.Stat(unified); err == nil {
		root = unified
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		return "", err
	}
	path := filepath.Join(root, slurmStep)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fmt.Errorf("make a control group: %w", err)
	}
	g.add(func() error {
		for at := path; at != root; at = filepath.Dir(at) {
			// Its processes may take a moment to go; what others use stays.
			for range 20 {
				if err := os.Remove(at); !errors.Is(err, syscall.EBUSY) {
					break
				}
				wait(context.Background(), 50*time.Millisecond)
			}
		}
		return nil
	})
	return path, nil
}

// allocate writes the file that Slurm's prolog leaves of a job on these GPUs.
func (c *customer) allocate(uuids []string) error {
	if c.slurmDir == "" {
		return nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read boot id: %w", err)
	}
	text := fmt.Sprintf("flopwatch-slurm 1\njob_id %s\nnode n1\nboot_id %s\nuid 1000\nuser train\naccount lab\ngpus %s\nstart %d\nend\n",
		slurmJob, strings.TrimSpace(string(boot)), strings.Join(uuids, ","), time.Now().Unix())
	if err := os.WriteFile(filepath.Join(c.slurmDir, slurmJob), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the file of a Slurm job: %w", err)
	}
	return nil
}
