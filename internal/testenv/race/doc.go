// Package race tells tests whether the race detector is built in. It allocates by itself
// and makes pools forget, so tests that pin allocations skip under it.
//
// It owns one constant and imports nothing, so that any package's tests may use it.
package race
