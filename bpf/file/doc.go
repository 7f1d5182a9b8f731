// Package file holds the kernel programs of agent/kernel/file: files that are open for writing.
package file
