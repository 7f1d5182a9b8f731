package nats

import (
	_ "embed" // flopwatch.conf
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

//go:embed flopwatch.conf
var serverConf []byte

// Role says what a user is for.
type Role string

// Roles of users.
const (
	Node      Role = "node"      // one host's agent
	Provider  Role = "provider"  // who publishes a cluster's inventory, allocations and orders
	Collector Role = "collector" // all collectors together
	Detector  Role = "detector"  // all detectors of a cluster
	Operator  Role = "operator"  // who sends messages of quarantine again
)

// Roles lists them all.
func Roles() []Role { return []Role{Node, Provider, Collector, Detector, Operator} }

// Names of what Init makes in the directory.
const (
	serverFile = "flopwatch.conf"
	edgeFile   = "edge.conf"
	fleetFile  = "fleet.conf"
	usersDir   = "users.d"
	userSuffix = ".user"
)

// User may publish and subscribe to the list of its role and names.
type User struct {
	Role    Role
	Cluster string // of a node or provider; of a detector, where a broker serves several clusters
	Name    string // of a node, as its agent reports it; "" elsewhere
	// Key is the public half of the user's nkey, U...; the seed never leaves its owner.
	Key string
}

// check reports what is missing or too much.
func (u User) check() error {
	switch u.Role {
	case Node:
		if u.Cluster == "" || u.Name == "" {
			return errors.New("a node needs its cluster and its name")
		}
	case Provider:
		if u.Cluster == "" || u.Name != "" {
			return errors.New("a provider needs its cluster and no name")
		}
	case Collector, Operator:
		if u.Cluster != "" || u.Name != "" {
			return fmt.Errorf("a user of role %s has neither cluster nor name", u.Role)
		}
	case Detector:
		if u.Name != "" {
			return errors.New("a detector has no name")
		}
	default:
		return fmt.Errorf("role %q: wanted one of %v", u.Role, Roles())
	}
	return nil
}

// edge users are in the account that has no streams: see flopwatch.conf.
func (u User) edge() bool { return u.Role == Node || u.Role == Provider || u.Role == Operator }

// file is the user's own, in users.d. Tokens have no dots, so no two users share one.
func (u User) file() string {
	switch u.Role {
	case Node:
		return "node." + wire.Token(u.Cluster) + "." + wire.Token(u.Name) + userSuffix
	case Provider:
		return "provider." + wire.Token(u.Cluster) + userSuffix
	case Detector:
		if u.Cluster != "" {
			return "detector." + wire.Token(u.Cluster) + userSuffix
		}
	}
	return string(u.Role) + userSuffix
}

// InboxPrefix is where the user's answers come: inbox_prefix in its daemon's [nats]. No
// other user may listen there.
func (u User) InboxPrefix() string {
	switch u.Role {
	case Node:
		return wire.NodeInbox(u.Cluster, u.Name)
	case Provider:
		return "_INBOX.provider." + wire.Token(u.Cluster)
	case Detector:
		// Apart from each other: neither is the other's beginning.
		return "_INBOX." + u.Lease()
	}
	return "_INBOX." + string(u.Role)
}

// Lease is the lease that a detector may hold: lease in its configuration.
func (u User) Lease() string {
	if u.Cluster == "" {
		return "detector"
	}
	return wire.Token("detector-" + u.Cluster)
}

// permissions are all that the user may do.
func (u User) permissions() (publish, subscribe []string) {
	const (
		api = "$JS.API."
		get = api + "DIRECT.GET."
	)
	subscribe = []string{u.InboxPrefix() + ".>"}
	switch u.Role {
	case Node:
		commit := wire.CommitSubject(u.Cluster, u.Name)
		publish = []string{wire.NodeSubject(u.Cluster, u.Name), get + broker.CommitStream + "." + commit}
		subscribe = append(subscribe, commit)
	case Provider:
		commit := wire.CommitSubject(u.Cluster, "")
		for _, k := range []wire.Kind{wire.KindInventory, wire.KindAllocation, wire.KindOrder} {
			publish = append(publish, wire.ProviderSubject(u.Cluster, k))
		}
		publish = append(publish, get+broker.CommitStream+"."+commit)
		subscribe = append(subscribe, commit)
	case Collector:
		// It makes streams and buckets and brings them up to date; it deletes and purges none.
		// The account holds nothing but flopwatch's.
		publish = []string{api + "INFO", api + "STREAM.INFO.*", api + "STREAM.CREATE.*", api + "STREAM.UPDATE.*"}
		streams := []string{broker.ProviderStream}
		leases := []string{"collector-provider", "collector-chain"}
		for p := range wire.Partitions {
			streams = append(streams, broker.NodeStream(p))
			leases = append(leases, "collector-"+strconv.Itoa(p))
		}
		for _, s := range streams {
			for _, verb := range []string{"CREATE", "DURABLE.CREATE", "DELETE", "INFO", "MSG.NEXT"} {
				publish = append(publish, api+"CONSUMER."+verb+"."+s+".collector")
			}
			// Acks; "*" twice where newer servers put domain and account.
			publish = append(publish, "$JS.ACK."+s+".collector.>", "$JS.ACK.*.*."+s+".collector.>",
				// Where the reader is, and what is being written.
				"$KV."+broker.BucketCursor+"."+s)
		}
		for _, l := range leases {
			publish = append(publish, "$KV."+broker.BucketLease+"."+l)
		}
		publish = append(publish, "$KV."+broker.BucketLease+"."+broker.MemberKeys("collector"))
		for _, b := range []string{broker.BucketLease, broker.BucketCursor} {
			publish = append(publish, get+"KV_"+b+".>")
		}
		publish = append(publish, wire.CommitSubjects)
	case Operator:
		// Anybody's messages, as they came; and how far the collector is with them. By the first
		// name it learns that it has to ask by the second.
		info := func(stream string) []string {
			return []string{api + "STREAM.INFO." + stream, broker.EdgeAPI + ".STREAM.INFO." + stream}
		}
		for p := range wire.Partitions {
			publish = append(publish, "flopwatch.v1."+strconv.Itoa(p)+".>")
			publish = append(publish, info(broker.NodeStream(p))...)
		}
		publish = append(append(publish, wire.ProviderSubjects), info(broker.ProviderStream)...)
	case Detector:
		publish = []string{
			api + "STREAM.INFO.KV_" + broker.BucketLease, get + "KV_" + broker.BucketLease + ".>",
			"$KV." + broker.BucketLease + "." + u.Lease(),
		}
	}
	return publish, subscribe
}

// Stanza is the user in the server's configuration language.
func (u User) Stanza() (string, error) {
	if err := u.check(); err != nil {
		return "", err
	}
	if !nkeys.IsValidPublicUserKey(u.Key) {
		// What was given may be a seed, so it is not said again.
		return "", errors.New("the key is not the public key of a user: one begins with U and has 56 characters (a seed begins with SU, and stays with its owner)")
	}
	publish, subscribe := u.permissions()
	var b strings.Builder
	title := string(u.Role)
	if u.Cluster != "" {
		title += " " + strconv.Quote(u.Cluster)
	}
	if u.Name != "" {
		title += " " + strconv.Quote(u.Name)
	}
	fmt.Fprintf(&b, "  # %s\n  {\n    nkey: %s\n    permissions {\n", title, u.Key)
	list := func(verb string, subjects []string) {
		fmt.Fprintf(&b, "      %s {allow: [\n", verb)
		for _, s := range subjects {
			fmt.Fprintf(&b, "        %q\n", s)
		}
		b.WriteString("      ]}\n")
	}
	list("publish", publish)
	list("subscribe", subscribe)
	b.WriteString("    }\n  }\n")
	return b.String(), nil
}

// Init makes the directory, or brings it to order: flopwatch.conf if there is none, and
// the files put together.
func Init(dir string) error { return change(dir, func() error { return nil }) }

// ErrKeyTaken says that a key belongs to another user already. A server with a key twice in
// its configuration does not start.
var ErrKeyTaken = errors.New("this key is another user's already, and each user needs one of its own")

// Add puts a user in, or gives the one that is there another key.
func Add(dir string, u User) error {
	text, err := u.Stanza()
	if err != nil {
		return fmt.Errorf("add user: %w", err)
	}
	return change(dir, func() error {
		if err = free(dir, u); err != nil {
			return err
		}
		return write(filepath.Join(dir, usersDir, u.file()), text)
	})
}

// AddAll puts many users in, or gives those that are there other keys, and puts the files
// together once.
func AddAll(dir string, users []User) error {
	texts, keys := make([]string, len(users)), map[string]string{}
	for i, u := range users {
		var err error
		if texts[i], err = u.Stanza(); err != nil {
			return fmt.Errorf("add user %s: %w", u.Name, err)
		}
		if other, taken := keys[u.Key]; taken && other != u.file() {
			return fmt.Errorf("add user %s: %w (%s)", u.Name, ErrKeyTaken, strings.TrimSuffix(other, userSuffix))
		}
		keys[u.Key] = u.file()
	}
	return change(dir, func() error {
		files, err := filepath.Glob(filepath.Join(dir, usersDir, "*"+userSuffix))
		if err != nil {
			return err
		}
		for _, f := range files {
			text, rerr := os.ReadFile(f)
			if rerr != nil {
				return rerr
			}
			for line := range strings.Lines(string(text)) {
				key, is := strings.CutPrefix(strings.TrimSpace(line), "nkey: ")
				if other, taken := keys[key]; is && taken && other != filepath.Base(f) {
					return fmt.Errorf("%w (%s)", ErrKeyTaken, strings.TrimSuffix(filepath.Base(f), userSuffix))
				}
			}
		}
		for i, u := range users {
			if err = write(filepath.Join(dir, usersDir, u.file()), texts[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// free reports ErrKeyTaken if a file of another user has the key.
func free(dir string, u User) error {
	files, err := filepath.Glob(filepath.Join(dir, usersDir, "*"+userSuffix))
	if err != nil {
		return err
	}
	for _, f := range files {
		if filepath.Base(f) == u.file() {
			continue
		}
		var text []byte
		if text, err = os.ReadFile(f); err != nil {
			return err
		}
		if strings.Contains(string(text), u.Key) {
			return fmt.Errorf("%w (%s)", ErrKeyTaken, strings.TrimSuffix(filepath.Base(f), userSuffix))
		}
	}
	return nil
}

// Remove takes a user out; fs.ErrNotExist says that there is none. Its connections end
// with the server's next reload.
func Remove(dir string, u User) error {
	if err := u.check(); err != nil {
		return fmt.Errorf("remove user: %w", err)
	}
	return change(dir, func() error {
		err := os.Remove(filepath.Join(dir, usersDir, u.file()))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no user %s: %w", strings.TrimSuffix(u.file(), ".user"), err)
		}
		return err
	})
}

// change alters users.d alone, in a directory that is in order, and puts it together again.
func change(dir string, alter func() error) (err error) {
	users := filepath.Join(dir, usersDir)
	if err = (durable.OS{}).MkdirAll(users); err != nil {
		return fmt.Errorf("make directory of users: %w", err)
	}
	lock, err := durable.OS{}.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return fmt.Errorf("change users in %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	// The server has a user of its own, and there is no secret in here.
	if err = errors.Join(os.Chmod(dir, 0o755), os.Chmod(users, 0o755)); err != nil {
		return fmt.Errorf("open directory of users to the server: %w", err)
	}
	conf := filepath.Join(dir, serverFile)
	if _, err = os.Stat(conf); errors.Is(err, fs.ErrNotExist) {
		err = write(conf, string(serverConf))
	}
	if err == nil {
		err = alter()
	}
	if err == nil {
		err = assemble(dir)
	}
	if err != nil {
		return fmt.Errorf("change users in %s: %w", dir, err)
	}
	return nil
}

// write replaces a file that everyone may read.
func write(name, text string) error {
	if err := durable.WriteFile(durable.OS{}, name, []byte(text)); err != nil {
		return err
	}
	return os.Chmod(name, 0o644)
}

// assemble writes the files that the server reads from those of users.d, in the order of
// their names.
func assemble(dir string) error {
	files, err := os.ReadDir(filepath.Join(dir, usersDir))
	if err != nil {
		return err
	}
	var edge, fleet strings.Builder
	for _, b := range []*strings.Builder{&edge, &fleet} {
		b.WriteString("# Written by `flopwatch nats-user` from users.d; changes here are lost.\nusers: [\n")
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) != userSuffix {
			continue
		}
		var text []byte
		if text, err = os.ReadFile(filepath.Join(dir, usersDir, f.Name())); err != nil {
			return err
		}
		if role, _, _ := strings.Cut(f.Name(), "."); (User{Role: Role(role)}).edge() {
			edge.Write(text)
		} else {
			fleet.Write(text)
		}
	}
	if err = write(filepath.Join(dir, edgeFile), edge.String()+"]\n"); err != nil {
		return err
	}
	return write(filepath.Join(dir, fleetFile), fleet.String()+"]\n")
}

// Key reads the seed in a file, or makes one there that its owner alone may read, and
// returns its public half.
func Key(seedFile string) (public string, err error) {
	seed, err := os.ReadFile(seedFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return newKey(seedFile)
	case err != nil:
		return "", fmt.Errorf("read seed: %w", err)
	}
	pair, err := nkeys.ParseDecoratedNKey(seed)
	if err != nil {
		return "", fmt.Errorf("read seed %s: %w", seedFile, err)
	}
	defer pair.Wipe()
	if public, err = pair.PublicKey(); err != nil {
		return "", fmt.Errorf("read seed %s: %w", seedFile, err)
	}
	if !nkeys.IsValidPublicUserKey(public) {
		return "", fmt.Errorf("read seed %s: it is not a user's", seedFile)
	}
	return public, nil
}

func newKey(seedFile string) (public string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	if public, err = pair.PublicKey(); err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	f, err := os.OpenFile(seedFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	_, err = f.Write(append(seed, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("make key: %w", errors.Join(err, os.Remove(seedFile)))
	}
	return public, nil
}
