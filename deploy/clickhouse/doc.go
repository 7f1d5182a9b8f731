// Package clickhouse is what is shipped for the store: roles.sql, which a ClickHouse server and the embedded engine take alike, the schema's reference, and
// how to run either (README.md, EMBEDDED.md).
//
// It must not know anything: it is text. It owns no goroutine and no file.
package clickhouse

import _ "embed" // roles.sql

// Roles is roles.sql.
//
//go:embed roles.sql
var Roles string
