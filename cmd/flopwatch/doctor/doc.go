// Package doctor looks at everything that `flopwatch up` needs and runs, and says of each
// thing whether it is well, why not, and what helps. It works on a tree that is half broken
// or not running, and on hosts without GPUs.
//
// It owns: the list of checks, their bounds and their words. It must not mend anything: it
// only reads. Each check is bounded in time, and one that fails does not hide the others.
//
// It keeps nothing and starts no goroutine of its own.
package doctor
