package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/supervise"
)

// State is what a tree tells others: where it serves and how it is. It is written to
// run/state.json on every change, and answered as details of /healthz.
type State struct {
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Build     string    `json:"build"`
	Data      string    `json:"data"`
	Source    Source    `json:"source"`
	Node      string    `json:"node,omitempty"` // of this host; empty: a recording's
	// WaitSeconds is how far behind what arrives the detector judges.
	WaitSeconds float64 `json:"wait_seconds"`

	HealthURL              string `json:"health_url"`
	NATSURL                string `json:"nats_url"`
	NATSTokenFile          string `json:"nats_token_file"`
	ClickHouseURL          string `json:"clickhouse_url"`
	ClickHouseUser         string `json:"clickhouse_user"`
	ClickHousePasswordFile string `json:"clickhouse_password_file"`
	AgentURL               string `json:"agent_url"`
	CollectorURL           string `json:"collector_url"`
	DetectorURL            string `json:"detector_url"`

	State      daemon.State       `json:"state"`
	Reasons    []string           `json:"reasons"`
	Stopped    bool               `json:"stopped"`
	Components []supervise.Status `json:"components"`
}

// Wait is how far behind what arrives the detector judges.
func (s State) Wait() time.Duration { return time.Duration(s.WaitSeconds * float64(time.Second)) }

// ErrNeverUp says that no tree has run on a data directory.
var ErrNeverUp = errors.New("flopwatch up has never run on it")

// ReadState reads what the tree of a data directory told last. Whether it still runs is
// supervise.Holder's to say.
func ReadState(l Layout) (State, error) {
	var s State
	text, err := os.ReadFile(l.State())
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("data directory %s: %w", l.Root, ErrNeverUp)
	}
	if err != nil {
		return s, fmt.Errorf("read state: %w", err)
	}
	if err = json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read state %s: %w", l.State(), err)
	}
	return s, nil
}

// health sums up how the components are.
func health(components []supervise.Status, now time.Time) (daemon.State, []string) {
	state, reasons := daemon.OK, []string{}
	worse := func(s daemon.State) {
		if state != daemon.Failing {
			state = s
		}
	}
	for _, c := range components {
		switch c.State {
		case supervise.Ready:
			// A child that dies now and then is not well, though it is there whenever one looks.
			if c.Restarts > 0 && now.Sub(c.Since) < restartsTold {
				worse(daemon.Degraded)
				reasons = append(reasons, fmt.Sprintf("%s: %s", c.Name, restarted(c)))
			}
			continue
		case supervise.Degraded:
			worse(daemon.Degraded)
		default:
			state = daemon.Failing
		}
		if c.State == supervise.Starting && c.Restarts > 0 {
			reasons = append(reasons, fmt.Sprintf("%s: %s", c.Name, restarted(c)))
		}
		for _, r := range c.Reasons {
			reasons = append(reasons, c.Name+": "+r)
		}
		if len(c.Reasons) == 0 {
			reasons = append(reasons, c.Name+" is "+string(c.State))
		}
	}
	return state, reasons
}

// restartsTold is how long after a restart it is a reason not to be well.
const restartsTold = 5 * time.Minute

func restarted(c supervise.Status) string {
	if c.Restarts == 1 {
		return "restarted once, after: " + c.LastExit
	}
	return fmt.Sprintf("restarted %d times, last: %s", c.Restarts, c.LastExit)
}

func marshal(s State) ([]byte, error) {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return append(text, '\n'), nil
}
