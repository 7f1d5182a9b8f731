package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// released are the bytes of heap that the kernel has back.
func released() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// waste is kept until the start is over.
var waste []byte

// TestSettle: what only the start needed is given back once it is over, and settle then goes
// on until it is ended; one that is ended before gives nothing back.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := settle(ctx); err != nil {
			t.Error(err)
		}
		const start = 64 << 20
		waste = make([]byte, start)
		for i := 0; i < len(waste); i += 4096 {
			waste[i] = 1
		}
		waste = nil
		before := released()
		if ctx, cancel = context.WithTimeout(t.Context(), settled+3*tidyEvery); ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
		defer cancel()
		if err := settle(ctx); err != nil {
			t.Error(err)
		}
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("it ended by itself")
		}
		if got := released(); got < before+start/2 {
			t.Errorf("%d bytes of heap are released, %d were before the start was over", got, before)
		}
	})
}

// limitOf is the limit of memory that an agent says is in force, when it begins.
func limitOf(t *testing.T, p *process) int64 {
	t.Helper()
	p.says("memory_limit=")
	m := regexp.MustCompile(`memory_limit=(\d+)`).FindStringSubmatch(p.log.String())
	if m == nil {
		t.Fatalf("no limit in the log:\n%s", p.log)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMemory: the limit of the runtime is in force in the real agent, an operator's own bound
// holds over it, and under load, with a page that is asked for without a pause and a broker
// that is away, the process stays within what it may have.
func TestMemory(t *testing.T) {
	child(t)
	config := write(t, fast(t.TempDir(), "nats://127.0.0.1:1", "[metrics]\nlisten = \"\"\n"+noGPU))
	for _, c := range []struct {
		env  []string
		want int64
	}{{nil, memoryLimit}, {[]string{"GOMEMLIMIT=48MiB"}, 48 << 20}} {
		p := start(t, config, c.env...)
		if got := limitOf(t, p); got != c.want {
			t.Errorf("with %v the limit is %d, not %d", c.env, got, c.want)
		}
		p.stop()
	}

	dir := t.TempDir()
	library, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 8, uint32(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	port := freePort(t)
	p := start(t, write(t, fast(t.TempDir(), "nats://127.0.0.1:1", fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\ngpu = true\n[gpu]\nlibrary = %q\n", port, library))))
	eventually(t, "GPUs", func() bool { return strings.Count(get(t, port, "/metrics"), "\nDCGM_FI_DEV_GPU_UTIL{") == 8 }, p.log.String)
	const pages, askers, most = 200, 4, 30 << 10 // KiB; a runtime as it comes takes 32
	var asking sync.WaitGroup
	for range askers {
		asking.Go(func() {
			for range pages / askers {
				get(t, port, "/metrics")
			}
		})
	}
	asking.Wait()
	if got := memoryOf(t, p.cmd.Process.Pid, "VmHWM"); got > most {
		t.Errorf("the agent took %d KiB, it may take %d", got, most)
	} else {
		t.Logf("at most %d KiB", got)
	}
	if err := syscall.Kill(p.cmd.Process.Pid, 0); err != nil {
		t.Errorf("%v\n%s", err, p.log)
	}
	p.stop()
}

// memoryOf is a figure of /proc/PID/status, in KiB.
func memoryOf(t *testing.T, pid int, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s of process %d", name, pid)
	return 0
}
