package deploy_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

var update = flag.Bool("update", false, "write golden files")

// command runs a program and returns what it printed, both streams.
func command(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ground is a scratch root, and a copy of what install.sh reads, with binaries and
// configuration of the test's own.
type ground struct{ root, deploy, build string }

var daemons = []string{"agent", "collector", "detector"}

func newGround(t *testing.T) *ground {
	t.Helper()
	dir := t.TempDir()
	g := &ground{filepath.Join(dir, "root"), filepath.Join(dir, "deploy"), filepath.Join(dir, "build")}
	for _, d := range []string{g.root, g.deploy} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"flopwatch", "flopwatch-agent", "flopwatch-nvml", "flopwatch-collector", "flopwatch-detector", "engine/libchdb.so"} {
		write(t, filepath.Join(g.build, f), "first "+f)
	}
	for _, d := range []string{"systemd", "slurm"} {
		if err := os.CopyFS(filepath.Join(g.deploy, d), os.DirFS(d)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(g.deploy, "install.sh"), read(t, "install.sh"))
	for _, d := range daemons {
		write(t, g.shipped(d), "# first of "+d+"\n")
	}
	return g
}

func (g *ground) shipped(daemon string) string {
	return filepath.Join(g.deploy, "config", "flopwatch-"+daemon+".toml")
}

func (g *ground) conf(daemon string) string {
	return filepath.Join(g.root, "etc", "flopwatch", "flopwatch-"+daemon+".toml")
}

func (g *ground) run(t *testing.T, verb string, env ...string) string {
	t.Helper()
	out, err := g.try(t, verb, env...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", verb, err, out)
	}
	return out
}

func (g *ground) try(t *testing.T, verb string, env ...string) (string, error) {
	t.Helper()
	return command(t, append([]string{"DESTDIR=" + g.root, "BUILD=" + g.build}, env...), "bash", filepath.Join(g.deploy, "install.sh"), verb)
}

// list is every file under the root, with its mode and a link's target.
func (g *ground) list(t *testing.T) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(g.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", info.Mode(), strings.TrimPrefix(path, g.root))
		if info.Mode().Type() == fs.ModeSymlink {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		if path != g.root {
			lines = append(lines, line+"\n")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "")
}

func TestInstall(t *testing.T) {
	g := newGround(t)
	g.run(t, "install")
	got := g.list(t)
	const golden = "testdata/installed.golden"
	if *update {
		write(t, golden, got)
	}
	if want := read(t, golden); got != want {
		t.Errorf("installed:\n%s\nwanted:\n%s", got, want)
	}
	unit := read(t, filepath.Join(g.root, "usr/local/lib/systemd/system/flopwatch-agent.service"))
	if !strings.Contains(unit, "ExecStart=/usr/local/bin/flopwatch-agent -config /etc/flopwatch/flopwatch-agent.toml\n") || strings.Contains(unit, "dir@") || strings.Contains(unit, "Template") {
		t.Errorf("unit:\n%s", unit)
	}
	g.run(t, "install")
	if again := g.list(t); again != got {
		t.Errorf("installed twice:\n%s", again)
	}
	g.run(t, "uninstall")
	if left := g.list(t); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	if out, err := g.try(t, "uninstall"); err == nil || !strings.Contains(out, "nothing is installed") {
		t.Errorf("uninstalled twice: %v\n%s", err, out)
	}
}

// An edited configuration is somebody's work; one that nobody touched follows the release.
func TestUpgradeKeepsWhatWasEdited(t *testing.T) {
	g := newGround(t)
	g.run(t, "install")
	const edited = "# first of agent\ncluster = \"mine\"\n"
	write(t, g.conf("agent"), edited)
	for _, d := range []string{"agent", "collector"} {
		write(t, g.shipped(d), "# second of "+d+"\n")
	}
	write(t, filepath.Join(g.build, "flopwatch-agent"), "second")
	for range 2 {
		out := g.run(t, "install")
		if !strings.Contains(out, "kept     /etc/flopwatch/flopwatch-agent.toml, which was edited") {
			t.Errorf("it does not say what it kept:\n%s", out)
		}
		for path, want := range map[string]string{
			g.conf("agent"): edited, g.conf("agent") + ".new": "# second of agent\n", g.conf("collector"): "# second of collector\n", g.conf("detector"): "# first of detector\n",
			filepath.Join(g.root, "usr/local/lib/flopwatch/flopwatch-agent"): "second",
		} {
			if got := read(t, path); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
	}
	// What is no work of install's stays too.
	state, own := filepath.Join(g.root, "var/lib/flopwatch-agent/spool"), filepath.Join(g.root, "usr/local/bin/other")
	write(t, state, "data")
	write(t, own, "other")
	out := g.run(t, "uninstall")
	for _, want := range []string{"kept     /etc/flopwatch/flopwatch-agent.toml, which was edited", "kept     /var/lib/flopwatch-agent, the data", "kept     /usr/local/bin, which is not empty"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	var files []string
	for line := range strings.Lines(g.list(t)) {
		if strings.HasPrefix(line, "-") {
			files = append(files, strings.Fields(line)[1])
		}
	}
	if want := []string{"/etc/flopwatch/flopwatch-agent.toml", "/usr/local/bin/other", "/var/lib/flopwatch-agent/spool"}; !slices.Equal(files, want) {
		t.Errorf("left behind: %v", files)
	}
	// Installed anew, the edited file is still somebody's work.
	g.run(t, "install")
	if got := read(t, g.conf("agent")); got != edited {
		t.Errorf("the edited file is %q", got)
	}
}

func TestInstallOfAGPUHost(t *testing.T) {
	g := newGround(t)
	g.run(t, "install", "COMPONENTS=agent", "PREFIX=/opt/flopwatch", "SYSCONFDIR=/opt/flopwatch/etc")
	got := g.list(t)
	for _, absent := range []string{"collector", "detector", "libchdb", " /usr", " /etc"} {
		if strings.Contains(got, absent) {
			t.Errorf("%s on a GPU host:\n%s", absent, got)
		}
	}
	// One that comes later is added, and goes with the rest.
	g.run(t, "install", "COMPONENTS=collector", "PREFIX=/opt/flopwatch", "SYSCONFDIR=/opt/flopwatch/etc")
	g.run(t, "uninstall", "PREFIX=/opt/flopwatch")
	if left := g.list(t); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestInstallIntoAFolderHere(t *testing.T) {
	g := newGround(t)
	t.Chdir(filepath.Dir(g.root))
	g.run(t, "install", "DESTDIR=root", "BUILD=build", "COMPONENTS=agent", "PREFIX=/usr/")
	if got := g.list(t); !strings.Contains(got, " /usr/lib/flopwatch/flopwatch-nvml\n") || !strings.Contains(got, " /etc/flopwatch/flopwatch-agent.toml\n") {
		t.Errorf("installed:\n%s", got)
	}
	g.run(t, "uninstall", "DESTDIR=root", "PREFIX=/usr")
	if left := g.list(t); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestInstallRefuses(t *testing.T) {
	for want, env := range map[string]string{
		"run make build first": "BUILD=/nonexistent", "there are agent, collector": "COMPONENTS=gpu", "paths from the root on": "PREFIX=usr", "letters, digits": "PREFIX=/a b",
	} {
		g := newGround(t)
		if out, err := g.try(t, "install", env); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", env, err, out)
		}
		if left := g.list(t); left != "" {
			t.Errorf("%s: a refusal left:\n%s", env, left)
		}
	}
}

// binary builds a daemon.
func binary(t *testing.T, daemon string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "flopwatch-"+daemon)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", exe, "./cmd/flopwatch-"+daemon)
	cmd.Dir = testenv.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", daemon, err, out)
	}
	return exe
}

// What install puts into /etc/flopwatch is what each daemon takes.
func TestShippedConfigurationIsTaken(t *testing.T) {
	for _, d := range daemons {
		out, err := command(t, nil, binary(t, d), "-config", filepath.Join("config", "flopwatch-"+d+".toml"), "-check")
		if err != nil || !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(out) {
			t.Errorf("%s: %v\n%s", d, err, out)
		}
	}
}

// units installs, and gives the units with a program that exists, which is all that
// systemd-analyze asks of it.
func units(t *testing.T) map[string]string {
	t.Helper()
	_, err := exec.LookPath("systemd-analyze")
	if err != nil {
		err = errors.New("no systemd-analyze on this machine (Debian: the package systemd)")
	}
	testenv.Need(t, "systemd", err)
	g := newGround(t)
	g.run(t, "install")
	dir := filepath.Join(g.root, "usr/local/lib/systemd/system")
	paths := map[string]string{}
	for _, d := range append([]string{"nats"}, daemons...) {
		path := filepath.Join(dir, "flopwatch-"+d+".service")
		text := regexp.MustCompile(`(?m)^ExecStart=\S+`).ReplaceAllString(read(t, path), "ExecStart=/bin/true")
		write(t, path, text)
		paths[d] = path
	}
	return paths
}

func TestUnitsAreClean(t *testing.T) {
	paths := units(t)
	for _, name := range []string{"kernel.conf", "mig.conf"} {
		paths["agent with "+name] = withDropIn(t, paths["agent"], name)
	}
	for d, path := range paths {
		out, err := command(t, []string{"SYSTEMD_LOG_LEVEL=notice"}, "systemd-analyze", "verify", "--man=no", path)
		var unexpected []string
		for line := range strings.Lines(out) {
			// restart.conf is for systemd from 254 on, and says so.
			if strings.Contains(line, "restart.conf") && regexp.MustCompile(`Unknown key (name )?'?(RestartSteps|RestartMaxDelaySec)'?`).MatchString(line) {
				continue
			}
			unexpected = append(unexpected, line)
		}
		if err != nil || len(unexpected) > 0 {
			t.Errorf("%s: %v\n%s", d, err, strings.Join(unexpected, ""))
		}
	}
}

// How exposed each unit is, as systemd 252 counts; 10 is all, 0 nothing.
var exposure = map[string]float64{"agent": 1.6, "agent with kernel.conf": 2.3, "agent with mig.conf": 1.6, "collector": 1.1, "detector": 1.1, "nats": 1.1}

// withDropIn gives the agent's unit with a drop-in that is installed beside the programs.
func withDropIn(t *testing.T, unit, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flopwatch-agent.service")
	write(t, path, read(t, unit))
	dropIn := read(t, filepath.Join(filepath.Dir(unit), "../../flopwatch", name))
	if strings.Contains(dropIn, "@") || !strings.Contains(dropIn, "/usr/local/lib/flopwatch/"+name+" /etc/systemd/system") {
		t.Errorf("drop-in:\n%s", dropIn)
	}
	if err := os.Mkdir(path+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path+".d", name), dropIn)
	return path
}

func TestUnitsAreHardened(t *testing.T) {
	paths := units(t)
	for _, name := range []string{"kernel.conf", "mig.conf"} {
		paths["agent with "+name] = withDropIn(t, paths["agent"], name)
	}
	version, err := command(t, nil, "systemd-analyze", "--version")
	if err != nil {
		t.Fatal(err)
	}
	for d, path := range paths {
		most := 2.5 // whoever counts
		if strings.HasPrefix(version, "systemd 252 ") {
			most = exposure[d]
		}
		out, err := command(t, []string{"SYSTEMD_PAGER=", "NO_COLOR=1"}, "systemd-analyze", "security", "--no-pager", "--offline=true", fmt.Sprintf("--threshold=%.0f", most*10), path)
		level := regexp.MustCompile(`Overall exposure level.*`).FindString(out)
		t.Log(level)
		if err != nil {
			t.Errorf("%s: more exposed than %.1f: %v\n%s", d, most, err, out)
		}
	}
}

// A broker's machine needs neither agent nor engine; the server ends by itself to be started again.
func TestInstallOfABroker(t *testing.T) {
	g := newGround(t)
	g.run(t, "install", "COMPONENTS=nats", "PREFIX=/opt/flopwatch", "SYSCONFDIR=/opt/flopwatch/etc")
	got := g.list(t)
	for _, absent := range []string{"flopwatch-agent", "flopwatch-collector", "libchdb", " /usr", " /etc"} {
		if strings.Contains(got, absent) {
			t.Errorf("%s on a broker's machine:\n%s", absent, got)
		}
	}
	unit := "\n" + read(t, filepath.Join(g.root, "opt/flopwatch/lib/systemd/system/flopwatch-nats.service"))
	for _, line := range []string{
		"ExecStart=/opt/flopwatch/bin/flopwatch nats --config ${FLOPWATCH_NATS_CONFIG}", "Environment=FLOPWATCH_NATS_CONFIG=/opt/flopwatch/etc/flopwatch/nats/flopwatch.conf",
		"Restart=always", "StartLimitIntervalSec=0", "ExecReload=/bin/kill -HUP $MAINPID", "User=flopwatch-nats", "CapabilityBoundingSet=",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
	// Where the shipped configuration keeps the streams, the unit may write.
	store := regexp.MustCompile(`store_dir: "/var/lib/(.+)"`).FindStringSubmatch(read(t, "nats/flopwatch.conf"))
	if store == nil || !strings.Contains(unit, "\nStateDirectory="+store[1]+"\n") {
		t.Errorf("streams are in %v", store)
	}
	// The broker's users are somebody's work.
	users := filepath.Join(g.root, "opt/flopwatch/etc/flopwatch/nats/users.d/collector.user")
	write(t, users, "mine")
	if out := g.run(t, "uninstall", "PREFIX=/opt/flopwatch", "SYSCONFDIR=/opt/flopwatch/etc"); !strings.Contains(out, "kept     /opt/flopwatch/etc/flopwatch/nats, the users of the NATS server") || read(t, users) != "mine" {
		t.Errorf("uninstalled:\n%s", out)
	}
}

// What the agent needs open stays open, whatever a later hand tightens.
func TestAgentsUnitKeepsWhatItNeeds(t *testing.T) {
	unit := read(t, "systemd/flopwatch-agent.service")
	has := func(line string) bool { return strings.Contains(unit, "\n"+line+"\n") }
	for _, line := range []string{
		"Type=notify", "Restart=always", "StartLimitIntervalSec=0", "ExecReload=/bin/kill -HUP $MAINPID", "User=flopwatch-agent",
		"ProtectProc=default", "ProcSubset=all", "DeviceAllow=/dev/char/195:255 rw", "DeviceAllow=char-nvidia rw", "DeviceAllow=char-nvidia-frontend rw",
		"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK", "StateDirectory=flopwatch-agent", "CapabilityBoundingSet=",
	} {
		if !has(line) {
			t.Errorf("the unit lacks %s", line)
		}
	}
	for _, line := range []string{"PrivateDevices=yes", "PrivateNetwork=yes", "PrivateUsers=yes", "DynamicUser=yes"} {
		if has(line) {
			t.Errorf("the unit has %s", line)
		}
	}
}

// The README's figures are those of the units.
func TestReadmeNamesTheFiles(t *testing.T) {
	text := read(t, "README.md")
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == "recordings" || path == "testdata" || path == "kubernetes/validate" || path == "nats") {
			return fs.SkipDir
		}
		if d.IsDir() || strings.HasSuffix(path, ".go") || path == "README.md" || strings.HasPrefix(path, "systemd/sysusers.d/") || strings.HasPrefix(path, "systemd/tmpfiles.d/") {
			return nil
		}
		if !strings.Contains(text, "`"+path+"`") {
			t.Errorf("README.md does not say what %s is for", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for d, e := range exposure {
		name := fmt.Sprintf("`flopwatch-%s.service`", d)
		if unit, dropIn, ok := strings.Cut(d, " with "); ok {
			name = fmt.Sprintf("`flopwatch-%s.service` with `%s`", unit, dropIn)
		}
		if !strings.Contains(text, fmt.Sprintf("| %s | %.1f |", name, e)) {
			t.Errorf("README.md does not give %s's exposure as %.1f", d, e)
		}
	}
}

// Of MIG's capabilities the drop-in opens the one that looks, to look, and no other: not the one
// that makes and removes instances, nor the whole group of device files.
func TestMIGOpensOneFile(t *testing.T) {
	opened := regexp.MustCompile(`(?m)^\w+=.*$`).FindAllString(read(t, "systemd/mig.conf"), -1)
	if len(opened) != 1 || opened[0] != "DeviceAllow=/dev/nvidia-caps/nvidia-cap2 r" {
		t.Errorf("mig.conf has %q", opened)
	}
	if unit := read(t, "systemd/flopwatch-agent.service"); regexp.MustCompile(`(?m)^DeviceAllow=.*caps`).MatchString(unit) {
		t.Error("the unit opens MIG's capabilities by itself")
	}
}
