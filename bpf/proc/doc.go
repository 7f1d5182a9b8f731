// Package proc holds the kernel programs of agent/kernel/proc: starts and ends of processes on GPUs, and who has a GPU open.
package proc
