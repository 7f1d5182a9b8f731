package score

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// Result is the score of one recording.
type Result struct {
	Bundle     string     `json:"bundle"`
	Classes    Classes    `json:"classes"`
	Assembly   Assembly   `json:"assembly"`
	FLOPs      []FLOPs    `json:"flops"`
	Thresholds Thresholds `json:"thresholds"`
	Findings   []Findings `json:"findings"`
	Crossings  []Crossing `json:"crossings"`
	// Crossing sums them up.
	Crossing    CrossingSummary `json:"crossing"`
	Attribution []Attribution   `json:"attribution"`
	// Reliability is how often what was said with a probability was right.
	Reliability Reliability `json:"reliability"`
	Remarks     []Remark    `json:"remarks"`
	// Estimates are the activities behind FLOPs, one by one, for tables over many recordings.
	Estimates []Estimate `json:"-"`
	// Runs says which activity each answered run was matched to ("" for none).
	Runs []RunMatch `json:"runs"`
	// Observed is what calibration looks at.
	Observed Observations `json:"-"`
}

// RunMatch is one answered run under the activity that it overlaps most.
type RunMatch struct {
	Run      string  `json:"run"`
	Class    string  `json:"class"`
	Activity string  `json:"activity"`
	Kind     string  `json:"kind"`
	Hours    float64 `json:"gpu_hours"`        // of the run, within the period
	Shared   float64 `json:"shared_gpu_hours"` // with the activity
}

// Score compares the answers in answersDir with the labels of the recording in
// bundleDir. The errors name the file, and the line where there is one.
func Score(bundleDir, answersDir string) (Result, error) {
	b, err := bundle.Open(bundleDir)
	if err != nil {
		return Result{}, fmt.Errorf("open recording: %w", err)
	}
	t, err := readTruth(bundleDir)
	if err != nil {
		return Result{}, err
	}
	runs, err := readLines[answeredRun](answersDir, "runs.jsonl")
	if err != nil {
		return Result{}, err
	}
	findings, err := readLines[answeredFinding](answersDir, "findings.jsonl")
	if err != nil {
		return Result{}, err
	}
	res := compare(b.Name(), b.Manifest, t, runs, findings)
	switch asked, err := readLines[answeredInquiry](answersDir, "inquiries.jsonl"); {
	case errors.Is(err, fs.ErrNotExist): // other detectors ask nothing
	case err != nil:
		return Result{}, err
	default:
		o := &res.Observed
		o.AskedHours = o.GPUHours
		for _, q := range asked {
			if q.Limb == "inquiry" {
				o.Asked++
			}
		}
	}
	return res, nil
}

func compare(name string, m bundle.Manifest, t truth, runs []answeredRun, findings []answeredFinding) Result {
	labels, answers := timelines(t.Activities, runs, m.StartMs, m.EndMs)
	shared := make(overlap, len(t.Activities))
	for l := range shared {
		shared[l] = make([]float64, len(runs))
	}
	hours := make([]float64, len(runs))
	walk(labels, answers, func(p piece) {
		for _, r := range p.runs {
			hours[r] += p.hours
			for _, l := range p.labels {
				shared[l][r] += p.hours
			}
		}
	})
	ofRun, ofLabel := shared.match(len(runs))

	res := Result{Bundle: name}
	res.Classes, res.Assembly = scoreTime(t.Activities, runs, labels, answers, shared, ofRun)
	res.FLOPs, res.Estimates = scoreFLOPs(t.Activities, runs, ofRun, ofLabel)
	res.Thresholds = scoreThresholds(m.Profiles, t.Activities, runs, ofRun, ofLabel)
	activityOf := map[string]string{}
	for i, r := range runs {
		m := RunMatch{Run: r.Run, Class: r.Class, Hours: hours[i]}
		if l := ofRun[i]; l >= 0 {
			m.Activity, m.Kind, m.Shared = t.Activities[l].ID, t.Activities[l].Kind, shared[l][i]
		}
		activityOf[r.Run] = m.Activity
		res.Runs = append(res.Runs, m)
	}
	res.Findings, res.Remarks = scoreFindings(t.Expect.Findings, findings, func(run string) string {
		if a := activityOf[run]; a != "" {
			return a
		}
		return "unmatched " + run
	})
	res.Crossings = scoreCrossings(t, runs, ofLabel)
	res.Crossing = sumCrossings(res.Crossings)
	res.Attribution = scoreAttribution(t.Activities, runs, ofRun, ofLabel)
	res.Observed = observe(m, t, runs, labels, answers, ofRun, ofLabel, &res)
	res.Reliability = Reliability{Class: bins(res.Observed.Class), Training: bins(res.Observed.Training), Limits: bins(res.Observed.Limits)}
	return res
}

func timelines(acts []activity, runs []answeredRun, startMs, endMs int64) (labels, answers timeline) {
	labels, answers = timeline{}, timeline{}
	for l, a := range acts {
		for _, m := range a.Members {
			for _, g := range m.GPUs {
				labels.add(gpuKey{m.Node, g}, span{m.StartMs, m.EndMs, l}, startMs, endMs)
			}
		}
	}
	for r, a := range runs {
		for _, m := range a.Members {
			to := endMs
			if m.EndMs != nil {
				to = *m.EndMs
			}
			answers.add(gpuKey{m.Node, m.GPU}, span{m.StartMs, to, r}, startMs, endMs)
		}
	}
	labels.settle()
	answers.settle()
	return labels, answers
}

// scoreTime walks the judged time once for classes and assembly.
func scoreTime(acts []activity, runs []answeredRun, labels, answers timeline, shared overlap, ofRun []int) (Classes, Assembly) {
	classes := Classes{Confusion: Confusion{}}
	labelled := make([]float64, len(acts))
	judged := make(overlap, len(acts))
	for l := range judged {
		judged[l] = make([]float64, len(runs))
	}
	walk(labels, answers, func(p piece) {
		if !p.judged {
			return
		}
		pair(p, acts, runs, ofRun, func(l, r int) {
			kind, class := none, none
			if l >= 0 {
				kind = acts[l].Kind
			}
			if r >= 0 {
				class = runs[r].Class
			}
			classes.Confusion.add(kind, class, p.hours)
		})
		for _, l := range p.labels {
			if !isTraining(acts[l].Kind) {
				continue
			}
			labelled[l] += p.hours
			best := -1
			for _, r := range p.runs {
				if best < 0 || shared[l][r] > shared[l][best] {
					best = r
				}
			}
			if best >= 0 {
				judged[l][best] += p.hours
			}
		}
	})
	classes.finish()
	a := assemble(labelled, judged, len(runs))
	for _, act := range acts {
		if isTraining(act.Kind) {
			a.Truth++
		}
	}
	for _, r := range runs {
		if isTraining(r.Class) {
			a.Answered++
		}
	}
	return classes, a
}
