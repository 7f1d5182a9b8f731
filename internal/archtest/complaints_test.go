package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// complaint is what users of comparable programs complain about, as far as it concerns an agent
// on a GPU host: what is wrong, where somebody says so, and the tests of ours that fail if we have
// that fault, as "package.Test". Where it cannot be a fault of ours, why stands in their place.
type complaint struct {
	what, where string
	tests       []string
	why         string
}

func by(tests ...string) []string { return tests }

var complaints = []struct {
	theme string
	list  []complaint
}{
	{"The customer's job is disturbed", []complaint{
		{"a sampler that asks often slows the job", "NVIDIA/srt-slurm#401", by("agent/gpu.TestCallsPerGPUAndSecond", "agent/gpu.TestBudgetWithBursts", "agent/gpu/nvml.TestBudgetOfAllTiers", "agent/gpu/nvml.TestMIGBudget"), ""},
		{"a sampler does not notice that its calls have become slow", "section 0.3", by("agent/gpu.TestSlowCalls", "agent/gpu.TestDriverShare"), ""},
		{"PCIe throughput costs 20 ms a call and direction", "nvidia_gpu_exporter's documentation", by("agent/gpu.TestCallsPerGPUAndSecond"), ""},
		{"samples of the performance monitor nearer than 100 ms are no samples", "DCGM#310", by("agent/gpu/nvml.TestServe"), ""},
		{"many values, many calls", "wandb#11622", by("agent/gpu.TestCallsPerGPUAndSecond"), ""},
		{"profiling locks Nsight and CUPTI out", "DCGM#56, DCGM#62, exporter#7, jobstats#58", nil, "the agent uses NVML's GPM and never DCGM; TestTheAgentIsSmall would not let it link more"},
		{"a second reader of the counters perturbs the first, and nobody knows that there was one", "nvtop#483, DCGM#62", by("agent/gpu.TestDCGM"), ""},
		{"probes in a library cost each call", "section 0.3: publish our own cost", by("agent/kernel.TestLoadLimit", "agent/kernel/nccl.TestRate"), ""},
		{"a collector takes a GPU, or the memory, that customers pay for", "section 3.4", by("deploy.TestPodIsUnprivileged", "deploy.TestUnitsLogToTheJournal"), ""},
		{"telemetry causes most of the load on file servers", "xdmod-supremm#261", nil, "the agent writes to local disk alone; counters of NFS are read from /proc/self/mountstats and no mount is touched"},
	}},
	{"The driver hangs or crashes", []complaint{
		{"readings of the performance monitor that are shared crash the kernel's driver", "plazonic/nvidia_gpu_prometheus_exporter#7", by("agent/gpu.TestLooksMakeNoCalls", "agent/gpu/nvml.TestBudgetOfAllTiers", "agent/gpu/nvmlstub.TestInFlight"), ""},
		{"a call does not come back", "nvidia_gpu_exporter#89, DCGM#209", by("agent/gpu.TestHangOfOneGPU", "agent/gpu.TestHangs", "agent/gpu.TestHangOfAll"), ""},
		{"a process hangs in the kernel and cannot be killed", "open-gpu-kernel-modules#1333", by("agent/gpu.TestImmortalChildren", "agent.TestStopLeavesTheDeafBehind"), ""},
		{"one sampler that hangs stops all", "DCGM#209", by("agent.TestBusySource", "agent/kernel.TestStuck", "cmd/flopwatch-agent/doctor.TestHangs"), ""},
		{"a GPU that hangs looks idle", "section 0.4", by("agent/gpu.TestHangOfOneGPU", "agent/gpu.TestNoValueAtAll"), ""},
		{"a program that is started for each look takes seconds", "telegraf#8534, netdata#14522", by("internal/archtest.TestTheAgentRunsItsChildAlone"), ""},
		{"a hang detector fills the disk with its log", "DCGM#279", by("cmd/flopwatch-agent.TestThrottle", "cmd/flopwatch-agent.TestEverythingFlaps", "agent/gpu.TestChattyChild"), ""},
	}},
	{"Whose a GPU is", []complaint{
		{"pods' names are missing, or those of others", "dcgm-exporter#411, #342, #349, #477, #188", by("agent/job.TestKubeletDevices", "agent/job.TestRealKubelet", "agent/job.TestOwnerOfPods", "cmd/flopwatch-agent.TestOwners"), ""},
		{"each of those who share a GPU has the whole of it", "dcgm-exporter#587, #307, #432", by("agent/job.TestSharers", "agent/job.TestOwnerOfPods", "agent/job.TestSlurmHolds"), ""},
		{"MIG devices are not known, or their users", "nvidia_gpu_exporter#203, jobstats#52", by("agent/job.TestInstances", "agent/gpu.TestInstances", "agent/gpu/nvml.TestMIG", "agent/gpu/nvml.TestMIGChanges"), ""},
		{"GPUs that no claim of DRA has vanish", "dcgm-exporter#569", by("agent/job.TestUnheldGPUIsSeen", "agent/exporter.TestPage"), ""},
		{"a reply of the kubelet beyond 4 MiB breaks everything", "dcgm-exporter#509", by("agent/job.TestLargeReply", "agent/job.TestRealKubelet"), ""},
		{"mapping MIG devices burns ten cores", "dcgm-exporter#599", by("agent/job.TestManyInstancesCostNoQuestions", "agent/job.TestQuietTickAllocates"), ""},
		{"what is not there is asked for again and again (negative caching)", "dcgm-exporter, asked for", by("agent/job.TestPodsWithoutUID", "agent/gpu.TestFaultsOfCalls", "agent/gpu/nvml.TestCycles"), ""},
		{"a kubelet that hangs or starts again loses every pod", "section 0.5: missing pod labels", by("agent/job.TestKubeletHangs", "agent/job.TestKubeletStartsAgain", "agent/job.TestKubeletAnswersBadly", "agent/job.TestSocketComesAndGoes"), ""},
		{"Slurm 26.05 names control groups by SLUID", "jobstats CHANGELOG 2026-06-04", by("agent/job.TestSLUIDs", "agent/job.TestCgroup"), ""},
		{"a GPU's index is taken for its minor", "jobstats' documentation", by("agent/job.TestSlurmHolds", "agent/job.TestNoMinors", "agent/job.TestDevicesChange"), ""},
		{"a GPU that is held and idle is seen by nobody", "slurm-job-exporter#65", by("agent/job.TestSlurmHolds", "agent/job.TestHeldAndIdle"), ""},
		{"several slurmd on a host mix their jobs up", "ceems#284", by("agent/job.TestSeveralSlurmd"), ""},
		{"a damaged file accuses somebody who did nothing", "job_defense_shield#13", by("agent/job.TestBadSlurmFiles", "agent/job.TestMapping"), ""},
		{"a GPU has no truth by process", "dcgm-exporter, asked for", by("agent/gpu.TestValuesAreTheStubsTruth", "agent/job.TestReuseAndZombie"), ""},
		{"GPUs that guests have whole are not seen", "dcgm-exporter#742", by("agent/bmc.TestPassthrough", "agent/bmc.TestHandedOver"), ""},
		{"a burst of use hides hours of idleness", "jobstats#28", nil, "the detector's: the agent judges no use"},
		{"how many GPUs a job has is known from what it asked for alone", "XDMoD, AllocTRES", by("agent/job.TestSlurmHolds"), ""},
	}},
	{"Values that are not true", []complaint{
		{"a sentinel for \"blank\" is a value of 9.2e18", "dcgm-exporter's README", by("agent/gpu/nvml.TestBlanksAreAbsent", "agent/gpu/nvml.TestDecodeByType", "agent/exporter.TestPage", "agent/fabric.TestPorts"), ""},
		{"NVLink is zero where it was not read", "DCGM#149, DCGM#236, dcgm-exporter#196, #316", by("agent/gpu.TestUnreadLinksAreAbsent", "agent/gpu.TestOldDriver", "agent/gpu.TestMIG"), ""},
		{"counters of errors are not there until something fails", "marin#9086", by("agent/gpu.TestHealthAndEvents", "agent/gpu/nvml.TestHealth", "agent/fabric.TestRealTrees", "agent/exporter.TestPage"), ""},
		{"a look that failed is an idle GPU", "nvidia_gpu_exporter's rules", by("agent/gpu.TestFaultsOfCalls", "agent/gpu.TestLostGPU", "agent/fabric.TestUnreadable", "agent/host.TestBlindFileSystems"), ""},
		{"an old value is shown as a new one", "section 5: empty is not zero", by("agent/exporter.TestGPUs", "agent/exporter.TestNothingKnown"), ""},
		{"what happens between two looks is lost", "mindprince#12", by("agent/gpu.TestValuesAreTheStubsTruth", "agent/gpu.TestBurstsKeepSums", "agent/gpu.TestAnHour"), ""},
		{"PCIe figures are wrong", "nvidia_gpu_exporter#127", by("agent/gpu.TestRatesOfCounters", "agent/gpu.TestValuesAreTheStubsTruth"), ""},
		{"counters that begin again make rates without sense", "section 1, dcgm-exporter: data quality", by("agent/gpu.TestResetOfCounters", "agent/host.TestResets"), ""},
		{"utilization says little, and tensor cores are not shown", "section 3.5", by("agent/gpu.TestValuesAreTheStubsTruth", "agent/gpu.TestAmpere"), ""},
		{"the source of a value is not known", "section 2: GPM with its source", by("agent/gpu.TestValuesAreTheStubsTruth", "agent/gpu.TestHealthAndEvents"), ""},
		{"energy of a node with several users is one user's", "Slurm, acct_gather", nil, "energy is told of GPUs and of nodes, and divided among nobody"},
		{"NVLink is not told link by link", "dcgm-exporter, asked for", nil, "still so: rates and errors are sums over a GPU's links, with how many are up; the budget of calls has no room for 18"},
		{"no GPU on the machine, no way to try it", "nvidia_gpu_exporter's demo", by("agent/gpu/nvmlstub.TestDemo", "agent/playback.TestPlay"), ""},
	}},
	{"It grows", []complaint{
		{"memory grows until the agent is killed", "dcgm-exporter#702, #536, pytorch/ci-infra#1011, nvidia_gpu_exporter#373", by("agent.TestMemoryIsBounded", "cmd/flopwatch-agent.TestMemory", "agent/gpu.TestAnHour", "agent/job.TestExitsAreBounded", "agent/job.TestFinderIsBounded"), ""},
		{"maps of eBPF and what is kept of peers, files and processes have no end", "coroot-node-agent#11, #171, #175, #195, coroot#913",
			by("agent/kernel/sock.TestFull", "agent/kernel/file.TestBound", "agent/kernel/tasks.TestBound", "agent/kernel/nccl.TestFullMap", "agent/kernel/nccl.TestMemory", "agent/job.TestBounded", "agent/fabric.TestBounded"), ""},
		{"it takes 131 % of a processor", "dcgm-exporter#311, gpu-monitoring-tools#133", by("agent/gpu.TestSteadyTickAllocatesLittle", "agent/job.TestTickAllocates", "agent/fabric.TestTickAllocates", "agent/host.TestTickAllocates"), ""},
		{"it has no ceiling", "dynolog's unit has one", by("deploy.TestUnitsLogToTheJournal", "deploy.TestPodIsUnprivileged"), ""},
		{"its page of metrics has no end", "nvidia_gpu_exporter, 1069 series", by("agent/exporter.TestWholePage"), ""},
		{"its image is larger than 500 MB", "gpud's documentation", by("internal/archtest.TestTheAgentIsSmall"), ""},
		{"its log is a file that nobody turns", "dcgm-exporter's unit", by("deploy.TestUnitsLogToTheJournal"), ""},
		{"profiles are shown to everybody", "coroot-node-agent", by("internal/archtest.TestTheAgentIsSmall", "cmd/flopwatch-agent.TestSocketsOfTheAgent"), ""},
		{"tables of the database fill the disk", "SigNoz#12050, #3411", nil, "the store's: part 4 of 5"},
		{"the database gets too many parts", "SigNoz#9794, #7983", nil, "the store's and the collector's: part 4 of 5"},
		{"the database's plugin looks for its table at every write", "telegraf#17985, #17237", nil, "the collector's: the agent writes to no database"},
	}},
	{"Privilege", []complaint{
		{"it needs SYS_ADMIN and uid 0", "dcgm-exporter#165, #143, #407, DCGM#196", by("deploy.TestPodIsUnprivileged", "deploy.TestPodWithKernel", "deploy.TestAgentsUnitKeepsWhatItNeeds"), ""},
		{"units have no sandbox", "dcgm-exporter, nvidia_gpu_exporter, telegraf", by("deploy.TestUnitsAreHardened", "deploy.TestUnitsLogToTheJournal"), ""},
		{"containers are privileged", "gpud's and coroot's charts", by("deploy.TestPodIsUnprivileged", "deploy.TestPodWithKernel"), ""},
		{"a privilege of one part is everybody's", "CEEMS is the bar", by("agent/gpu.TestChildGetsNoCapability", "agent/kernel.TestFeaturesAreApart", "agent/kernel/nccl.TestPrivileges"), ""},
		{"without a privilege, silence", "section 0.8", by("cmd/flopwatch-agent/doctor.TestRemedies", "cmd/flopwatch-agent/doctor.TestSilent", "agent.TestSilent", "agent/job.TestSocketNotPermitted", "agent/kernel/sock.TestPrivilege"), ""},
		// On a host ours listens on the loopback alone. In a pod it cannot, as the kubelet's probes come
		// from outside: there it listens on every address of the pod's own network.
		{"it listens on every address", "gpud, 0.0.0.0:15132", by("cmd/flopwatch-agent.TestSocketsOfTheAgent", "deploy.TestPodListensInItsOwnNetwork"), ""},
		{"it updates itself, and takes commands from afar", "gpud", by("cmd/flopwatch-agent.TestSocketsOfTheAgent", "internal/archtest.TestTheAgentRunsItsChildAlone"), ""},
		{"whoever reaches its port may ask anything", "dynolog, port 1778; LMT", by("cmd/flopwatch-agent.TestSocketsOfTheAgent", "deploy.TestPodListensInItsOwnNetwork"), ""},
		{"all hosts have one token, and may speak for each other", "gpud", by("deploy/nats.TestNodeIsItselfAlone", "deploy/nats.TestFleetWorks"), ""},
		{"certificates are not checked", "gpud, clients use -k", by("agent/bmc.TestTrust"), ""},
		{"names of users and arguments leave the host", "section 2: purpose-limited", by("agent.TestHide", "agent.TestHideHost", "agent/job.TestEnvironLeavesNothing"), ""},
	}},
	{"Outages", []complaint{
		{"a damaged buffer is a panic, or somebody has to delete it", "telegraf#18528, opentelemetry-collector-contrib#35899, vector#20651", by("agent/spool.TestAnyByte", "agent/spool.TestDamage", "agent/spool.TestBadSector", "agent/spool.TestNobodys"), ""},
		{"the whole buffer is loaded at the start", "vector#26035", by("agent/spool.TestOpenHoldsNoBacklog"), ""},
		{"the whole log is sent again after a start", "telegraf#16500", by("agent/ship.TestAway", "agent/ship.TestBacklogRestart", "agent/spool.TestOpenHoldsNoBacklog"), ""},
		{"every metric is an fsync", "telegraf#18085", by("agent/spool.TestCost", "agent.TestStepSealsEveryTenSeconds"), ""},
		{"a buffer gets stuck", "vector#19155, #18336", by("agent/spool.TestRetry", "agent/spool.TestFaultOnce", "agent/ship.TestBackoffEnds"), ""},
		{"what is full drops, and nobody hears of it", "the exporter of OTel, 1000 requests", by("agent/spool.TestPolicy", "agent/spool.TestEviction", "agent.TestGaps", "agent.TestFullDisk"), ""},
		{"after 300 s it gives up", "the exporter of OTel", by("agent/ship.TestBacklog", "cmd/flopwatch-agent.TestBrokerAppears", "internal/e2e.TestDaysOffline"), ""},
		{"the first four hours behind an outage are lost", "opentelemetry-collector-contrib#48635", by("internal/e2e.TestDaysOffline", "agent/ship.TestBacklog"), ""},
		{"a third is lost under load", "opentelemetry-collector-contrib#38739", by("agent/ship.TestFleetComesBack", "agent/ship.TestFullStream"), ""},
		{"a full disk stops everything", "SigNoz#6827", by("agent/spool.TestDiskFull", "agent/spool.TestRealFullDisk", "agent.TestFullDisk"), ""},
		{"kill -9 leaves rows twice or loses some", "section 4a", by("cmd/flopwatch-agent.TestKill", "agent/spool.TestKill", "agent/spool.TestPowerCut"), ""},
		{"an ordinary restart sends everything again", "influxdata/telegraf#18734", by("agent/ship.TestAway"), ""},
		{"the source is told \"done\" before the sink has it", "vector#26311, #26217, #26397", by("agent/ship.TestShip", "agent/ship.TestResend", "agent/ship.TestLostBetween"), ""},
		{"mirrored streams lose messages over outages", "nats-server#3207, #4109", by("agent/ship.TestResend", "agent/ship.TestLostBetween"), ""},
		{"a stream that is full loses messages in silence", "nats-server#4771", by("agent/ship.TestFullStream", "agent/ship.TestRefusals"), ""},
		{"the broker's window against duplicates is two minutes", "section 1: NATS edge cautions", by("collector.TestResendsChangeNothing", "agent/ship.TestProvider"), ""},
		{"the broker fails over, and the reader stays silent", "ClickHouse#96651", nil, "the collector's: part 4 of 5; its own test is collector.TestBrokerNumbersAnew"},
		{"one message a fetch", "connect#4160, #2510", nil, "the collector's: part 4 of 5"},
		{"nobody can tell what is missing", "section 2: loss accounting", by("agent.TestGaps", "agent/spool.TestVerify", "internal/e2e.TestDaysOffline"), ""},
		{"a panic in one collector ends all", "telegraf#18528", by("agent.TestPanic"), ""},
	}},
	{"Operation", []complaint{
		{"metrics change their names", "gpu-monitoring-tools#143", by("agent/exporter.TestPage"), ""},
		{"dashboards of dcgm-exporter have to be made anew", "section 3.10", by("agent/exporter.TestPage", "cmd/flopwatch-agent.TestGPUs"), ""},
		{"a configuration with a mistake in it is taken, or ends the agent", "nvidia_gpu_exporter's values.schema.json", by("cmd/flopwatch-agent.TestMistakes", "cmd/flopwatch-agent.TestReload", "deploy.TestManifestsFitKubernetes"), ""},
		{"an upgrade overwrites what was edited", "section 2: packages", by("deploy.TestUpgradeKeepsWhatWasEdited"), ""},
		{"a driver that is upgraded ends the agent", "issue 4: driver upgrade under way", by("agent/gpu.TestDriverIsUpgraded", "agent/gpu/nvml.TestUpgradeUnderWay"), ""},
		{"a library that is older or newer ends the agent", "section 0.2", by("agent/gpu.TestOldDriver", "agent/gpu.TestMissingFunctions"), ""},
		{"events are lost: Xid is the last one alone", "gpud, nvidia_gpu_exporter's rules", by("agent/gpu.TestHealthAndEvents", "agent/gpu/nvml.TestStormOfEvents"), ""},
		{"no view of fleet, node and job that link to each other", "section 5", nil, "no web UI in the agent: dashboards are part 5 of 5"},
		{"reports accuse on data that are not complete", "section 3.9", nil, "the detector's; the agent gives what it needs: statuses, gaps and conditions"},
	}},
}

