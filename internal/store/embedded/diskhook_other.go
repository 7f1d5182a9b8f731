//go:build !amd64

package embedded

import "sync/atomic"

var diskStalls, diskHurry atomic.Uint64

// hookDisk is for the processor that the engine is for.
func hookDisk(uintptr, string) error { return errNoAVX2 }
