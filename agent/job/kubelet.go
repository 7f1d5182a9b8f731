package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	listPods      = "/v1.PodResourcesLister/List"
	podsAPIMethod = "/v1alpha1.Pods/ListPods"
)

const (
	askMs         = 15_000  // between two questions to the kubelet, by default
	minAskMs      = 10_000  // the kubelet answers all its askers 100 times a second at most
	soonMs        = 5_000   // the same where a process's pod is not known
	podsMs        = 60_000  // between two full lists of pods
	absentMs      = 120_000 // how long a pod that the kubelet does not know is not asked for again
	answerSeconds = 5
	maxBackoffMs  = 300_000
	maxPods       = 4096 // that are kept
	maxDevices    = 4096
	maxText       = 256 // bytes of a name in a reply
)

// Names of the parts' statuses.
const (
	partResources = "job/podresources"
	partPods      = "job/pods_api"
)

// podDevice is a device that a container holds, as the kubelet says.
type podDevice struct {
	namespace, pod, container string
	resource                  string // of the device plugin; of DRA the driver
	id                        string
	dra                       bool
}

// podInfo is what the Pods API says of a pod.
type podInfo struct {
	uid        string
	ended      bool
	leaving    bool              // it is being deleted
	containers map[string]string // names by the first digits of their ids
}

// podName is a pod's namespace and name.
type podName struct{ namespace, name string }

// service is one gRPC service of the kubelet, asked by a goroutine of its own, which ends
// with the answer or after some seconds: a kubelet that hangs holds no tick up. There is at
// most one question under way.
type service struct {
	part, path string
	help       string // where it cannot be reached
	caller     *caller
	ask        func(context.Context) (any, error)
	answers    chan answer
	busy       bool
	cancel     context.CancelFunc
	asked      bool
	askedMs    int64 // boot ms
	backoffMs  int64
	heard      bool   // ever
	err        error  // of the last answer
	note, odd  string // what else is wrong
	told       source.Status
	running    sync.WaitGroup
}

// answer is what a question came to.
type answer struct {
	value any
	err   error
}

func newService(part, path, help string) *service {
	return &service{part: part, path: path, help: help, caller: newCaller(path), answers: make(chan answer, 1)}
}

// start asks, unless somebody does.
func (s *service) start(ctx context.Context, bootMs int64) {
	if s.busy {
		return
	}
	ctx, s.cancel = context.WithTimeout(ctx, answerSeconds*time.Second)
	s.busy, s.asked, s.askedMs = true, true, bootMs
	s.running.Go(func() {
		v, err := s.ask(ctx)
		s.answers <- answer{v, err}
	})
}

// take returns an answer that has come.
func (s *service) take() (a answer, ok bool) {
	select {
	case a = <-s.answers:
	default:
		return a, false
	}
	s.cancel()
	s.busy = false
	switch {
	case a.err == nil:
		s.backoffMs, s.heard = 0, true
	case errors.Is(a.err, context.DeadlineExceeded):
		// Where nobody listens, asking costs nothing; one that hangs is left alone for longer.
		s.backoffMs = min(max(2*s.backoffMs, 2*askMs), maxBackoffMs)
	}
	return a, true
}

// due reports whether it is time to ask again.
func (s *service) due(bootMs, everyMs int64) bool {
	return !s.busy && (!s.asked || bootMs-s.askedMs >= max(everyMs, s.backoffMs))
}

// close ends a question that is under way, and waits for its goroutine.
func (s *service) close() {
	if s.busy {
		s.cancel()
	}
	s.running.Wait()
}

// tell says how the service is, if that has changed.
func (s *service) tell(out source.Sink) {
	st := source.Status{Instrument: s.part, State: source.Active}
	switch notes := both(s.note, s.odd); {
	case s.err != nil:
		st.State, st.Reason = s.wrong(s.err)
	case notes != "":
		st.State, st.Reason = source.Degraded, notes
	}
	if st != s.told {
		s.told = st
		out.Status(st)
	}
}

