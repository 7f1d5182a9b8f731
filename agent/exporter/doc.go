// Package exporter is the agent's page for Prometheus: its own health under flopwatch_agent_*,
// and on option the GPUs under the names that dcgm-exporter gives them, so that dashboards
// and alerts that exist go on working.
//
// # What it owns
//
// Names, labels and units on that page. It must not know how anything is measured, nor
// listen on a port: internal/daemon serves the page.
//
// # Absent is not zero
//
// What was not measured, or was measured too long ago, is a series that is not there: no
// zeros, no blanks in the form of large numbers. Labels come from closed lists or from the
// driver's own names; never from the text of an error.
//
// # Goroutines
//
// None. Each scrape reads the counts anew through the functions in Config, from a goroutine
// of its own. A crash loses nothing.
package exporter
