// Package report turns verdicts into findings, clocks and report folders.
package report
