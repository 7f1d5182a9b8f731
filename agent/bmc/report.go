package bmc

import (
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
	var v struct {
		MetricProperty text
		MetricValue    text
		Timestamp      text
		Oem            struct {
			Nvidia struct {
				MetricValueStale text
			}
		}
	}
	if err := d.Decode(&v); err != nil {
		if _, wrong := errors.AsType[*json.UnmarshalTypeError](err); wrong { // a value of another shape: the stream itself is whole
			r.unread++
			return nil
		}
		return err
	}
	value, ok := number(string(v.MetricValue))
	probe := value
	if !ok {
		probe = 0 // whether it is wanted does not depend on it
	}
	if take(string(v.MetricProperty), probe, discard) == nil {
		return nil
	}
	switch {
	case v.Oem.Nvidia.MetricValueStale == "true":
		r.stale++
	case !ok:
		r.unread++
	case len(r.metrics) < maxMetrics:
		r.metrics = append(r.metrics, metric{string(v.MetricProperty), value, moment(string(v.Timestamp))})
	}
	return nil
}

func discard(name string) *component { return newComponent(name, "") }

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
