package up

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
)

// written stands at the head of every generated file.
const written = "# Written by flopwatch up at each start: changes are lost.\n\n"

// table is a table of TOML.
type table map[string]any

// writeConfig writes a generated configuration.
func writeConfig(path string, values any) error {
	var b bytes.Buffer
	b.WriteString(written)
	if err := toml.NewEncoder(&b).Encode(values); err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return write(path, b.Bytes())
}

// maxBehind is how far behind the present telemetry may lie, as for any collector.
const maxBehind = 90 * 24 * time.Hour

// configs writes the configuration of every daemon among the children.
func (t *tree) configs(manifest *bundle.Manifest) error {
	nats := table{"url": t.state.NATSURL, "token_file": t.l.Token()}
	storeAt := table{"url": t.state.ClickHouseURL, "user": t.state.ClickHouseUser}
	logs := table{"format": "text", "level": "info"}
	metrics := func(port int) table { return table{"listen": address(port)} }

	collectorNATS := table{"partitions": 1}
	maps.Copy(collectorNATS, nats)
	err := writeConfig(t.l.Config(collectorName), table{
		"store_password_file": t.l.ClickHousePassword(), "linger": collectorLinger.String(),
		"max_behind": (maxBehind + t.o.Ahead).String(), // what of a recording comes at once lies before its beginning
		"nats":       collectorNATS, "store": storeAt, "metrics": metrics(t.o.Ports.Collector), "log": logs,
	})
	if err != nil {
		return err
	}

	detector := table{
		"cluster": t.state.Source.Cluster, "wait": t.o.Wait.String(), "reports_dir": t.l.Reports(), "store_password_file": t.l.ClickHousePassword(),
		"nats": nats, "store": storeAt, "metrics": metrics(t.o.Ports.Detector), "log": logs,
	}
	if err = t.rules(manifest, detector); err != nil {
		return err
	}
	if err = writeConfig(t.l.Config(detectorName), detector); err != nil {
		return err
	}
	if !t.state.Source.live() {
		return nil
	}

	gpu := table{"enabled": t.state.Source.Kind != HostOnly, "child": filepath.Join(t.bin, "flopwatch-nvml")}
	if t.state.Source.Kind == FakeGPUs {
		gpu["library"] = t.l.FakeLibrary()
	} else if t.o.Library != "" {
		gpu["library"] = t.o.Library
	}
	return writeConfig(t.l.Config(agentName), table{
		"cluster": t.state.Source.Cluster, "node": t.state.Node, "data_dir": t.l.Agent(), "site_key_file": t.l.Key("site"),
		"seal_every": agentSeal.String(), "gpu": gpu, "nats": nats, "metrics": metrics(t.o.Ports.Agent), "log": logs,
	})
}

// On one machine it is better to see rows soon than to save a few bytes: how long they wait in
// the agent, and for company in the collector.
const (
	agentSeal       = 5 * time.Second
	collectorLinger = 500 * time.Millisecond
)

// rules puts what a manifest states, and the profiles that were named or that it brought, into
// the detector's configuration; without any the built-in rules hold.
func (t *tree) rules(m *bundle.Manifest, detector table) error {
	if m != nil && len(m.SpecialJurisdictions) > 0 {
		detector["special_jurisdictions"] = m.SpecialJurisdictions
	}
	path := filepath.Join(t.l.Run(), profilesFile)
	if t.o.Profiles == nil && (m == nil || m.Profiles == nil) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of an earlier start
			return fmt.Errorf("remove profiles: %w", err)
		}
		return nil
	}
	profiles := slices.Clone(t.o.Profiles)
	if profiles == nil {
		var err error
		if profiles, err = Profiles(m); err != nil {
			return err
		}
	}
	for i := range profiles { // the reader adds what stands on every profile
		profiles[i].Note = strings.TrimPrefix(strings.TrimPrefix(profiles[i].Note, threshold.Note), "; ")
	}
	if err := writeConfig(path, struct {
		Profile []threshold.Profile `toml:"profile"`
	}{profiles}); err != nil {
		return err
	}
	detector["profiles_file"] = path
	return nil
}

// Profiles are a manifest's own profiles, or the built-in ones.
func Profiles(m *bundle.Manifest) ([]threshold.Profile, error) {
	if m.Profiles == nil {
		return threshold.Builtin()
	}
	limits := make([]threshold.CustomLimit, len(m.Profiles))
	for i, p := range m.Profiles {
		limits[i] = threshold.CustomLimit{Name: p.Name, LimitFLOPs: p.LimitFLOPs}
		if p.Cluster != nil {
			limits[i].Cluster = &threshold.Cluster{Gbps: p.Cluster.Gbps, OpsPerS: p.Cluster.OpsPerS}
		}
	}
	return threshold.FromManifest(limits)
}

// ProfilesOf reads a file of profiles that a person wrote.
func ProfilesOf(file string) ([]threshold.Profile, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read profiles: %w", err)
	}
	return threshold.Parse(file, text)
}

// ReadProfiles reads the profiles that were named, or that a recording brought with it; nil: the built-in ones hold.
func ReadProfiles(l Layout) ([]threshold.Profile, error) {
	path := filepath.Join(l.Run(), profilesFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read profiles: %w", err)
	}
	return threshold.Parse(profilesFile, text)
}

const profilesFile = "profiles.toml"
