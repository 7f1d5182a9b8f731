// Package threshold holds threshold profiles as dated data and compares estimates with
// them.
//
// It owns what a rule says in numbers: limits, cluster limbs, deadlines, whom it binds,
// since when, and how sure we are of each figure. Those are data files (data/*.toml),
// never constants in code; the code only reads, checks and compares. It is a design
// input and no legal advice, and every profile says so.
//
// It must not know customers, telemetry, SQL or where a custom profile was kept. It is
// pure: no clock, no I/O beyond its embedded data; whether a rule is in force is asked
// for a moment of event time. Callers own what they get; nothing is shared.
//
// A text must never say that a filing is due unless Profile.StatusAt says that the rule was
// in force at the moment and the rule binds the operator; otherwise it "would be due".
// Package report holds to that.
package threshold
