package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed" // the commented file
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/agent/bmc"
)

// defaultFile is the commented file: it documents every key. A test holds it to the defaults
// below, and to the copy in deploy/config.
//
//go:embed flopwatch-agent.toml
var defaultFile string

// config is the file. The commented file says what each key means.
type config struct {
	Cluster     string        `toml:"cluster"`
	Node        string        `toml:"node"`
	DataDir     string        `toml:"data_dir"`
	SiteKeyFile string        `toml:"site_key_file"`
	ClearNames  bool          `toml:"clear_names"`
	Interval    time.Duration `toml:"interval" live:"true"`
	SealEvery   time.Duration `toml:"seal_every" live:"true"`
	Burst       burstConfig   `toml:"burst" live:"true"`
	GPU         gpuConfig     `toml:"gpu" live:"true"`
	Fabric      fabricConfig  `toml:"fabric" live:"true"`
	Job         jobConfig     `toml:"job" live:"true"`
	Host        hostConfig    `toml:"host" live:"true"`
	Kernel      kernelConfig  `toml:"kernel" live:"true"`
	BMC         bmcConfig     `toml:"bmc" live:"true"`
	Spool       spoolConfig   `toml:"spool"`
	NATS        natsConfig    `toml:"nats"`
	Metrics     metricsConfig `toml:"metrics"`
	Log         logConfig     `toml:"log"`
}

type burstConfig struct {
	Every   time.Duration `toml:"every"`
	Length  time.Duration `toml:"length"`
	Spacing time.Duration `toml:"spacing"`
}

type gpuConfig struct {
	Enabled         bool          `toml:"enabled"`
	Library         string        `toml:"library"`
	Child           string        `toml:"child"`
	ProcessInterval time.Duration `toml:"process_interval"`
	SlowInterval    time.Duration `toml:"slow_interval"`
	Events          bool          `toml:"events"`
	DriverShare     float64       `toml:"driver_share"`
	BurstGPM        bool          `toml:"burst_gpm"`
}

type fabricConfig struct {
	Enabled bool `toml:"enabled"`
	VFs     bool `toml:"vfs"`
}

type jobConfig struct {
	Enabled      bool   `toml:"enabled"`
	PodResources string `toml:"podresources"`
	PodsAPI      string `toml:"pods_api"`
	SlurmDir     string `toml:"slurm_dir"`
	HPCDir       string `toml:"hpc_dir"`
	Environ      bool   `toml:"environ"`
}

type kernelConfig struct {
	Enabled bool    `toml:"enabled"`
	NCCL    bool    `toml:"nccl"`
	Proc    bool    `toml:"proc"`
	Sock    bool    `toml:"sock"`
	File    bool    `toml:"file"`
	RDMA    bool    `toml:"rdma"`
	MaxLoad float64 `toml:"max_load"`
}

type bmcConfig struct {
	Concurrency int         `toml:"concurrency"`
	Targets     []bmcTarget `toml:"target"`
}

type bmcTarget struct {
	Node            string        `toml:"node"`
	Address         string        `toml:"address"`
	CredentialsFile string        `toml:"credentials_file"`
	CAFile          string        `toml:"ca_file"`
	Fingerprint     string        `toml:"fingerprint"`
	Insecure        bool          `toml:"insecure"`
	Method          string        `toml:"method"`
	IPMIPort        int           `toml:"ipmi_port"`
	IPMICredentials string        `toml:"ipmi_credentials_file"`
	Interval        time.Duration `toml:"interval"`
	Timeout         time.Duration `toml:"timeout"`
}

type hostConfig struct {
	Enabled bool   `toml:"enabled"`
	Sysfs   string `toml:"sysfs"`
	Procfs  string `toml:"procfs"`
}

type spoolConfig struct {
	MaxBytes int64         `toml:"max_bytes"`
	MaxAge   time.Duration `toml:"max_age"`
	MinFree  int64         `toml:"min_free_bytes"`
}

