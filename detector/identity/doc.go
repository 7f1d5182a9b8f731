// Package identity resolves accounts to parties and beneficial owners; it is the only
// room that knows a name.
//
// It owns: the strict import of the provider's register (one JSON object a line), the
// sealing of each version of a party, and the graph by which an account is traced to
// who stands behind it. What leaves the room in clear is named by Clear: party id, kind,
// status, countries, ownership edges and account ids. Names, addresses, e-mail
// addresses, telephone numbers, means of payment and access addresses leave it only
// inside an age file that compliance officers, or the screening process, can open.
//
// Countries of access are meant to be derived before sealing. This room has no table
// from network addresses to countries, so Clear.AccessCountries is filled only where
// the caller hands in such a table (Locate); otherwise it is absent, which means
// "not derived" and never "none".
//
// It must not know telemetry, runs, thresholds, SQL or files. Import and Graph are pure;
// Seal draws randomness from the operating system, through age and for the salt.
//
// Crash: nothing is kept between calls. Shredding a party is dropping the wraps of its
// envelope (Sealed.Shred); body and commitment may stay, they say nothing without them.
package identity
