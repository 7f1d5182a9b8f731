// Package doctor answers, on one host: what does the agent see here, by which way, with what
// privilege, what is missing, and how is that granted.
//
// It owns the short look (Look): it asks the same sources that the agent runs, for a few
// seconds, and counts what they say; what this process may do (Privileges); what the driver
// says in a process of its own (Driver); what waits on disk (Spool); and what helps where
// something is not seen (Remedy). It must not keep, publish or change anything, nor know any
// instrument: all it knows of one is what it says through agent/source, and words in its
// reasons, each of which a test holds to the code that says it. Values are never printed, only which of them were measured; facts of the driver and
// its library apart.
//
// The report as JSON is a contract (Version): fields may be added, none changes.
//
// # Goroutines and bounds
//
// Sources are asked one goroutine each, which ends with Look; one that does not come back
// within the look is reported as stalled and left behind, since the process ends soon. So is
// the driver's process where it hangs in the kernel. 4,096 subjects, 4 MiB of a description.
package doctor
