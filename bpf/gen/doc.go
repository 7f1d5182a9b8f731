// Package gen compiles the C sources beside it (generate.sh, `make generate`) and proves in
// a test that what is committed is what they compile to. It holds no product code.
package gen
