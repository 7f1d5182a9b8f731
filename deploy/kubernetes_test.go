package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

var manifests = []string{"kubernetes/daemonset.yaml", "kubernetes/secret.yaml"}

// validator is kubectl-validate, which carries Kubernetes' schemas.
func validator(t *testing.T) func(file string) (string, error) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(testenv.Root(t), ".cache", "bin", "kubectl-validate-*"))
	if err == nil && len(found) == 0 {
		err = errors.New("no kubectl-validate in .cache/bin: make manifests builds it")
	}
	testenv.Need(t, "kubectl-validate", err)
	return func(file string) (string, error) { return command(t, nil, found[len(found)-1], file) }
}

func TestManifestsFitKubernetes(t *testing.T) {
	validate := validator(t)
	for _, file := range manifests {
		if out, err := validate(file); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// The validator finds what it is there to find.
func TestBadManifestsAreFound(t *testing.T) {
	validate := validator(t)
	good := read(t, "kubernetes/daemonset.yaml")
	for name, c := range map[string]struct{ from, to, want string }{
		"unknown field":     {"runtimeClassName:", "runtimeClasName:", "runtimeClasName"},
		"wrong type":        {"hostPID: true", `hostPID: "yes"`, "must be of type boolean"},
		"missing selector":  {"  selector:\n    matchLabels:\n      app.kubernetes.io/name: flopwatch-agent\n", "", "spec.selector: Required value"},
		"unknown kind":      {"kind: DaemonSet", "kind: DeamonSet", "DeamonSet not found"},
		"duplicate":         {"hostPID: true\n", "hostPID: true\n      hostPID: true\n", "hostPID"},
		"a number for text": {"value: all\n", "value: 8\n", "must be of type string"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(good, c.from) == 0 {
				t.Fatalf("the manifest has no %q", c.from)
			}
			bad := filepath.Join(t.TempDir(), "bad.yaml")
			write(t, bad, strings.Replace(good, c.from, c.to, 1))
			out, err := validate(bad)
			if (err == nil) != (c.want == "") || !strings.Contains(out, c.want) {
				t.Errorf("%v, want %q\n%s", err, c.want, out)
			}
		})
	}
}

// merged is the DaemonSet with a patch applied by Kubernetes' own code, as a file.
func merged(t *testing.T, patch string) (file string, err error) {
	t.Helper()
	patch, err = filepath.Abs(patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := command(t, nil, "go", "-C", "kubernetes/validate", "run", "./merge", "../daemonset.yaml", patch)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	file = filepath.Join(t.TempDir(), "merged.yaml")
	write(t, file, out)
	return file, nil
}

// What becomes of the DaemonSet by the patch is what Kubernetes takes, and has three
// capabilities and two directories more than it, and no other privilege.
func TestPodWithKernel(t *testing.T) {
	validate := validator(t)
	file, err := merged(t, "kubernetes/kernel.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := validate(file); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	all, plain := objects(t, file), objects(t, manifests[0])
	pod, was := get(all["DaemonSet"], "spec", "template", "spec"), get(plain["DaemonSet"], "spec", "template", "spec")
	hold := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	for _, same := range []string{"hostPID", "hostNetwork", "hostIPC", "automountServiceAccountToken", "securityContext", "runtimeClassName", "tolerations"} {
		hold(same, get(pod, same), get(was, same))
	}
	agent, before := get(pod, "containers", 0), get(was, "containers", 0)
	for _, same := range []string{"image", "command", "args", "env", "resources", "livenessProbe", "readinessProbe"} {
		hold(same, get(agent, same), get(before, same))
	}
	hold("the ConfigMap", all["ConfigMap"], plain["ConfigMap"])
	for key, want := range map[string]any{"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true} {
		hold(key, get(agent, "securityContext", key), want)
	}
	hold("dropped", get(agent, "securityContext", "capabilities", "drop"), []any{"ALL"})
	hold("added", get(agent, "securityContext", "capabilities", "add"), []any{"BPF", "PERFMON", "SYS_PTRACE"})
	first := get(pod, "initContainers", 0)
	hold("dropped at first", get(first, "securityContext", "capabilities", "drop"), []any{"ALL"})
	hold("added at first", get(first, "securityContext", "capabilities", "add"), []any{"CHOWN", "DAC_READ_SEARCH"})

	// Where the agent looks for the kubelet's sockets, if nobody says otherwise, directories are.
	mounts, _ := get(agent, "volumeMounts").([]any)
	old, _ := get(before, "volumeMounts").([]any)
	hold("mounts", len(mounts), len(old)+2)
	shipped := read(t, "config/flopwatch-agent.toml")
	for _, key := range []string{"podresources", "pods_api"} {
		m := regexp.MustCompile(`(?m)^` + key + ` = "(.+)"$`).FindStringSubmatch(shipped)
		if m == nil {
			t.Fatalf("the configuration has no key %s", key)
		}
		found := false
		for _, mount := range mounts {
			if get(mount, "mountPath") == filepath.Dir(m[1]) {
				found = true
				hold("readOnly of "+key, get(mount, "readOnly"), true)
			}
		}
		if !found {
			t.Errorf("%s of [job], %s, is in no directory that is mounted", key, m[1])
		}
	}
	takes(t, all)
}

// A patch that misses is found.
func TestBadPatchIsFound(t *testing.T) {
	_ = validator(t) // what builds it brings what merge is built of
	good := read(t, "kubernetes/kernel.yaml")
	for name, c := range map[string]struct{ from, to, want string }{
		"unknown field":  {"runAsGroup:", "runAsGrup:", "runAsGrup"},
		"another object": {"  name: flopwatch-agent\n", "  name: flopwatch\n", "0 objects are DaemonSet flopwatch/flopwatch"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "bad.yaml")
			write(t, bad, strings.Replace(good, c.from, c.to, 1))
			if _, err := merged(t, bad); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// object is a manifest, by path: get(o, "spec", "template").
type object = map[any]any

func get(v any, path ...any) any {
	for _, p := range path {
		switch x := v.(type) {
		case object:
			v = x[p]
		case []any:
			i, ok := p.(int)
			if !ok || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func objects(t *testing.T, file string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for d := yaml.NewDecoder(bytes.NewReader([]byte(read(t, file)))); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[fmt.Sprint(o["kind"])] = o
	}
}

// What the schema cannot say: the pod gets no privilege but those that the README names.
func TestPodIsUnprivileged(t *testing.T) {
	pod, _ := get(objects(t, manifests[0])["DaemonSet"], "spec", "template", "spec").(object)
	hold := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	hold("hostPID", pod["hostPID"], true) // the one that is needed
	hold("hostNetwork", pod["hostNetwork"], nil)
	hold("hostIPC", pod["hostIPC"], nil)
	hold("token", pod["automountServiceAccountToken"], false)
	hold("runAsNonRoot", get(pod, "securityContext", "runAsNonRoot"), true)
	hold("seccomp", get(pod, "securityContext", "seccompProfile", "type"), "RuntimeDefault")
	for _, c := range []struct {
		list  string
		added any
	}{{"containers", nil}, {"initContainers", []any{"CHOWN"}}} {
		list, _ := pod[c.list].([]any)
		hold(c.list, len(list), 1)
		for _, one := range list {
			hold("privileged", get(one, "securityContext", "privileged"), false)
			hold("allowPrivilegeEscalation", get(one, "securityContext", "allowPrivilegeEscalation"), false)
			hold("readOnlyRootFilesystem", get(one, "securityContext", "readOnlyRootFilesystem"), true)
			hold("dropped", get(one, "securityContext", "capabilities", "drop"), []any{"ALL"})
			hold("added", get(one, "securityContext", "capabilities", "add"), c.added)
			for _, r := range []string{"requests", "limits"} {
				for _, of := range []string{"cpu", "memory"} {
					if get(one, "resources", r, of) == nil {
						t.Errorf("no %s of %s", r, of)
					}
				}
				if get(one, "resources", r, "nvidia.com/gpu") != nil {
					t.Error("the agent takes a GPU from customers")
				}
			}
		}
	}
	agent := get(pod, "containers", 0)
	hold("runAsNonRoot of the agent", get(agent, "securityContext", "runAsNonRoot"), true)
	hold("liveness", get(agent, "livenessProbe", "httpGet", "path"), "/healthz")
	hold("readiness", get(agent, "readinessProbe", "httpGet", "path"), "/readyz")
	volumes, _ := pod["volumes"].([]any)
	host := map[any]bool{}
	for _, v := range volumes {
		if get(v, "hostPath") != nil {
			host[get(v, "name")] = true
		}
	}
	mounts, _ := get(agent, "volumeMounts").([]any)
	for _, m := range mounts {
		if name := get(m, "name"); host[name] && name != "state" {
			hold(fmt.Sprintf("readOnly of %v", name), get(m, "readOnly"), true)
		}
	}
}

// The agent itself reads the configuration in the ConfigMap and takes the arguments.
func TestAgentTakesTheManifestsConfiguration(t *testing.T) {
	takes(t, objects(t, manifests[0]))
}

// takes checks the configuration and arguments of a DaemonSet with the agent itself.
func takes(t *testing.T, all map[string]object) {
	t.Helper()
	text, _ := get(all["ConfigMap"], "data", "flopwatch-agent.toml").(string)
	path := filepath.Join(t.TempDir(), "flopwatch-agent.toml")
	write(t, path, text)
	agent := get(all["DaemonSet"], "spec", "template", "spec", "containers", 0)
	var args []string
	list, _ := get(agent, "args").([]any)
	for _, a := range list {
		s := fmt.Sprint(a)
		s = strings.ReplaceAll(s, "/etc/flopwatch-agent/flopwatch-agent.toml", path)
		args = append(args, strings.ReplaceAll(s, "$(NODE_NAME)", "gpu-1"))
	}
	out, err := command(t, nil, binary(t, "agent"), append(args, "-check")...)
	// What the node's folders hold is not here: it is noted, and no mistake.
	if err != nil || !regexp.MustCompile(`^(note: (site_key_file|nats\.nkey_file|gpu\.library|gpu\.child): .*no such file or directory.*\n)*[0-9a-f]{64}\n$`).MatchString(out) {
		t.Errorf("%v\n%s", err, out)
	}
	port := fmt.Sprint(get(agent, "ports", 0, "containerPort"))
	if !strings.Contains(text, `listen = ":`+port+`"`) {
		t.Errorf("the probes ask port %s, the configuration is\n%s", port, text)
	}
}
