// Package nccl holds the kernel programs of agent/kernel/nccl: maps.bpf.c finds out which
// files processes have mapped as code, nccl.bpf.c counts the calls of collectives.
package nccl
