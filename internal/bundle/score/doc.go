// Package score compares what a replay wrote (runs.jsonl, findings.jsonl) with a
// recording's labels. It is the only code beside tests that opens truth.json.
//
// It must not know: how an answer came about. It imports nothing of the product but
// internal/bundle, so that a figure cannot be made by the code that it judges.
//
// Rules, where BUNDLE.md leaves a choice:
//
//   - Time is cut to the recording's period. Gaps under 15 minutes inside one activity on
//     one GPU are filled, in labels and answers alike, unless another one is there.
//   - Grace: the two minutes around every boundary of a label on a GPU are not judged by
//     confusion, recall, false positives and pairs. Matching uses all time.
//   - Confusion: where several activities share a GPU, each label is paired with the run
//     that is matched to it, else with one of its class, else with any that is left. What
//     has no partner is "none".
//   - Headline classes: training and finetuning are one. Macro-F1 is the plain mean over
//     the classes that the labels hold; "unknown" and "none" are wrong answers, but no
//     classes. A run of class idle where nothing is labelled is not judged.
//   - Binary training: training, finetuning and rl against everything else. The false
//     positive rate's denominator is the judged time labelled otherwise, and unlabelled
//     time that was called training.
//   - Pairs: over the judged GPU-time of labelled training, finetuning and rl; two pieces
//     of time belong together if one run (of any class) holds both. Time without a run
//     belongs to nothing. Shared time takes the run that is matched best.
//   - FLOPs: an activity is compared with the run that overlaps it most, if the activity
//     is also the one that the run overlaps most and the family of the class agrees
//     (training, finetuning, rl; inference, batch_inference; each other kind alone). What
//     has no such run is counted as unmatched and enters no mean, but does enter "of all".
//     A truth of null is left out, a truth of 0 is right if best is 0; notebook and idle
//     are left out.
//   - Findings: the key is (profile, limb, subject). Expectations of one key are one.
//     Those not required, marginal or undecidable pass either way and enter no figure. A
//     second line of one key, and a line that names no subject of its limb, are wrong.
//
// Deterministic, no goroutines, nothing is written.
package score
