package embedded

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sandboxedFlag tells the process that it has been confined already.
const (
	sandboxedFlag = "--sandboxed"
	accountsFlag  = "--accounts-fd"
)

// errNoLandlock says that the kernel cannot confine the process.
var errNoLandlock = errors.New("the kernel offers no Landlock")

const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockExec  = landlockRead | unix.LANDLOCK_ACCESS_FS_EXECUTE
	landlockWrite = landlockRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// landlockFile are the rights that a rule on a file, not a directory, may carry.
	landlockFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	landlockNote = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// landlockAll is everything that the first version of Landlock governs.
	landlockAll = 1<<13 - 1
)

// confine replaces the process by itself under Landlock rules: it may read and write its data directory, read what a process needs to run, connect to
// nothing and signal no process outside. Whatever statement gets past the guard and the grants finds nothing to take. On success it does not return.
//
// The rules are taken on by one thread and inherited by what it executes; a Go process has many threads, so it must execute itself.
func confine(o Options, args, env []string) error {
	version, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errNoLandlock
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockAll}
	if version >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size += unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("make landlock rules: %w", errno)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	d := layout{o.DataDir}
	roles, err := o.roles()
	if err != nil {
		return err
	}
	accounts, err := o.accounts(roles)
	if err != nil {
		return err
	}
	hand, err := handAccounts(accounts)
	if err != nil {
		return err
	}
	for _, p := range []string{d.lock(), d.url(), d.owner()} { // which the confined process cannot make
		f, oerr := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
		if oerr != nil {
			return fmt.Errorf("prepare data directory: %w", oerr)
		}
		if err = f.Close(); err != nil {
			return fmt.Errorf("prepare data directory: %w", err)
		}
	}
	type rule struct {
		path   string
		rights uint64
	}
	rules := []rule{
		// Not the data directory itself, in which the password lies.
		{d.engine(), landlockWrite}, {d.tmp(), landlockWrite}, {d.config(), landlockWrite}, {d.empty(), landlockRead},
		{d.lock(), landlockNote}, {d.url(), landlockNote}, {d.owner(), landlockNote},
		// The process may execute itself and the loader, and nothing else.
		{exe, landlockExec}, {"/lib64/ld-linux-x86-64.so.2", landlockExec}, {o.LibPath, landlockRead},
		{"/lib", landlockRead}, {"/lib64", landlockRead}, {"/usr/lib", landlockRead}, {"/usr/lib64", landlockRead}, {"/usr/share/zoneinfo", landlockRead},
		{"/etc/ld.so.cache", landlockRead}, {"/etc/localtime", landlockRead},
		{"/dev/null", landlockRead | unix.LANDLOCK_ACCESS_FS_WRITE_FILE}, {"/dev/urandom", landlockRead}, {"/dev/random", landlockRead},
		{"/proc/self", landlockRead}, {"/proc/meminfo", landlockRead}, {"/proc/cpuinfo", landlockRead}, {"/proc/stat", landlockRead}, {"/proc/sys/vm", landlockRead},
		{"/sys/fs/cgroup", landlockRead}, {"/sys/devices/system", landlockRead}, {"/sys/kernel/mm", landlockRead},
	}
	if o.RolesFile != "" {
		rules = append(rules, rule{o.RolesFile, landlockRead})
	}
	for _, r := range rules {
		if err = allow(int(fd), r.path, r.rights&attr.Handled_access_fs); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // until the process is replaced
	if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	if _, _, errno = syscall.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("take on landlock rules: %w", errno)
	}
	if err = syscall.Close(int(fd)); err != nil {
		return fmt.Errorf("close landlock rules: %w", err)
	}
	return fmt.Errorf("run %s confined: %w", exe, syscall.Exec(exe, append(args, sandboxedFlag, accountsFlag, strconv.Itoa(int(hand.Fd()))), env))
}

// allow adds a rule; a path that does not exist needs none.
func allow(ruleset int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s for landlock: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // only a path
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s for landlock: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= landlockFile
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	if _, _, errno := syscall.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("allow %s: %w", path, errno)
	}
	return nil
}