type natsConfig struct {
	URL         string `toml:"url"`
	CredsFile   string `toml:"creds_file"`
	NKeyFile    string `toml:"nkey_file"`
	TokenFile   string `toml:"token_file"`
	InboxPrefix string `toml:"inbox_prefix"`
	RootCAFile  string `toml:"root_ca_file"`
	CertFile    string `toml:"cert_file"`
	KeyFile     string `toml:"key_file"`
	BacklogRate int64  `toml:"backlog_rate"`
}

type metricsConfig struct {
	Listen string `toml:"listen"`
	GPU    bool   `toml:"gpu" live:"true"`
	Owners bool   `toml:"owners" live:"true"`
}

type logConfig struct {
	Format string `toml:"format"`
	Level  string `toml:"level" live:"true"`
}

func defaults() config {
	return config{
		DataDir: "/var/lib/flopwatch-agent", Interval: time.Second, SealEvery: 20 * time.Second,
		Burst:   burstConfig{Length: 30 * time.Second, Spacing: 200 * time.Millisecond},
		GPU:     gpuConfig{Enabled: true, ProcessInterval: 10 * time.Second, SlowInterval: 20 * time.Second, Events: true, DriverShare: 0.02},
		Fabric:  fabricConfig{Enabled: true, VFs: true},
		Job:     jobConfig{Enabled: true, PodResources: "/var/lib/kubelet/pod-resources/kubelet.sock", PodsAPI: "/var/lib/kubelet/pods-api/pods-api.sock", SlurmDir: "/run/flopwatch/slurm"},
		Kernel:  kernelConfig{Enabled: true, NCCL: true, Proc: true, Sock: true, File: true, RDMA: true, MaxLoad: 0.01},
		BMC:     bmcConfig{Concurrency: 4},
		Host:    hostConfig{Enabled: true, Sysfs: "/sys", Procfs: "/proc"},
		Spool:   spoolConfig{MaxBytes: 1 << 30},
		NATS:    natsConfig{URL: "nats://127.0.0.1:4222", BacklogRate: 256 << 10},
		Metrics: metricsConfig{Listen: "127.0.0.1:9469"},
		Log:     logConfig{Format: "text", Level: "info"},
	}
}

// loadConfig reads a file; node, if it is not "", takes the place of its key. Errors name the
// file and the key, and say what would be right.
func loadConfig(path, node string) (cfg config, digest string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return cfg, "", fmt.Errorf("read configuration: %w", err)
	}
	cfg = defaults()
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&cfg)
	if err != nil {
		if strings.Contains(err.Error(), "invalid duration") {
			err = fmt.Errorf(`%w: a number with its unit, such as "10s"`, err)
		}
		return cfg, "", fmt.Errorf("configuration %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return cfg, "", fmt.Errorf("configuration %s: %w", path, unknownKey(unknown[0]))
	}
	if key, bare := bareDuration(meta, reflect.ValueOf(cfg), nil); bare {
		return cfg, "", fmt.Errorf(`configuration %s: %s: a number with its unit, as text: "10s"`, path, key)
	}
	cfg.Node = cmp.Or(node, cfg.Node)
	if err := cfg.validate(); err != nil {
		return cfg, "", fmt.Errorf("configuration %s: %w", path, err)
	}
	sum := sha256.Sum256(text)
	return cfg, hex.EncodeToString(sum[:]), nil
}

// bareDuration finds a duration that is given as a number: the decoder takes it for nanoseconds.
// 0 is no time in every unit.
func bareDuration(meta toml.MetaData, v reflect.Value, at toml.Key) (toml.Key, bool) {
	for i := range v.NumField() {
		key := append(slices.Clone(at), v.Type().Field(i).Tag.Get("toml"))
		parts := []reflect.Value{v.Field(i)}
		if f := v.Field(i); f.Kind() == reflect.Slice {
			parts = parts[:0]
			for n := range f.Len() {
				parts = append(parts, f.Index(n))
			}
		}
		for _, f := range parts {
			switch {
			case f.Type() == reflect.TypeFor[time.Duration]():
				if f.Int() != 0 && meta.Type(key...) == "Integer" {
					return key, true
				}
			case f.Kind() == reflect.Struct:
				if inner, found := bareDuration(meta, f, key); found {
					return inner, true
				}
			}
		}
	}
	return nil, false
}

