package identity

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxLineBytes bounds one line of the register; a longer one is refused.
const maxLineBytes = 1 << 20

// Issue is something wrong in the register. It names line and field and never the
// value, which may be a person's. A fatal issue means that the line was not used.
type Issue struct {
	Line  int // from 1
	Field string
	Text  string
	Fatal bool
}

// Error renders the issue: "parties.jsonl line 3 field country: not two letters".
func (i Issue) Error() string {
	if i.Field == "" {
		return fmt.Sprintf("parties.jsonl line %d: %s", i.Line, i.Text)
	}
	return fmt.Sprintf("parties.jsonl line %d field %s: %s", i.Line, i.Field, i.Text)
}

// Import reads the register, one JSON object a line. A line that cannot be used is left
// out with a fatal issue; a field that cannot be used is left absent with an issue. A
// party id that comes again replaces the earlier version, with an issue unless both are
// equal. Parties come in the order of their first lines.
func Import(r io.Reader) ([]Party, []Issue) {
	var (
		parties []Party
		issues  []Issue
		at      = map[string]int{}
		raw     = map[string]string{}
		br      = bufio.NewReaderSize(r, 64<<10)
	)
	for line := 1; ; line++ {
		text, tooLong, err := readLine(br)
		if err != nil && !errors.Is(err, io.EOF) {
			return parties, append(issues, Issue{Line: line, Text: "cannot be read: " + err.Error(), Fatal: true})
		}
		end := err != nil
		if line == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
		}
		text = bytes.TrimSpace(text)
		switch {
		case tooLong:
			issues = append(issues, Issue{Line: line, Text: fmt.Sprintf("longer than %d bytes", maxLineBytes), Fatal: true})
		case len(text) > 0:
			d := decoder{line: line}
			p, ok := d.party(text)
			issues = append(issues, d.issues...)
			if !ok {
				break
			}
			if k, seen := at[p.ID]; seen {
				if raw[p.ID] != string(text) {
					issues = append(issues, Issue{Line: line, Field: "id", Text: "comes again with other content; this later version is used"})
				}
				parties[k] = p
			} else {
				at[p.ID] = len(parties)
				parties = append(parties, p)
			}
			raw[p.ID] = string(text)
		}
		if end {
			return parties, issues
		}
	}
}

// readLine returns the next line without its end. Of a line that is too long nothing is kept.
func readLine(br *bufio.Reader) (line []byte, tooLong bool, err error) {
	for {
		var part []byte
		part, err = br.ReadSlice('\n')
		if !tooLong && len(line)+len(part) > maxLineBytes {
			tooLong, line = true, nil
		}
		if !tooLong {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return line, tooLong, fmt.Errorf("read line: %w", err)
		}
		return line, tooLong, nil
	}
}

// decoder collects the issues of one line.
type decoder struct {
	line   int
	issues []Issue
}

func (d *decoder) warn(field, text string) {
	d.issues = append(d.issues, Issue{Line: d.line, Field: field, Text: text})
}

func (d *decoder) fatal(field, text string) {
	d.issues = append(d.issues, Issue{Line: d.line, Field: field, Text: text, Fatal: true})
}

var partyFields = []string{
	"id", "kind", "name", "us_person", "country", "headquarters_country", "addresses", "emails", "phones",
	"payment", "access_ips", "beneficial_owners", "parent", "reseller", "accounts", "verification",
}

func (d *decoder) party(text []byte) (Party, bool) {
	if !utf8.Valid(text) {
		d.fatal("", "not valid UTF-8")
		return Party{}, false
	}
	fields, ok := d.object("", text)
	if !ok {
		d.issues[len(d.issues)-1].Fatal = true
		return Party{}, false
	}
	d.unknown("", fields, partyFields)
	p := Party{
		ID: d.str("id", fields["id"]), Kind: d.str("kind", fields["kind"]), Name: d.str("name", fields["name"]),
		USPerson: d.boolean("us_person", fields["us_person"]),
		Country:  d.country("country", fields["country"]), HeadquartersCountry: d.country("headquarters_country", fields["headquarters_country"]),
		Addresses: d.strs("addresses", fields["addresses"]), Emails: d.strs("emails", fields["emails"]), Phones: d.strs("phones", fields["phones"]),
		Payment: d.payments(fields["payment"]), AccessIPs: d.accesses(fields["access_ips"]), BeneficialOwners: d.owners(fields["beneficial_owners"]),
		Parent: d.strPtr("parent", fields["parent"]), Reseller: d.strPtr("reseller", fields["reseller"]),
		Accounts: d.strs("accounts", fields["accounts"]), Verification: d.verification(fields["verification"]),
	}
	if p.ID == "" {
		d.fatal("id", "empty or missing; the line is not used")
		return Party{}, false
	}
	if p.Kind != Individual && p.Kind != Entity {
		d.warn("kind", "neither individual nor entity")
	}
	return p, true
}

// object splits a JSON object, refusing duplicate keys: with two values for one field
// nobody can say which was meant.
func (d *decoder) object(field string, text []byte) (map[string]json.RawMessage, bool) {
	dec := json.NewDecoder(bytes.NewReader(text))
	tok, err := dec.Token()
	if err != nil || tok != json.Delim('{') {
		d.warn(field, "not a JSON object")
		return nil, false
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		tok, err = dec.Token()
		key, isKey := tok.(string)
		if err != nil || !isKey {
			d.warn(field, "not valid JSON")
			return nil, false
		}
		var value json.RawMessage
		if err = dec.Decode(&value); err != nil {
			d.warn(join(field, key), "not valid JSON")
			return nil, false
		}
		if _, twice := out[key]; twice {
			d.warn(join(field, key), "stated twice")
			return nil, false
		}
		out[key] = value
	}
	if _, err = dec.Token(); err != nil {
		d.warn(field, "not valid JSON")
		return nil, false
	}
	if _, err = dec.Token(); !errors.Is(err, io.EOF) {
		d.warn(field, "something follows the object")
		return nil, false
	}
	return out, true
}