// both joins two reasons, either of which may be "".
func both(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// wrong says what an error means, and what would help.
func (s *service) wrong(err error) (source.State, string) {
	state := source.Degraded
	if s.heard {
		state = source.Lost
	}
	dir := filepath.Dir(s.path)
	status, isStatus := errors.AsType[*statusError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, serr := os.Stat(dir); serr != nil && !s.heard {
			return source.Unavailable, fmt.Sprintf("there is no %s here: on a node of Kubernetes mount that directory, not the socket in it, into the agent's container", dir)
		}
		return state, fmt.Sprintf("%s is not there: %s", s.path, s.help)
	case errors.Is(err, syscall.ECONNREFUSED):
		return state, fmt.Sprintf("nobody listens on %s: if the kubelet runs, the agent has the socket of an earlier one: mount the directory %s, not the socket", s.path, dir)
	case errors.Is(err, fs.ErrPermission):
		return state, fmt.Sprintf("%s may not be opened: the kubelet's sockets are root's, so run the agent as root or give its user write access to the socket", s.path)
	case errors.Is(err, context.DeadlineExceeded):
		return source.Stalled, fmt.Sprintf("the kubelet does not answer on %s within %d s", s.path, answerSeconds)
	case isStatus && status.code == codeUnimplemented:
		return source.Unavailable, fmt.Sprintf("the kubelet has no such service on %s: %s", s.path, s.help)
	}
	return state, fmt.Sprintf("ask the kubelet on %s: %v", s.path, err)
}

// kubelet knows which pod holds which device.
type kubelet struct {
	everyMs   int64
	resources *service
	pods      *service

	devices   []podDevice // the last answer
	devicesMs int64       // wall ms of it; 0: none
	version   uint64      // of names
	names     map[podName]podInfo
	byUID     map[string]podName
	podsMs    int64            // boot ms of the last full list; 0: none
	absent    map[string]int64 // pods that the kubelet did not know, by UID: boot ms
	wanted    bool             // a process's pod is not known
}

// resourcesAnswer is what podresources says.
type resourcesAnswer struct {
	devices []podDevice
	large   int
}

// podsAnswer is what the Pods API says.
type podsAnswer struct {
	names map[podName]podInfo
	large int
}

func newKubelet(resourcesSocket, podsSocket string, everyMs int64) *kubelet {
	k := &kubelet{everyMs: max(everyMs, minAskMs), names: map[podName]podInfo{}, byUID: map[string]podName{}, absent: map[string]int64{}}
	if resourcesSocket != "" {
		s := newService(partResources, resourcesSocket, "the kubelet makes it when it starts")
		s.ask = func(ctx context.Context) (any, error) { return askResources(ctx, s.caller) }
		k.resources = s
	}
	if podsSocket != "" {
		s := newService(partPods, podsSocket, "kubelets have the Pods API since 1.37; without it, pods are known by namespace and name alone")
		s.ask = func(ctx context.Context) (any, error) { return askPods(ctx, s.caller) }
		k.pods = s
	}
	return k
}

// tick takes answers and asks again when it is time. It returns at once.
func (k *kubelet) tick(ctx context.Context, t source.Tick, out source.Sink) {
	if k.resources != nil {
		if said, ok := k.resources.take(); ok {
			k.resources.err, k.resources.note = said.err, ""
			if a, good := said.value.(resourcesAnswer); good && said.err == nil {
				k.devices, k.devicesMs = a.devices, t.WallMs
				k.resources.note = largeNote(a.large)
			}
			k.resources.tell(out)
		}
		every := k.everyMs
		if k.wanted {
			every = soonMs
		}
		if k.resources.due(t.BootMs, every) {
			k.resources.start(ctx, t.BootMs)
		}
	}
	if k.pods == nil {
		return
	}
	if said, ok := k.pods.take(); ok {
		k.pods.err, k.pods.note = said.err, ""
		if a, good := said.value.(podsAnswer); good && said.err == nil {
			k.takePods(a, t.BootMs)
			k.pods.note = largeNote(a.large)
		}
		k.pods.tell(out)
	}
	every := int64(podsMs)
	if k.podsMs == 0 {
		every = k.everyMs // nobody answered yet
	}
	if k.wanted {
		every = soonMs
	}
	if k.pods.due(t.BootMs, every) {
		k.wanted = false
		k.pods.start(ctx, t.BootMs)
	}
}

// ready reports whether all that can be known of pods is: what is told of a pod before its
// UID is known would have to be taken back.
func (k *kubelet) ready() bool { return k.pods == nil || k.podsMs > 0 || k.pods.err != nil }

func largeNote(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d pods are left out: what the kubelet says of each is larger than %d bytes", n, maxItem)
}

func (k *kubelet) takePods(a podsAnswer, bootMs int64) {
	k.podsMs = max(bootMs, 1)
	if !maps.EqualFunc(k.names, a.names, func(x, y podInfo) bool {
		return x.uid == y.uid && x.ended == y.ended && maps.Equal(x.containers, y.containers)
	}) {
		k.version++
	}
	k.names = a.names
	clear(k.byUID)
	for name, info := range k.names {
		if info.uid != "" {
			k.byUID[info.uid] = name
		}
	}
}

// podOf returns who a pod is, and asks for it soon if that is not known.
func (k *kubelet) podOf(uid string, bootMs int64) (name podName, info podInfo, ok bool) {
	if k.pods == nil || uid == "" {
		return podName{}, podInfo{}, false
	}
	if name, ok = k.byUID[uid]; ok {
		return name, k.names[name], true
	}
	if at, asked := k.absent[uid]; asked && bootMs-at < absentMs {
		return podName{}, podInfo{}, false
	}
	if len(k.absent) >= maxPods {
		clear(k.absent)
	}
	k.absent[uid] = bootMs
	k.wanted = true
	return podName{}, podInfo{}, false
}

func (k *kubelet) close() {
	for _, s := range []*service{k.resources, k.pods} {
		if s != nil {
			s.close()
		}
	}
}

// askResources lists the devices of all pods.
func askResources(ctx context.Context, c *caller) (resourcesAnswer, error) {
	var a resourcesAnswer
	large, err := c.list(ctx, listPods, func(item []byte) error {
		var perr error
		a.devices, perr = parsePodResources(a.devices, item)
		return perr
	})
	a.large = large
	return a, err
}

// parsePodResources adds the devices of one PodResources message that may be GPUs.
func parsePodResources(to []podDevice, b []byte) ([]podDevice, error) {
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
		return to, err
	}
	add := func(d podDevice) {
		if len(to) < maxDevices && d.pod != "" && d.id != "" {
			to = append(to, d)
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
			return to, err
		}
	}
	return to, nil
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

// askPods lists all pods of the node.
func askPods(ctx context.Context, c *caller) (podsAnswer, error) {
	a := podsAnswer{names: map[podName]podInfo{}}
	large, err := c.list(ctx, podsAPIMethod, func(item []byte) error {
		name, info, perr := parsePod(item)
		if perr != nil || name.name == "" || info.uid == "" || len(a.names) >= maxPods {
			return perr
		}
		if old, twice := a.names[name]; twice {
			info = choose(old, info)
		}
		a.names[name] = info
		return nil
	})
	a.large = large
	return a, err
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
