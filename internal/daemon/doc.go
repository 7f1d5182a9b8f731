// Package daemon is what every command shares around its work: signals, exit codes, the
// logger, health and metrics over HTTP, what systemd wants to hear, and which build this is.
//
// It must not know: what a command does, or any other package of ours. It reads no
// configuration. A command passes its run function to [Main] and exits with the result.
//
// Goroutines: the signal handler, which ends with the run function. Serve and Watchdog run
// in their caller's. On a crash there is nothing to lose.
package daemon
