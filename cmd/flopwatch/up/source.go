package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kind of a source of telemetry.
type Kind string

// Kinds of sources.
const (
	RealGPUs  Kind = "gpus"      // this host, NVIDIA's driver
	Recording Kind = "recording" // a recording on the wall clock
	FakeGPUs  Kind = "fake"      // this host, with GPUs that our stub of the driver makes up
	HostOnly  Kind = "host"      // this host, without GPUs
)

// FakeName begins the names of clusters and nodes whose GPUs are made up.
const FakeName = "FAKE"

// Source is what the data directory's telemetry is of.
type Source struct {
	Kind    Kind   `json:"kind"`
	Cluster string `json:"cluster"`
	// Recording is the folder of a recording, and Digest its content's.
	Recording string `json:"recording,omitempty"`
	Digest    string `json:"digest,omitempty"`
	GPUs      int    `json:"gpus,omitempty"` // fake ones
	// Why says in a sentence how the source was chosen.
	Why string `json:"why"`
}

// live reports whether this host is what is sampled.
func (s Source) live() bool { return s.Kind != Recording }

// String names the source for people.
func (s Source) String() string {
	switch s.Kind {
	case RealGPUs:
		return "the GPUs of this host"
	case Recording:
		return "the recording " + s.Recording + " on the wall clock"
	case FakeGPUs:
		return fmt.Sprintf("%d made-up GPUs on this host (stub of NVIDIA's driver)", s.GPUs)
	}
	return "this host without GPUs"
}

// Driver is what of NVIDIA's driver was found on this host.
type Driver struct {
	Loaded  bool   // the kernel has it
	Library string // path of libnvidia-ml.so.1; empty: not found where it usually lies
	Text    string // what was found, or looked for, in a sentence
}

// nvmlLibrary is the driver's library, and stubLibrary the file of our stub: the same name.
const (
	nvmlLibrary = "libnvidia-ml.so.1"
	stubLibrary = nvmlLibrary
)

// libraryFolders are where packages of NVIDIA's driver and container tool kits put the library.
var libraryFolders = []string{
	"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib",
	"/run/nvidia/driver/usr/lib/x86_64-linux-gnu", "/run/nvidia/driver/usr/lib64", "/run/opengl-driver/lib", "/opt/nvidia/lib64",
}

