// Package e2e holds tests that put rooms together which never import each other: agent,
// broker, collector, store and detector, with the real servers and the real NVML binding
// over a stub of the driver's library. It holds no product code.
package e2e
