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
// is given to somebody more: container, namespace and pod, or hpc_job. Whoever wires the page says
// whose a GPU is: these are names in clear, and for the site to allow. What several hold has none
// of them, nor has a GPU instance whose compute instances are not one holder's: copies of a value
// for each sharer would add up to more than there is. A GPU comes onto the page when all that its
// labels hold is known, so that no series lives for the first seconds alone. Times of throttling
// are nanoseconds, as in DCGM 4. NVLink's errors are read as one sum, for which DCGM has no name:
// they have one of ours.
//
// Calls into the library are counted as a whole (nvml_calls_total), and as failures by function
// (nvml_faults_total). They are not told by function: the child tells with each answer how many
// calls it made and the slowest class of them, and a count by function would be forty numbers more in
// each answer of each GPU, for what a budget of twelve calls a second bounds already. What an
// operator asks of it, which calls are slow, is in nvml_slowest_call_seconds and
// nvml_tier_seconds.
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
