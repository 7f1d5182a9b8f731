// Package nccl counts the collective calls of processes on GPUs.
package nccl
