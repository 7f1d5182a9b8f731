package job

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// merge joins claims of one job for one device, as of several slices of it or of several of
// a pod's containers.
func merge(claims []claim) []claim {
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cmp.Or(compareHolds(a.holdKey, b.holdKey), strings.Compare(a.device, b.device), strings.Compare(a.container, b.container))
	})
	out := claims[:0]
	for _, c := range claims {
		if n := len(out); n > 0 && out[n-1].holdKey == c.holdKey {
			last := &out[n-1]
			last.device, last.container = join(last.device, c.device), join(last.container, c.container)
			last.conf, last.restarts = min(last.conf, c.conf), max(last.restarts, c.restarts)
			continue
		}
		out = append(out, c)
	}
	return out
}

// join adds a word to a list of words that are separated by blanks.
func join(list, word string) string {
	if word == "" || len(list)+1+len(word) > maxDevText || slices.Contains(strings.Fields(list), word) {
		return list
	}
	if list == "" {
		return word
	}
	return list + " " + word
}

// claims turns what the kubelet says into claims; unresolved are devices that could not be
// told apart. stand are the holds so far: a pod whose UID was known keeps it while the Pods API
// does not answer.
func (k *kubelet) claims(d *devices, key []byte, stand *holds) (claims []claim, unresolved []podDevice) {
	for _, p := range k.devices {
		g, ok := d.of(p)
		name := podName{p.namespace, p.pod}
		info := k.names[name]
		if info.ended {
			continue // some kubelets list the devices of pods that have ended
		}
		if !ok {
			unresolved = append(unresolved, p)
			continue
		}
		alias := anonymous(key, name)
		c := claim{
			holdKey: holdKey{g.uuid, sourceKubernetes, cmp.Or(info.uid, stand.byAlias(g.uuid, alias), alias)}, gpu: g.gpu, device: p.id, container: p.container, evidence: byPodResources,
			conf: holdConf * g.conf / whole, project: p.namespace, workload: p.pod, alias: alias,
		}
		if p.dra {
			c.evidence = byDRA
		}
		claims = append(claims, c)
	}
	return merge(claims), unresolved
}

// anonymous stands for a pod whose UID is not known: its name does not leave the host in
// clear, and the key is this host's alone.
func anonymous(key []byte, name podName) string {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(name.namespace + "/" + name.name)) // a hash's Write does not fail
	return "pod-" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// claims turns the files of prologs into claims.
func (s *slurm) claims(d *devices) (claims []claim, unresolved []string) {
	for _, j := range s.jobs {
		if j.stale || j.lost || j.refused {
			continue
		}
		add := func(g device, name string) {
			c := claim{
				holdKey: holdKey{g.uuid, sourceSlurm, j.id}, gpu: g.gpu, device: name, evidence: bySlurmFile, conf: holdConf * g.conf / whole,
				user: j.user, project: j.account, startMs: j.startMs, restarts: j.restarts,
			}
			if c.user == "" && j.uid != "" {
				c.user = "uid:" + j.uid
			}
			if j.suspect {
				c.conf = min(c.conf, suspectConf)
			}
			claims = append(claims, c)
		}
		for _, uuid := range j.uuids {
			add(d.uuid(uuid), uuid)
		}
		if len(j.uuids) > 0 {
			continue
		}
		for _, n := range j.minors {
			name := "/dev/nvidia" + strconv.Itoa(n)
			if g, ok := d.minor(n); ok {
				add(g, name)
			} else {
				unresolved = append(unresolved, name)
			}
		}
	}
	return merge(claims), unresolved
}

// claims turns dcgm-exporter's files into claims.
func (m *mapping) claims(d *devices) (claims []claim, unresolved []string) {
	for name, ids := range m.files {
		gpu, gi, isMIG := strings.Cut(name, ".")
		n, _, _ := index(gpu)
		g, ok := d.index(n)
		if ok && isMIG {
			number, _, _ := index(gi)
			g, ok = d.instance(g, -1, number)
		}
		if !ok {
			unresolved = append(unresolved, name)
			continue
		}
		for _, id := range ids {
			claims = append(claims, claim{holdKey: holdKey{g.uuid, sourceSlurm, id}, gpu: g.gpu, device: name, evidence: byMapping, conf: holdConf * byMapIndex / whole})
		}
	}
	return merge(claims), unresolved
}
