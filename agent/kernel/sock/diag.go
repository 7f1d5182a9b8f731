package sock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxSockets   = 16384
	maxSpaces    = 256  // network namespaces a look
	maxOpenFiles = 4096 // of one process
)

// Of linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h.
const (
	byFamily    = 20 // SOCK_DIAG_BY_FAMILY
	attrInfo    = 2  // INET_DIAG_INFO
	attrGroup   = 21 // INET_DIAG_CGROUP_ID, from kernel 5.9
	established = 1
	finWait1    = 4
	finWait2    = 5
	closeWait   = 8
	lastAck     = 9
	closing     = 11
	states      = 1<<established | 1<<finWait1 | 1<<finWait2 | 1<<closeWait | 1<<lastAck | 1<<closing
)

// diag reads the counters by netlink.
type diag struct {
	procfs string
	all    bool
	seen   map[uint64]*counted // by cookie
	turn   uint32
	owners map[uint32]uint32 // process by inode of the socket
	own    map[netip.Addr]bool
	over   uint64          // sockets that were left out
	missed uint64          // of them, at the last look, and namespaces
	old    map[uint32]bool // processes that are older than this and were not watched before
	began  uint64          // ns since boot
	denied int             // namespaces and processes that could not be looked into, the last time
	why    error
}

// counted is how much of a socket is in rows.
type counted struct {
	tx, rx, retransmits uint64
	turn                uint32
}

// newDiag tries whether the kernel answers.
func newDiag(procfs string, all bool) (*diag, error) {
	d := &diag{procfs: procfs, all: all, seen: map[uint64]*counted{}, owners: map[uint32]uint32{}, own: map[netip.Addr]bool{}, old: map[uint32]bool{}}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, fmt.Errorf("read the time: %w", err)
	}
	d.began = uint64(now.Nano())
	if err := dump(unix.AF_INET, nil, func(diagSocket) {}); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *diag) close() error { clear(d.seen); return nil }

func (d *diag) report() kernel.Report {
	if d.missed > 0 {
		return kernel.Degraded(fmt.Sprintf("%d sockets or network namespaces are too many, and left out", d.missed), nil, "")
	}
	if d.denied > 0 {
		return kernel.Degraded(fmt.Sprintf("%d processes or network namespaces could not be looked into: needs CAP_SYS_PTRACE and CAP_SYS_ADMIN", d.denied), d.why, "")
	}
	return kernel.Active()
}

func (d *diag) load() kernel.Load {
	return kernel.Load{Counts: []kernel.Count{{Name: "sockets_left_out", Value: d.over}}}
}

func (d *diag) addresses(each func(netip.Addr)) {
	for a := range d.own {
		each(a)
	}
}

func (d *diag) look(ctx context.Context, list []*tasks.Process, groups map[uint64]source.Job, add func(sum)) error {
	d.turn++
	d.denied, d.why, d.missed = 0, nil, 0
	clear(d.old)
	clear(d.owners)
	clear(d.own)
	spaces := map[string]int32{} // a process in each
	if d.all {
		spaces[""] = 0
	}
	for _, p := range list {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.Fresh && p.Start*tasks.TickNs < d.began {
			d.old[uint32(p.PID)] = true
		}
		d.sockets(p.PID)
		name, err := os.Readlink(d.file(p.PID, "ns/net"))
		if err != nil {
			d.refuse(err)
			continue
		}
		if _, ok := spaces[name]; ok {
			continue
		}
		if len(spaces) >= maxSpaces {
			d.missed++
			continue
		}
		spaces[name] = p.PID
	}
	here, err := os.Readlink(d.file(0, "ns/net"))
	if err != nil {
		return fmt.Errorf("read the own network namespace: %w", err)
	}
	first := d.turn == 1
	take := func(s diagSocket) {
		tgid, mine := d.owners[s.inode]
		_, grouped := groups[s.group]
		if d.all || mine || grouped {
			d.count(s, tgid, d.old[tgid] || tgid == 0 && first, add)
		}
	}
	for name, pid := range spaces {
		if name == here || name == "" {
			pid = 0
		}
		if err = d.ask(pid, take); err != nil {
			d.refuse(err)
		}
	}
	for cookie, c := range d.seen {
		if c.turn != d.turn {
			delete(d.seen, cookie)
		}
	}
	return nil
}

func (d *diag) refuse(err error) {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
		return // it has ended
	}
	d.denied++
	d.why = err
}

func (d *diag) file(pid int32, name string) string {
	if pid == 0 {
		return filepath.Join(d.procfs, "self", name)
	}
	return filepath.Join(d.procfs, strconv.Itoa(int(pid)), name)
}

// sockets finds which sockets a process has.
func (d *diag) sockets(pid int32) {
	dir, err := os.Open(d.file(pid, "fd"))
	if err != nil {
		d.refuse(err)
		return
	}
	defer dir.Close() //nolint:errcheck // it was open for reading
	names, err := dir.Readdirnames(maxOpenFiles)
	if err != nil && len(names) == 0 {
		d.refuse(err)
		return
	}
	for _, name := range names {
		to, err := os.Readlink(d.file(pid, "fd/"+name))
		if err != nil {
			continue
		}
		inode, ok := socketInode(to)
		switch {
		case !ok:
		case len(d.owners) >= maxSockets:
			d.over, d.missed = d.over+1, d.missed+1
		default:
			d.owners[inode] = uint32(pid)
		}
	}
}

// socketInode reads what a descriptor of a socket is linked to.
func socketInode(to string) (uint32, bool) {
	rest, ok := strings.CutPrefix(to, "socket:[")
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 32)
	return uint32(v), err == nil
}

