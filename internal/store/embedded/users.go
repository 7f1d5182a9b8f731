package embedded

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

// account is one who may sign in.
type account struct {
	name   string
	secret [sha256.Size]byte
	role   *role
}

// usersFile is the file of users as people write it.
type usersFile struct {
	User []struct {
		Name           string `toml:"name"`
		Role           string `toml:"role"`
		PasswordFile   string `toml:"password_file"`
		PasswordSHA256 string `toml:"password_sha256"`
	} `toml:"user"`
}

func beside(path, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(path), name)
}

func readUsersFile(path string) (f usersFile, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return f, fmt.Errorf("read users file: %w", err)
	}
	meta, err := toml.Decode(string(text), &f)
	if err != nil {
		return f, fmt.Errorf("users file %s: %w", path, err)
	}
	if un := meta.Undecoded(); len(un) > 0 {
		return f, fmt.Errorf("users file %s: unknown key %q: a [[user]] has name, role, and password_file or password_sha256", path, un[0])
	}
	if len(f.User) == 0 {
		return f, fmt.Errorf("users file %s: names no user: add [[user]] with name, role, and password_file or password_sha256", path)
	}
	return f, nil
}

// CheckUsers says what is wrong in a file of users, for who starts the engine as a child: roles is SQL, as in Options.Roles.
func CheckUsers(path, roles string) error {
	set, err := parseRoles(roles)
	if err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	_, err = loadUsers(path, set)
	return err
}

// loadUsers reads a file of users.
func loadUsers(path string, roles *roleSet) ([]account, error) {
	f, err := readUsersFile(path)
	if err != nil {
		return nil, err
	}
	var out []account
	for i, u := range f.User {
		fail := func(format string, args ...any) ([]account, error) {
			return nil, fmt.Errorf("users file %s: user %d (%q): %w", path, i+1, u.Name, fmt.Errorf(format, args...))
		}
		a := account{name: u.Name}
		switch {
		case !settingName.MatchString(u.Name):
			return fail("name: letters, digits, '_' and '.' are wanted, not %q", u.Name)
		case slices.ContainsFunc(out, func(o account) bool { return o.name == u.Name }):
			return fail("name: there is one of that name already")
		case u.Role == adminRole:
			a.role = &role{name: adminRole}
		default:
			if a.role = roles.role(u.Role); a.role == nil {
				return fail("role: there is no role %q; there are %s", u.Role, strings.Join(append([]string{adminRole}, roles.names()...), ", "))
			}
		}
		switch {
		case (u.PasswordFile == "") == (u.PasswordSHA256 == ""):
			return fail("one of password_file and password_sha256 is wanted")
		case u.PasswordFile != "":
			b, rerr := os.ReadFile(beside(path, u.PasswordFile))
			if rerr != nil {
				return fail("password_file: %w", rerr)
			}
			p := strings.TrimRight(string(b), "\r\n")
			if p == "" {
				return fail("password_file: %s is empty", u.PasswordFile)
			}
			a.secret = sha256.Sum256([]byte(p))
		default:
			b, herr := hex.DecodeString(u.PasswordSHA256)
			if herr != nil || len(b) != sha256.Size {
				return fail("password_sha256: 64 hexadecimal digits are wanted (printf %%s PASSWORD | sha256sum)")
			}
			copy(a.secret[:], b)
			if a.secret == sha256.Sum256(nil) {
				return fail("password_sha256: that is the digest of an empty password")
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// handed is an account as it is handed to the confined process: no password, its digest.
type handed struct {
	Name, Role string
	Digest     []byte
}

// handAccounts writes the accounts to a file without a name, which the process that takes this one's place inherits.
func handAccounts(accounts []account) (*os.File, error) {
	var list []handed
	for _, a := range accounts {
		list = append(list, handed{a.name, a.role.name, a.secret[:]})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("hand over accounts: %w", err)
	}
	fd, err := unix.MemfdCreate("accounts", 0)
	if err != nil {
		return nil, fmt.Errorf("hand over accounts: %w", err)
	}
	f := os.NewFile(uintptr(fd), "accounts")
	if _, err = f.WriteAt(b, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("hand over accounts: %w", err), f.Close())
	}
	return f, nil
}

// receiveAccounts reads them and closes the file, before the engine is there to read it.
func receiveAccounts(f *os.File, roles *roleSet) ([]account, error) {
	var list []handed
	err := json.NewDecoder(f).Decode(&list)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("take over accounts: %w", err)
	}
	var out []account
	for _, h := range list {
		a := account{name: h.Name, role: &role{name: adminRole}}
		if h.Role != adminRole {
			if a.role = roles.role(h.Role); a.role == nil {
				return nil, fmt.Errorf("take over accounts: there is no role %s", h.Role)
			}
		}
		copy(a.secret[:], h.Digest)
		out = append(out, a)
	}
	return out, nil
}

// credentials are what a request signs in with.
type credentials struct {
	user, password string
	given          bool
}

var errMixedCredentials = errors.New("credentials were given in more than one way: use one of Basic, X-ClickHouse-User and -Key, user and password in the URL")

// credentialsOf takes them from where clients put them. As a server does, it refuses two ways at a time.
func credentialsOf(r *http.Request, q url.Values) (credentials, error) {
	h := r.Header
	headers := h.Get("X-ClickHouse-User") != "" || h.Get("X-ClickHouse-Key") != ""
	header := h.Get("Authorization") != ""
	inURL := q.Has("user") || q.Has("password")
	if headers && (header || inURL) || header && inURL {
		return credentials{given: true}, errMixedCredentials
	}
	switch {
	case headers:
		return credentials{h.Get("X-ClickHouse-User"), h.Get("X-ClickHouse-Key"), true}, nil
	case header:
		user, password, ok := r.BasicAuth()
		if !ok {
			return credentials{given: true}, errors.New("of ways to sign in by the header Authorization there is Basic alone")
		}
		return credentials{user, password, true}, nil
	case inURL:
		return credentials{q.Get("user"), q.Get("password"), true}, nil
	}
	return credentials{}, nil
}

// authenticate gives the account of a request, or nil. It takes as long for a name that there is not as for a wrong password.
func (f *front) authenticate(c credentials) *account {
	if c.user == "" {
		c.user = f.user
	}
	sum := sha256.Sum256([]byte(c.password))
	found, ok := &account{}, 0
	for i := range f.accounts {
		a := &f.accounts[i]
		name := subtle.ConstantTimeCompare([]byte(a.name), []byte(c.user))
		if good := name & subtle.ConstantTimeCompare(a.secret[:], sum[:]); good == 1 {
			found, ok = a, 1
		}
	}
	if ok == 0 {
		return nil
	}
	return found
}
