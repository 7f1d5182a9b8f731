//go:build !race

package race

// Enabled tells that the race detector is built in.
const Enabled = false
