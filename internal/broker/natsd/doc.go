// Package natsd is the NATS server as a library, with JetStream on a directory of its own.
//
// It is apart from package broker so that who only connects does not carry a server: the
// agent's process would be a megabyte larger for it. It must not know what the streams are.
//
// A killed server loses nothing that the kernel has; JetStream syncs to disk every
// SyncInterval. The server's goroutines belong to Server; Stop ends them.
package natsd
