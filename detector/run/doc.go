// Package run assembles GPUs into activities: in space (episodes), then in time (runs over restarts, moves, accounts).
package run