// FindDriver looks for NVIDIA's driver below root ("/"). extra are folders to look for the
// library first, as LD_LIBRARY_PATH names them.
func FindDriver(root string, extra []string) Driver {
	at := func(path string) string { return filepath.Join(root, path) }
	var d Driver
	for _, dir := range append(append([]string{}, extra...), libraryFolders...) {
		if dir == "" || !filepath.IsAbs(dir) {
			continue
		}
		if path := at(filepath.Join(dir, nvmlLibrary)); exists(path) {
			d.Library = path
			break
		}
	}
	version, err := os.ReadFile(at("/proc/driver/nvidia/version"))
	switch {
	case err == nil:
		d.Loaded = true
		line, _, _ := strings.Cut(string(version), "\n")
		d.Text = "NVIDIA's driver is loaded (" + strings.Join(strings.Fields(strings.TrimPrefix(line, "NVRM version:")), " ") + ")"
	case exists(at("/dev/nvidiactl")):
		d.Loaded, d.Text = true, "NVIDIA's driver is loaded (/dev/nvidiactl)"
	case exists(at("/dev/dxg")) && d.Library != "":
		d.Loaded, d.Text = true, "NVIDIA's driver is reached through WSL (/dev/dxg)"
	case d.Library != "":
		d.Text = "there is " + d.Library + ", but the kernel has no NVIDIA driver (neither /proc/driver/nvidia/version nor /dev/nvidiactl)"
		return d
	default:
		d.Text = "this host has no NVIDIA driver (no /proc/driver/nvidia/version, /dev/nvidiactl or " + nvmlLibrary + ")"
		return d
	}
	if d.Library == "" {
		d.Text += ", though " + nvmlLibrary + " is in none of the usual places: it is left to the loader"
	} else {
		d.Text += " with " + d.Library
	}
	return d
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Wish is what the command line asks for; at most one of Recording, FakeGPUs and HostOnly.
type Wish struct {
	Recording string
	FakeGPUs  int
	HostOnly  bool
	Cluster   string // "": by the source
}

// errNoSource is what a host without GPUs gets that was not told what to do instead.
var errNoSource = errors.New("name what to sample instead:\n" +
	"  --recording BUNDLE   a recording, played on the wall clock (deploy/recordings/clean-mix is one)\n" +
	"  --fake-gpus 8        made-up GPUs with a training-like load, marked " + FakeName + "\n" +
	"  --no-gpus            this host as it is: network and host counters alone")

// choose says which source is meant: what the command line names, else what the data
// directory had before, else the GPUs of this host.
func choose(w Wish, before *Source, d Driver) (Source, error) {
	named := 0
	for _, is := range []bool{w.Recording != "", w.FakeGPUs != 0, w.HostOnly} {
		if is {
			named++
		}
	}
	s := Source{Cluster: w.Cluster}
	switch {
	case named > 1:
		return s, errors.New("--recording, --fake-gpus and --no-gpus exclude each other")
	case w.FakeGPUs < 0 || w.FakeGPUs > maxFakeGPUs:
		return s, fmt.Errorf("--fake-gpus %d: wanted 1 to %d", w.FakeGPUs, maxFakeGPUs)
	case w.Recording != "":
		if w.Cluster != "" {
			return s, errors.New("--cluster: a recording names its own cluster")
		}
		abs, err := filepath.Abs(w.Recording)
		if err != nil {
			return s, fmt.Errorf("resolve --recording: %w", err)
		}
		s.Kind, s.Recording, s.Why = Recording, abs, "--recording"
	case w.FakeGPUs > 0:
		s.Kind, s.GPUs, s.Why = FakeGPUs, w.FakeGPUs, "--fake-gpus"
	case w.HostOnly:
		s.Kind, s.Why = HostOnly, "--no-gpus"
	case before != nil:
		s = *before
		s.Why = "as before in this data directory"
		if w.Cluster != "" && w.Cluster != s.Cluster {
			return s, fmt.Errorf("--cluster %s: the data directory is of cluster %s", w.Cluster, s.Cluster)
		}
		return s, nil
	case d.Loaded:
		s.Kind, s.Why = RealGPUs, d.Text
	default:
		return s, fmt.Errorf("%s; %w", d.Text, errNoSource)
	}
	if s.Cluster == "" {
		s.Cluster = "local"
	}
	if s.Kind == FakeGPUs {
		s.Cluster = FakeName
		if w.Cluster != "" {
			s.Cluster = FakeName + "-" + strings.TrimPrefix(w.Cluster, FakeName+"-")
		}
	}
	return s, nil
}

// maxFakeGPUs bounds what the stub makes up.
const maxFakeGPUs = 16

// belongs refuses a source that is not what the data directory holds: made-up or recorded
// telemetry must never mix with a real host's.
func (s Source) belongs(before *Source, dir string) error {
	if before == nil {
		return nil
	}
	hosts := func(k Kind) bool { return k == RealGPUs || k == HostOnly }
	same := before.Cluster == s.Cluster && (before.Kind == s.Kind && before.Digest == s.Digest || hosts(before.Kind) && hosts(s.Kind))
	if same {
		return nil
	}
	return fmt.Errorf("data directory %s holds %s (cluster %s), which must not mix with %s (cluster %s): name another directory with --data",
		dir, before, before.Cluster, s, s.Cluster)
}

// loadSource reads what the data directory had before; nil: nothing.
func loadSource(l Layout) (*Source, error) {
	text, err := os.ReadFile(l.source())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a new directory has none
	}
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	var s Source
	if err = json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("read source %s: %w", l.source(), err)
	}
	return &s, nil
}

func (s Source) save(l Layout) error {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fmt.Errorf("encode source: %w", err)
	}
	return write(l.source(), append(text, '\n'))
}
