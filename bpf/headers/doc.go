// Package headers holds what the C sources of the sibling folders include: types, helpers
// and the few fields of kernel structures that are read, as text of our own. It has no Go
// code and is compiled into nothing; bpf/gen passes its folder to clang.
//
// Structures of the kernel are partial and marked preserve_access_index: the loader puts
// the running kernel's offsets in (CO-RE), so no vmlinux.h is needed. It must not know a
// feature: what only one program reads is declared beside it.
package headers
