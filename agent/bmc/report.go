package bmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// metric is one value of a report.
type metric struct {
	property string
	value    float64
	at       time.Time // zero: the report's own time holds
}

// report is what was read of a MetricReport.
type report struct {
	at      time.Time // when it says that it was made; zero: it does not
	metrics []metric  // those that are wanted
	stale   int       // values that the controller itself calls stale
	unread  int       // values that are wanted and are no number

	raw     json.RawMessage // of the value at hand
	scratch component
}

// marks are parts of the names of all that take wants. Most values of a real board have none:
// they are looked at no further.
var marks = [][]byte{[]byte("Percent"), []byte("Gbps"), []byte("_0\""), []byte("MHz"), []byte("Watts"), []byte("Joules"), []byte("kWh"), []byte("Celsius")}

func promising(raw []byte) bool {
	for _, m := range marks {
		if bytes.Contains(raw, m) {
			return true
		}
	}
	return false
}

// newest is the latest time that the report speaks of.
func (r *report) newest() time.Time {
	at := r.at
	for i := range r.metrics {
		if r.metrics[i].at.After(at) {
			at = r.metrics[i].at
		}
	}
	return at
}

// text is a JSON string, or any other scalar as it is written: controllers differ.
type text string

// UnmarshalJSON takes any value.
func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = text(s)
		return nil
	}
	*t = text(b)
	return nil
}

// maxMetrics bounds what is kept of a report; an eight-GPU board has some hundred.
const maxMetrics = 16384

// readReport reads a MetricReport as it comes, value by value: gofish would hold it three
// times over.
func readReport(r io.Reader) (rep report, err error) {
	err = object(json.NewDecoder(r), func(d *json.Decoder, key string) error {
		switch key {
		case "Timestamp":
			var s text
			if derr := d.Decode(&s); derr != nil {
				return derr
			}
			rep.at = moment(string(s))
			return nil
		case "MetricValues":
			return array(d, rep.one)
		}
		return skip(d)
	})
	if err != nil {
		return rep, fmt.Errorf("read report: %w", err)
	}
	return rep, nil
}

func (r *report) one(d *json.Decoder) error {
	if err := d.Decode(&r.raw); err != nil {
		return err
	}
	if !promising(r.raw) {
		return nil
	}
	var property, value, at, stale []byte
	object := members(r.raw, func(key, v []byte) {
		switch string(key) {
		case "MetricProperty":
			property = v
		case "MetricValue":
			value = v
		case "Timestamp":
			at = v
		case "Oem":
			members(v, func(key, v []byte) {
				if string(key) != "Nvidia" {
					return
				}
				members(v, func(key, v []byte) {
					if string(key) == "MetricValueStale" {
						stale = v
					}
				})
			})
		}
	})
	if !object || len(property) == 0 || property[0] != '"' {
		return nil // of another shape: the stream itself is whole
	}
	name := plain(property)
	number, ok := number(plain(value))
	probe := number
	if !ok {
		probe = 0 // whether it is wanted does not depend on it
	}
	r.scratch.reset()
	if !r.scratch.wants(name, probe) {
		return nil
	}
	switch {
	case plain(stale) == "true":
		r.stale++
	case !ok:
		r.unread++
	case len(r.metrics) < maxMetrics:
		r.metrics = append(r.metrics, metric{name, number, moment(plain(at))})
	}
	return nil
}

// members walks over the members of an object whose JSON is known to be well-formed; false:
// it is no object. Values are as they are written.
func members(b []byte, each func(key, value []byte)) bool {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	for i = space(b, i+1); i < len(b) && b[i] == '"'; {
		end := past(b, i)
		key := b[i+1 : max(i+1, end-1)]
		if i = space(b, end); i < len(b) && b[i] == ':' {
			i = space(b, i+1)
		}
		end = past(b, i)
		each(key, b[i:end])
		if i = space(b, end); i < len(b) && b[i] == ',' {
			i = space(b, i+1)
		}
	}
	return true
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// past is where the value that begins at i ends.
func past(b []byte, i int) int {
	depth, quoted := 0, false
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return i + 1
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case depth == 0 && (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			return i
		}
	}
	return len(b)
}

// plain is a value's text: of a string what it says, of all else how it is written.
func plain(b []byte) string {
	if len(b) < 2 || b[0] != '"' {
		return string(b)
	}
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b[1 : len(b)-1])
	}
	var s string
	if json.Unmarshal(b, &s) != nil {
		return ""
	}
	return s
}

// moment reads a time; zero: it is none, or the controller's clock was never set.
func moment(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(s))
	if err != nil || t.Unix() <= 0 {
		return time.Time{}
	}
	return t
}

var errShape = errors.New("not the JSON that belongs there")

// object walks over the members of an object; each must consume the value.
func object(d *json.Decoder, each func(d *json.Decoder, key string) error) error {
	if t, err := d.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errShape
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return errShape
		}
		if err = each(d, key); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// array walks over an array.
func array(d *json.Decoder, each func(d *json.Decoder) error) error {
	t, err := d.Token()
	switch {
	case err != nil:
		return err
	case t == nil: // null
		return nil
	case t != json.Delim('['):
		return errShape
	}
	for d.More() {
		if err = each(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// skip passes a value over without keeping it.
func skip(d *json.Decoder) error {
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
