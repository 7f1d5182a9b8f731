// Package deploy is what is shipped beside the binaries: systemd units, an install script,
// Kubernetes manifests, NATS permissions, configuration files, recordings. It has no code
// but the tests that hold those files to what they promise; README.md says what each is.
package deploy
