package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	in := `{"Action":"start","Package":"p/a"}
{"Action":"output","Package":"p/a","Test":"TestNATS","Output":"=== RUN   TestNATS\n"}
{"Action":"output","Package":"p/a","Test":"TestNATS","Output":"    x_test.go:12: nats is missing: no binary\n"}
{"Action":"output","Package":"p/a","Test":"TestNATS","Output":"--- SKIP: TestNATS (0.00s)\n"}
{"Action":"skip","Package":"p/a","Test":"TestNATS"}
{"Action":"pass","Package":"p/a","Test":"TestGood"}
{"Action":"output","Package":"p/a","Output":"PASS\n"}
{"Action":"output","Package":"p/a","Output":"ok  \tp/a\t0.01s\n"}
{"Action":"pass","Package":"p/a"}
`
	var out strings.Builder
	failed, err := run(strings.NewReader(in), &out)
	if err != nil || failed {
		t.Fatalf("got %v, %v", failed, err)
	}
	want := "ok  \tp/a\t0.01s\n\n1 tests passed, 0 failed, 1 skipped\nskipped: p/a TestNATS: nats is missing: no binary\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}

	bad := in + `{"Action":"output","Package":"p/b","Test":"TestBad","Output":"    x_test.go:1: got 1\n"}
{"Action":"fail","Package":"p/b","Test":"TestBad"}
{"Action":"output","Package":"p/b","Output":"FAIL\tp/b\t0.01s\n"}
{"Action":"fail","Package":"p/b"}
`
	out.Reset()
	failed, err = run(strings.NewReader(bad), &out)
	if err != nil || !failed {
		t.Errorf("a failure: got %v, %v", failed, err)
	}
	for _, want := range []string{"x_test.go:1: got 1", "FAIL\tp/b", "failed: p/b TestBad"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from %q", want, out.String())
		}
	}
	if _, err := run(strings.NewReader("go: no packages\n"), &out); err == nil {
		t.Error("an empty stream passed")
	}
}
