// Package sock holds the kernel programs of agent/kernel/sock: TCP bytes by owner and peer.
package sock
