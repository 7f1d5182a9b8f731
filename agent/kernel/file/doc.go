// Package file is the feature "file": checkpoints, seen as large files that processes of
// GPU jobs write.
//
// # What it owns
//
// Which files watched processes have open for writing, how far each has come, and what of
// that is an episode of writing. It must not know what is in a file, nor what a path means:
// paths go into rows as the kernel tells them, and the recorder hides them. Nothing runs
// when data is written: the kernel is asked every two seconds.
//
// # Episodes
//
// One begins when a regular file is seen to grow and ends when it was closed, truncated or
// has not grown for 30 seconds. It is told when Config.MinBytes were written in it at
// Config.MinRate or more; what grows slower is a log. A row comes then, every minute, and
// at the end, all with the same key. The path is that of when the file was first seen large
// enough: a file that is renamed when it is complete keeps the name that it was written
// under.
//
//	bytes        by how much the file grew; where it did not grow, how far its writer
//	             moved; where neither, how many blocks it was given (a preallocated
//	             sparse file, a memory map)
//	absent       it is not known which of several writers of one file wrote what, or the
//	             file was preallocated in full: that it is written is known by its time of
//	             change alone, and told only if it was opened within the last ten minutes,
//	             as files of databases change for ever
//
// A descriptor that a child inherited is its first owner's. A file that was opened between
// two looks counts from its beginning, one opened for appending, and all that a process has
// open at the first look at it, from there. What is opened, written and closed between two
// looks is not seen.
//
// # Without BPF
//
// /proc/PID/{fd,fdinfo} tell the same, for CAP_SYS_PTRACE and, of other users,
// CAP_DAC_READ_SEARCH. Before kernel 5.11 the path comes from there in any case. An agent in a
// process namespace of its own reads that of its own alone, as numbers mean others in the kernel.
//
// # Crash, buffers, goroutines, budget
//
// Episodes are lost with the agent: one that went on stays without an end. At most 4,096
// writers are followed. No goroutine. Looks are farther apart than two seconds where they
// take more than 0.2 % of a core.
package file
