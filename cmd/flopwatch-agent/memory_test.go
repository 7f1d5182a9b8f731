package main

import (
	"context"
	"testing"
)

// TestSettle ends before the start is over.
func TestSettle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := settle(ctx); err != nil {
		t.Error(err)
	}
}
