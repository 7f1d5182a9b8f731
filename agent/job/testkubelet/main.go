// Command testkubelet serves what a kubelet serves on its sockets, by gRPC's and Kubernetes'
// own code: the podresources API of v1 and the Pods API. It is for a test of agent/job.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	resources "k8s.io/kubelet/pkg/apis/podresources/v1"
	podsv1 "k8s.io/kubelet/pkg/apis/pods/v1alpha1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testkubelet:", err)
		os.Exit(1)
	}
}

// run serves on the socket that is the first argument; the second is how many pods without a
// GPU there are besides.
func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: testkubelet SOCKET PODS")
	}
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	resources.RegisterPodResourcesListerServer(s, &lister{others: n})
	podsv1.RegisterPodsServer(s, &pods{others: n})
	fmt.Println("ready")
	return s.Serve(l)
}

type lister struct {
	resources.UnimplementedPodResourcesListerServer
	others int
}

// List implements the podresources API.
func (l *lister) List(context.Context, *resources.ListPodResourcesRequest) (*resources.ListPodResourcesResponse, error) {
	share := "a"
	r := &resources.ListPodResourcesResponse{}
	for i := range l.others {
		r.PodResources = append(r.PodResources, &resources.PodResources{
			Name: "pod-" + strconv.Itoa(i), Namespace: "web", CpuIds: []int64{1, 2, 3},
			Containers: []*resources.ContainerResources{{
				Name: "main", CpuIds: []int64{1, 2, 3}, Memory: []*resources.ContainerMemory{{MemoryType: "memory", Size: 1 << 40}},
				Devices: []*resources.ContainerDevices{{ResourceName: "vendor.example/" + strings.Repeat("x", 64), DeviceIds: []string{strings.Repeat("y", 400)}}},
			}},
		})
	}
	topology := &resources.TopologyInfo{Nodes: []*resources.NUMANode{{ID: 1}}}
	r.PodResources = append(r.PodResources,
		&resources.PodResources{Name: "train-0", Namespace: "ai", Containers: []*resources.ContainerResources{
			{Name: "main", Devices: []*resources.ContainerDevices{{ResourceName: "nvidia.com/gpu", DeviceIds: []string{"GPU-00000000-1111-2222-3333-444444444444"}, Topology: topology}}},
		}},
		&resources.PodResources{Name: "mig", Namespace: "ai", Containers: []*resources.ContainerResources{
			{Name: "one", Devices: []*resources.ContainerDevices{{ResourceName: "nvidia.com/mig-1g.10gb", DeviceIds: []string{"MIG-aaaaaaaa-1111-2222-3333-444444444444"}, Topology: topology}}},
		}},
		&resources.PodResources{Name: "claims", Namespace: "ai", Containers: []*resources.ContainerResources{
			{Name: "main", DynamicResources: []*resources.DynamicResource{{ClaimName: "gpu", ClaimNamespace: "ai", ClaimResources: []*resources.ClaimResource{{
				CdiDevices: []*resources.CDIDevice{{Name: "k8s.gpu.nvidia.com/claim=0b5e-gpu-1"}}, DriverName: "gpu.nvidia.com", PoolName: "node-1", DeviceName: "gpu-1", ShareId: &share,
			}}}}},
		}},
	)
	return r, nil
}

type pods struct {
	podsv1.UnimplementedPodsServer
	others int
}

// ListPods implements the Pods API.
func (p *pods) ListPods(context.Context, *podsv1.ListPodsRequest) (*podsv1.ListPodsResponse, error) {
	r := &podsv1.ListPodsResponse{}
	add := func(namespace, name, uid string, phase corev1.PodPhase, container string) error {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(uid), GenerateName: "g", Labels: map[string]string{"app": "x"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/x:1", Env: []corev1.EnvVar{{Name: "API_KEY", Value: "secret"}}}}, NodeName: "node-1"},
			Status: corev1.PodStatus{Phase: phase, PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{
				{Name: "main", ContainerID: "containerd://" + container, Ready: true, Image: "registry.example/x:1"},
			}},
		}
		b, err := pod.Marshal()
		r.Pods = append(r.Pods, b)
		return err
	}
	for i := range p.others {
		if err := add("web", "pod-"+strconv.Itoa(i), fmt.Sprintf("%08d-9b2c-4e3d-8f70-112233445566", i), corev1.PodRunning, strings.Repeat("0", 64)); err != nil {
			return nil, err
		}
	}
	for _, one := range []struct {
		name, uid string
		phase     corev1.PodPhase
	}{
		{"train-0", "6d4f8a1e-9b2c-4e3d-8f70-000000000000", corev1.PodFailed},
		{"train-0", "6d4f8a1e-9b2c-4e3d-8f70-112233445566", corev1.PodRunning},
		{"mig", "7d4f8a1e-9b2c-4e3d-8f70-112233445566", corev1.PodRunning},
		{"claims", "8a6e2b7c9d0f1e3a4b5c6d7e8f901a2b", corev1.PodRunning}, // a static pod's
	} {
		if err := add("ai", one.name, one.uid, one.phase, "3f8c1a6b2d9e4f7081b2c3d4e5f60718293a4b5c6d7e8f901a2b3c4d5e6f7081"); err != nil {
			return nil, err
		}
	}
	return r, nil
}
