package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"strconv"
	"strings"
)

// Subjects begin with this; the version in it changes only if the shape of subjects does.
const subjectRoot = "flopwatch.v1."

// Partitions is the number of partition tokens in node subjects. It is part of the
// contract, so that a node's subject and credentials do not depend on how many streams the
// broker has: n streams, n a divisor of Partitions, share the tokens out (StreamSubjects).
const Partitions = 16

// hashedToken begins a token that stands for a name which is no token itself.
const hashedToken = "h_"

// Token returns name if it fits [A-Za-z0-9_-]{1,64}, and else "h_" and 32 hex digits of
// its SHA-256. A name that looks like a hash is hashed too, so that none can pass for
// another.
func Token(name string) string {
	fits := len(name) >= 1 && len(name) <= 64
	for i := 0; fits && i < len(name); i++ {
		c := name[i]
		fits = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	if fits && !(strings.HasPrefix(name, hashedToken) && len(name) == len(hashedToken)+32) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return hashedToken + hex.EncodeToString(sum[:16])
}

// Partition is the partition of a node among n, 1 <= n: FNV-1a of its name, modulo n.
func Partition(node string, n int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(node)) // a hash's Write does not fail
	return int(h.Sum32() % uint32(n))
}

// NodeSubject is where a node publishes its batches:
// flopwatch.v1.<partition token>.<cluster>.<node>.
func NodeSubject(cluster, node string) string {
	return subjectRoot + strconv.Itoa(Partition(node, Partitions)) + "." + Token(cluster) + "." + Token(node)
}

// NodeInbox is where a node's answers come, and where no other user may listen:
// _INBOX.node.<cluster>.<node>.
func NodeInbox(cluster, node string) string {
	return "_INBOX.node." + Token(cluster) + "." + Token(node)
}

// StreamSubjects are the subjects of stream p of n; n divides Partitions.
func StreamSubjects(p, n int) []string {
	var s []string
	for t := p; t < Partitions; t += n {
		s = append(s, subjectRoot+strconv.Itoa(t)+".>")
	}
	return s
}

// ProviderSubject is where the provider's facts of a kind are published:
// flopwatch.v1.provider.<cluster>.{inventory,allocations,orders}.
func ProviderSubject(cluster string, kind Kind) string {
	name := kind.String()
	switch kind {
	case KindAllocation:
		name = "allocations"
	case KindOrder:
		name = "orders"
	}
	return subjectRoot + "provider." + Token(cluster) + "." + name
}

// ProviderSubjects matches what every provider publishes.
const ProviderSubjects = subjectRoot + "provider.>"

// CommitSubject is where the collector publishes commit marks for a node, or, with an
// empty node, for the provider's batches: flopwatch.v1.commit.<cluster>.<node>.
func CommitSubject(cluster, node string) string {
	if node == "" {
		return subjectRoot + "commit." + Token(cluster) + ".provider~"
	}
	return subjectRoot + "commit." + Token(cluster) + "." + Token(node)
}

// CommitSubjects matches all commit marks.
const CommitSubjects = subjectRoot + "commit.>"

// MessageID is the Nats-Msg-Id of a frame: <node>/<spool>/<sequence>, and "-" for the
// node of provider batches.
func MessageID(node string, spool [16]byte, sequence uint64) string {
	if node == "" {
		node = "-"
	} else {
		node = Token(node)
	}
	return node + "/" + hex.EncodeToString(spool[:]) + "/" + strconv.FormatUint(sequence, 10)
}

// BatchSubject is the subject a batch belongs on; the collector refuses a batch that came
// on another. A provider batch has tables of one kind.
func BatchSubject(b *Batch) string {
	if b.Node != "" {
		return NodeSubject(b.Cluster, b.Node)
	}
	if len(b.Tables) == 0 {
		return ""
	}
	return ProviderSubject(b.Cluster, b.Tables[0].Kind)
}
