package job

import (
	"strings"
	"testing"
)

// Whose a GPU is now: of one that nobody holds, that several hold, or of which the last word may
// be over, nothing is said.
func TestOwnerOfPods(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	want := func(what, uuid string, want Owner) {
		t.Helper()
		if got := f.j.Owner(uuid); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	want("before the first tick", gpu0, Owner{})
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"), podBytes("web", "b", uid2, "Running"))
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu0, "one nvidia.com/gpu="+gpu1+"::0", "two nvidia.com/gpu="+gpu1+"::1"), podHolds("web", "b", "llm nvidia.com/mig-1g.10gb="+mig0))
	f.settle(20)
	want("a GPU", gpu0, Owner{Pod: "a", Namespace: "ai", Container: "main"})
	want("two of its containers", gpu1, Owner{Pod: "a", Namespace: "ai"})
	want("a MIG device", mig0, Owner{Pod: "b", Namespace: "web", Container: "llm"})
	want("nobody's", gpu2, Owner{})
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu0+"::0"), podHolds("web", "b", "llm nvidia.com/gpu="+gpu0+"::1"))
	f.settle(20)
	want("shared", gpu0, Owner{})
	want("it may be over", gpu1, Owner{})
	want("the same", mig0, Owner{})
	k.set(listPods, podHolds("web", "b", "llm nvidia.com/gpu="+gpu0+"::1"))
	f.settle(20)
	want("one is left", gpu0, Owner{Pod: "b", Namespace: "web", Container: "llm"})
	cfg := f.j.cfg
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	// What an earlier agent heard is not said until it was heard again.
	k.set(listPods)
	f.j = New(cfg, f.l)
	f.settle(20)
	want("another agent", gpu0, Owner{})
}

func TestOwnerOfJobs(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.slurmFile("77", "minors 0", "user alice", "account climate")
	f.slurmFile("78", "minors 1")
	f.slurmFile("79", "minors 1")
	f.sample()
	held := map[string]Owner{}
	for _, uuid := range []string{gpu0, gpu1, gpu2} {
		held[uuid] = f.j.Owner(uuid)
	}
	alone, shared := 0, 0
	for _, o := range held {
		switch o {
		case Owner{Job: "77"}:
			alone++
		case Owner{}:
			shared++
		}
	}
	if alone != 1 || shared != 2 {
		t.Errorf("%+v", held)
	}
	// The rows are what they are without it.
	if rows := f.s.held("job_id", "user_hash", "project_hash"); strings.Count(rows, "77|alice|climate") != 1 {
		t.Errorf("rows:\n%s", rows)
	}
}
