package workload

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

// Verdict is a class with its probability and the reasons that carried it.
type Verdict struct {
	Class   string
	Prob    float64            // calibrated probability of Class
	Probs   map[string]float64 // over all classes, sums to 1
	Reasons []string
}
