// Package supervise keeps the processes of one tree running: it starts them in order, each
// when the one before does its work, starts again what dies, and stops them in reverse order.
//
// It owns: starting, back-off, the bounded stop, a child's end with its parent's, the log of
// each child, and the lock that says that a tree's processes are all gone. It must not know
// what a child does, its configuration, or any other package of ours.
//
// # A child's end
//
// Each child is in a process group of its own, so that a terminal's Ctrl-C reaches the
// parent alone. The kernel kills it when its parent dies (PDEATHSIG), and it holds the other
// end of a pipe as stdin, for those that watch it. It inherits the tree's lock (Tree): the
// kernel frees that when the last process of the tree is gone, children of children among
// them, so whoever holds it knows that nothing of an earlier tree still writes.
//
// # Crash
//
// Nothing is kept: what there is to remember is in the children's own files. The lock's file
// names the processes, for people.
//
// # Goroutines
//
// Run owns one goroutine a child, which holds its thread (PDEATHSIG is tied to the thread
// that forked), one that asks the child whether it does its work, and those of os/exec. All
// end before Run returns.
package supervise
