// Package report turns verdicts into findings, and findings into report folders.
//
// It owns: the limbs of BUNDLE.md and the rules by which each is met, the identity of a
// finding (profile, limb, subject), the moment from which evidence sufficed, due dates,
// the words in which a finding is told, and the report folder. Evaluate is pure: no
// clock, no I/O, no logger; the same input gives the same findings. WriteFolder alone
// touches the disk.
//
// It must not know SQL, subjects, names of customers (party ids only; a report with
// names needs an officer's key), nor any threshold: profiles are handed in as data.
//
// What it never says: that the provider knew, or that a filing is due under a rule that
// is not in force or does not bind the operator. Then a date "would be" due, as a
// hypothesis, and the report is marked "internal, not for filing". A finding says that a
// compute condition is met, and lists the conditions that nobody assessed.
//
// Time of knowledge. known_at_ms is event time: when the estimate crossed, when an
// order's version became visible, when an allocation started. It is never before the
// start of the data nor after the judged moment, and once given it stays. Input.PrevAtMs
// bounds it from below for verdicts on runs: what an earlier judgement did not yet say
// was not known then.
//
// Crash: a report folder is written beside its place (.tmp), synced, and renamed; an
// earlier version stands aside (.old) for the moment of the exchange and is put back by
// the next attempt if that moment was the last. A half written .tmp is written anew.
package report
