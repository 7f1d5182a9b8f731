package main

import (
	"strings"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// maxSaid is how many issues of one file are said; recording.json lists more.
const maxSaid = 5

// addParties puts what the register's import found into the report on the recording's
// files. An issue that cost a line counts as bad; others cost a field.
func (r *replayer) addParties(read *bundle.Report) {
	for i := range read.Files {
		f := &read.Files[i]
		if !strings.HasPrefix(f.File, "parties.jsonl") {
			continue
		}
		f.Rows = r.parties
		for _, issue := range r.register {
			if issue.Fatal {
				f.Bad++
			}
			if len(f.Issues) < bundle.MaxListed {
				f.Issues = append(f.Issues, bundle.Issue{File: f.File, Line: issue.Line, Column: issue.Field, Problem: issue.Text})
			}
		}
	}
}

// warnOf says what of a recording could not be used.
func (r *replayer) warnOf(read bundle.Report) {
	for _, f := range read.Files {
		for i, issue := range f.Issues {
			if i == maxSaid {
				r.warn("        ... and %d more in %s: see recording.json", max(f.Bad, len(f.Issues))-maxSaid, f.File)
				break
			}
			r.warn("        %s", issue)
		}
	}
	if len(read.Unlisted) > 0 {
		r.warn("        nodes that nodes.csv lacks, used all the same: %s", few(read.Unlisted))
	}
	if len(read.UnknownKeys) > 0 {
		r.warn("        keys of manifest.json that this version does not know: %s", few(read.UnknownKeys))
	}
}

// few names the first ones of a list.
func few(names []string) string {
	if len(names) > maxSaid {
		return strings.Join(names[:maxSaid], " ") + " and more"
	}
	return strings.Join(names, " ")
}