// unknownKey names the key and those that its table has.
func unknownKey(key toml.Key) error {
	t := reflect.TypeFor[config]()
	where := "at the top of the file"
	for i, part := range key[:len(key)-1] {
		f, ok := fieldOf(t, part)
		if !ok {
			break
		}
		inner := f.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct {
			break
		}
		t, where = inner, "in ["+strings.Join(key[:i+1], ".")+"]"
	}
	var known []string
	for f := range t.Fields() {
		known = append(known, f.Tag.Get("toml"))
	}
	slices.Sort(known)
	return fmt.Errorf("unknown key %s: there are %s %s", key, strings.Join(known, ", "), where)
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if f.Tag.Get("toml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func (c *config) validate() error {
	if c.Cluster == "" {
		return errors.New(`cluster is missing: the name of the cluster, such as "main"`)
	}
	for _, n := range []struct{ key, value string }{{"cluster", c.Cluster}, {"node", c.Node}} {
		if len(n.value) > 255 || strings.ContainsFunc(n.value, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xFFFD }) {
			return fmt.Errorf("%s %q: a name of at most 255 bytes, without blanks", n.key, n.value)
		}
	}
	for _, p := range []struct{ key, value, example string }{{"data_dir", c.DataDir, "/var/lib/flopwatch-agent"}, {"host.sysfs", c.Host.Sysfs, "/sys"}, {"host.procfs", c.Host.Procfs, "/proc"}} {
		if !filepath.IsAbs(p.value) {
			return fmt.Errorf("%s %q: a path from the root on, such as %q", p.key, p.value, p.example)
		}
	}
	for _, p := range []struct{ key, value string }{{"site_key_file", c.SiteKeyFile}, {"gpu.library", c.GPU.Library}, {"gpu.child", c.GPU.Child},
		{"job.podresources", c.Job.PodResources}, {"job.pods_api", c.Job.PodsAPI}, {"job.slurm_dir", c.Job.SlurmDir}, {"job.hpc_dir", c.Job.HPCDir},
		{"nats.creds_file", c.NATS.CredsFile}, {"nats.nkey_file", c.NATS.NKeyFile}, {"nats.token_file", c.NATS.TokenFile},
		{"nats.root_ca_file", c.NATS.RootCAFile}, {"nats.cert_file", c.NATS.CertFile}, {"nats.key_file", c.NATS.KeyFile}} {
		if p.value != "" && !filepath.IsAbs(p.value) {
			return fmt.Errorf(`%s %q: a path from the root on, or ""`, p.key, p.value)
		}
	}
	for _, d := range []struct {
		key             string
		value, min, max time.Duration
	}{
		{"interval", c.Interval, 200 * time.Millisecond, time.Minute},
		{"seal_every", c.SealEvery, c.Interval, 5 * time.Minute},
		{"burst.length", c.Burst.Length, time.Second, time.Minute},
		{"burst.spacing", c.Burst.Spacing, 100 * time.Millisecond, 500 * time.Millisecond},
		{"gpu.process_interval", c.GPU.ProcessInterval, time.Second, 10 * time.Minute},
		{"gpu.slow_interval", c.GPU.SlowInterval, 10 * time.Second, 10 * time.Minute},
	} {
		if d.value < d.min || d.value > d.max {
			return fmt.Errorf("%s %q: from %q to %q, with a unit", d.key, d.value, d.min, d.max)
		}
	}
	if c.GPU.Enabled && c.Interval < time.Second {
		return fmt.Errorf(`interval %q: at least "1s" where [gpu] is enabled, as a pass takes nine calls into NVIDIA's driver and a GPU gets at most twelve a second`, c.Interval)
	}
	if c.Interval%time.Millisecond != 0 {
		return fmt.Errorf("interval %q: whole milliseconds", c.Interval)
	}
	if c.Burst.Every != 0 && c.Burst.Every < 2*c.Burst.Length {
		return fmt.Errorf(`burst.every %q: "0s" for never, or at least twice burst.length (%q)`, c.Burst.Every, c.Burst.Length)
	}
	if !(c.GPU.DriverShare > 0 && c.GPU.DriverShare <= 1) {
		return fmt.Errorf("gpu.driver_share %v: a fraction above 0 and at most 1", c.GPU.DriverShare)
	}
	if !(c.Kernel.MaxLoad > 0 && c.Kernel.MaxLoad <= 1) {
		return fmt.Errorf("kernel.max_load %v: a fraction of a core, above 0 and at most 1", c.Kernel.MaxLoad)
	}
	if c.Spool.MinFree < 0 {
		return fmt.Errorf("spool.min_free_bytes %d: a number of bytes, or 0", c.Spool.MinFree)
	}
	if c.NATS.BacklogRate < 16<<10 {
		return fmt.Errorf("nats.backlog_rate %d: at least %d bytes a second: an agent makes up to a few hundred itself, and has to catch up", c.NATS.BacklogRate, 16<<10)
	}
	if err := c.BMC.validate(); err != nil {
		return err
	}
	if c.Spool.MaxBytes < 1<<20 {
		return fmt.Errorf("spool.max_bytes %d: at least %d (1 MiB)", c.Spool.MaxBytes, 1<<20)
	}
	if c.Spool.MaxAge != 0 && c.Spool.MaxAge < time.Minute {
		return fmt.Errorf(`spool.max_age %q: at least "1m", or "0s" for without end`, c.Spool.MaxAge)
	}
	if c.Job.Enabled && !c.GPU.Enabled {
		// The default of both is true; who switches GPUs off means jobs too.
		c.Job.Enabled = false
	}
	if err := c.NATS.validate(); err != nil {
		return err
	}
	if c.Metrics.Listen != "" {
		_, port, err := net.SplitHostPort(c.Metrics.Listen)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return fmt.Errorf(`metrics.listen %q: an address and a port, such as "127.0.0.1:9469", or ""`, c.Metrics.Listen)
		}
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format %q: text or json", c.Log.Format)
	}
	var level slog.Level
	if level.UnmarshalText([]byte(c.Log.Level)) != nil {
		return fmt.Errorf("log.level %q: debug, info, warn or error", c.Log.Level)
	}
	return nil
}

