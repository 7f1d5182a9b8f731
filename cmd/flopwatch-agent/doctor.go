package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/cmd/flopwatch-agent/doctor"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// errUnwell ends the doctor with exit code 1: what failed was printed.
var errUnwell = errors.New("something failed, see above")

const (
	doctorSeconds = 15 // long enough for one look at all there is, within the budget of calls
	brokerWait    = 5 * time.Second
	driverWait    = 15 * time.Second // a description takes some seconds, as it keeps to the budget of calls
	spoolWait     = 10 * time.Second
	mostSpools    = 8
	// controllerEvery is the shortest interval of controllers; controllerTakes is how long an
	// answer takes.
	controllerEvery = 10 * time.Second
	controllerTakes = 5 * time.Second
)

// doctorLine is the doctor's command line.
type doctorLine struct {
	config, node string
	seconds      uint
	json, bench  bool
}

const doctorUsage = `usage: flopwatch-agent doctor -config FILE [-node NAME] [-seconds N] [-json] [-bench]

Looks at this host for a few seconds with the instruments of FILE, and says what is seen, by which way, with what
privilege, what is missing and what helps. It publishes and keeps nothing. To see what the service sees, run it as the
service's user, with its privileges. The exit code is 1 if something has to be mended.
`

func parseDoctor(args []string, stderr io.Writer) (line doctorLine, done bool, err error) {
	f := flag.NewFlagSet("flopwatch-agent doctor", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		_, _ = io.WriteString(stderr, doctorUsage) // stderr is all there is
		f.PrintDefaults()
	}
	f.StringVar(&line.config, "config", "", "the agent's configuration `file`")
	f.StringVar(&line.node, "node", "", "`name` of this host, over the configuration's")
	f.UintVar(&line.seconds, "seconds", doctorSeconds, "how long to look")
	f.BoolVar(&line.json, "json", false, "print one JSON object")
	f.BoolVar(&line.bench, "bench", false, "measure what a probe in a process costs on this host (needs the privileges of [kernel])")
	switch err = f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return line, true, nil
	case err != nil:
		return line, false, daemon.UsageError{Err: err}
	case f.NArg() > 0:
		return line, false, daemon.UsageError{Err: fmt.Errorf("doctor: unexpected %q", f.Arg(0))}
	case line.config == "":
		return line, false, daemon.UsageError{Err: errors.New("doctor: -config FILE is needed; flopwatch-agent -print-config prints one")}
	case line.seconds < 2 || line.seconds > 600:
		return line, false, daemon.UsageError{Err: fmt.Errorf("doctor: -seconds %d: from 2 to 600", line.seconds)}
	}
	return line, false, nil
}

func runDoctor(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	line, done, err := parseDoctor(args, stderr)
	if done || err != nil {
		return err
	}
	cfg, digest, err := loadConfig(line.config, line.node)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	node, err := host.Name(cfg.Node)
	if err != nil {
		return err // it says what to set
	}
	r := doctor.Report{Version: doctor.Version, Cluster: cfg.Cluster, Node: node, Build: daemon.ReadBuild().String()}
	if r.Privileges, err = doctor.ReadPrivileges(cfg.Host.Procfs, cfg.Host.Sysfs); err != nil {
		return err
	}
	if !line.json {
		// stderr is all there is
		_, _ = fmt.Fprintf(stderr, "looking at this host for %d s, after the driver and the broker\n\n", line.seconds)
	}
	c := checker{cfg: cfg, node: node, report: &r}
	c.add("config", doctor.OK, "", "%s, digest %s", line.config, digest)
	c.data()
	c.switches()
	c.page(ctx)
	c.spools(ctx)
	c.siteKey()
	c.broker(ctx)
	c.driver(ctx) // before the look: the budget of calls is for both together
	c.look(ctx, time.Duration(line.seconds)*time.Second)
	if line.bench {
		r.Bench = bench(ctx)
	}
	if line.json {
		err = r.PrintJSON(stdout)
	} else {
		err = r.Print(stdout)
	}
	if err == nil && r.Failed() {
		err = errUnwell
	}
	return err
}

// checker looks at what is around the instruments.
type checker struct {
	cfg    config
	node   string
	report *doctor.Report
	// alone: no agent runs on data_dir.
	alone bool
}

