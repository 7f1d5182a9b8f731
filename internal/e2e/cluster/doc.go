// Package cluster tests the product on a cluster: three NATS servers and several collectors, each a
// process, under hosts that publish while one after the other fails. It has no code of its own.
package cluster
