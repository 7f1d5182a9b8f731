package doctor

import (
	"context"
	"debug/buildinfo"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

// Bounds of what is well.
const (
	diskWarn  = 10 << 30 // bytes free
	diskFail  = 1 << 30
	spoolWarn = 256 << 20 // bytes that wait to be stored
)

// binaries looks whether what is to be run is there, and of one build. They are read, not run.
func (v *visit) binaries() {
	kind := v.state.Source.Kind
	host := !v.known || kind != up.Recording
	gpus := !v.known || kind == up.RealGPUs || kind == up.FakeGPUs
	dir := filepath.Dir(v.o.Exe)
	own := revision(v.o.Exe)
	var there, missing, other []string
	for _, b := range []struct {
		name   string
		needed bool
	}{{"flopwatch-collector", true}, {"flopwatch-detector", true}, {"flopwatch-agent", host}, {"flopwatch-nvml", gpus}} {
		path := filepath.Join(dir, b.name)
		switch _, err := os.Stat(path); {
		case err == nil && revision(path) != own:
			other = append(other, b.name)
		case err == nil:
			there = append(there, b.name)
		case b.needed:
			missing = append(missing, b.name)
		}
	}
	switch {
	case len(missing) > 0:
		v.add("binaries", Fail, "make build", "missing beside %s: %s", v.o.Exe, strings.Join(missing, " "))
	case len(other) > 0:
		v.add("binaries", Warn, "make build, so that all are of one build", "of another build than flopwatch: %s", strings.Join(other, " "))
	default:
		v.ok("binaries", "%s in %s", strings.Join(there, " "), dir)
	}
	if lib, err := embedded.FindLibrary(v.o.Exe); err != nil {
		v.add("engine", Fail, "make engine", "%v", err)
	} else {
		v.ok("engine", "%s", lib)
	}
	if stub := filepath.Join(dir, "stub", "libnvidia-ml.so.1"); kind == up.FakeGPUs && !exists(stub) {
		v.add("stub", Fail, "make build", "%s is missing: it makes up GPUs", stub)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// revision is what a binary was built from; "": not known.
func revision(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	var text strings.Builder
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
			text.WriteString(s.Value + " ")
		}
	}
	return text.String()
}

// driver looks for NVIDIA's driver.
func (v *visit) driver() {
	d := up.FindDriver("/", filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")))
	switch {
	case d.Loaded:
		v.ok("driver", "%s", d.Text)
	case v.known && v.state.Source.Kind == up.RealGPUs:
		v.add("driver", Fail, "install NVIDIA's driver, or load it: modprobe nvidia", "%s", d.Text)
	case d.Library != "":
		v.add("driver", Warn, "load it (modprobe nvidia), or let the container have the device", "%s", d.Text)
	default:
		v.info("driver", "%s; real GPUs alone need it", d.Text)
	}
}

// disk looks at the data directory.
func (v *visit) disk() {
	info, err := os.Stat(v.l.Root)
	if errors.Is(err, os.ErrNotExist) {
		return // up said so
	}
	if err != nil {
		v.add("data", Fail, "look at the path's permissions", "%v", err)
		return
	}
	// A folder on which nothing of ours ever ran is not to be shut.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && v.ran {
		v.add("data", Warn, "chmod 700 "+v.l.Root, "%s may be entered by other users (mode %o): it holds keys and passwords", v.l.Root, mode)
	}
	var st unix.Statfs_t
	if err = unix.Statfs(v.l.Root, &st); err != nil {
		v.add("disk", Warn, "", "free space of %s cannot be told: %v", v.l.Root, err)
		return
	}
	free := st.Bavail * uint64(st.Bsize)
	switch {
	case free < diskFail:
		v.add("disk", Fail, "make room: the spools keep what cannot be stored, up to their bound", "%s free below %s", size(free), v.l.Root)
	case free < diskWarn:
		v.add("disk", Warn, "make room, or move the data directory", "%s free below %s", size(free), v.l.Root)
	default:
		v.ok("disk", "%s free below %s", size(free), v.l.Root)
	}
}

// clock looks whether the kernel's clock is disciplined by somebody.
func (v *visit) clock() {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	switch {
	case err != nil:
		v.info("clock", "whether it is synchronised cannot be told: %v", err)
	case state == unix.TIME_ERROR || tx.Status&unix.STA_UNSYNC != 0:
		v.add("clock", Warn, "run chrony, systemd-timesyncd or ntpd (in a container: on its host)", "no time service synchronises the kernel's clock")
	default:
		v.ok("clock", "synchronised, estimated error %d us", tx.Esterror)
	}
}

// ports looks whether a start would find its ports free.
func (v *visit) ports(ctx context.Context) {
	if v.running {
		return
	}
	urls := []string{v.state.HealthURL, v.state.NATSURL, v.state.ClickHouseURL, v.state.AgentURL, v.state.CollectorURL, v.state.DetectorURL}
	var addrs []string
	for _, u := range urls {
		if _, addr, ok := strings.Cut(u, "://"); ok {
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 {
		addrs = up.DefaultAddresses()
	}
	var taken []string
	for _, a := range addrs {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a)
		if errors.Is(err, syscall.EADDRINUSE) {
			taken = append(taken, a)
			continue
		}
		if err == nil {
			_ = ln.Close() // it was only to try
		}
	}
	if len(taken) > 0 {
		v.add("ports", Warn, "another --port, or stop what has them (ss -ltnp shows it)", "taken by another program: %s", strings.Join(taken, " "))
		return
	}
	v.ok("ports", "%s to %s are free", addrs[0], addrs[len(addrs)-1])
}

// spools looks at how much waits on disk.
func (v *visit) spools() {
	var bytes, bad uint64
	n := 0
	for _, root := range []string{v.l.Agent(), v.l.Play(), v.l.Facts()} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil //nolint:nilerr // what cannot be read, or has just gone, is not counted
			}
			info, err := e.Info()
			if err != nil {
				return nil //nolint:nilerr // it has just gone
			}
			switch filepath.Ext(path) {
			case ".seg":
				bytes += uint64(info.Size())
				n++
			case ".bad":
				bad += uint64(info.Size())
			}
			return nil
		})
		if err != nil {
			v.add("spool", Warn, "", "%v", err)
			return
		}
	}
	switch {
	case n == 0:
		return
	case bad > 0:
		v.add("spool", Warn, "keep the files under quarantine/ and look at the disk: they were damaged on it", "%s damaged, %s in %d segments", size(bad), size(bytes), n)
	case bytes > spoolWarn:
		v.add("spool", Warn, "see broker and store: what is stored leaves the spool", "%s wait in %d segments", size(bytes), n)
	default:
		v.ok("spool", "%s in %d segments", size(bytes), n)
	}
}
