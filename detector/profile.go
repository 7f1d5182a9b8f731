package detector

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

const dayMs = 24 * 3_600_000

// reportProfile is what the limbs need of a profile.
func reportProfile(p threshold.Profile) report.Profile {
	out := report.Profile{
		Name: p.Name, LimitFLOP: p.LimitFLOPs, Status: p.Status, StatusAt: p.StatusAt, BindsOperator: p.BindsOperator,
		DeadlineMs: int64(p.DeadlineDays * dayMs), MinCoverageFrac: p.MinCoverageFrac, ConditionsNotAssessed: p.ConditionsNotAssessed,
		Counting: p.Counting, Originals: p.Originals, Projection: p.Projection, Inquire: p.InquireProbability,
	}
	if p.Cluster != nil {
		out.Cluster = &report.ClusterLimb{
			Gbps: p.Cluster.Gbps, OpsPerS: p.Cluster.OpsPerS, Anywhere: !p.Cluster.Colocated, Precision: p.Cluster.Precision, Sparsity: p.Cluster.Sparsity,
		}
		out.JoinCluster = p.Cluster.Joined == threshold.And
	}
	return out
}

// watched are the profiles that are evaluated.
func watched(all []threshold.Profile) []threshold.Profile {
	var out []threshold.Profile
	for _, p := range all {
		if p.Watch {
			out = append(out, p)
		}
	}
	return out
}

// profileText is what a report says of the profile, nil for findings without one.
func (d *Detector) profileText(name *string) *report.ProfileText {
	if name == nil {
		return nil
	}
	for _, p := range d.cfg.Profiles {
		if p.Name == *name {
			return &report.ProfileText{
				Profile: reportProfile(p), Title: p.Title, Version: p.Version, ObligatedParty: p.ObligatedParty,
				LegalSource: p.Source + " [" + p.SourceLabel + "]", CountingRule: countingRule(p),
			}
		}
	}
	return nil
}

func countingRule(p threshold.Profile) string {
	c := p.Counting
	text := fmt.Sprintf("basis %s; precision %s; fine-tuning %s; synthetic data %s; sparsity %s; added up by %s", c.Basis, c.Precision, c.FineTuning, c.SyntheticData, c.Sparsity, c.Aggregation)
	if c.WindowDays > 0 {
		text += fmt.Sprintf(" over %g days", c.WindowDays)
	}
	if c.Note != "" {
		text += "; " + c.Note
	}
	return text
}

// ConfigDigest names everything that can change a verdict: code version, profiles,
// jurisdictions and timing. Hex SHA-256.
func ConfigDigest(profiles []threshold.Profile, specialJurisdictions []string) (string, error) {
	return Config{Profiles: profiles, SpecialJurisdictions: specialJurisdictions}.Digest(0, 0)
}

// Digest is ConfigDigest of a configuration that is followed live with a horizon and so many
// cells; 0, 0: the defaults.
func (c Config) Digest(horizonMs int64, maxCells int) (string, error) {
	if c.WaitMs == 0 {
		c.WaitMs = WaitMs
	}
	if c.StepMs == 0 {
		c.StepMs = StepMs
	}
	if horizonMs == HorizonMs {
		horizonMs = 0
	}
	if maxCells == MaxCells {
		maxCells = 0
	}
	text, err := json.Marshal(struct {
		Version        string
		Profiles       []threshold.Profile
		Jurisdictions  []string
		StepMs, WaitMs int64
		HorizonMs      int64 `json:",omitempty"`
		MaxCells       int   `json:",omitempty"`
	}{Version, c.Profiles, c.SpecialJurisdictions, c.StepMs, c.WaitMs, horizonMs, maxCells})
	if err != nil {
		return "", fmt.Errorf("digest configuration: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
