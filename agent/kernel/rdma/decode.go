package rdma

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Of rdma/rdma_netlink.h.
const (
	client   = 5 // RDMA_NL_NLDEV
	cmdGet   = 1
	cmdQP    = 10
	cmdCQ    = 12
	cmdMR    = 13
	attrIdx  = 1
	attrName = 2

	attrQP       = 19
	attrQPEntry  = 20
	attrLocal    = 21
	attrRemote   = 22
	attrState    = 27
	attrPID      = 28
	attrKernel   = 29
	attrCQ       = 35
	attrCQEntry  = 36
	attrMR       = 40
	attrMREntry  = 41
	attrMRLength = 45

	readyToSend = 3 // IB_QPS_RTS
	attrMask    = 0x3fff
)

var errMessage = errors.New("not a message of RDMA netlink")

// attrs walks over attributes; it stops at the first that is none.
func attrs(b []byte, each func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return errMessage
		}
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&attrMask
		if size < 4 || size > len(b) {
			return errMessage
		}
		if err := each(kind, b[4:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

func number(v []byte) (uint64, error) {
	switch len(v) {
	case 1:
		return uint64(v[0]), nil
	case 4:
		return uint64(binary.NativeEndian.Uint32(v)), nil
	case 8:
		return binary.NativeEndian.Uint64(v), nil
	}
	return 0, errMessage
}

// device is an RDMA device.
type device struct {
	index uint32
	name  string
}

// parseDevice reads an answer to cmdGet.
func parseDevice(b []byte) (d device, err error) {
	has := 0
	err = attrs(b, func(kind uint16, v []byte) error {
		switch kind {
		case attrIdx:
			n, nerr := number(v)
			if nerr != nil {
				return nerr
			}
			d.index = uint32(n)
			has |= 1
		case attrName:
			name, _, _ := bytes.Cut(v, []byte{0})
			if !proper(name) {
				return errMessage
			}
			d.name = string(name)
			has |= 2
		}
		return nil
	})
	if err == nil && has != 3 {
		err = errMessage
	}
	return d, err
}

// proper reports whether a device's name is one.
func proper(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(name) > 0 && len(name) <= 64
}

// object is a queue pair, a completion queue or a memory region.
type object struct {
	pid           uint32
	owned         bool // it is known whose it is
	local, remote uint32
	paired        bool // remote is known
	ready         bool
	bytes         uint64
}

// parseObjects reads an answer with objects: those in the table, entry by entry.
func parseObjects(b []byte, table, entry uint16, each func(object)) error {
	return attrs(b, func(kind uint16, v []byte) error {
		if kind != table {
			return nil
		}
		return attrs(v, func(kind uint16, v []byte) error {
			if kind != entry {
				return nil
			}
			o, err := parseObject(v)
			if err == nil {
				each(o)
			}
			return err
		})
	})
}

func parseObject(b []byte) (o object, err error) {
	err = attrs(b, func(kind uint16, v []byte) error {
		var n uint64
		switch kind {
		case attrKernel:
			o.pid, o.owned = 0, true
			return nil
		case attrLocal, attrRemote, attrState, attrPID, attrMRLength:
			var nerr error
			if n, nerr = number(v); nerr != nil {
				return nerr
			}
		default:
			return nil
		}
		switch kind {
		case attrLocal:
			o.local = uint32(n)
		case attrRemote:
			o.remote, o.paired = uint32(n), true
		case attrState:
			o.ready = n == readyToSend
		case attrPID:
			o.pid, o.owned = uint32(n), true
		case attrMRLength:
			o.bytes = n
		}
		return nil
	})
	return o, err
}
