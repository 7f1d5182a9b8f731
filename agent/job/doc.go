// Package job says which job a process on a GPU belongs to.
//
// # What it owns
//
// For each process that the GPUs' driver lists: when it was started, its executable's name,
// its user, what launched it, and the job that its control groups name. It must not know
// how processes are listed (source.ProcessLister), what runs on other hosts, or what becomes
// of its rows.
//
// It reads /proc/PID/{stat,status,cgroup,exe} and the file of users; nothing else. It never
// reads the arguments, the environment, open files or memory of a process, and therefore
// knows no rank and no world size. The user's name is replaced by a keyed hash before it leaves the
// host (agent.Privacy). What a row says is a declaration: names of programs are chosen by
// who runs them; control groups are set by the scheduler, and count as such outside of what
// a user's own systemd manages (a privileged container can still make some up inside its own).
//
// # Rows
//
// One when a process is first seen, one when its GPUs or its job change, one with end_ms
// when it has ended. Each holds all that is known, as the latest one counts. gpu_list is
// every GPU that the process was listed on since the agent looks, so that a process which
// has let go of its GPUs keeps what it used. It has ended when /proc says so (no such
// process, a zombie, or another start under the same number), never because the driver
// does not list it or could not be asked. end_ms is when it was last seen alive: at most
// a tick before its end, and never a time in which nobody looked. What ended while no agent
// ran is not told, unless Config.StateFile is set: then the next agent tells it, and a start
// keeps its value even if the wall clock was stepped in between.
//
// # The key
//
// start_ms is btime of /proc/stat, whole seconds, plus the process's start in ticks of
// 10 ms. btime does not drift: it changes only when the wall clock is stepped, so looks and
// agents agree to the millisecond, and the value is up to a second early. A process that
// is known keeps its start when the clock is stepped; later ones get the kernel's new btime.
//
// # Jobs
//
//	job_source   job_id                    read from
//	slurm        job id, or SLUID          slurm*/uid_N/job_N, *slurmstepd.scope/{job_N,sSLUID}
//	pbs          job id                    pbs_jobs*/jobid/ID
//	kubernetes   pod UID with dashes       pod<UID> of cgroupfs and systemd drivers
//	libvirt      machine's name            machine-qemu-N-NAME.scope, NAME.libvirt-qemu
//	docker, podman, containerd, lxc        container's short id or name
//	systemd      unit                      NAME.service, NAME.scope
//
// Every line of the file is looked at: Slurm may have put a job into the freezer alone. Of
// several, who starts jobs comes before what they run in, and of equals the outermost, as
// what is inside a group its owner may have made himself. Since 26.05 Slurm names groups by
// SLUID, from which the job's number cannot be told (CgroupJobIdPaths=yes in cgroup.conf
// brings it back); the SLUID is the id then. Logins, and units that start anything for
// anybody (sshd, cron, container daemons), are no job. A unit's name is not unique among
// hosts.
//
// # Crash, buffers, goroutines, budget
//
// It starts no goroutine; a Job belongs to one. At most 4,096 processes are kept. A tick is
// one poll of pidfds, at most 512, and a read of stat for each process that has none; a new
// list reads one file a process (cgroup). The state file is written when something changed,
// and once a minute while there are processes.
package job
