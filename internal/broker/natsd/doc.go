// Package natsd is the NATS server as a library, with JetStream on a directory of its own.
//
// It is apart from package broker so that who only connects does not carry a server: the
// agent's process would be a megabyte larger for it. It must not know what the streams are.
//
// StartServer is the embedded one: loopback, a token, no configuration. StartFile is one server
// of a fleet, alone or in a cluster, on the configuration that deploy/nats ships; a nats-server
// of its own reads the same file.
//
// A killed server loses nothing that the kernel has; JetStream syncs to disk every
// SyncInterval. The server's goroutines belong to Server; Stop ends them.
package natsd
