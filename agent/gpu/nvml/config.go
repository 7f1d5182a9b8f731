package nvml

import "errors"

// ErrNoCgo says that this build cannot load the library.
var ErrNoCgo = errors.New("built without cgo: NVIDIA's library cannot be loaded; build with CGO_ENABLED=1 and a C compiler (make binaries)")

// Config of the child.
type Config struct {
	// Library is the path of libnvidia-ml.so.1; empty: as the loader finds it.
	Library string
}
