package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Shares divides leases among the processes that would each hold them all: every one holds as
// many as the others, or one more. It is a policy, and proves nothing: who holds what is the
// leases' word alone. All of them look at the same bucket and divide by the same rule, so nobody
// leads.
//
//   - A lease that is free goes to who is due by the rule at the next look, LookEvery apart. One
//     that its holder gave back is free at once; one whose holder died when it expires.
//   - A holder gives one up only for a process that has been seen for two lives of a lease: one that
//     starts and dies again and again, whose key outlives it by a life, moves nothing.
//   - One that does not take what is its own for a lease's life is passed over for twenty of them,
//     and the others take it.
//
// A member is a key of its own, renewed with each look. Shares belongs to one goroutine.
type Shares struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream
	prefix string // of members' keys
	keys   []string
	id     string
	value  []byte
	ttl    time.Duration

	members map[string]time.Time // by id: since when each has been seen without a break
	free    map[string]time.Time // by lease: since when it has been seen free
	shunned map[string]time.Time // by id: until when
	joined  error                // of the last renewal of the own key
}

// Turns say what to do about leases.
type Turns struct {
	Take    []string // free, and this process's
	Release []string // held by this process, and another's
	// Members is how many processes share.
	Members int
}

// MemberKeys matches the keys of the members of a group, for permissions.
func MemberKeys(group string) string { return group + memberInfix + "*" }

const memberInfix = "-member."

// OpenShares begins to share keys, all of them leases in the bucket of leases, as one of a group.
// instance names this process, for people.
func OpenShares(ctx context.Context, js jetstream.JetStream, group, instance string, keys []string) (*Shares, error) {
	kv, ttl, err := OpenLeases(ctx, js)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, "KV_"+BucketLease)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", BucketLease, err)
	}
	var raw [8]byte
	if _, err = rand.Read(raw[:]); err != nil {
		return nil, fmt.Errorf("name a member of %s: %w", group, err)
	}
	id := fmt.Sprintf("%x", raw)
	return &Shares{
		kv: kv, stream: stream, prefix: group + memberInfix, keys: slices.Sorted(slices.Values(keys)), id: id, value: []byte(instance + idMark + id), ttl: ttl,
		members: map[string]time.Time{}, free: map[string]time.Time{}, shunned: map[string]time.Time{},
	}, nil
}

// idMark stands before the member's id in the value of a lease.
const idMark = "#"

// Holder is the value that this process's leases must have.
func (s *Shares) Holder() string { return string(s.value) }

// LookEvery is how often to look: a fifth of a lease's life.
func (s *Shares) LookEvery() time.Duration { return s.ttl / 5 }

// Joined is the error of the last look's word to the others that this process is there; nil: they
// know. Without it they see it by the leases that it holds.
func (s *Shares) Joined() error { return s.joined }

// Look renews this process's membership and says whose turn is what. held are the leases that it
// holds by its own knowledge.
func (s *Shares) Look(ctx context.Context, held []string) (Turns, error) {
	joining, cancel := context.WithTimeout(ctx, s.ttl/3)
	_, s.joined = s.kv.Put(joining, s.prefix+s.id, s.value)
	cancel()
	if s.joined != nil {
		s.joined = fmt.Errorf("tell the others of member %s: %w", s.id, s.joined)
	}
	members, holder, err := s.read(ctx)
	if err != nil {
		return Turns{}, err
	}
	members[s.id] = true
	maps.DeleteFunc(holder, func(_, by string) bool { return by == s.id }) // of what is its own it knows better
	for _, k := range held {
		holder[k] = s.id
	}
	return s.turns(members, holder, time.Now()), nil
}

// read reads who is there, and who holds what.
func (s *Shares) read(ctx context.Context) (members map[string]bool, holder map[string]string, err error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter("$KV."+BucketLease+".>"))
	if err != nil {
		return nil, nil, fmt.Errorf("list bucket %s: %w", BucketLease, err)
	}
	members, holder = map[string]bool{}, map[string]string{}
	for subject := range info.State.Subjects {
		key := strings.TrimPrefix(subject, "$KV."+BucketLease+".")
		id, member := strings.CutPrefix(key, s.prefix)
		if _, ours := slices.BinarySearch(s.keys, key); !ours && !member {
			continue
		}
		e, err := s.kv.Get(ctx, key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound): // given back, or expired meanwhile
		case err != nil:
			return nil, nil, fmt.Errorf("read lease %s: %w", key, err)
		case member:
			members[id] = true
		default:
			value := string(e.Value())
			by := value[strings.LastIndex(value, idMark)+1:]
			holder[key] = by
			members[by] = true
		}
	}
	return members, holder, nil
}

// turns applies the rule at a moment.
func (s *Shares) turns(members map[string]bool, holder map[string]string, now time.Time) Turns {
	maps.DeleteFunc(s.members, func(id string, _ time.Time) bool { return !members[id] })
	maps.DeleteFunc(s.shunned, func(_ string, until time.Time) bool { return now.After(until) })
	for id := range members {
		if _, known := s.members[id]; !known {
			s.members[id] = now
		}
	}
	holds := map[string]bool{s.id: true}
	for _, by := range holder {
		holds[by] = true
	}
	var all, settled []string
	for id, since := range s.members {
		if _, shunned := s.shunned[id]; shunned && id != s.id {
			continue
		}
		all = append(all, id)
		if holds[id] || now.Sub(since) >= 2*s.ttl {
			settled = append(settled, id)
		}
	}
	t := Turns{Members: len(s.members)}
	give, take := divide(s.keys, settled, holder), divide(s.keys, all, holder)
	for _, k := range s.keys {
		if by, taken := holder[k]; taken {
			delete(s.free, k)
			if by == s.id && give[k] != s.id {
				t.Release = append(t.Release, k)
			}
			continue
		}
		since, known := s.free[k]
		if !known {
			since, s.free[k] = now, now
		}
		switch due := take[k]; {
		case due == s.id:
			t.Take = append(t.Take, k)
		case now.Sub(since) >= s.ttl:
			s.shunned[due] = now.Add(20 * s.ttl)
			t.Take = append(t.Take, k)
		}
	}
	return t
}

// divide says whose each key is to be: where the keys do not come out even, those who hold one more
// keep it, nobody loses one that is within its due, and what is free or over goes to who has
// fewer, in order of their ids.
func divide(keys, members []string, holder map[string]string) map[string]string {
	if len(members) == 0 {
		return nil
	}
	count := map[string]int{}
	for _, k := range keys {
		count[holder[k]]++
	}
	more := func(id string) int { return max(0, min(1, count[id]-len(keys)/len(members))) }
	slices.SortFunc(members, func(a, b string) int { return cmp.Or(cmp.Compare(more(b), more(a)), cmp.Compare(a, b)) })
	due := map[string]int{}
	for i, id := range members {
		due[id] = len(keys) / len(members)
		if i < len(keys)%len(members) {
			due[id]++
		}
	}
	out := map[string]string{}
	for _, k := range keys {
		if by, held := holder[k]; held && due[by] > 0 {
			out[k] = by
			due[by]--
		}
	}
	slices.Sort(members)
	i := 0
	for _, k := range keys {
		if out[k] != "" {
			continue
		}
		for due[members[i]] == 0 {
			i++
		}
		out[k] = members[i]
		due[members[i]]--
	}
	return out
}

// Leave says that this process is gone, so that the others need not find out.
func (s *Shares) Leave(ctx context.Context) error {
	if err := s.kv.Delete(ctx, s.prefix+s.id); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}
