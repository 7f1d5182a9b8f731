package job

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

const (
	maxPasswd   = 4 << 20 // bytes
	reloadAfter = 60_000  // ms between looks at a file that lacked a name
)

// users knows the names of user ids from a file like /etc/passwd. Directory services are
// not asked.
type users struct {
	path   string
	names  map[uint32]string
	mtime  time.Time
	size   int64
	lookMs int64 // boot ms of the last look
	looked bool
}

// name returns a user's name, or "uid:N".
func (u *users) name(uid uint32, bootMs int64) string {
	name, ok := u.names[uid]
	if !ok && (!u.looked || bootMs-u.lookMs >= reloadAfter) {
		u.looked, u.lookMs = true, bootMs
		u.load()
		name, ok = u.names[uid]
	}
	if !ok {
		return "uid:" + strconv.FormatUint(uint64(uid), 10)
	}
	return name
}

// load reads the file if it has changed. One that cannot be read names nobody new.
func (u *users) load() {
	st, err := os.Stat(u.path)
	if err != nil || st.Size() > maxPasswd || u.names != nil && st.ModTime().Equal(u.mtime) && st.Size() == u.size {
		return
	}
	data, err := os.ReadFile(u.path)
	if err != nil || len(data) > maxPasswd {
		return
	}
	u.names, u.mtime, u.size = parsePasswd(data), st.ModTime(), st.Size()
}

// parsePasswd reads lines of name:password:uid:...; the first name of an id counts.
func parsePasswd(b []byte) map[uint32]string {
	names := map[uint32]string{}
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		name, rest, _ := bytes.Cut(line, []byte{':'})
		_, rest, _ = bytes.Cut(rest, []byte{':'})
		id, _, ok := bytes.Cut(rest, []byte{':'})
		uid, good := number(id)
		if !ok || !good || uid > 1<<32-1 || !isName(string(name)) || name[0] == '#' {
			continue
		}
		if _, known := names[uint32(uid)]; !known {
			names[uint32(uid)] = string(name)
		}
	}
	return names
}