func (c *checker) add(what, status, remedy, format string, args ...any) {
	c.report.Checks = append(c.report.Checks, doctor.Check{What: what, Status: status, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// data looks at the directory, its room, whether an agent runs on it, and the spool.
func (c *checker) data() {
	dir := c.cfg.DataDir
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.alone = true
		c.add("data_dir", doctor.Info, "", "%s is not there yet: the agent makes it", dir)
		return
	case err != nil:
		c.add("data_dir", doctor.Fail, "run the doctor as the agent's user", "%v", err)
		return
	case !st.IsDir():
		c.add("data_dir", doctor.Fail, "name a directory", "%s is no directory", dir)
		return
	case st.Mode().Perm()&0o077 != 0:
		c.add("data_dir", doctor.Warn, "chmod 700 "+dir, "%s can be entered by others (mode %o)", dir, st.Mode().Perm())
	default:
		c.add("data_dir", doctor.OK, "", "%s", dir)
	}
	var f unix.Statfs_t
	if err = unix.Statfs(dir, &f); err == nil {
		free := int64(f.Bavail) * f.Bsize
		if free < c.cfg.Spool.MaxBytes {
			c.add("disk", doctor.Warn, "make room, or lower spool.max_bytes", "%d MiB free, the spool may take %d MiB", free>>20, c.cfg.Spool.MaxBytes>>20)
		} else {
			c.add("disk", doctor.OK, "", "%d MiB free", free>>20)
		}
	}
	lock, err := (durable.OS{}).Lock(filepath.Join(dir, "lock"))
	switch {
	case errors.Is(err, durable.ErrLocked):
		c.add("agent", doctor.OK, "", "an agent runs on this directory")
	case err != nil:
		c.add("agent", doctor.Warn, "run the doctor as the agent's user", "%v", err)
	default:
		c.alone = true
		c.add("agent", doctor.Info, "", "no agent runs on this directory")
		if err := lock.Close(); err != nil {
			c.add("agent", doctor.Warn, "", "%v", err)
		}
	}
}

// switches looks for files in kernel-off that switch nothing off: a slip of the pen there is
// found when it matters.
func (c *checker) switches() {
	dir := filepath.Join(c.cfg.DataDir, "kernel-off")
	list, err := os.ReadDir(dir)
	if err != nil {
		return // there is none, or data_dir was told of
	}
	var known []string
	for f := range reflect.TypeFor[kernelConfig]().Fields() {
		if f.Type.Kind() == reflect.Bool && f.Name != "Enabled" {
			known = append(known, f.Tag.Get("toml"))
		}
	}
	for _, e := range list {
		if slices.Contains(known, e.Name()) {
			c.add("kernel", doctor.Info, "remove it to switch the feature on again", "%s switches kernel/%s off", filepath.Join(dir, e.Name()), e.Name())
		} else {
			c.add("kernel", doctor.Warn, "the names are "+strings.Join(known, ", "), "%s switches nothing off", filepath.Join(dir, e.Name()))
		}
	}
}

// page looks whether the agent, where none runs, could serve its page.
func (c *checker) page(ctx context.Context) {
	if !c.alone || c.cfg.Metrics.Listen == "" {
		return
	}
	ln, err := daemon.Listen(ctx, c.cfg.Metrics.Listen)
	if err == nil {
		err = ln.Close()
	}
	if err != nil {
		c.add("metrics", doctor.Fail, "the agent does not start without it: another address in metrics.listen, or \"\" for none", "%v", err)
	}
}

// spools reads what waits on disk, of this cluster and node, and of others that were here.
func (c *checker) spools(ctx context.Context) {
	root := filepath.Join(c.cfg.DataDir, "spool")
	own := spoolName(c.cfg.Cluster, c.node)
	list, err := os.ReadDir(root)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.add("spool", doctor.Warn, "run the doctor as the agent's user", "%v", err)
		}
		return
	}
	if i := slices.IndexFunc(list, func(e fs.DirEntry) bool { return e.Name() == own }); i > 0 { // the own one first
		list[0], list[i] = list[i], list[0]
	}
	limited, cancel := context.WithTimeout(ctx, spoolWait)
	defer cancel()
	for _, e := range list {
		if !e.IsDir() || len(c.report.Spools) == mostSpools {
			continue
		}
		s, err := doctor.ReadSpool(limited, filepath.Join(root, e.Name()))
		if err != nil {
			c.add("spool", doctor.Warn, "run the doctor as the agent's user", "%v", err)
			continue
		}
		c.report.Spools = append(c.report.Spools, *s)
		check := s.Check(time.Now())
		if e.Name() != own && s.Uncommitted > 0 {
			check.Status, check.Remedy = doctor.Warn, "it is of another cluster or node: run this agent under that name for a while to ship it, or remove it"
		}
		c.report.Checks = append(c.report.Checks, check)
	}
}

