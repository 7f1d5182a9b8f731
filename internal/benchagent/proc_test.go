package main

import (
	"os"
	"os/exec"
	"testing"
)

func TestReadTree(t *testing.T) {
	before, err := readTree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), "sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	with, err := readTree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if with.Processes != before.Processes+1 {
		t.Errorf("%d processes with a child, %d without", with.Processes, before.Processes)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	after, err := readTree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after.Processes != before.Processes || after.UserTicks < before.UserTicks || after.RSSBytes < 1<<20 || after.PSSBytes < 1<<20 || after.Threads < 1 || after.FDs < 3 || after.Switches == 0 {
		t.Errorf("a Go test uses %+v", after)
	}
}
