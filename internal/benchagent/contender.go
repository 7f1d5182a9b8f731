package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

// contender is one monitor that runs against driver files of its own.
type contender struct {
	name, version string
	note          string // what it does each second
	stub          *driver
	proc          *process
	url           string // scraped once a second; "": it does not answer requests
	served        *scraper
	ours          bool
}

// rival says how one is started. argv has the program first; port is one to listen on.
type rival struct {
	name, version, note string
	program             string // file in the folder of rivals
	argv                func(port int) []string
	scraped             bool
	terminal            bool // it wants one
	env                 []string
}

var rivals = []rival{
	{
		name: "nvidia_gpu_exporter", version: "1.14.0", note: "NVML backend, collects each 1 s, scraped each 1 s",
		program: "nvidia_gpu_exporter", scraped: true,
		argv: func(port int) []string {
			return []string{"--collect.backend=nvml", "--collect.interval=1s", "--web.listen-address=127.0.0.1:" + strconv.Itoa(port)}
		},
	},
	{
		name: "the same, lean", version: "1.14.0", note: "asked for ten fields only, the nearest to what we read without GPM",
		program: "nvidia_gpu_exporter", scraped: true,
		argv: func(port int) []string {
			return []string{"--collect.backend=nvml", "--collect.interval=1s", "--web.listen-address=127.0.0.1:" + strconv.Itoa(port), "--query-field-names=" + leanFields}
		},
	},
	{
		name: "mindprince", version: "0d52cd2", note: "nvidia_gpu_prometheus_exporter, six values a GPU, scraped each 1 s",
		program: "mindprince", scraped: true,
		argv: func(port int) []string { return []string{"-web.listen-address", "127.0.0.1:" + strconv.Itoa(port)} },
	},
	{
		name: "gpustat", version: "1.0.0-1 (Debian)", note: "prints a table each 1 s to /dev/null",
		program: "monitors/gpustat", env: []string{"TERM=xterm"},
		argv: func(int) []string { return []string{"--interval", "1", "--no-color"} },
	},
	{
		name: "nvtop", version: "3.0.1-1 (Debian)", note: "on a terminal of 160 x 60, drawn each 1 s",
		program: "monitors/nvtop", env: []string{"TERM=xterm", "LANG=C.UTF-8"}, terminal: true,
		argv: func(int) []string { return []string{"-C", "-d", "10"} },
	},
	{
		name: "node_exporter", version: "1.5.0-1 (Debian)", note: "its defaults, scraped each 1 s; it knows no GPUs",
		program: "node_exporter", scraped: true,
		argv: func(port int) []string { return []string{"--web.listen-address=127.0.0.1:" + strconv.Itoa(port)} },
	},
}

const leanFields = "uuid,utilization.gpu,utilization.memory,memory.used,power.draw.instant,clocks.current.sm,clocks.current.memory," +
	"temperature.gpu,clocks_event_reasons.active,pstate"

// startRivals starts those whose program is in the folder; the others are named with why
// they are not there.
func startRivals(ctx context.Context, g *group, folder, work, stub string, pids []uint32) (all []*contender, missing []string, err error) {
	for i, r := range rivals {
		program, err := filepath.Abs(filepath.Join(folder, r.program))
		if err != nil {
			return nil, nil, fmt.Errorf("find %s: %w", r.program, err)
		}
		if _, err = os.Stat(program); err != nil {
			missing = append(missing, fmt.Sprintf("%s %s: %v", r.name, r.version, err))
			continue
		}
		dir := filepath.Join(work, "rival"+strconv.Itoa(i))
		c := &contender{name: r.name, version: r.version, note: r.note}
		if c.stub, err = newDriver(filepath.Join(dir, "driver"), stub, pids); err != nil {
			return nil, nil, err
		}
		g.add(c.stub.close)
		port, err := freePort(ctx)
		if err != nil {
			return nil, nil, err
		}
		env := append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LD_LIBRARY_PATH=" + c.stub.dir}, r.env...)
		var tty *os.File
		if r.terminal {
			if tty, err = terminal(g); err != nil {
				return nil, nil, err
			}
		}
		c.proc, err = startOn(filepath.Base(r.program), dir, env, tty, tty, append([]string{program}, r.argv(port)...)...)
		if tty != nil {
			err = errors.Join(err, tty.Close())
		}
		if err != nil {
			return nil, nil, err
		}
		g.add(c.proc.kill) // how it ends is not our matter
		if r.scraped {
			addr := "127.0.0.1:" + strconv.Itoa(port)
			if err := reachable(ctx, c.proc, addr); err != nil {
				return nil, nil, err
			}
			c.url = "http://" + addr + "/metrics"
			c.served = &scraper{url: c.url}
		}
		all = append(all, c)
	}
	return all, missing, nil
}

// scraper asks an exporter once a second, as Prometheus would.
type scraper struct {
	url   string
	bytes atomic.Uint64
	err   error // the last one, once run has returned
}

func (s *scraper) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if n, err := fetch(ctx, s.url, nil); err == nil {
			s.bytes.Add(uint64(n))
		} else if ctx.Err() == nil {
			s.err = err
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// fetch reads what url answers, into w if it is not nil.
func fetch(ctx context.Context, url string, w io.Writer) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, fmt.Errorf("fetch %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("fetch: %w", err)
	}
	if w == nil {
		w = io.Discard
	}
	n, err = io.Copy(w, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return n, fmt.Errorf("fetch %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return n, fmt.Errorf("fetch %s: %s", url, resp.Status)
	}
	return n, nil
}

// total is the bytes of all answers so far.
func (s *scraper) total() uint64 { return s.bytes.Load() }