// driver asks the driver in a process of its own, which may hang.
func (c *checker) driver(ctx context.Context) {
	if !c.cfg.GPU.Enabled {
		return
	}
	child := c.cfg.GPU.Child
	if child == "" {
		self, err := os.Executable()
		if err != nil {
			c.add("driver", doctor.Warn, "name flopwatch-nvml in gpu.child", "%v", err)
			return
		}
		child = filepath.Join(filepath.Dir(self), "flopwatch-nvml")
	}
	c.report.Driver = doctor.ReadDriver(ctx, child, c.cfg.GPU.Library, driverWait)
}

// look asks the instruments for a while. One that cannot be made is told, and takes no other
// with it.
func (c *checker) look(ctx context.Context, howLong time.Duration) {
	bootID, err := host.BootID(c.cfg.Host.Procfs)
	if err != nil {
		c.add("boot", doctor.Warn, "", "%v", err)
	}
	cfg := c.cfg
	cfg.DataDir = "" // the running agent's files stay as they are
	if len(cfg.BMC.Targets) > 0 {
		// Controllers are asked at moments of their own within the interval.
		cfg.BMC.Targets = slices.Clone(cfg.BMC.Targets)
		for i := range cfg.BMC.Targets {
			cfg.BMC.Targets[i].Interval = controllerEvery
		}
		howLong = max(howLong, controllerEvery+controllerTakes)
	}
	inst := &instruments{lg: slog.New(slog.DiscardHandler), bootID: bootID, node: c.node}
	sources, errs := inst.each(cfg)
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		c.add("sources", doctor.Fail, "", "make source %s: %v", name, errs[name])
	}
	found := doctor.Look(ctx, sources, howLong, host.Clocks)
	c.report.Take(&found)
}

func (c *checker) siteKey() {
	if c.cfg.ClearNames {
		c.add("names", doctor.Info, "", "clear_names: names of users and projects leave the host in clear")
		return
	}
	path := c.cfg.SiteKeyFile
	if path == "" {
		own := filepath.Join(c.cfg.DataDir, "site.key")
		if _, err := agent.ReadSiteKey(own); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			c.add("site key", doctor.Fail, "put back what was there, or remove it for a new one: then persons are others than before", "%v", err)
			return
		}
		c.add("site key", doctor.Info, "give all hosts of a site the same key (site_key_file), so that a person is the same on all of them",
			"this host has a key of its own: data_dir/site.key")
		return
	}
	if _, err := siteKey(c.cfg); err != nil {
		c.add("site key", doctor.Fail, "the site's key belongs there: 64 hex digits in a file of the agent's user, mode 0600 or 0400", "%v", err)
		return
	}
	c.add("site key", doctor.OK, "", "%s", path)
}

// broker connects as the agent would.
func (c *checker) broker(ctx context.Context) {
	cfg := c.cfg.NATS
	if cfg.InboxPrefix == "" {
		cfg.InboxPrefix = wire.NodeInbox(c.cfg.Cluster, c.node)
	}
	nc, l, err := connect(cfg, c.node, slog.New(slog.DiscardHandler))
	if err != nil {
		c.add("broker", doctor.Fail, "", "%v", err)
		return
	}
	defer nc.Close()
	limit := time.NewTimer(brokerWait)
	defer limit.Stop()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for !nc.IsConnected() {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if st := l.state(); st.Err != nil && refused(st.Err) {
				c.add("broker", doctor.Fail, "flopwatch nats-user makes credentials for a node; name their file in [nats]", "%s refuses the credentials: %v", cfg.URL, st.Err)
				return
			}
		case <-limit.C:
			c.add("broker", doctor.Warn, "samples stay in the spool until it is there; check nats.url and the network", "%s does not answer within %s%s", cfg.URL, brokerWait, because(text(l.state().Err)))
			return
		}
	}
	c.add("broker", doctor.OK, "", "connected to %s, version %s, round trip %s", nc.ConnectedUrlRedacted(), nc.ConnectedServerVersion(), roundTrip(nc.RTT()))
}

func roundTrip(d time.Duration, err error) string {
	if err != nil {
		return "not measured: " + err.Error()
	}
	return d.Round(10 * time.Microsecond).String()
}

// bench measures probes on this very host: processors and hypervisors differ by a factor of 30.
func bench(ctx context.Context) []string {
	costs, err := probe.SelfTest(ctx)
	if err != nil {
		return []string{"not measured: " + err.Error()}
	}
	lines := make([]string, 0, len(costs))
	for _, c := range costs {
		if c.Err != nil {
			lines = append(lines, fmt.Sprintf("%-16s not measured: %v", c.Probe, c.Err))
			continue
		}
		lines = append(lines, fmt.Sprintf("%-16s %8.0f ns a call", c.Probe, c.Ns))
	}
	return lines
}
