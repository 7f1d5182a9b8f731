// Package host is the instrument of the host itself: its name, its boot, its clocks, its
// processors and its storage.
//
// # What it owns
//
// Both clocks and their relation; the boot id; the share of time in which processors were
// busy (/proc/stat), and bytes per second to and from storage (/proc/diskstats for physical
// disks, /proc/self/mountstats for NFS). It must not know GPUs, ports, jobs or power: watts
// of a host come from its BMC.
//
// # Clocks
//
// Rates rest on the boot clock alone, which no one sets. When the wall clock moves against
// it by more than a second, it was stepped: that is told ("host/clock" is degraded for ten
// minutes) and counted, and rows keep the time that the host believed. Nothing is repaired
// here: who reads both clocks of a batch can.
//
// # What the numbers mean
//
// A row comes every 5 s, as the mean since the row before it: reading /proc/stat costs the
// kernel a walk over every processor and interrupt, so it is not done each second. The
// first look gives no rates. CPU busy is user, nice, system and interrupts; waiting for disks
// and time that a hypervisor took away are not work. Storage is every whole disk that has a
// device behind it (no partitions, loop, RAM, device-mapper or md devices, nor the hidden
// paths of multipath NVMe, all of which would count twice) and what NFS clients moved over
// the wire, once for each mounted server and export. A disk whose counters went backwards
// says nothing for that span. File systems with clients of their own (Lustre, GPFS, WEKA,
// BeeGFS, Ceph, CIFS and others that parse.go names) are not in these numbers: where one is mounted, "host/storage"
// is degraded and says so. mountstats shows the mounts that the agent itself sees: NFS that
// only the host has mounted (as from inside of a pod) is told in the same way, from
// /proc/1/mountinfo.
//
// # Crash, buffers, goroutines, budget
//
// No state outlives the process. It starts no goroutine; a Host belongs to one, but
// ClockSteps may be asked by any. Three files every 5 s.
package host
