package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"reflect"
	"slices"
)

// Format is the format that this package reads.
const Format = "flopwatch-bundle/1"

const (
	manifestName = "manifest.json"
	maxManifest  = 4 << 20
)

// Manifest is manifest.json.
type Manifest struct {
	Format      string `json:"format"`
	Cluster     string `json:"cluster"`
	StartMs     int64  `json:"start_ms"` // Unix milliseconds
	EndMs       int64  `json:"end_ms"`
	Description string `json:"description"`
	Source      string `json:"source"`
	// Profiles take the place of the built-in threshold profiles; nil: the bundle has
	// none, the built-in ones hold.
	Profiles             []Profile `json:"profiles"`
	SpecialJurisdictions []string  `json:"special_jurisdictions"`
	UnknownKeys          []string  `json:"-"` // sorted
}

// Profile is a scaled-down threshold profile of a bundle.
type Profile struct {
	Name       string        `json:"name"`
	LimitFLOPs float64       `json:"limit_flops"` // model basis; crossed by a run that exceeds it; 0: none, with a cluster alone
	Cluster    *ClusterLimit `json:"cluster"`     // nil: the profile has no cluster limb
}

// ClusterLimit is met by GPUs that one customer holds in one site on nodes of more than
// Gbps whose theoretical peaks add up to more than OpsPerS.
type ClusterLimit struct {
	Gbps    float64 `json:"gbps"`
	OpsPerS float64 `json:"ops_per_s"`
}

func readManifest(fsys fs.FS) (Manifest, error) {
	fail := func(problem string, cause error) (Manifest, error) {
		return Manifest{}, &Error{File: manifestName, Problem: problem, Cause: cause}
	}
	info, err := fs.Stat(fsys, manifestName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("missing: not a recording", nil)
	case err != nil:
		return fail("cannot be opened", err)
	case !info.Mode().IsRegular(): // asked before opening: a named pipe would hang there
		return fail("cannot be read", errIrregular)
	}
	f, err := fsys.Open(manifestName)
	if err != nil {
		return fail("cannot be opened", err)
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return fail("cannot be read", err)
	}
	if len(data) > maxManifest {
		return fail(fmt.Sprintf("larger than %d bytes", maxManifest), nil)
	}
	return parseManifest(data)
}

func parseManifest(data []byte) (Manifest, error) {
	data = bytes.TrimPrefix(data, bom)
	fail := func(at int64, column, problem string, cause error) (Manifest, error) {
		line := 0
		if at >= 0 {
			line = 1 + bytes.Count(data[:min(int(at), len(data))], []byte("\n"))
		}
		return Manifest{}, &Error{File: manifestName, Line: line, Column: column, Problem: problem, Cause: cause}
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		at, column := jsonPlace(data, err)
		if typed, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fail(at, column, fmt.Sprintf("a JSON %s, wanted %s", typed.Value, jsonName(typed.Type.Kind())), nil)
		}
		return fail(at, column, "bad JSON", err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return fail(0, "", "bad JSON", err)
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(manifestKeys, k) {
			m.UnknownKeys = append(m.UnknownKeys, k)
		}
	}
	at := func(key string) int64 { return int64(bytes.Index(data, []byte(`"`+key+`"`))) }
	switch {
	case m.Format != Format:
		return fail(at("format"), "format", fmt.Sprintf("wrong format %q, wanted %q", truncate(m.Format), Format), nil)
	case m.Cluster == "":
		return fail(at("cluster"), "cluster", "missing or empty", nil)
	case !plausible(m.StartMs):
		return fail(at("start_ms"), "start_ms", fmt.Sprintf("%d is missing or no Unix time in milliseconds", m.StartMs), nil)
	case !plausible(m.EndMs):
		return fail(at("end_ms"), "end_ms", fmt.Sprintf("%d is missing or no Unix time in milliseconds", m.EndMs), nil)
	case m.EndMs < m.StartMs:
		return fail(at("end_ms"), "end_ms", fmt.Sprintf("the recording ends (%d) before it starts (%d)", m.EndMs, m.StartMs), nil)
	}
	seen := map[string]bool{}
	for i, p := range m.Profiles {
		column := fmt.Sprintf("profiles[%d]", i)
		switch {
		case p.Name == "":
			return fail(at("profiles"), column+".name", "missing or empty", nil)
		case seen[p.Name]:
			return fail(at("profiles"), column+".name", fmt.Sprintf("%q is named twice", truncate(p.Name)), nil)
		case !(p.LimitFLOPs > 0) && (p.LimitFLOPs != 0 || p.Cluster == nil):
			return fail(at("profiles"), column+".limit_flops", fmt.Sprintf("%g is not a number above 0", p.LimitFLOPs), nil)
		case p.Cluster != nil && (p.Cluster.Gbps < 0 || p.Cluster.OpsPerS < 0):
			return fail(at("profiles"), column+".cluster", "negative", nil)
		}
		seen[p.Name] = true
	}
	return m, nil
}

var manifestKeys = []string{"format", "cluster", "start_ms", "end_ms", "description", "source", "profiles", "special_jurisdictions"}

// jsonName is what JSON calls a kind of Go value.
func jsonName(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int64:
		return "an integer"
	default:
		return "a number"
	}
}

// jsonPlace finds the byte and the field of a decoding error.
func jsonPlace(data []byte, err error) (at int64, column string) {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		start := bytes.LastIndexByte(data[:min(int(syntax.Offset), len(data))], '\n') + 1
		return syntax.Offset, fmt.Sprintf("byte %d", max(syntax.Offset-int64(start), 1))
	}
	if typed, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return typed.Offset, typed.Field
	}
	return int64(len(data)), ""
}

// earliestMs and latestMs bound a plausible Unix time in milliseconds (the years 2000 to
// 2200), so that seconds or microseconds are noticed rather than read as another era.
const (
	earliestMs = 946_684_800_000
	latestMs   = 7_258_118_400_000
)

func plausible(ms int64) bool { return ms >= earliestMs && ms < latestMs }
