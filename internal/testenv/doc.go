// Package testenv finds what tests need outside of their own package: the repository's
// root, shared recordings, and required dependencies.
//
// It must not be imported by products, and knows no protocol: servers for tests live
// beside what they serve. It owns no goroutine and no file.
package testenv
