package proc

import (
	"bytes"
	"strconv"
)

const maxMajors = 8

// parseDevices reads /proc/devices.
func parseDevices(b []byte) (majors []uint32, uvm uint32) {
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("Block")) {
			break
		}
		number, name, ok := bytes.Cut(line, []byte(" "))
		if !ok || !gpuDevice(string(name)) {
			continue
		}
		v, err := strconv.ParseUint(string(number), 10, 12)
		if err != nil || v == 0 {
			continue
		}
		seen := false
		for _, m := range majors {
			seen = seen || m == uint32(v)
		}
		if !seen && len(majors) < maxMajors {
			majors = append(majors, uint32(v))
		}
		if string(name) == unified {
			uvm = uint32(v)
		}
	}
	return majors, uvm
}

// gpuDevice reports whether a driver's devices are held by whoever uses a GPU. The modes of
// displays, capabilities and switches are not.
func gpuDevice(name string) bool {
	switch name {
	case "nvidia", "nvidia-frontend", "nvidiactl", unified:
		return true
	}
	return false
}