func (c *bmcConfig) validate() error {
	if c.Concurrency < 1 || c.Concurrency > 256 {
		return fmt.Errorf("bmc.concurrency %d: from 1 to 256", c.Concurrency)
	}
	seen := map[string]bool{}
	for i := range c.Targets {
		t := &c.Targets[i]
		key := fmt.Sprintf("bmc.target %d", i+1)
		if t.Node == "" || len(t.Node) > 255 || strings.ContainsFunc(t.Node, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xFFFD }) {
			return fmt.Errorf("%s: node %q: the name of the host that is measured, of at most 255 bytes, without blanks", key, t.Node)
		}
		if seen[t.Node] {
			return fmt.Errorf("%s: node %q: it has a target already", key, t.Node)
		}
		seen[t.Node] = true
		t.Method, t.Interval = cmp.Or(t.Method, "auto"), cmp.Or(t.Interval, 15*time.Second)
		t.Timeout, t.IPMIPort = cmp.Or(t.Timeout, 10*time.Second), cmp.Or(t.IPMIPort, 623)
		if !slices.Contains([]string{"auto", "redfish", "dcmi"}, t.Method) {
			return fmt.Errorf("%s (%s): method %q: auto, redfish or dcmi", key, t.Node, t.Method)
		}
		if p, err := url.Parse(t.Address); t.Address != bmc.Local && (err != nil || p.Host == "" || p.User != nil || p.Scheme != "https" || strings.Trim(p.Path, "/") != "" || p.RawQuery != "" || p.Fragment != "") {
			return fmt.Errorf(`%s (%s): address: https://HOST, or "local" for this host's own by /dev/ipmi0; user and password belong into credentials_file`, key, t.Node)
		}
		if t.Interval < 10*time.Second || t.Interval > time.Minute {
			return fmt.Errorf(`%s (%s): interval %q: from "10s" to "1m"`, key, t.Node, t.Interval)
		}
		if t.Timeout < time.Second || t.Timeout > time.Minute {
			return fmt.Errorf(`%s (%s): timeout %q: from "1s" to "1m"`, key, t.Node, t.Timeout)
		}
		if t.IPMIPort < 1 || t.IPMIPort > 65535 {
			return fmt.Errorf("%s (%s): ipmi_port %d: from 1 to 65535", key, t.Node, t.IPMIPort)
		}
		if t.Insecure && (t.CAFile != "" || t.Fingerprint != "") {
			return fmt.Errorf("%s (%s): insecure beside ca_file or fingerprint: one of them", key, t.Node)
		}
		if t.IPMICredentials != "" && (t.Method != bmc.MethodAuto || t.Address == bmc.Local || !filepath.IsAbs(t.IPMICredentials)) {
			return fmt.Errorf(`%s (%s): ipmi_credentials_file %q: a path from the root on, with method "auto" and an https address; dcmi uses credentials_file`, key, t.Node, t.IPMICredentials)
		}
		if t.Address == bmc.Local {
			if t.Method == bmc.MethodRedfish {
				return fmt.Errorf(`%s (%s): method "redfish": address "local" is /dev/ipmi0, which speaks no Redfish: dcmi`, key, t.Node)
			}
			continue // it asks for no account
		}
		if t.CredentialsFile == "" || !filepath.IsAbs(t.CredentialsFile) {
			return fmt.Errorf("%s (%s): credentials_file %q: a path from the root on", key, t.Node, t.CredentialsFile)
		}
		if t.CAFile != "" && !filepath.IsAbs(t.CAFile) {
			return fmt.Errorf(`%s (%s): ca_file %q: a path from the root on, or ""`, key, t.Node, t.CAFile)
		}
		if t.CAFile != "" && t.Fingerprint != "" {
			return fmt.Errorf("%s (%s): ca_file and fingerprint: one of them", key, t.Node)
		}
		if t.Fingerprint != "" {
			if b, err := hex.DecodeString(strings.ReplaceAll(t.Fingerprint, ":", "")); err != nil || len(b) != sha256.Size {
				return fmt.Errorf("%s (%s): fingerprint %q: the SHA-256 of the certificate, 64 hex digits", key, t.Node, t.Fingerprint)
			}
		}
	}
	return nil
}

