package workload

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"sync"
)

// Bases of a verdict, the poorest first: which of the instruments that tell classes apart
// were there. Each has a calibration of its own.
const (
	basisWatts   = "watts"   // watts of hosts, and ports
	basisNVML    = "nvml"    // load, memory, watts and links of GPUs
	basisPartial = "partial" // tensor pipes without memory traffic or FP32
	basisPipes   = "pipes"   // tensor pipes, memory traffic and FP32
	basisComm    = "comm"    // collective calls, whatever else
)

var bases = [...]string{basisWatts, basisNVML, basisPartial, basisPipes, basisComm}

//go:embed calibration.json
var calibrationJSON []byte

// Calibration says how sums of log-odds become probabilities. `make calibration` makes it of
// drawn recordings. Rules themselves are not fitted: they come from how hardware is used, and
// rules fitted to one generator were worse on every other.
type Calibration struct {
	About    string           `json:"about"`
	License  string           `json:"license"`
	Command  string           `json:"command"`
	Families []string         `json:"families"`
	Draws    int              `json:"draws"` // recordings a family
	Seed     uint64           `json:"seed"`
	Bases    map[string]Sharp `json:"bases"`
}

// Sharp is the calibration of a basis: the sum of log-odds is multiplied by Slope, and
// Offset is added to the log-odds of classes that are training runs.
type Sharp struct {
	Slope    float64 `json:"slope"`
	Offset   float64 `json:"offset"`
	GPUHours float64 `json:"gpu_hours"` // it was made from
	Before   float64 `json:"loss_before"`
	After    float64 `json:"loss_after"` // mean log loss of recordings of families that were left out
}

// calibration is the built-in one.
var calibration = sync.OnceValues(func() (*Calibration, error) { return parseCalibration(calibrationJSON) })

// Calibrated is the calibration that verdicts rest on, for those who compare it with what came true.
func Calibrated() (*Calibration, error) { return calibration() }

func parseCalibration(raw []byte) (*Calibration, error) {
	var c Calibration
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("read the classes' calibration: %w", err)
	}
	for _, b := range bases {
		s, ok := c.Bases[b]
		if !ok {
			return nil, fmt.Errorf("the classes' calibration lacks basis %s", b)
		}
		if !(s.Slope > 0.1 && s.Slope < 3) || !(math.Abs(s.Offset) < 3) {
			return nil, fmt.Errorf("the classes' calibration of %s: slope %v, offset %v; want a slope of 0.1 to 3 and an offset within 3", b, s.Slope, s.Offset)
		}
	}
	return &c, nil
}

// built is the built-in calibration, or a cautious one where it cannot be read, which a test
// rules out.
func built() *Calibration {
	c, err := calibration()
	if err != nil {
		return &Calibration{Bases: map[string]Sharp{}}
	}
	return c
}

// sharpOf is the calibration of a basis.
func (c *Calibration) sharpOf(basis string) Sharp {
	if s, ok := c.Bases[basis]; ok {
		return s
	}
	return Sharp{Slope: 0.75}
}
