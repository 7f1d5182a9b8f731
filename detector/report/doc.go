// Package report turns verdicts into findings, and findings into report folders.
//
// It owns: the limbs of BUNDLE.md and the rules by which each is met, the identity of a
// finding (profile, limb, subject), the moment from which evidence sufficed, due dates,
// what is asked where less than a finding is known, the catalogue of red flags
// (data/flags.toml), the words in which all of it is told, and the report folder. Evaluate
// is pure: no clock, no I/O, no logger; the same input gives the same findings.
// WriteFolder alone touches the disk.
//
// It must not know SQL, subjects, names of customers (party ids only; a report with
// names needs an officer's key), nor any threshold: profiles are handed in as data.
//
// What it never says: that the provider knew, or that a filing is due under a rule that
// is not in force or does not bind the operator. Then a date "would be" due, as a
// hypothesis, and the report is marked "internal, not for filing". A finding says that a
// compute condition is met, and lists the conditions that nobody assessed.
//
// Findings and questions. A condition is a finding where it is at least as likely as not: on a
// run, P(training) x P(more than the limit) reaches 0.5, so that an uncertain class asks for more
// FLOPs than the limit. Each run has its own findings; what runs would have done as one is said beside them, and asked.
// Below that, and from the profile's inquire_probability on (0.05), a condition is an Inquiry: a
// record with the probability, the bounds and what would settle it, never silence. So are orders
// that reach a limit at a utilisation that one training in ten exceeds, orders of one party that
// reach it together, runs of one party that would exceed together a limit that counts each alone,
// runs that may be one (restarts, islands, pools, parts), clusters of which network, part or
// precision is not stated, and telemetry that is odd and proves nothing.
//
// Where questions live. BUNDLE.md scores a finding of state inquire like one that is met, and a
// wrong one costs precision: a condition of probability 0.1 is wrong nine times in ten. So the
// seven limbs hold what is likely (state inquire there: below the profile's coverage, an assumed
// peak, parts of one run that are not joined), and questions stand beside them under limbs of their
// own, Inquiry and Indicator: in the same table of the store, kept, revised and withdrawn alike, in
// inquiries.jsonl of a replay, on the run's line, and under `flopwatch findings --limb
// inquiry,indicator`. They have no due date and no report folder.
//
// Operating point. At 0.05 a case on which nothing is said hides a condition that is met at most
// once in twenty, as far as the probabilities are right; of inquiries about a probability p the
// share 1-p leads to nothing. How many there are is measured, not promised: see the README's table.
//
// Totals. Best values add up; what is unknown about all runs alike (counters, data type,
// recomputation, part) adds up in full, what is each run's own (gaps, shares) by squares. A
// grouping's bounds are the mixture, by its probability, of the total and of its largest run.
//
// Telemetry. Silence, contradictions and cross-checks of work against watts are findings on who
// held the GPUs; severity is medium where the host's meter, or its ports, show that work went on.
// Counters and meters that differ by a factor, a part that is not the inventory's, one dark GPU
// without a meter, and GPUs that were never seen on a host of unstated vantage are questions.
//
// Time of knowledge. known_at_ms is event time: when the estimate crossed, when an
// order's version became visible, when an allocation started. It is never before the
// start of the data nor after the judged moment, and once given it stays. Input.PrevAtMs
// bounds it from below for verdicts on runs: what an earlier judgement did not yet say
// was not known then.
//
// Cluster limb. Nodes count whose own network exceeds the limb's speed, in one site unless the
// rule says otherwise; what is linked through a slower network does not join. That two such nodes
// of a site are linked at all is the inventory's word: topology is not in the data.
//
// Crash: a report folder is written beside its place (.tmp), synced, and renamed; an
// earlier version stands aside (.old) for the moment of the exchange and is put back by
// the next attempt if that moment was the last. A half written .tmp is written anew.
package report
