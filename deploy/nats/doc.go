// Package nats is who may say what on a fleet's NATS server: the server's configuration
// (flopwatch.conf), and users of it, one nkey and one list of subjects each.
//
// It owns a directory: flopwatch.conf, which the operator may edit, cluster.conf, which makes
// of it one server of a cluster, users.d with a file a user, and edge.conf and fleet.conf, which are users.d put together. It must not know what
// is in a message, nor how a daemon connects. Node names become subjects by internal/wire,
// as in the agent.
//
// # Crash
//
// Files are replaced whole. A process that dies between a user's file and the file put
// together leaves the user out (or in) until the next Add, Remove or Init.
//
// There are no goroutines and no buffers.
package nats
