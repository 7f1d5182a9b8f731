package fabric

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// maxFunctions bounds the rows of virtual functions; an adapter may offer hundreds.
const maxFunctions = 256

// vfName is the instrument of guests' virtual functions.
const vfName = "fabric/vf"

// adapter is a physical function that has virtual ones which the host does not see as
// ports of its own: they are guests', or in other network namespaces.
type adapter struct {
	netdev, parent string // the network device that is asked; the port that they stand behind
	prefix         string // of the rows' names
	ifindex        int
	infiniband     bool
	sub            bool // its functions are sub-functions, of which netlink does not tell
	functions      []function
	reason         string // why it tells nothing
}

// function is a virtual function. Values of -1 are not known.
type function struct {
	name, parent         string
	id                   int
	txBytes, rxBytes     int64
	txPackets, rxPackets int64
	txDropped, rxDropped int64
	representor          string // its end in the adapter's switch, if there is one
}

// seekFunctions finds adapters whose virtual functions are in use elsewhere.
func (f *Fabric) seekFunctions(l listing, out source.Sink) {
	f.adapters, f.vfAt = nil, 0
	defer f.seekWhole(out)
	if f.cfg.NoVFs {
		return
	}
	left, seen := maxFunctions, map[string]bool{}
	for _, name := range l.net {
		dir := filepath.Join(f.cfg.Sysfs, "class/net", name)
		if f.number(filepath.Join(dir, "device/sriov_numvfs")) <= 0 {
			continue
		}
		if label, err := small(filepath.Join(dir, "phys_port_name"), f.buf[:]); err == nil && representor(string(label)) {
			continue
		}
		pci, err := os.Readlink(filepath.Join(dir, "device"))
		if err != nil || seen[pci] {
			continue
		}
		seen[pci] = true
		if a, ok := f.adapter(dir, name, l, left); ok {
			left -= len(a.functions)
			f.adapters = append(f.adapters, a)
		}
	}
	f.seekSubFunctions(l, left)
	if len(f.adapters) == 0 && f.vfTold.Instrument != "" { // there were some
		f.sayFunctions(source.Status{Instrument: vfName, State: source.Unavailable, Reason: "no virtual function is in use by a guest"}, out)
	}
}

func (f *Fabric) adapter(dir, name string, l listing, left int) (adapter, bool) {
	a := adapter{netdev: name, parent: name, prefix: name, ifindex: int(f.number(filepath.Join(dir, "ifindex")))}
	if kind, err := small(filepath.Join(dir, "type"), f.buf[:]); err == nil && string(kind) != arphrdEther {
		a.infiniband = true
		rdma, err := names(filepath.Join(dir, "device/infiniband"))
		if err != nil || len(rdma) == 0 {
			return a, false
		}
		a.prefix, a.parent = rdma[0], rdma[0]+"/1"
	}
	n := f.number(filepath.Join(dir, "device/sriov_numvfs"))
	for id := range int(min(n, maxNames)) {
		vf := filepath.Join(dir, "device", "virtfn"+strconv.Itoa(id))
		if !exists(filepath.Join(vf, "driver")) || f.mine(vf, l) || len(a.functions) >= left {
			continue
		}
		a.functions = append(a.functions, function{
			name: a.prefix + "/vf" + strconv.Itoa(id), parent: a.parent, id: id, representor: f.representorOf(dir, id, l),
		})
	}
	return a, len(a.functions) > 0
}

// seekSubFunctions finds sub-functions that are in other network namespaces: what is left of
// them here is their representor.
func (f *Fabric) seekSubFunctions(l listing, left int) {
	read := func(device, name string) string {
		b, err := small(filepath.Join(f.cfg.Sysfs, "class/net", device, name), f.buf[:])
		if err != nil {
			return ""
		}
		return string(b)
	}
	here, uplinks := map[string]bool{}, map[string]string{}
	for _, n := range l.net {
		if sf := read(n, "device/sfnum"); sf != "" {
			here[sf] = true
		}
		if label := read(n, "phys_port_name"); len(label) > 1 && label[0] == 'p' && label[1] >= '0' && label[1] <= '9' {
			uplinks[read(n, "phys_switch_id")] = n
		}
	}
	at := map[string]int{}
	for _, n := range l.net {
		label := read(n, "phys_port_name")
		i := strings.LastIndex(label, "sf")
		sw := read(n, "phys_switch_id")
		uplink := uplinks[sw]
		if sw == "" || !representor(label) || i < 0 || uplink == "" || here[label[i+2:]] || left <= 0 {
			continue
		}
		if _, err := parseCount([]byte(label[i+2:])); err != nil {
			continue
		}
		j, ok := at[uplink]
		if !ok {
			j = len(f.adapters)
			at[uplink] = j
			f.adapters = append(f.adapters, adapter{netdev: uplink, parent: uplink, prefix: uplink, sub: true})
		}
		left--
		f.adapters[j].functions = append(f.adapters[j].functions, function{name: uplink + "/" + label[i:], parent: uplink, id: -1, representor: n})
	}
}