// A complaint has tests that exist, or a reason; and what is written against complaints is listed.
func TestComplaints(t *testing.T) {
	root := filepath.Join("..", "..")
	known := map[string]map[string]bool{}
	testsOf := func(dir string) map[string]bool {
		if known[dir] == nil {
			known[dir] = testFunctions(t, filepath.Join(root, dir))
		}
		return known[dir]
	}
	listed, seen, held := map[string]bool{}, map[string]bool{}, 0
	for _, theme := range complaints {
		for _, c := range theme.list {
			if seen[c.what] || c.what == "" || c.where == "" || (len(c.tests) == 0) == (c.why == "") {
				t.Errorf("%s: %q (%s): a complaint stands once, with its place, and has either tests or a reason", theme.theme, c.what, c.where)
			}
			seen[c.what] = true
			if len(c.tests) > 0 {
				held++
			}
			for _, name := range c.tests {
				dot := strings.LastIndex(name, ".")
				dir, fn := name[:max(dot, 0)], name[dot+1:]
				listed[name] = true
				if !testsOf(dir)[fn] {
					t.Errorf("%q (%s) is to be held by %s, which does not exist", c.what, c.where, name)
				}
			}
		}
	}
	t.Logf("%d complaints, %d of them held by %d tests", len(seen), held, len(listed))
	if len(seen) < 90 || held < 75 {
		t.Errorf("%d complaints, of which %d have a test: some have gone", len(seen), held)
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "*", "complaints_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*/complaints_test.go", "*/*/*/complaints_test.go"} {
		more, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	for _, file := range files {
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			t.Fatal(err)
		}
		for fn := range functions(t, file) {
			name := filepath.ToSlash(dir) + "." + fn
			if !listed[name] && name != "internal/archtest.TestComplaints" {
				t.Errorf("%s is against no complaint of the table", name)
			}
		}
	}
}

