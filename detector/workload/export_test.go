package workload

import (
	"fmt"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Facts shows what the rules see of an episode.
func Facts(ev *feature.Evidence, ep *run.Episode) string {
	return fmt.Sprintf("%+v", newFacts(ev, ep))
}
