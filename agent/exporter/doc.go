// Package exporter is the agent's page for Prometheus: its own health under flopwatch_agent_*,
// and on option the GPUs under the names that dcgm-exporter gives them, so that dashboards
// and alerts that exist go on working.
//
// # What it owns
//
// Names, labels and units on that page. It must not know how anything is measured, nor
// listen on a port: internal/daemon serves the page.
//
// GPUs have dcgm-exporter's labels, MIG instances two more (GPU_I_PROFILE, GPU_I_ID), and what
// belongs to a container three more (container, namespace, pod) where whoever wires the page
// says whose it is: that is for the site to allow. Times of throttling are nanoseconds, as in
// DCGM 4. NVLink's errors are read as one sum, for which DCGM has no name: they have one of ours.
//
// # Absent is not zero
//
// What was not measured, or was measured too long ago, is a series that is not there: no
// zeros, no blanks in the form of large numbers. Labels come from closed lists or from the
// driver's own names; never from the text of an error. Parts of instruments that are more than
// 512 are counted by state alone.
//
// # Goroutines
//
// None. Descriptions of series are made when first shown. Each scrape reads the counts anew
// through the functions in Config, from a goroutine of its own. A crash loses nothing.
package exporter
