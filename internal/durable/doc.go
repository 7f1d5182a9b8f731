// Package durable writes files so that a crash at any instruction leaves the old content
// or the new, and gives file layers to those who reason about crashes.
//
// It owns the order of system calls (write, sync, rename, sync the directory) and nothing
// of what files mean. FS is the small file layer that agent/spool works on: OS is the real
// one; NoSync is one whose data survives a killed process, but not a lost machine; tests
// put one in between that fails at a call of their choice. Files belong to who opened them.
// The package starts no goroutine.
package durable
