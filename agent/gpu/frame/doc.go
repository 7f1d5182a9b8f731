// Package frame is what flopwatch-agent and its child flopwatch-nvml say to each other over
// two pipes: requests down, devices, readings, processes and faults up.
//
// It must not know NVML, nor the wire contract. Decoders check what they read before they
// use it. It starts no goroutine.
package frame