func (c *natsConfig) validate() error {
	for u := range strings.SplitSeq(c.URL, ",") {
		p, err := url.Parse(strings.TrimSpace(u))
		// The text of err may hold a password.
		if err != nil || p.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, p.Scheme) {
			return errors.New("nats.url: nats://HOST:PORT or tls://HOST:PORT, several separated by commas")
		}
	}
	ways := 0
	for _, f := range []string{c.CredsFile, c.NKeyFile, c.TokenFile} {
		if f != "" {
			ways++
		}
	}
	if ways > 1 {
		return errors.New("nats.creds_file, nats.nkey_file and nats.token_file: one of them")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("nats.cert_file and nats.key_file: both or neither")
	}
	if strings.ContainsAny(c.InboxPrefix, " \t*>") || strings.HasPrefix(c.InboxPrefix, ".") || strings.HasSuffix(c.InboxPrefix, ".") {
		return fmt.Errorf("nats.inbox_prefix %q: a subject without wildcards, such as %q", c.InboxPrefix, "_INBOX_node-1")
	}
	return nil
}

// frozen are the keys that differ and that a running agent cannot change.
func frozen(old, fresh config) []string {
	return differ(reflect.ValueOf(old), reflect.ValueOf(fresh), "")
}

func differ(old, fresh reflect.Value, prefix string) (keys []string) {
	t := old.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("live") == "true" {
			continue
		}
		key := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, differ(old.Field(i), fresh.Field(i), key+".")...)
		} else if !old.Field(i).Equal(fresh.Field(i)) {
			keys = append(keys, key)
		}
	}
	return keys
}