// count adds what a socket has moved since the last look. old: what it moved before it was
// watched may be in an earlier agent's rows.
func (d *diag) count(s diagSocket, tgid uint32, old bool, add func(sum)) {
	if s.inHost() {
		return
	}
	c := d.seen[s.cookie]
	if c == nil {
		if len(d.seen) >= maxSockets {
			d.over, d.missed = d.over+1, d.missed+1
			return
		}
		c = &counted{}
		d.seen[s.cookie] = c
		if old {
			c.tx, c.rx, c.retransmits = s.tx, s.rx, s.retransmits
		}
	}
	c.turn = d.turn
	add(sum{group: s.group, tgid: tgid, peer: s.peer, tx: s.tx - min(s.tx, c.tx), rx: s.rx - min(s.rx, c.rx),
		retransmits: s.retransmits - min(s.retransmits, c.retransmits), connections: 1})
	c.tx, c.rx, c.retransmits = max(c.tx, s.tx), max(c.rx, s.rx), max(c.retransmits, s.retransmits)
	if len(d.own) < maxAddrs {
		d.own[s.own] = true
	}
}

// ask dumps the sockets of the network namespace of a process; 0: of the agent's.
func (d *diag) ask(pid int32, take func(diagSocket)) error {
	var at map[int]*nl.SocketHandle
	if pid != 0 {
		s, err := enter(d.file(pid, "ns/net"))
		if err != nil {
			return err
		}
		defer s.Close()
		at = map[int]*nl.SocketHandle{unix.NETLINK_SOCK_DIAG: {Socket: s}}
	}
	return errors.Join(dump(unix.AF_INET, at, take), dump(unix.AF_INET6, at, take))
}

// enter opens a netlink socket in a network namespace; it stays there. The thread goes back
// to its own. One that cannot is given up, and only then: children may die with the thread
// that started them.
func enter(path string) (s *nl.NetlinkSocket, err error) {
	there, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer there.Close() //nolint:errcheck // it was open for reading
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		here, herr := os.Open("/proc/thread-self/ns/net")
		if herr != nil {
			err = herr
			runtime.UnlockOSThread()
			return
		}
		defer here.Close() //nolint:errcheck // as above
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			s, err = nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_SOCK_DIAG)
			if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) != nil {
				return // still locked: the thread ends with this goroutine
			}
		}
		runtime.UnlockOSThread()
	}()
	<-done
	if err != nil {
		return nil, fmt.Errorf("enter network namespace: %w", err)
	}
	if err = s.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		s.Close()
		return nil, fmt.Errorf("enter network namespace: %w", err)
	}
	return s, nil
}

// request is struct inet_diag_req_v2, of which the address part is empty.
type request struct{ family uint8 }

func (r request) Len() int { return 56 }

func (r request) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1], b[2] = r.family, unix.IPPROTO_TCP, 1<<(attrInfo-1)
	binary.NativeEndian.PutUint32(b[4:], states)
	return b
}

func dump(family uint8, at map[int]*nl.SocketHandle, take func(diagSocket)) error {
	req := nl.NewNetlinkRequest(byFamily, unix.NLM_F_DUMP)
	req.Sockets = at
	req.AddData(request{family})
	err := req.ExecuteIter(unix.NETLINK_SOCK_DIAG, 0, func(msg []byte) bool {
		if s, ok := parseDiag(msg); ok {
			take(s)
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return fmt.Errorf("ask for sockets: %w", err)
	}
	return nil // sockets that came or went meanwhile are found at the next look
}

// diagSocket is a TCP socket as the kernel tells it.
type diagSocket struct {
	own, peer   netip.Addr
	cookie      uint64
	group       uint64
	inode       uint32
	tx, rx      uint64
	retransmits uint64
}

// inHost reports whether a connection stays within the host.
func (s *diagSocket) inHost() bool {
	return s.peer.IsLoopback() || s.peer.IsUnspecified() || s.peer == s.own
}

const (
	diagBytes = 72  // struct inet_diag_msg
	infoBytes = 136 // of struct tcp_info that every kernel from 4.1 has
)

// parseDiag reads struct inet_diag_msg and its attributes. false: it is none, or without
// counters.
func parseDiag(b []byte) (s diagSocket, ok bool) {
	if len(b) < diagBytes {
		return s, false
	}
	state := b[1]
	switch b[0] {
	case unix.AF_INET:
		s.own, s.peer = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[24:]))
	case unix.AF_INET6:
		s.own, s.peer = netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:])).Unmap()
	default:
		return s, false
	}
	s.cookie = uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32
	s.inode = binary.NativeEndian.Uint32(b[68:])
	for b = b[diagBytes:]; len(b) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			return s, false
		}
		value := b[4:size]
		switch {
		case kind == attrInfo && len(value) >= infoBytes:
			s.info(value, state)
			ok = true
		case kind == attrGroup && len(value) >= 8:
			s.group = binary.NativeEndian.Uint64(value)
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return s, ok
}

// info reads the counters of struct tcp_info. The kernel counts SYN and FIN as a byte each:
// what was acknowledged is no more than what was sent for the first time, and the state
// says whether the peer's FIN came.
func (s *diagSocket) info(b []byte, state uint8) {
	s.retransmits = uint64(binary.NativeEndian.Uint32(b[100:]))
	s.tx, s.rx = binary.NativeEndian.Uint64(b[120:]), binary.NativeEndian.Uint64(b[128:])
	if len(b) >= 216 { // from 4.19
		sent, again := binary.NativeEndian.Uint64(b[200:]), binary.NativeEndian.Uint64(b[208:])
		if sent >= again {
			s.tx = min(s.tx, sent-again)
		}
	}
	if (state == closeWait || state == lastAck || state == closing) && s.rx > 0 {
		s.rx--
	}
}
