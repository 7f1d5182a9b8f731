// Package wirepb is batch.proto in generated Go: the plain reading of the telemetry
// contract, for tools and for the tests that hold internal/wire to it. It owns nothing
// else, and the hot path does not use it.
package wirepb
