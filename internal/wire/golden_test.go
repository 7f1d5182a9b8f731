package wire

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// update writes the goldens of the current version anew. Goldens of versions that have
// shipped are never rewritten.
var update = flag.Bool("update", false, "write golden files")

// TestGolden: every frame ever written still decodes, and the encoder's protobuf (zstd's
// bytes are its library's affair) is what the golden frame holds.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "v1", "sample.frame")
	if *update {
		if err := os.WriteFile(path, encode(t, sample(t)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	frame, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	if err := decoder(t).Decode(frame, &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&b, sample(t)) {
		t.Errorf("golden decodes to %+v", b)
	}
	if !bytes.Equal(inflate(t, frame), inflate(t, encode(t, sample(t)))) {
		t.Error("the encoder's message differs from the golden's")
	}
}

// TestSchema holds the schema to its own promises.
func TestSchema(t *testing.T) {
	for k, fields := range Schema {
		if strings.HasPrefix(k.String(), "kind(") {
			t.Errorf("kind %d has no name", k)
		}
		ids, names := map[uint8]bool{}, map[string]bool{}
		keys := 0
		for _, f := range fields {
			if f.ID == 0 || ids[f.ID] || names[f.Name] || (f.Type != Int && f.Type != Str) {
				t.Errorf("%s: bad field %+v", k, f)
			}
			ids[f.ID], names[f.Name] = true, true
			if f.Key {
				keys++
			}
		}
		if keys == 0 {
			t.Errorf("%s has no key", k)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample(f)))
	f.Add([]byte{frameMagic, Version, 0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, msg []byte) {
		var b Batch
		if err := decoder(t).Decode(msg, &b); err != nil {
			return
		}
		if _, err := AppendBatch(nil, &b); err != nil {
			t.Errorf("decodes, but encodes to %v", err)
		}
	})
}

// FuzzMessage fuzzes behind the compression, where FuzzDecode's checksum bars the way.
func FuzzMessage(f *testing.F) {
	f.Add(inflate(f, encode(f, sample(f))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := decoder(t)
		var b, again Batch
		if err := d.batch(raw, &b); err != nil {
			return
		}
		b.Tables, b.Gaps = d.tables, d.gaps
		b.Version = Version
		if err := b.check(); err != nil {
			return
		}
		frame, err := AppendBatch(nil, &b)
		if err != nil {
			return // what the sender wrote fits, what it means need not
		}
		if err := decoder(t).Decode(frame, &again); err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if len(again.Tables) != len(b.Tables) || again.Sequence != b.Sequence {
			t.Errorf("got %+v, want %+v", again, b)
		}
	})
}

func FuzzCommitMark(f *testing.F) {
	m := CommitMark{Cluster: "c", Node: "n", Spool: [16]byte{1}, Epoch: 3}
	m.Add(1, 4)
	m.Add(7, 8)
	f.Add(AppendCommitMark(nil, &m))
	f.Fuzz(func(t *testing.T, msg []byte) {
		m, err := DecodeCommitMark(msg)
		if err != nil {
			return
		}
		again, err := DecodeCommitMark(AppendCommitMark(nil, &m))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("got %+v, %v, want %+v", again, err, m)
		}
	})
}

func TestCommitMark(t *testing.T) {
	var m CommitMark
	for _, r := range [][2]uint64{{3, 3}, {5, 6}, {4, 4}, {9, 9}, {1, 1}, {0, 4}, {9, 8}} {
		m.Add(r[0], r[1])
	}
	if m.Through != 1 || !reflect.DeepEqual(m.Ranges, []SequenceRange{{3, 6}, {9, 9}}) {
		t.Errorf("got %+v", m)
	}
	m.Add(2, 2)
	if m.Through != 6 || !reflect.DeepEqual(m.Ranges, []SequenceRange{{9, 9}}) || !m.Has(9) || m.Has(7) || !m.Has(1) {
		t.Errorf("got %+v", m)
	}
	m.Cluster, m.Node, m.Spool = "c", "n", [16]byte{5}
	got, err := DecodeCommitMark(AppendCommitMark(nil, &m))
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range uint64(200) {
		m.Add(20+3*i, 20+3*i)
	}
	if len(m.Ranges) != maxMarkRanges || !m.Has(20+3*199) || m.Has(9) {
		t.Errorf("%d ranges", len(m.Ranges))
	}
	for _, bad := range []CommitMark{{}, {Cluster: "c"}, {Cluster: "c", Spool: [16]byte{1}, Through: 3, Ranges: []SequenceRange{{4, 5}}},
		{Cluster: "c", Spool: [16]byte{1}, Ranges: []SequenceRange{{5, 4}}}} {
		if _, err := DecodeCommitMark(AppendCommitMark(nil, &bad)); err == nil {
			t.Errorf("%+v decodes", bad)
		}
	}
}

func TestSubjects(t *testing.T) {
	for name, want := range map[string]string{
		"node-1":                             "node-1",
		"":                                   "h_e3b0c44298fc1c149afbf4c8996fb924",
		"a.b":                                "",
		"h_e3b0c44298fc1c149afbf4c8996fb924": "",
		strings.Repeat("x", 65):              "",
	} {
		got := Token(name)
		if want == "" {
			if got == name || len(got) != 34 {
				t.Errorf("Token(%q) = %q", name, got)
			}
		} else if got != want {
			t.Errorf("Token(%q) = %q, want %q", name, got, want)
		}
	}
	if got := NodeSubject("c1", "node-1"); got != "flopwatch.v1.3.c1.node-1" {
		t.Errorf("NodeSubject: %s", got)
	}
	if got := ProviderSubject("c1", KindOrder); got != "flopwatch.v1.provider.c1.orders" {
		t.Errorf("ProviderSubject: %s", got)
	}
	if CommitSubject("c", "") == CommitSubject("c", "provider~") {
		t.Error("a node can pass for the provider")
	}
	seen := map[string]bool{}
	for p := range 4 {
		for _, s := range StreamSubjects(p, 4) {
			seen[s] = true
		}
	}
	if len(seen) != Partitions || Partition("node-1", Partitions)%4 != Partition("node-1", 4) {
		t.Errorf("4 streams cover %d of %d partitions", len(seen), Partitions)
	}
	if got := MessageID("a b", [16]byte{0xab}, 7); got != Token("a b")+"/ab000000000000000000000000000000/7" {
		t.Errorf("MessageID: %s", got)
	}
}

func TestBuilder(t *testing.T) {
	b := NewBuilder(KindGPU, SourceNVML)
	b.Begin()
	b.SetInt(1, 5)
	if err := b.End(); err == nil || err.Error() != "invalid batch: gpu field gpu_uuid row 0: key field is not set" {
		t.Errorf("no key: %v", err)
	}
	for i, ts := range []int64{30, 10, 20} {
		b.Begin()
		b.SetInt(1, ts)
		b.SetStr(2, "u")
		b.SetInt(3, 0)
		if i == 1 {
			b.SetInt(12, 99)
		}
		end(t, b)
	}
	b.Begin()
	b.SetInt(1, 1)
	b.SetInt(99, 1)
	if err := b.End(); err == nil {
		t.Error("an unknown field is taken")
	}
	tab := b.Build()
	if c := tab.Column(1); tab.Rows != 3 || !reflect.DeepEqual(c.Int, []int64{10, 20, 30}) {
		t.Errorf("got %+v", tab)
	}
	if c := tab.Column(12); !c.Has(0) || c.Has(1) || c.Has(2) || c.Int[0] != 99 {
		t.Errorf("got %+v", c)
	}
	b.Reset()
	b.Begin()
	b.SetInt(1, 1)
	b.SetStr(2, "v")
	b.SetInt(3, 1)
	end(t, b)
	if tab := b.Build(); tab.Rows != 1 || tab.Column(12) != nil || tab.Column(2).Str(0) != "v" || len(tab.Column(2).Dict) != 1 {
		t.Errorf("after Reset: %+v", tab)
	}
	if err := NewBuilder(99, 0).End(); err == nil {
		t.Error("a kind nobody knows is taken")
	}
}
