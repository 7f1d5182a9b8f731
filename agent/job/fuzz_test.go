package job

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

func FuzzProc(f *testing.F) {
	f.Add([]byte(statLine(7, "a)(b", "S", 1, 12345)))
	f.Add([]byte("7 (a) S -1 2"))
	f.Add([]byte("Name:\ta\nUid:\t1000\t0\t0\t0\n"))
	f.Add([]byte("cpu 1\nbtime 1700000000\n"))
	f.Add([]byte("root:x:0:0::/:/\nalice:x:1000:\n"))
	f.Add([]byte("22 27 0:21 / /proc rw - proc proc rw,hidepid=2\n"))
	f.Add([]byte("a\x00\x01\xff" + cid))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(b); err == nil && (s.ppid < 0 || s.threads < 0 || s.state == 0) {
			t.Errorf("%+v", s)
		}
		if uid, ok := parseUID(b); !ok && uid != 0 {
			t.Errorf("uid %d", uid)
		}
		if v, err := parseBtime(b); err == nil && v < 0 {
			t.Errorf("btime %d", v)
		}
		for _, name := range parsePasswd(b) {
			if !isName(name) {
				t.Errorf("user %q", name)
			}
		}
		if o := parseHidepid(string(b), "/proc"); o != clean(o) {
			t.Errorf("option %q", o)
		}
		if c := clean(string(b)); len(c) > maxExe || !utf8.ValidString(c) {
			t.Errorf("clean %q", c)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot_id":"b","processes":[{"pid":1,"start_ticks":5,"start_ms":6,"seen_ms":7,"gpus":[0,1],"exe":"a"}]}`))
	f.Add([]byte(`{"version":1,"boot_id":"b","processes":[{"pid":1,"start_ms":6,"gpus":[],"exit":10,"nccl":"visible","job":{"id":"5","restarts":2}}],"holds":[{"start_ms":1,"gpu_uuid":"g","job_source":"slurm","job_id":"5","restarts":1}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		for _, p := range s.Processes {
			if err == nil && (p.PID <= 0 || len(p.GPUs) > maxGPUs || p.Exit < 0 || p.Exit > maxStatus+1 || p.Job != nil && p.Job.Restarts < 0) {
				t.Errorf("%+v", p)
			}
		}
		for _, h := range s.Holds {
			if err == nil && (h.UUID == "" || h.Restarts < 0 || h.Restarts > maxRestarts) {
				t.Errorf("%+v", h)
			}
		}
	})
}

func FuzzSlurmFile(f *testing.F) {
	f.Add([]byte("flopwatch-slurm 1\njob_id 5\nboot_id " + boot + "\nsluid " + sluid + "\nuser alice\ngpus " + gpu0 + "," + mig0 + "\nminors 0,1\nrestarts 2\nstart 1700000000\nend\n"))
	f.Add([]byte("flopwatch-slurm 1\njob_id 5\nboot_id x\nend"))
	f.Add([]byte("101 102\n"))
	f.Add([]byte("GPU UUID: " + gpu0 + "\nDevice Minor: 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := parseSlurmFile(b); err == nil {
			if !isNumbered(j.id, "") || !isUUID(j.bootID) || j.user != "" && !isName(j.user) || len(j.minors) > maxGPUs || j.sluid != "" && !isSLUID(j.sluid) || j.restarts < 0 || j.restarts > maxRestarts {
				t.Errorf("%+v", j)
			}
		}
		ids, err := parseMapFile(b)
		for _, id := range ids {
			if err == nil && !isName(id) {
				t.Errorf("id %q", id)
			}
		}
		if minor, uuid, ok := parseInformation(b); ok && (minor < 0 || !hasUUID(uuid)) {
			t.Errorf("%d %q", minor, uuid)
		}
	})
}

func FuzzDevices(f *testing.F) {
	for _, id := range []string{gpu0 + "::3", "MIG-" + gpu2 + "/3/0", "nvidia0/gi3/vgpu1", "2:1", "k8s.gpu.nvidia.com/claim=x-gpu-1", "gpu-0-mig-1g.10gb-19-0", "nvidia.com/gpu=0:1"} {
		f.Add(id)
	}
	d := &devices{lister: threeGPUs(), minors: map[int]string{0: gpu2, 1: gpu1, 2: gpu0}, read: true}
	d.list = threeGPUs().list
	f.Fuzz(func(t *testing.T, id string) {
		for _, r := range []string{"nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "x"} {
			if g, ok := d.ofPlugin(r, id); ok && (g.uuid == "" || !hasUUID(g.uuid) || g.conf <= 0) {
				t.Errorf("%q: %+v", id, g)
			}
		}
		if g, ok := d.ofClaim(id); ok && (g.uuid == "" || !hasUUID(g.uuid) || g.conf <= 0) {
			t.Errorf("claim %q: %+v", id, g)
		}
	})
}

func FuzzKubelet(f *testing.F) {
	f.Add([]byte(podHolds("ai", "a", "main nvidia.com/gpu="+gpu0+"::0", "x dra:gpu.nvidia.com/gpu-0@a/b=c")))
	f.Add([]byte(podBytes("ai", "a", uid, "Running", "main", cid)))
	whole := msg{}.bytes(1, podHolds("ai", "a", "main nvidia.com/gpu="+gpu0)).num(2, 3).bytes(3, "x")
	f.Add(append([]byte{0, 0, 0, 0, byte(len(whole))}, whole...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a resourcesAnswer
		err := parsePodResources(&a, b)
		list := a.devices
		for _, d := range list {
			if err == nil && (d.id == "" || len(d.id) > maxText) {
				t.Errorf("%+v", d)
			}
		}
		if _, info, err := parsePod(b); err == nil && info.uid != "" {
			if again, ok := normalUID(info.uid); !ok || again != info.uid {
				t.Errorf("UID %q", info.uid)
			}
		}
		_, _ = items(bytes.NewReader(b), func(item []byte) error {
			if len(item) > maxItem {
				t.Errorf("an entry of %d bytes", len(item))
			}
			return nil
		})
	})
}
