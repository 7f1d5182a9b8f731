// Package identity resolves accounts to parties and beneficial owners; the only room that knows a name.
package identity
