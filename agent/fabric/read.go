package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"syscall"
)

// errValue says that a file holds no number of the kind that belongs there.
var errValue = errors.New("not a count")

// counter is a file that stays open. sysfs makes its content anew for every read at
// offset 0.
type counter struct {
	path string
	fd   int // -1: closed
}

func (c *counter) close() {
	if c.fd >= 0 {
		_ = syscall.Close(c.fd) // it was open for reading: nothing can be lost
		c.fd = -1
	}
}

// read returns the counter. An error is an errno or errValue; the file is opened anew at
// the next read.
func (c *counter) read(buf []byte) (int64, error) {
	if c.fd < 0 {
		fd, err := open(c.path)
		if err != nil {
			return 0, err
		}
		c.fd = fd
	}
	n, err := pread(c.fd, buf)
	if err != nil {
		c.close()
		return 0, err
	}
	return parseCount(buf[:n])
}

func open(path string) (int, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

func pread(fd int, buf []byte) (int, error) {
	for {
		n, err := syscall.Pread(fd, buf, 0)
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}

// small reads the start of a small file into buf.
func small(path string, buf []byte) ([]byte, error) {
	fd, err := open(path)
	if err != nil {
		return nil, err
	}
	n, err := pread(fd, buf)
	_ = syscall.Close(fd) // it was open for reading
	if err != nil {
		return nil, err
	}
	return bytes.TrimSpace(buf[:n]), nil
}

// parseCount reads a decimal count that fits 63 bits.
func parseCount(b []byte) (int64, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || len(b) > 20 {
		return 0, errValue
	}
	var v int64
	for _, d := range b {
		if d < '0' || d > '9' || v > (math.MaxInt64-int64(d-'0'))/10 {
			return 0, errValue
		}
		v = 10*v + int64(d-'0')
	}
	return v, nil
}

// maxMbps bounds what is believed of a rate: a thousand Tb/s.
const maxMbps = 1e9

// parseRate reads the rate of an RDMA port, as "400 Gb/sec (4X NDR)". ok is false if it
// is not known.
func parseRate(b []byte) (mbps int64, ok bool) {
	number, _, found := bytes.Cut(b, []byte(" Gb/sec"))
	if !found {
		return 0, false
	}
	gbps, err := strconv.ParseFloat(string(number), 64)
	if err != nil || !(gbps > 0 && gbps <= maxMbps/1000) {
		return 0, false
	}
	return int64(math.Round(gbps * 1000)), true
}

// parseSpeed reads the speed of a network device, in Mbit/s: -1, or its unsigned twin on
// older kernels, is "not known".
func parseSpeed(b []byte) (mbps int64, ok bool) {
	v, err := parseCount(b)
	return v, err == nil && v > 0 && v <= maxMbps
}

// parseState reads the state of an RDMA port, as "4: ACTIVE".
func parseState(b []byte) (up, ok bool) {
	if len(b) < 2 || b[1] != ':' {
		return false, false
	}
	switch b[0] {
	case '4', '5': // active; active, and recovering from an error
		return true, true
	case '1', '2', '3': // down, initializing, armed
		return false, true
	}
	return false, false
}

// parseOperstate reads the state of a network device (RFC 2863).
func parseOperstate(b []byte) (up, ok bool) {
	switch string(b) {
	case "up":
		return true, true
	case "down", "lowerlayerdown", "notpresent", "dormant", "testing":
		return false, true
	}
	return false, false // "unknown"
}

// why says what a failed read means, and what would help where that is known.
func why(err error) string {
	if errors.Is(err, errValue) {
		return "the driver gives no count"
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err.Error()
	}
	name := errnoName(errno)
	switch errno {
	case syscall.EACCES, syscall.EPERM:
		return name + ": the agent's user may not read it; these files are world-readable on a host, so look at its sandbox or mount"
	case syscall.ENOENT:
		return name + ": the driver does not offer it"
	case syscall.ENODEV, syscall.ENXIO:
		return name + ": the device is going away"
	case syscall.EIO, syscall.EINVAL, syscall.ENODATA, syscall.ETIMEDOUT:
		return name + ": the driver or its firmware does not answer; its kernel log may say why"
	case syscall.EMFILE, syscall.ENFILE:
		return name + ": no more file descriptors; raise the limit (LimitNOFILE)"
	}
	return name
}

func errnoName(e syscall.Errno) string {
	name, ok := map[syscall.Errno]string{
		syscall.EACCES: "EACCES", syscall.EPERM: "EPERM", syscall.ENOENT: "ENOENT", syscall.ENODEV: "ENODEV", syscall.ENXIO: "ENXIO", syscall.EIO: "EIO",
		syscall.EINVAL: "EINVAL", syscall.ENODATA: "ENODATA", syscall.ETIMEDOUT: "ETIMEDOUT", syscall.EMFILE: "EMFILE", syscall.ENFILE: "ENFILE",
		syscall.EOPNOTSUPP: "EOPNOTSUPP", syscall.EISDIR: "EISDIR",
	}[e]
	if !ok {
		return fmt.Sprintf("errno %d (%s)", int(e), e.Error())
	}
	return fmt.Sprintf("%s (%s)", name, e.Error())
}
