package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// signer is a host that signs, as its agent does.
type signer struct {
	s    *site
	node string
	key  ed25519.PrivateKey
	seq  uint64
	prev [32]byte
}

func (s *site) signer(node string, key byte) *signer {
	return &signer{s: s, node: node, key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{key}, 32))}
}

func (h *signer) public() string { return hex.EncodeToString(h.key[32:]) }

// seal makes the next frame. change may change the batch before it is signed.
func (h *signer) seal(change func(*wire.Batch)) []byte {
	h.s.t.Helper()
	h.seq++
	now := time.Now().UnixMilli()
	rows := wire.NewBuilder(wire.KindHost, wire.SourceProcfs)
	rows.Begin()
	rows.SetInt(1, now+int64(h.seq))
	rows.SetInt(11, int64(h.seq))
	if err := rows.End(); err != nil {
		h.s.t.Fatal(err)
	}
	b := &wire.Batch{Cluster: "fleet", Node: h.node, Spool: [16]byte{7}, Sequence: h.seq, BootID: "b", Ticks: 10 * h.seq, FirstTick: 10*h.seq - 9, SealedWallMs: now, PrevDigest: h.prev, Tables: []wire.Table{*rows.Build()}}
	if change != nil {
		change(b)
	}
	frame, err := wire.AppendSigned(nil, b, h.key)
	if h.key == nil {
		frame, err = wire.AppendBatch(nil, b)
	}
	if err != nil {
		h.s.t.Fatal(err)
	}
	h.prev = wire.Digest(frame)
	return frame
}

// send seals and publishes so many batches.
func (h *signer) send(n int) {
	h.s.t.Helper()
	for range n {
		h.publish(h.seal(nil))
	}
}

func (h *signer) publish(frame []byte) {
	h.s.t.Helper()
	h.s.publish(wire.NodeSubject("fleet", h.node), frame)
}

// faults are what verify says of a host: kind from-to, in order.
func faults(t *testing.T, out string) (text string, line chainLine) {
	t.Helper()
	var all []string
	for l := range strings.Lines(out) {
		var c chainLine
		if err := json.Unmarshal([]byte(l), &c); err != nil {
			continue // the error behind the lines
		}
		if c.Spool != "" {
			line = c
		}
		for _, f := range c.Faults {
			all = append(all, fmt.Sprintf("%s %d-%d", f.Kind, f.From, f.To))
		}
	}
	return strings.Join(all, ", "), line
}

