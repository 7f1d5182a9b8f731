// Package job says which job a process on a GPU belongs to, and which job holds which GPU,
// whether it is at work or not.
//
// # What it owns
//
// For each process that the GPUs' driver lists: when it was started, its executable's name,
// its user, what launched it, whose it is, and how it ended. For each GPU or MIG device that
// a scheduler gave to somebody: to whom, since when, until when, and with how many others. A
// Finder tells other instruments the job of a process or of a control group. It must not know how
// processes and GPUs are listed (source.ProcessLister, source.DeviceLister), how ends of
// processes and collective calls are seen (source.ExitLister, source.CollectiveWatcher), what
// runs on other hosts, or what becomes of its rows.
//
// It reads /proc/PID/{stat,status,cgroup,exe}, the file of users, and, where Config names
// them, the kubelet's sockets, the files of deploy/slurm's prolog, and dcgm-exporter's job
// mapping. It never reads the arguments, open files or memory of a process. Names of users,
// namespaces, accounts, pods and containers are replaced by keyed hashes before they leave the host
// (agent.Privacy). Owner tells them in clear, for a page of this host that the site has asked for.
//
// # Rows of processes
//
// One when a process is first seen, one when its GPUs, its job or nccl change, one with end_ms
// when it has ended. Each holds all that is known, as the latest one counts. gpu_list and
// instance_list are every GPU and MIG device that the process was listed on since the agent
// looks, so that a process which has let go of its GPUs keeps what it used. It has ended when
// /proc says so (no such process, a zombie, or another start under the same number) or the
// kernel told its end, which may be long before it has given its GPUs back; never because the
// driver does not list it or could not be asked. end_ms is when it was last seen
// alive: at most a tick before its end, and never a time in which nobody looked. What ended
// while no agent ran is not told, unless Config.StateFile is set: then the next agent tells
// it, and a start keeps its value even if the wall clock was stepped in between.
//
// exit_code is what the kernel told with the end of a process of that number and start. Where
// it comes after the row with end_ms, within 30 s, that row is told again with it. An end that
// comes before the driver lists the process is kept for it. Without Config.Exits, and where
// the kernel does not say how it ended, exit_code is absent. Both columns say who told them:
// programs in the kernel, or polling in their place. nccl is asked once for each
// process of a list, and keeps its value where nobody looks any more.
//
// start_ms is btime of /proc/stat, whole seconds, plus the process's start in ticks of
// 10 ms. btime does not drift: it changes only when the wall clock is stepped, so looks and
// agents agree to the millisecond, and the value is up to a second early. A process that
// is known keeps its start when the clock is stepped; later ones get the kernel's new btime.
// A number that is given to another process is told apart by its start.
//
// # Jobs of control groups
//
//	job_source   job_id                    read from
//	slurm        job's number, or SLUID    slurm*/uid_N/job_N, *slurmstepd.scope/{job_N,sSLUID}
//	pbs          job id                    pbs_jobs*/jobid/ID
//	kubernetes   pod UID with dashes       pod<UID> of cgroupfs and systemd drivers
//	libvirt      machine's name            machine-qemu-N-NAME.scope, NAME.libvirt-qemu
//	docker, podman, containerd, lxc        container's short id or name
//	systemd      unit                      NAME.service, NAME.scope
//
// Every line of the file is looked at: Slurm may have put a job into the freezer alone. Of
// several, who starts jobs comes before what they run in, and of equals the outermost, as
// what is inside a group its owner may have made himself. Since 26.05 Slurm names groups by
// SLUID, from which the job's number cannot be told: it is what a prolog's file says, and
// else what the environments of all its processes say alike, unless another job has that
// number; else the SLUID is the id. Logins, and units that start anything for anybody (sshd,
// cron, container daemons), are no job. A unit's name is not unique among hosts.
//
// # Whose a process is
//
// The first rule that names a job counts. confidence_e4 is the site's to weigh, not a
// probability that was measured.
//
//	evidence       confidence_e4   rule
//	cgroup         9900            a group that Slurm, PBS or a kubelet made
//	cgroup         9500            a virtual machine's
//	cgroup         9000            a container's
//	cgroup         8000            a unit's of the system
//	cgroup         5000            a container's or unit's below a user's own manager, who names it as he likes
//	environ        7000            a SLUID's group, whose job number only environments say
//	podresources,  up to 8000      all its GPUs or MIG devices are held by one job alone, and its groups are of that
//	dra,                           scheduler and name no job; up to 6000 where they name nothing at all. The hold has
//	slurm_file,                    to be older than the process. Where several hold one of them, it is nobody's, and
//	dcgm_mapping                   stays so.
//	environ        5000            SLURM_JOB_ID of its environment, where its groups are Slurm's
//	environ        3000            the same where they name nothing
//
// restart_count is what the prolog's file says of the job, unless the process is older than
// the job's last start; else what its environment says, if that is of the same job. Slurm
// sets SLURM_RESTART_COUNT from the first restart on: that it is missing says nothing.
//
// A process whose groups name one job is never given to another that holds the GPU: a
// monitor of the host's that looks at a pod's GPU is not the pod's. Without a job, evidence
// "environ" says that ranks were read. project_hash is of the pod's namespace or the Slurm
// account; container is a container's name in its pod where the Pods API tells it, else the
// container's short id.
//
// # Who holds a GPU
//
//	evidence       from                                    device is named by
//	podresources   the kubelet's podresources API          UUID, UUID::N for a share, index, or GKE's /dev minor
//	dra            the same, of a claim                    CDI's name with a UUID or a number, or the driver's: gpu-MINOR
//	slurm_file     files of deploy/slurm's prolog          UUID, or the /dev minor
//	dcgm_mapping   files of a site's prolog for            index
//	               dcgm-exporter
//
// confidence_e4 is 9900 times what the name is good for (a UUID 1, a minor that the driver's
// files resolve 0.95, an index 0.9, an index of dcgm-exporter's 0.8, a MIG device of which
// only the GPU is told 0.5), divided by shares: nobody of several is given the whole. It is at
// most 5000 while a job's control groups are gone and its file is not. A number that cannot
// be resolved makes no row but a status: an index is never taken for a minor.
//
// restart_count is the prolog's; others do not say it. Nothing of this needs NVML where
// devices are named by UUID, or by a minor that the driver's files resolve: on a host without
// it holds have no index of the GPU, and processes are not known.
//
// start_ms is what the prolog says, else when the hold was first seen; seen_ms when its
// scheduler was last heard to say so; a row comes again every five minutes. It ends when the
// scheduler is heard to say it no more (a kubelet twice, unless another has the device: one that
// has just started names nobody), never because nobody could be heard or a file cannot be read; where it was not heard for long, the end is when it was last heard. A Slurm job
// whose epilog did not run ends with the boot, ten minutes after its control groups and
// processes are gone, or, if it had none, a week after its file was written. A pod whose UID
// is not known yet has a job_id of "pod-" and a hash under a key of this host's; when its UID
// comes, a row that ends when it began takes that back.
//
// # Environment
//
// Off unless Config.Environ is set, and needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH. What is
// read of a process on a GPU, once, when it is met: its rank, world size, local rank and local
// world size as torchrun, Open MPI, PMI, PMIx and Slurm name them, SLURM_JOB_ID,
// SLURM_RESTART_COUNT, and whether Ray started it. Values of at most 64 plain bytes are kept,
// no others. MASTER_ADDR with MASTER_PORT, or else TORCHELASTIC_RUN_ID, goes into
// rendezvous_hash alone: the recorder replaces it by a keyed hash, and no file and no log holds
// it. An address of the host itself says nothing and is left out. All else is passed over byte
// by byte in a buffer that is zeroed behind every read. These columns' source is "declared": it
// is the process's own word, fixed when its program was started.
//
// # Statuses
//
// "job" for processes, degraded where only holds are told and unavailable where those are not
// either; "job/podresources", "job/pods_api", "job/slurm", "job/dcgm_mapping" and
// "job/environ" for what is configured of those.
//
// # Crash, buffers, goroutines, budget
//
// A Job belongs to one goroutine; a Finder to all. A question to the kubelet is asked by a
// goroutine of its own, one at a time for each of the two sockets, which ends with the answer,
// after five seconds, or with Close; a kubelet that hangs is asked less often. Nothing stays
// connected in between. It speaks gRPC by net/http: 0.5 MB of the binary where gRPC's library
// is 6.4 MB. A reply of up to 16 MiB is read entry by entry, each at most 1 MiB, and never
// held as a whole (6.5 MB resident for one of 15 MB, gRPC's library 75 MB).
//
// At most 4,096 processes, holds, pods with a name, and files of jobs are kept, 512 ends of
// processes that the kernel told, and 1,024 processes whose exit status is waited for. A tick
// is one poll of pidfds, at most 512, and a read of stat for each process that has none; a new
// list reads one file a process (cgroup); a directory is looked at when it changed, and every
// ten or thirty seconds. A tick in which nothing has changed allocates nothing but what the
// look at a directory takes. The state file is written when something changed, and once a
// minute while there are processes or holds; it holds names in clear, readable for the agent
// alone.
package job