func (d *decoder) unknown(field string, fields map[string]json.RawMessage, known []string) {
	var odd []string
	for key := range fields {
		if !slices.Contains(known, key) {
			odd = append(odd, key)
		}
	}
	slices.Sort(odd)
	for _, key := range odd {
		d.warn(join(field, printable(key)), "not a field of the format; ignored")
	}
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || string(v) == "null" }

func (d *decoder) str(field string, v json.RawMessage) string {
	var s string
	if !isNull(v) && json.Unmarshal(v, &s) != nil {
		d.warn(field, "not a string; left absent")
	}
	return s
}

func (d *decoder) strPtr(field string, v json.RawMessage) *string {
	if s := d.str(field, v); s != "" {
		return &s
	}
	return nil
}

func (d *decoder) boolean(field string, v json.RawMessage) *bool {
	if isNull(v) {
		return nil
	}
	var b bool
	if json.Unmarshal(v, &b) != nil {
		d.warn(field, "neither true, false nor null; status not known")
		return nil
	}
	return &b
}

func (d *decoder) millis(field string, v json.RawMessage) *int64 {
	if isNull(v) {
		return nil
	}
	var n int64
	if json.Unmarshal(v, &n) != nil {
		d.warn(field, "not whole milliseconds; left absent")
		return nil
	}
	return &n
}

func (d *decoder) country(field string, v json.RawMessage) string {
	s := strings.ToUpper(strings.TrimSpace(d.str(field, v)))
	if s == "" {
		return ""
	}
	if len(s) != 2 || s[0] < 'A' || s[0] > 'Z' || s[1] < 'A' || s[1] > 'Z' {
		d.warn(field, "not a two-letter country code; left absent")
		return ""
	}
	return s
}

func (d *decoder) list(field string, v json.RawMessage) []json.RawMessage {
	if isNull(v) {
		return nil
	}
	var out []json.RawMessage
	if json.Unmarshal(v, &out) != nil {
		d.warn(field, "not a list; left absent")
		return nil
	}
	return out
}

func (d *decoder) strs(field string, v json.RawMessage) []string {
	var out []string
	for i, item := range d.list(field, v) {
		if s := d.str(index(field, i), item); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// objects reads a list of objects with known keys; what is no object is left out.
func (d *decoder) objects(field string, v json.RawMessage, known []string, read func(at string, f map[string]json.RawMessage)) {
	for i, item := range d.list(field, v) {
		at := index(field, i)
		f, ok := d.object(at, item)
		if !ok {
			continue
		}
		d.unknown(at, f, known)
		read(at, f)
	}
}

func (d *decoder) payments(v json.RawMessage) []Payment {
	var out []Payment
	d.objects("payment", v, []string{"means", "source", "reference"}, func(at string, f map[string]json.RawMessage) {
		out = append(out, Payment{d.str(at+".means", f["means"]), d.str(at+".source", f["source"]), d.str(at+".reference", f["reference"])})
	})
	return out
}

func (d *decoder) accesses(v json.RawMessage) []Access {
	var out []Access
	d.objects("access_ips", v, []string{"ip", "at_ms"}, func(at string, f map[string]json.RawMessage) {
		a := Access{IP: d.str(at+".ip", f["ip"])}
		if ms := d.millis(at+".at_ms", f["at_ms"]); ms != nil {
			a.AtMs = *ms
		}
		out = append(out, a)
	})
	return out
}

func (d *decoder) owners(v json.RawMessage) []Owner {
	var out []Owner
	d.objects("beneficial_owners", v, []string{"party", "share"}, func(at string, f map[string]json.RawMessage) {
		o := Owner{Party: d.str(at+".party", f["party"])}
		if o.Party == "" {
			d.warn(at+".party", "empty or missing; the owner is not used")
			return
		}
		if !isNull(f["share"]) {
			var share float64
			if json.Unmarshal(f["share"], &share) != nil || math.IsNaN(share) || share < 0 || share > 1 {
				d.warn(at+".share", "not a number from 0 to 1; share not known")
			} else {
				o.Share = &share
			}
		}
		out = append(out, o)
	})
	return out
}

func (d *decoder) verification(v json.RawMessage) Verification {
	out := Verification{Status: Unverified}
	if isNull(v) {
		d.warn("verification", "missing; counts as unverified")
		return out
	}
	f, ok := d.object("verification", v)
	if !ok {
		return out
	}
	d.unknown("verification", f, []string{"status", "method", "at_ms", "note"})
	switch s := d.str("verification.status", f["status"]); s {
	case Verified, Unverified, Refused:
		out.Status = s
	default:
		d.warn("verification.status", "neither verified, unverified nor refused; counts as unverified")
	}
	out.Method = d.strPtr("verification.method", f["method"])
	out.AtMs = d.millis("verification.at_ms", f["at_ms"])
	out.Note = d.str("verification.note", f["note"])
	return out
}

func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

func join(field, key string) string {
	if field == "" {
		return printable(key)
	}
	return field + "." + printable(key)
}

// printable keeps a foreign key fit for a log line: a key is a field's name, but nobody
// promised that.
func printable(key string) string {
	if len(key) > 40 {
		return "(a long name)"
	}
	for i := range len(key) {
		c := key[i]
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return "(an odd name)"
		}
	}
	return key
}

func sortedUnique(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
