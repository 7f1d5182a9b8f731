package workload

import "github.com/flopwatch/flopwatch/detector/run"

// Classes of activities, as BUNDLE.md names them, and Unknown (open set).
const (
	Training       = "training"
	Finetuning     = "finetuning"
	Inference      = "inference"
	BatchInference = "batch_inference"
	RL             = "rl"
	HPC            = "hpc"
	Rendering      = "rendering"
	Mining         = "mining"
	BurnIn         = "burn_in"
	Notebook       = "notebook"
	Idle           = "idle"
	Unknown        = "unknown"
)

// IsRun reports whether an activity of the class is a training run in the sense of the
// thresholds: training, finetuning or rl.
func IsRun(class string) bool { return class == Training || class == Finetuning || class == RL }

// ClassOf is the verdict as run.Join takes it: an episode that is more likely a training
// of any kind than not, or young and undecided with training ahead of every other class,
// may continue one.
func ClassOf(v Verdict) run.ClassOf {
	p := v.Probs[Training] + v.Probs[Finetuning] + v.Probs[RL]
	return run.ClassOf{Class: v.Class, Prob: v.Prob, Reasons: v.Reasons, Training: IsRun(v.Class) || (v.Class == Unknown && p > 0.25)}
}

// Verdict is a class with its probability and the reasons that carried it.
type Verdict struct {
	Class   string
	Prob    float64            // calibrated probability of Class
	Probs   map[string]float64 // over all classes, sums to 1
	Reasons []string
	// Share is what part of the GPUs' tensor work the named class did, where others share
	// them: low, best, high; all 1 where nobody does.
	Share [3]float64
	// Missed are features that would have told classes apart and were not measured.
	Missed []string
}
