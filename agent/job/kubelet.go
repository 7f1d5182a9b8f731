package job

import (
	"context"
	"fmt"
	"maps"

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
	over    int // devices beyond maxDevices
	large   int
}

// podsAnswer is what the Pods API says.
type podsAnswer struct {
	names map[podName]podInfo
	over  int // pods beyond maxPods
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
				k.resources.note = both(largeNote(a.large), overNote(a.over, "devices", maxDevices))
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
			k.pods.note = both(largeNote(a.large), overNote(a.over, "pods", maxPods))
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

func overNote(n int, what string, most int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s beyond the first %d are left out", n, what, most)
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
		return parsePodResources(&a, item)
	})
	a.large = large
	return a, err
}

// askPods lists all pods of the node.
func askPods(ctx context.Context, c *caller) (podsAnswer, error) {
	a := podsAnswer{names: map[podName]podInfo{}}
	large, err := c.list(ctx, podsAPIMethod, func(item []byte) error {
		name, info, perr := parsePod(item)
		if perr != nil || name.name == "" || info.uid == "" {
			return perr
		}
		old, twice := a.names[name]
		switch {
		case twice:
			info = choose(old, info)
		case len(a.names) >= maxPods:
			a.over++
			return nil
		}
		a.names[name] = info
		return nil
	})
	a.large = large
	return a, err
}
