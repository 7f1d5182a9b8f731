// Package wire is the telemetry contract between agent and collector: record kinds,
// their fields and units, the protobuf batch, its versions, subjects and message ids.
//
// It owns how a record looks in bytes. It must not know NATS connections, ClickHouse
// or files. Decoders check untrusted bytes before reading them, and never panic.
package wire
