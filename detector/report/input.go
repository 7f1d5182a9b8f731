package report

import (
	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// States of a rule.
const (
	InForce  = "in_force"
	Proposed = "proposed"
	Custom   = "custom"
)

// ClusterLimb is the condition on a cluster: both are exceeded, not merely reached.
type ClusterLimb struct {
	Gbps    float64 // per-node back-end network
	OpsPerS float64 // peaks, added up
	// Anywhere: machines of several sites count together; else those of one site alone.
	Anywhere bool
	// Precision and Sparsity of the peaks, as threshold has them; empty: dense, of 16 bit.
	Precision, Sparsity string
}

// Profile is what the limbs need of a threshold profile.
type Profile struct {
	Name        string
	LimitFLOP   float64 // crossed by what exceeds it
	Cluster     *ClusterLimb
	JoinCluster bool // limit and cluster only count together (EO 14110's condition for IaaS); no limb "cluster" of its own then
	// Status is what the rule is by its text: InForce, Proposed, Custom, or anything else
	// (revoked, ...). StatusAt says what it was at a moment of event time; nil: always Status.
	Status   string
	StatusAt func(ms int64) string
	// BindsOperator: the obligated party is this operator. Only a rule in force that
	// binds makes something due.
	BindsOperator         bool
	DeadlineMs            int64 // from known_at; 0: the profile sets no deadline
	MinCoverageFrac       float64
	ConditionsNotAssessed []string
	// Counting says what stands against the limit; its zero: model FLOPs, each run alone.
	Counting  threshold.Counting
	Originals []threshold.Original // models that trainings are made of, as far as somebody said so
	// Projection is how what is to come is counted; its zero: the defaults.
	Projection threshold.Projection
	// Inquire is the probability of a condition from which on it is asked about; 0: the default.
	Inquire float64
}

// RunState is an activity as judged now, training or not.
type RunState struct {
	Run run.Run
	Est flops.Estimate
	// TrainingProb is the probability that it is a training of any kind (training,
	// finetuning or rl); 0: not stated, the run's class stands.
	TrainingProb float64
	// Contradictions are signals of the run's GPUs that cannot both be right.
	Contradictions []flops.Contradiction
}

// Input is all that Evaluate looks at. It changes nothing in it.
type Input struct {
	AtMs    int64 // the judged moment: nothing later is visible
	StartMs int64 // start of the data
	// PrevAtMs is the moment judged before this one, 0: none. The findings of that
	// judgement are Prev.
	PrevAtMs int64
	Ev       *feature.Evidence
	Runs     []RunState // all activities known now; a finding on a run that is not among them is withdrawn
	Resolve  func(account string) identity.Resolution
	// Campaigns are runs that may add up to one.
	Campaigns []run.Campaign
	Profiles  []Profile
	// Peak16 gives the dense 16-bit peak of a GPU model in FLOP/s, false: not known; the
	// peak is then one to assume, 0: none.
	Peak16 func(gpuModel string) (flopPerS float64, ok bool)
	// Peak8 gives the best dense 8-bit peak likewise; nil: nobody can say.
	Peak8 func(gpuModel string) (flopPerS float64, ok bool)
	// Estimate gives what an activity's GPUs computed if it was of another class than it is judged
	// to be; nil: nobody can say.
	Estimate             func(r *run.Run, class string) flops.Estimate
	SpecialJurisdictions []string
	Prev                 map[string]Finding // by finding id
}
