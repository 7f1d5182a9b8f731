package job

import (
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
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		for _, p := range s.Processes {
			if err == nil && (p.PID <= 0 || len(p.GPUs) > maxGPUs) {
				t.Errorf("%+v", p)
			}
		}
	})
}