// testFunctions are the tests of a package, whatever they are built for.
func testFunctions(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, file := range files {
		for fn := range functions(t, file) {
			all[fn] = true
		}
	}
	return all
}

// functions are the tests of a file: func TestX(t *testing.T).
func functions(t *testing.T, file string) map[string]bool {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") || fn.Name.Name == "TestMain" || len(fn.Type.Params.List) != 1 || fn.Body == nil || len(fn.Body.List) == 0 {
			continue
		}
		if star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr); ok {
			if sel, ok := star.X.(*ast.SelectorExpr); ok && sel.Sel.Name == "T" {
				found[fn.Name.Name] = true
			}
		}
	}
	return found
}

// Telegraf and netdata run nvidia-smi, which takes seconds; gpud fetches and runs what is newer
// than itself. What is linked into the agent runs its own child and nothing else.
func TestTheAgentRunsItsChildAlone(t *testing.T) {
	byPath := map[string]pkg{}
	for _, p := range packages(t) {
		byPath[p.ImportPath] = p
	}
	// The child of the GPUs, and the same child where the doctor looks.
	may := []string{"agent/gpu", "cmd/flopwatch-agent/doctor"}
	linked := []string{module + "/cmd/flopwatch-agent", module + "/cmd/flopwatch-nvml"}
	runs, becomes := 0, 0
	for i := 0; i < len(linked); i++ {
		p := byPath[linked[i]]
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module) && !slices.Contains(linked, imp) {
				linked = append(linked, imp)
			}
			if imp == "os/exec" && !slices.Contains(may, p.room()) {
				t.Errorf("%s runs programs: only %v may", p.room(), may)
			}
		}
		visit(t, p, func(file *token.FileSet, n ast.Node) {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return
			}
			switch x.Name + "." + sel.Sel.Name {
			case "exec.Command", "exec.CommandContext":
				runs++
			case "syscall.Exec": // itself, once, before it does anything
				if becomes++; p.room() != "cmd/flopwatch-agent" {
					t.Errorf("%s: %s becomes another program", file.Position(n.Pos()), p.room())
				}
			case "os.StartProcess", "syscall.ForkExec", "syscall.StartProcess", "unix.Exec", "exec.LookPath":
				t.Errorf("%s: %s uses %s.%s", file.Position(n.Pos()), p.room(), x.Name, sel.Sel.Name)
			}
		})
	}
	if runs != 2 || becomes > 1 || len(linked) < 10 {
		t.Errorf("%d places run a program and %d become one, in %d packages; wanted the child's two, and the agent itself", runs, becomes, len(linked))
	}
}