// TestChain is an auditor's way over a store with hosts of every kind.
func TestChain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	idle, _ := s.collect(false)
	if out, err := s.run("chain", "verify"); err == nil || !strings.Contains(err.Error(), "nothing was verified: no batch is stored of cluster fleet") {
		t.Errorf("empty: %v, %s", err, out)
	}
	if out, err := s.run("chain", "keys"); err != nil || !strings.Contains(out, "No batch of cluster fleet is signed") {
		t.Errorf("empty: %v, %s", err, out)
	}
	// whole: five stored, one of them in quarantine first, two given up.
	whole := s.signer("whole", 1)
	whole.send(2)
	whole.seal(nil)
	whole.seal(nil) // 3 and 4 are given up
	gap := wire.Gap{From: 3, To: 4, Reason: wire.GapDisk, Digest: whole.prev}
	whole.publish(whole.seal(func(b *wire.Batch) { b.Gaps = []wire.Gap{gap} }))
	whole.publish(whole.seal(func(b *wire.Batch) { b.SealedWallMs = time.Now().Add(time.Hour).UnixMilli() })) // 6: refused
	whole.send(1)
	// holed: the gap covers 2 and not 3.
	holed := s.signer("holed", 2)
	holed.send(1)
	holed.seal(nil)
	second := wire.Gap{From: 2, To: 2, Reason: wire.GapBytes, Digest: holed.prev}
	holed.seal(nil)
	holed.publish(holed.seal(func(b *wire.Batch) { b.Gaps = []wire.Gap{second} }))
	// rekeyed: another key from 3 on.
	rekeyed := s.signer("rekeyed", 3)
	old := rekeyed.public()
	rekeyed.send(2)
	rekeyed.key = s.signer("", 4).key
	rekeyed.send(2)
	// cut: 3 does not follow 2.
	cut := s.signer("cut", 5)
	cut.send(2)
	cut.prev[0]++
	cut.send(1)
	// silenced: signed no more.
	silenced := s.signer("silenced", 6)
	silenced.send(2)
	silenced.key = nil
	silenced.send(1)
	// putback: 2 comes again with other content, and so once more.
	putback := s.signer("putback", 7)
	putback.send(1)
	at := *putback
	putback.send(1)
	again := at.seal(func(b *wire.Batch) { b.Ticks++ })
	at.publish(again)
	at.publish(again)
	never := s.signer("never", 0)
	never.key = nil
	never.send(2)
	evil := s.signer("evil\x1b[31m\u202ehost", 8)
	evil.prev[0] = 1 // the first names one before it
	evil.send(1)
	idle()
	// forged: somebody who may write to the store changes what a batch said.
	forged := s.signer("forged", 9)
	first := wire.Head{Cluster: "fleet", Node: "forged", Spool: [16]byte{7}, Sequence: 1, BodyDigest: [32]byte{1}}
	sum := first.Sum()
	row := store.BatchRow{BatchKey: store.BatchKey{Cluster: "fleet", Node: "forged", Spool: "07000000000000000000000000000000", Sequence: 1}, Digest: [32]byte{1}, BodyDigest: [32]byte{2}, AvailableMs: time.Now().UnixMilli()}
	copy(row.NodeKey[:], forged.key[32:])
	copy(row.Signature[:], ed25519.Sign(forged.key, sum[:]))
	if err := s.store.Insert(t.Context(), store.TableBatches, "", store.BatchBlock([]store.BatchRow{row})); err != nil {
		t.Fatal(err)
	}

	verify := func(node string, args ...string) (string, error) {
		t.Helper()
		return s.run(append([]string{"chain", "verify", "--json", "--node", node}, args...)...)
	}
	check := func(node, want, sums string, args ...string) {
		t.Helper()
		out, err := verify(node, args...)
		got, l := faults(t, out)
		if got != want {
			t.Errorf("%s %v: %s, want %s", node, args, got, want)
		}
		if sum := fmt.Sprint(l.Stored, l.Signed, l.Quarantined, l.GivenUp, l.Missing, l.Conflicts); sum != sums {
			t.Errorf("%s %v: stored, signed, in quarantine, given up, missing, conflicts: %s, want %s", node, args, sum, sums)
		}
		if wrong := want != "" && (!strings.HasPrefix(want, "missing") || len(args) > 0); wrong != (err != nil) || err != nil && !strings.Contains(err.Error(), "in the chains of cluster fleet") || errors.As(err, new(usageError)) {
			t.Errorf("%s %v: %v", node, args, err)
		}
	}
	day := []string{"--from", "24h"}
	for _, window := range [][]string{nil, day} {
		check("whole", "", "4 4 1 2 0 0", window...)
		check("rekeyed", "key 3-3, key 4-4", "4 4 0 0 0 0", window...)
		check("cut", "link 3-3", "3 3 0 0 0 0", window...)
		check("silenced", "unsigned 3-3", "3 2 0 0 0 0", window...)
		check("putback", "content 2-2", "2 2 0 0 0 1", window...)
		check("never", "", "2 0 0 0 0 0", window...)
		check("forged", "signature 1-1", "1 0 0 0 0 0", window...)
	}
	check("holed", "missing 3-3", "2 2 0 1 1 0")
	check("holed", "missing 3-3", "2 2 0 1 1 0", "--all")

	out, err := s.run("chain", "verify")
	if err == nil || err.Error() != "7 faults in the chains of cluster fleet" {
		t.Errorf("%v", err)
	}
	wantParts(t, "verify", out, "forged, spool 07000000, batch 1: signature: the signature is not that of its key", "rekeyed, spool 07000000, batch 3: key", "other content", "7 faults.", "3 given up by their hosts", "evil?[31m?host")
	if strings.ContainsAny(out, "\x1b\u202e") || strings.Contains(out, "whole") {
		t.Errorf("verify: %q", out)
	}
	if out, err = s.run("chain", "verify", "--all"); err == nil || !strings.Contains(err.Error(), "8 faults") || !strings.Contains(out, "whole") {
		t.Errorf("--all: %v, %s", err, out)
	}
	for _, args := range [][]string{{"--to", "2001-01-01"}, {"--node", "whoel"}, {"--node", "whoel", "--from", "1h"}} {
		if out, err = s.run(append([]string{"chain", "verify"}, args...)...); err == nil || !strings.Contains(err.Error(), "nothing was verified") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}

	t.Run("keys", func(t *testing.T) { s.keys(t, rekeyed, old) })
	t.Run("altered", func(t *testing.T) { s.altered(t) })

	for _, k := range []struct {
		want string
		args []string
	}{
		{"wanted 90m", []string{"verify", "--from", "yesterday"}},
		{"--to \"soon\"", []string{"verify", "--to", "soon"}},
		{"does not lie behind", []string{"verify", "--from", "2026-01-02", "--to", "2026-01-01"}},
		{"leave one out", []string{"verify", "--from", "1h", "--since", "1h"}},
		{"takes no argument", []string{"verify", "whole"}},
		{"takes a host and a key", []string{"trust", "whole"}},
		{"is no key", []string{"trust", "whole", "not-a-key"}},
		{"is no key", []string{"trust", "whole", "abc"}},
		{"is no key", []string{"revoke", "whole", strings.Repeat("a", 65)}},
		{"name a host", []string{"revoke", "", strings.Repeat("a", 64)}},
		{"--from \"x\"", []string{"trust", "whole", strings.Repeat("a", 64), "--from", "x"}},
		{"unknown flag", []string{"verify", "-o", "json"}},
		{"unknown shorthand flag", []string{"verify", "-o", "json"}},
	} {
		if _, err := s.run(append([]string{"chain"}, k.args...)...); err == nil || !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), k.want) && k.want != "unknown flag" {
			t.Errorf("%v: %v, want %q", k.args, err, k.want)
		}
	}
	if _, err := runCommand(t, "chain", "verify"); !errors.As(err, new(usageError)) {
		t.Errorf("no store: %v", err)
	}
}

