// Package threshold holds threshold profiles as dated data and compares estimates with
// them.
//
// It owns what a rule says in numbers: limits, what stands against them (the counting policy),
// how what is to come is counted, cluster limbs, deadlines, whom it binds, since when, and how sure
// we are of each figure. Those are data files (data/*.toml; REGULATION.md's table 2, row by row),
// never constants in code; the code only reads, checks and compares. Numbers that a profile leaves
// out are BUNDLE.md's: 0.3 of the peak, 1.3 times the limit, 15 minutes, one hour. A profile is a
// design input and no legal advice, and every one says so.
//
// Counting is a closed set of words, each of which package report acts on; a word that is not known
// is refused with file, line, profile and field. deploy/config/profiles.toml explains every field.
//
// It must not know customers, telemetry, SQL or where a custom profile was kept. It is
// pure: no clock, no I/O beyond its embedded data; whether a rule is in force is asked
// for a moment of event time. Callers own what they get; nothing is shared.
//
// A text must never say that a filing is due unless Profile.StatusAt says that the rule was
// in force at the moment and the rule binds the operator; otherwise it "would be" due.
// Package report holds to that.
package threshold
