package job

import "errors"

var errProto = errors.New("not a message of protocol buffers")

// uvarint reads a number of protocol buffers from the front of b; n is 0 where there is none.
func uvarint(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 10 || i == 9 && c > 1 {
			return 0, 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// fields walks over a message and calls each for every field that holds bytes: text and
// messages. Numbers are passed over. What each is given is part of b.
func fields(b []byte, each func(field uint64, v []byte) error) error {
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n == 0 || tag>>3 == 0 {
			return errProto
		}
		b = b[n:]
		skip := uint64(0)
		switch tag & 7 {
		case 0:
			if _, n = uvarint(b); n == 0 {
				return errProto
			}
			b = b[n:]
		case 1:
			skip = 8
		case 2:
			size, m := uvarint(b)
			if m == 0 || size > uint64(len(b)-m) {
				return errProto
			}
			v := b[m : m+int(size)]
			b = b[m+int(size):]
			if err := each(tag>>3, v); err != nil {
				return err
			}
		case 5:
			skip = 4
		default:
			return errProto
		}
		if skip > uint64(len(b)) {
			return errProto
		}
		b = b[skip:]
	}
	return nil
}