// keys vouches for keys and withdraws them.
func (s *site) keys(t *testing.T, rekeyed *signer, old string) {
	lines := func() (out []keyLine) {
		t.Helper()
		text, err := s.run("chain", "keys", "--node", "rekeyed", "--json")
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(text) {
			var k keyLine
			if err := json.Unmarshal([]byte(l), &k); err != nil {
				t.Fatal(err)
			}
			out = append(out, k)
		}
		// Those that came within a millisecond are in no order.
		slices.SortStableFunc(out, func(a, _ keyLine) int {
			if a.Key == old {
				return -1
			}
			return 1
		})
		return out
	}
	if got := lines(); len(got) != 2 || got[0].Word != "none" || got[0].Key != old || got[0].Batches != 2 || got[0].FirstSeenMs == nil || got[1].Key != rekeyed.public() || got[1].Word != "none" {
		t.Errorf("before: %+v", got)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := s.run(append([]string{"chain"}, args...)...)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return out
	}
	verify := func(want string) {
		t.Helper()
		out, _ := s.run("chain", "verify", "--json", "--node", "rekeyed")
		if got, _ := faults(t, out); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	// Pinned from its first batch on: what comes under another is a fault.
	wantParts(t, "trust", run("trust", "rekeyed", old[:8], "--by", "ann"), "Key "+old+" of host rekeyed is trusted from", "Noted by ann")
	verify("key 3-3, key 4-4")
	if got := lines(); got[0].Word != "trusted" || got[0].By != "ann" || got[1].Word != "other" {
		t.Errorf("pinned: %+v", got)
	}
	wantParts(t, "keys", run("keys"), "trusted from", "says ann", "other: ann vouched for another", "first: nobody vouched for it", "evil?[31m?host")
	// The new one is the host's, too.
	var said keyLine
	if err := json.Unmarshal([]byte(run("trust", "rekeyed", rekeyed.public(), "--by", "bob", "--json")), &said); err != nil || said.Word != "trusted" || said.Batches != 2 || *said.FromMs != *said.FirstSeenMs {
		t.Errorf("%+v, %v", said, err)
	}
	verify("")
	// The old one fell into other hands some time ago.
	wantParts(t, "revoke", run("revoke", "rekeyed", old, "--from", "2020-01-01", "--by", "eve\x1b"), "is withdrawn from 2020-01-01 00:00", "eve?")
	verify("") // an earlier word does not hold against a later one
	run("revoke", "rekeyed", old, "--by", "ann")
	verify("") // from now on: its batches came before
	seen := lines()
	run("revoke", "rekeyed", old, "--by", "ann", "--from", time.UnixMilli(*seen[0].FirstSeenMs).UTC().Format(time.RFC3339Nano))
	verify("key 1-1, key 2-2")
	// One of which no batch came: vouched for before the host starts.
	other := strings.Repeat("ab", 32)
	wantParts(t, "trust", run("trust", "new-host", strings.ToUpper(other), "--by", "ann"), "No batch of the host is signed with it so far.")
	wantParts(t, "keys", run("keys", "--node", "new-host"), other, "trusted from")
	if _, err := s.run("chain", "trust", "rekeyed", "abababab"); err == nil || !strings.Contains(err.Error(), "has signed with no key that begins with") {
		t.Errorf("%v", err)
	}
	wantParts(t, "keys", run("keys", "--node", "never"), "by host never")
}

// altered takes a batch out of the store after its hour was checked.
func (s *site) altered(t *testing.T) {
	now := time.Now().UnixMilli()
	c := chain.NewChecker(chain.CheckConfig{Store: s.store})
	if err := c.Pass(t.Context(), now+2*store.HourMs, time.Now); err != nil {
		t.Fatal(err)
	}
	out, _ := s.run("chain", "verify", "--json", "--node", "whole")
	if got, _ := faults(t, out); got != "" {
		t.Errorf("before: %s", got)
	}
	// Of the last batch of a spool no other one tells: only the check knows that it was there.
	s.exec(t, "DELETE FROM flopwatch.batches WHERE node = 'whole' AND sequence = 7")
	for _, args := range [][]string{{}, {"--from", time.UnixMilli(now).UTC().Truncate(time.Hour).Add(-time.Hour).Format("2006-01-02T15:04")}} {
		out, err := s.run(append([]string{"chain", "verify", "--json", "--node", "whole"}, args...)...)
		if got, _ := faults(t, out); err == nil || got != "altered 0-0" || !strings.Contains(out, "batches of the hour are in the store, ") {
			t.Errorf("%v: %s, %v, %s", args, got, err, out)
		}
	}
	if out, err := s.run("chain", "verify", "--node", "whole"); err == nil || !strings.Contains(out, "UTC: altered: 3 batches of the hour are in the store, 4 were when it was checked") && time.Now().Minute() > 5 {
		t.Errorf("%v, %s", err, out)
	}
}

// exec runs a statement as somebody who may write to the store.
func (s *site) exec(t *testing.T, sql string) {
	t.Helper()
	secret, err := os.ReadFile(s.args[5])
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.args[1], strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-ClickHouse-User", s.args[3])
	req.Header.Set("X-ClickHouse-Key", strings.TrimSpace(string(secret)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", sql, text)
	}
}
