//go:build ignore

// Command mkstub builds the NVML stub into a directory: go run agent/gpu/nvmlstub/mkstub.go DIR.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: mkstub DIR")
		os.Exit(2)
	}
	lib, err := nvmlstub.Build(context.Background(), os.Args[1], nvmlstub.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkstub:", err)
		os.Exit(1)
	}
	fmt.Println(lib)
}
