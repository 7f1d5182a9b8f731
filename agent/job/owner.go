package job

import "strings"

// Owner is who holds a device now, in clear: for a page of this host that the site has asked
// for, and for no row. Empty fields are not known, or do not apply.
type Owner struct {
	Pod, Namespace, Container string // Kubernetes
	Job                       string // Slurm: its number, or its SLUID
}

// owners are those of GPUs and MIG devices by UUID. A list that is published is not changed.
type owners map[string]Owner

// Owner says who alone holds a GPU or a MIG device; it is empty where nobody is known to, where
// several do, and where it may be over. While a scheduler cannot be asked its last word stands.
// It may be asked by any goroutine.
func (j *Job) Owner(uuid string) Owner {
	if list := j.owners.Load(); list != nil {
		return (*list)[uuid]
	}
	return Owner{}
}

// publish makes the list of owners anew where a scheduler was heard since.
func (j *Job) publish() {
	if j.ownersOf == j.holds.round {
		return
	}
	list := j.holds.owners()
	j.owners.Store(&list)
	j.ownersOf = j.holds.round
}

// owners are those of all devices that one job of a scheduler holds alone.
func (h *holds) owners() owners {
	list := owners{}
	for _, o := range h.order {
		if o.mark == 0 || o.shares > 1 || o.missedMs != 0 { // mark: else an earlier agent's word
			continue
		}
		own := list[o.uuid]
		switch o.source {
		case sourceKubernetes:
			own.Pod, own.Namespace = o.workload, o.project
			if !strings.Contains(o.container, " ") { // several of the pod's containers have it
				own.Container = o.container
			}
		case sourceSlurm:
			own.Job = o.id
		}
		list[o.uuid] = own
	}
	return list
}
