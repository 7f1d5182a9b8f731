package sock

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// message is what the kernel answers about a socket.
func message(state uint8, own, peer string, acked, received, sent, again uint64, group uint64) []byte {
	b := make([]byte, diagBytes)
	b[0], b[1] = unix.AF_INET6, state
	o, p := netip.MustParseAddr(own).As16(), netip.MustParseAddr(peer).As16()
	copy(b[8:], o[:])
	copy(b[24:], p[:])
	binary.NativeEndian.PutUint32(b[44:], 7)
	binary.NativeEndian.PutUint32(b[48:], 1)
	binary.NativeEndian.PutUint32(b[68:], 99)
	info := make([]byte, 4+232)
	binary.NativeEndian.PutUint16(info, uint16(len(info)))
	binary.NativeEndian.PutUint16(info[2:], attrInfo)
	binary.NativeEndian.PutUint32(info[4+100:], 3)
	for at, v := range map[int]uint64{120: acked, 128: received, 200: sent, 208: again} {
		binary.NativeEndian.PutUint64(info[4+at:], v)
	}
	b = append(b, info...)
	attr := make([]byte, 12)
	binary.NativeEndian.PutUint16(attr, 12)
	binary.NativeEndian.PutUint16(attr[2:], attrGroup)
	binary.NativeEndian.PutUint64(attr[4:], group)
	return append(b, attr...)
}

func TestParseDiag(t *testing.T) {
	s, ok := parseDiag(message(closeWait, "::ffff:10.0.0.1", "::ffff:10.0.0.2", 1002, 501, 1100, 100, 42))
	want := diagSocket{own: netip.MustParseAddr("10.0.0.1"), peer: netip.MustParseAddr("10.0.0.2"), cookie: 1<<32 | 7, group: 42, inode: 99, tx: 1000, rx: 500, retransmits: 3}
	if !ok || s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	for _, pair := range [][2]string{{"::1", "::1"}, {"127.0.0.1", "127.0.0.2"}, {"10.0.0.1", "10.0.0.1"}, {"10.0.0.1", "0.0.0.0"}} {
		if s := (diagSocket{own: netip.MustParseAddr(pair[0]), peer: netip.MustParseAddr(pair[1])}); !s.inHost() {
			t.Errorf("%v leaves the host", pair)
		}
	}
}

func FuzzParseDiag(f *testing.F) {
	f.Add(message(established, "fd00::1", "fd00::2", 1, 2, 3, 4, 5))
	f.Add(message(lastAck, "::ffff:10.0.0.1", "::ffff:10.0.0.2", 1, 2, 3, 4, 5)[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseDiag(b)
		if ok && !s.peer.IsValid() {
			t.Error("a socket without a peer")
		}
	})
}

func FuzzSocketInode(f *testing.F) {
	f.Add("socket:[123]")
	f.Add("pipe:[1]")
	f.Fuzz(func(_ *testing.T, s string) { socketInode(s) })
}
