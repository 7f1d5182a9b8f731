package main

import "github.com/spf13/cobra"

func newSizeCommand() *cobra.Command { return &cobra.Command{Use: "size", Hidden: true} }
