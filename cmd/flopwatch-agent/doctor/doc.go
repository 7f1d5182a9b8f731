// Package doctor answers, on one host: what does the agent see here, by which way, with what
// privilege, what is missing, and how is that granted.
//
// It owns the short look (Look): it asks the same sources that the agent runs, for a few
// seconds, and counts what they say; and what this process may do (Privileges). It must not
// keep, publish or change anything, nor know any instrument: all it knows of one is what it
// says through agent/source. Values are never printed, only which of them were measured.
//
// Sources are asked one goroutine each, which ends with Look; one that does not come back
// within the look is reported as stalled and left behind, since the process ends soon.
package doctor