// mine reports whether a virtual function is one of the ports that are read anyway.
func (f *Fabric) mine(vf string, l listing) bool {
	for class, known := range map[string][]string{"net": l.net, "infiniband": l.rdma} {
		list, err := names(filepath.Join(vf, class))
		if err == nil && slices.ContainsFunc(list, func(n string) bool { return slices.Contains(known, n) }) {
			return true
		}
	}
	return false
}

// representorOf finds the network device that is a virtual function's end in the switch of
// its adapter.
func (f *Fabric) representorOf(dir string, id int, l listing) string {
	read := func(name string) string {
		b, err := small(name, f.buf[:])
		if err != nil {
			return ""
		}
		return string(b)
	}
	sw := read(filepath.Join(dir, "phys_switch_id"))
	if sw == "" {
		return ""
	}
	for _, n := range l.net {
		d := filepath.Join(f.cfg.Sysfs, "class/net", n)
		label := read(filepath.Join(d, "phys_port_name"))
		if representor(label) && strings.HasSuffix(label, "vf"+strconv.Itoa(id)) && read(filepath.Join(d, "phys_switch_id")) == sw {
			return n
		}
	}
	return ""
}

// functions asks for the counters of guests' virtual functions and puts their rows.
func (f *Fabric) functions(ctx context.Context, out source.Sink) {
	for i := range f.adapters {
		if ctx.Err() != nil {
			return
		}
		a := &f.adapters[i]
		f.functionsOf(a)
		for j := range a.functions {
			v := &a.functions[j]
			if v.txBytes < 0 && v.rxBytes < 0 {
				continue
			}
			f.vf = v
			out.Row(wire.KindFabric, wire.SourceNetlink, "", nil, f.fillVF)
		}
	}
	f.sayFunctions(f.functionStatus(), out)
}

func (f *Fabric) functionsOf(a *adapter) {
	for j := range a.functions {
		v := &a.functions[j]
		v.txBytes, v.rxBytes, v.txPackets, v.rxPackets, v.txDropped, v.rxDropped = -1, -1, -1, -1, -1, -1
	}
	a.reason = ""
	untold := 0
	var err error
	name := ""
	if !a.sub {
		var msg []byte
		if msg, err = f.ask(a.ifindex); err == nil {
			name, err = decodeFunctions(msg, a.functions)
		}
	}
	switch {
	case err != nil:
		a.reason = "cannot ask the kernel for the counters of its virtual functions: " + askWhy(err)
	case name != "" && name != a.netdev:
		for j := range a.functions {
			a.functions[j].txBytes, a.functions[j].rxBytes = -1, -1
		}
		a.reason = fmt.Sprintf("the kernel's interface %d is %.32q here: the agent is in another network namespace than its sysfs (hostNetwork)", a.ifindex, name)
	}
	for j := range a.functions {
		v := &a.functions[j]
		if v.txBytes < 0 && v.representor != "" && a.reason == "" {
			_ = f.representorStats(v) // without it the function stays unknown, and is said
		}
		if v.txBytes < 0 {
			untold++
		}
	}
	switch {
	case a.reason != "" || untold == 0:
	case untold == len(a.functions):
		a.reason = fmt.Sprintf("its driver counts nothing of its %d virtual functions in use; the switch does", untold)
	default:
		a.reason = fmt.Sprintf("its driver does not count %d of its %d virtual functions in use; the switch does", untold, len(a.functions))
	}
}

func askWhy(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		switch errno {
		case syscall.EAGAIN:
			return "no answer within a second; a firmware that hangs holds the kernel's lock on network devices"
		case syscall.EACCES, syscall.EPERM, syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT:
			return errnoName(errno) + ": the agent's sandbox must allow netlink sockets (RestrictAddressFamilies=AF_NETLINK)"
		}
		return errnoName(errno)
	}
	return err.Error()
}

// functionStatus says what is seen of guests' functions.
func (f *Fabric) functionStatus() source.Status {
	s := source.Status{Instrument: vfName, State: source.Active}
	silent, ib, why := 0, 0, ""
	for i := range f.adapters {
		a := &f.adapters[i]
		if a.infiniband {
			ib += len(a.functions)
		}
		if a.reason != "" {
			silent++
			if why == "" {
				why = a.netdev + ": " + a.reason
			}
		}
	}
	switch {
	case silent > 0:
		s.State, s.Reason = source.Degraded, fmt.Sprintf("%d of %d adapters do not tell what guests send: %s", silent, len(f.adapters), why)
	case ib > 0:
		s.State = source.Degraded
		s.Reason = fmt.Sprintf("%d InfiniBand functions are in use by guests: their RDMA passes the host by, and what is told of it is the firmware's word alone; the switch (UFM, gNMI) is the witness", ib)
	}
	return s
}

func (f *Fabric) sayFunctions(s source.Status, out source.Sink) {
	if s != f.vfTold {
		f.vfTold = s
		out.Status(s)
	}
}

