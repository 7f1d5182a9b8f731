//go:build !(linux && cgo)

package nvml

import (
	"context"
	"io"
)

// Serve fails with ErrNoCgo.
func Serve(context.Context, io.Reader, io.Writer, Config) error { return ErrNoCgo }
