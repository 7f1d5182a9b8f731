package job

import (
	"strings"
)

// parsePodResources adds the devices of one PodResources message that may be GPUs, and counts
// those that there is no room for.
func parsePodResources(to *resourcesAnswer, b []byte) error {
	var pod podDevice
	var containers [][]byte
	err := fields(b, func(f uint64, v []byte) error {
		switch f {
		case 1:
			pod.pod = text(v)
		case 2:
			pod.namespace = text(v)
		case 3:
			containers = append(containers, v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	add := func(d podDevice) {
		switch {
		case d.pod == "" || d.id == "":
		case len(to.devices) < maxDevices:
			to.devices = append(to.devices, d)
		default:
			to.over++
		}
	}
	for _, c := range containers {
		d := pod
		// The name comes first in what kubelets write, but nothing holds them to that.
		err = fields(c, func(f uint64, v []byte) error {
			if f == 1 {
				d.container = text(v)
			}
			return nil
		})
		if err == nil {
			err = fields(c, func(f uint64, v []byte) error {
				switch f {
				case 2:
					return parseDevices(d, v, add)
				case 5:
					return parseClaims(d, v, add)
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseDevices reads a ContainerDevices message.
func parseDevices(d podDevice, b []byte, add func(podDevice)) error {
	err := fields(b, func(f uint64, v []byte) error {
		if f == 1 {
			d.resource = text(v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fields(b, func(f uint64, v []byte) error {
		if f != 2 || !maybeGPU(d.resource, v) {
			return nil
		}
		d.id = text(v)
		add(d)
		return nil
	})
}

// parseClaims reads a DynamicResource message: each of its ClaimResources names a device of
// a driver, and the CDI devices that stand for it.
func parseClaims(d podDevice, b []byte, add func(podDevice)) error {
	d.dra = true
	return fields(b, func(f uint64, claim []byte) error {
		if f != 4 {
			return nil
		}
		c, cdi := d, ""
		err := fields(claim, func(f uint64, v []byte) error {
			switch f {
			case 1:
				return fields(v, func(f uint64, name []byte) error {
					// A claim may have several: the one that names a UUID says most.
					if n := text(name); f == 1 && (cdi == "" || hasUUID(n) && !hasUUID(cdi)) {
						cdi = n
					}
					return nil
				})
			case 2:
				c.resource = text(v)
			case 4:
				c.id = text(v)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if hasUUID(cdi) || c.id == "" {
			c.id = cdi
		}
		if maybeGPU(c.resource, []byte(c.id)) || maybeGPU(c.resource, []byte(cdi)) {
			add(c)
		}
		return nil
	})
}

// text makes a copy of what a reply holds, if it is fit to be told.
func text(v []byte) string {
	if len(v) > maxText {
		return ""
	}
	s := string(v)
	if !isName(s) && strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

// choose says which of two pods of one name holds the name's devices: one that runs, before
// one that has ended or is being deleted. Of equals none, as that is not known.
func choose(a, b podInfo) podInfo {
	worth := func(p podInfo) int {
		switch {
		case p.ended:
			return 0
		case p.leaving:
			return 1
		}
		return 2
	}
	switch d := worth(a) - worth(b); {
	case d > 0:
		return a
	case d < 0:
		return b
	}
	return podInfo{ended: a.ended}
}

// parsePod reads of a Pod of the core API its name, its UID, how it is and which containers
// it has; nothing of what its containers are given.
func parsePod(b []byte) (name podName, info podInfo, err error) {
	err = fields(b, func(f uint64, v []byte) error {
		switch f {
		case 1: // metadata
			return fields(v, func(f uint64, v []byte) error {
				switch f {
				case 1:
					name.name = text(v)
				case 3:
					name.namespace = text(v)
				case 5:
					if uid, ok := normalUID(text(v)); ok {
						info.uid = uid
					}
				case 9:
					info.leaving = true
				}
				return nil
			})
		case 3: // status
			return fields(v, func(f uint64, v []byte) error {
				switch f {
				case 1:
					info.ended = string(v) == "Succeeded" || string(v) == "Failed"
				case 8, 10, 13: // statuses of containers, of those that begin it, and of passing ones
					return parseContainer(v, &info)
				}
				return nil
			})
		}
		return nil
	})
	return name, info, err
}

// parseContainer reads a ContainerStatus: its name, and its id as runtime://hex.
func parseContainer(b []byte, info *podInfo) error {
	var name, id string
	err := fields(b, func(f uint64, v []byte) error {
		switch f {
		case 1:
			name = text(v)
		case 8:
			_, id, _ = strings.Cut(text(v), "://")
		}
		return nil
	})
	if err == nil && name != "" && isContainerID(id) {
		if info.containers == nil {
			info.containers = map[string]string{}
		}
		info.containers[id[:shortID]] = name
	}
	return err
}
