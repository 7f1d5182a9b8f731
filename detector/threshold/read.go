package threshold

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

//go:embed data/*.toml
var builtin embed.FS

// Builtin returns the profiles that the product ships, sorted by name.
func Builtin() ([]Profile, error) {
	entries, err := builtin.ReadDir("data")
	if err != nil {
		return nil, fmt.Errorf("list built-in profiles: %w", err)
	}
	var out []Profile
	for _, e := range entries {
		text, readErr := builtin.ReadFile(path.Join("data", e.Name()))
		if readErr != nil {
			return nil, fmt.Errorf("read profile %s: %w", e.Name(), readErr)
		}
		ps, parseErr := Parse(e.Name(), text)
		if parseErr != nil {
			return nil, parseErr
		}
		out = append(out, ps...)
	}
	return sorted(out)
}

// Parse reads a file of profiles (TOML, tables [[profile]]). It refuses unknown keys, names that
// come twice and impossible values, naming file, line, profile and field. The file's name serves
// messages alone. Profiles come sorted by name.
func Parse(file string, text []byte) ([]Profile, error) {
	var doc struct {
		Profile []Profile `toml:"profile"`
	}
	meta, err := toml.Decode(string(text), &doc)
	if err != nil {
		return nil, fmt.Errorf("read profiles %s: %w", file, err) // it names the line
	}
	at := locate(text)
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		var errs []error
		for _, key := range unknown {
			field := strings.TrimPrefix(key.String(), "profile.")
			errs = append(errs, fmt.Errorf("read profiles %s: %sunknown field %s", file, at.word(at.anywhere(field)), field))
		}
		return nil, errors.Join(errs...)
	}
	if len(doc.Profile) == 0 {
		return nil, fmt.Errorf("read profiles %s: no [[profile]]", file)
	}
	var errs []error
	names := map[string]bool{}
	for i := range doc.Profile {
		p := &doc.Profile[i]
		p.fill()
		p.Note = strings.TrimSuffix(Note+"; "+p.Note, "; ")
		for _, problem := range each(p.Validate()) {
			line := at.start(i)
			if f, ok := errors.AsType[*FieldError](problem); ok {
				line = at.field(i, f.Field)
			}
			errs = append(errs, fmt.Errorf("read profiles %s: %sprofile %d (%s): %w", file, at.word(line), i+1, p.Name, problem))
		}
		if names[p.Name] {
			errs = append(errs, fmt.Errorf("read profiles %s: %sprofile %d (%s): field name: another profile has it", file, at.word(at.field(i, "name")), i+1, p.Name))
		}
		names[p.Name] = true
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return sorted(doc.Profile)
}

// each takes joined errors apart.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// places are the lines of a file's profiles and keys, from 1.
type places struct {
	starts []int            // of the profiles
	keys   []map[string]int // by profile; in starts' order
}

// locate finds keys as people write them: one a line, in tables with a header of their own. What it
// does not find, such as a key of an inline table, has the line of what holds it.
func locate(text []byte) places {
	var at places
	table := ""
	n := 0
	for text := range strings.Lines(string(text)) {
		n++
		line := strings.TrimSpace(text)
		switch {
		case strings.HasPrefix(line, "["):
			table = strings.ReplaceAll(strings.Trim(strings.SplitN(line, "#", 2)[0], "[] \t"), " ", "")
			if table == "profile" {
				at.starts, at.keys = append(at.starts, n), append(at.keys, map[string]int{})
			}
			if len(at.keys) > 0 {
				at.put(strings.TrimPrefix(table, "profile."), n)
			}
		case line != "" && line[0] != '#' && len(at.keys) > 0:
			key, _, isKey := strings.Cut(line, "=")
			if !isKey {
				continue
			}
			key = strings.TrimSpace(key)
			if inside := strings.TrimPrefix(table, "profile."); inside != "profile" {
				key = inside + "." + key
			}
			at.put(key, n)
		}
	}
	return at
}

// put keeps the first line of a key.
func (at *places) put(key string, line int) {
	keys := at.keys[len(at.keys)-1]
	if _, ok := keys[key]; !ok {
		keys[key] = line
	}
}

func (at *places) start(i int) int {
	if i >= len(at.starts) {
		return 0
	}
	return at.starts[i]
}

// field is the line of a profile's key, else of the table that it belongs into, else of the profile.
func (at *places) field(i int, key string) int {
	if i >= len(at.keys) {
		return 0
	}
	for ; key != ""; key = key[:max(strings.LastIndexByte(key, '.'), 0)] {
		if line, ok := at.keys[i][key]; ok {
			return line
		}
	}
	return at.start(i)
}

// anywhere is the first line on which a key stands.
func (at *places) anywhere(key string) int {
	for i := range at.keys {
		if line, ok := at.keys[i][key]; ok {
			return line
		}
	}
	return 0
}

func (at *places) word(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf("line %d: ", line)
}

// CustomLimit is a profile as a recording's manifest states it.
type CustomLimit struct {
	Name       string
	LimitFLOPs float64
	Cluster    *Cluster // Gbps and OpsPerS alone
}

// FromManifest makes profiles of what a recording states. They take the place of the
// built-in ones, bind nobody, and borrow the 15 days of the U.S. proposal as a
// hypothesis.
func FromManifest(limits []CustomLimit) ([]Profile, error) {
	out := make([]Profile, 0, len(limits))
	for i, c := range limits {
		p := Profile{
			Name: c.Name, Title: c.Name, Version: "1", Status: Custom, ObligatedParty: AnyParty, Watch: true,
			LimitFLOPs: c.LimitFLOPs, Comparison: "greater", ForeignOnly: true,
			Counting:     Counting{Basis: Model, Precision: All, FineTuning: Counted, SyntheticData: Silent, Sparsity: Dense, Aggregation: ByRun},
			DeadlineDays: 15, DeadlineEvent: "evidence sufficed", MinCoverageFrac: 0.5,
			ConditionsNotAssessed: []string{"capability", "modality"}, Source: "the recording's manifest", SourceLabel: "custom", Note: Note,
		}
		if c.Cluster != nil {
			p.Cluster = &Cluster{Gbps: c.Cluster.Gbps, OpsPerS: c.Cluster.OpsPerS, Colocated: true, Precision: Bits16, Sparsity: Dense, Joined: Alone}
		}
		p.fill()
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("read profile %d of the manifest (%s): %w", i+1, c.Name, err)
		}
		out = append(out, p)
	}
	return sorted(out)
}

func sorted(ps []Profile) ([]Profile, error) {
	slices.SortFunc(ps, func(a, b Profile) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(ps); i++ {
		if ps[i].Name == ps[i-1].Name {
			return nil, fmt.Errorf("two profiles are called %s", ps[i].Name)
		}
	}
	return ps, nil
}

// Digest names a set of profiles: hex SHA-256 of their canonical text, in the order
// given.
func Digest(ps []Profile) (string, error) {
	text, err := json.Marshal(ps)
	if err != nil {
		return "", fmt.Errorf("encode profiles: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
