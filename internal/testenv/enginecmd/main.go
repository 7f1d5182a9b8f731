// Command enginecmd is the embedded engine's process for tests, so that they need not build the whole product.
package main

import (
	"os"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

func main() {
	os.Exit(embedded.Main(os.Args[1:], os.Stderr))
}