func (f *Fabric) fillFunction(b *wire.Builder) {
	v := f.vf
	b.SetInt(fieldTs, f.at.WallMs)
	b.SetInt(fieldBoot, f.at.BootMs)
	b.SetStr(fieldPort, v.name)
	b.SetStr(fieldKind, kindVF)
	b.SetStr(fieldParent, v.parent)
	for _, x := range [...]struct {
		field uint8
		value int64
	}{{fieldTx, v.txBytes}, {fieldRx, v.rxBytes}, {fieldTxPackets, v.txPackets}, {fieldRxPackets, v.rxPackets}, {fieldTxDiscards, v.txDropped}, {fieldRxDiscards, v.rxDropped}} {
		if x.value >= 0 {
			b.SetInt(x.field, x.value)
		}
	}
}

// seekWhole tells of network adapters that guests have whole: nothing of them is in sysfs'
// classes.
func (f *Fabric) seekWhole(out source.Sink) {
	dir := filepath.Join(f.cfg.Sysfs, "bus/pci/drivers/vfio-pci")
	list, err := names(dir)
	if err != nil {
		list = nil
	}
	n := 0
	for _, name := range list {
		d := filepath.Join(dir, name)
		class, err := small(filepath.Join(d, "class"), f.buf[:])
		if err == nil && strings.HasPrefix(string(class), "0x02") && !exists(filepath.Join(d, "physfn")) {
			n++
		}
	}
	s := source.Status{Instrument: "fabric/passthrough", State: source.Unavailable}
	if n > 0 {
		s.Reason = fmt.Sprintf("%d network adapters are passed through to guests whole: the host sees nothing of their traffic; the switch (UFM, gNMI) does", n)
	} else if f.whole.Instrument != "" {
		s.State = source.Active
	}
	if s.Reason != f.whole.Reason {
		f.whole = s
		out.Status(s)
	}
}

// askLink asks for a link with all that belongs to its virtual functions. The answer is an
// ifinfomsg and its attributes.
func askLink(ifindex int) ([]byte, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer s.Close()
	patience := unix.Timeval{Sec: 1}
	if err = s.SetReceiveTimeout(&patience); err != nil {
		return nil, fmt.Errorf("bound netlink: %w", err)
	}
	if err = s.SetSendTimeout(&patience); err != nil {
		return nil, fmt.Errorf("bound netlink: %w", err)
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(ifindex)
	req.AddData(info)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF)))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("ask netlink: %w", err)
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("ask netlink: %d answers", len(msgs))
	}
	return msgs[0], nil
}

// Attributes of a virtual function, as linux/if_link.h numbers them. The library's own
// parser is not used: it knows no absent counter, takes a function's place in the list for
// its number, and has the two counters of drops one off (the header has padding before).
const (
	vfInfo        = 1 // in IFLA_VFINFO_LIST
	vfMAC         = 1 // in vfInfo; begins with the function's number
	vfStats       = 8
	statRxPackets = 0
	statTxPackets = 1
	statRxBytes   = 2
	statTxBytes   = 3
	statRxDropped = 7
	statTxDropped = 8
	nlaTypeMask   = 0x3fff
)

var errLink = errors.New("the answer is not well-formed")

// attributes walks over netlink attributes; it returns errLink where their lengths lie.
func attributes(b []byte, each func(kind uint16, value []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return errLink
		}
		if err := each(binary.NativeEndian.Uint16(b[2:])&nlaTypeMask, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// decodeFunctions fills the counters of the functions in into, and returns the link's name.
func decodeFunctions(msg []byte, into []function) (name string, err error) {
	if len(msg) < unix.SizeofIfInfomsg {
		return "", errLink
	}
	err = attributes(msg[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			raw, _, _ := bytes.Cut(value, []byte{0})
			name = string(raw)
		case unix.IFLA_VFINFO_LIST:
			return attributes(value, func(kind uint16, value []byte) error {
				if kind != vfInfo {
					return nil
				}
				return decodeFunction(value, into)
			})
		}
		return nil
	})
	return name, err
}

func decodeFunction(b []byte, into []function) error {
	id := -1
	var stats []byte
	err := attributes(b, func(kind uint16, value []byte) error {
		switch {
		case kind == vfMAC && len(value) >= 4:
			id = int(binary.NativeEndian.Uint32(value))
		case kind == vfStats:
			stats = value
		}
		return nil
	})
	if err != nil || id < 0 || stats == nil {
		return err
	}
	i := slices.IndexFunc(into, func(v function) bool { return v.id == id })
	if i < 0 {
		return nil // unused, or the host's own
	}
	v := &into[i]
	return attributes(stats, func(kind uint16, value []byte) error {
		if len(value) != 8 {
			return nil // padding, or what is not known
		}
		n := binary.NativeEndian.Uint64(value)
		if n > math.MaxInt64 {
			return nil // all ones: the driver's way to say nothing
		}
		switch kind {
		case statRxPackets:
			v.rxPackets = int64(n)
		case statTxPackets:
			v.txPackets = int64(n)
		case statRxBytes:
			v.rxBytes = int64(n)
		case statTxBytes:
			v.txBytes = int64(n)
		case statRxDropped:
			v.rxDropped = int64(n)
		case statTxDropped:
			v.txDropped = int64(n)
		}
		return nil
	})
}
