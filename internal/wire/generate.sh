#!/bin/sh
# Regenerates wirepb from batch.proto. Needs protoc (Debian: protobuf-compiler); the Go
# plugin is built from the module that go.mod pins.
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
mkdir -p wirepb
PATH="$bin:$PATH" protoc --proto_path=. --go_out=wirepb --go_opt=paths=source_relative batch.proto
