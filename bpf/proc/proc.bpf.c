//go:build ignore

// Starts and ends of processes on GPUs, and who holds a GPU open. Events of all other
// processes end here: what is told is a tracked process, a child of one, one of a tracked
// control group, and at its end whatever holds a GPU open. Of a program its file's base
// name is read; never arguments or environment.
#include "kernel.h"

LICENSE;

#define S_IFMT 0170000
#define S_IFCHR 0020000
#define SIGNAL_GROUP_EXIT 4
#define MAX_MAJORS 8
#define SCANNED 128 // descriptors of a process that ends which are looked at

#define EXEC 1
#define EXIT 2

struct qstr {
	const unsigned char *name;
} CORE;

struct dentry___name {
	struct qstr d_name;
} CORE;

struct linux_binprm {
	struct file *file;
} CORE;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} CORE;

struct files_struct {
	struct fdtable *fdt;
} CORE;

struct upid___sized {
	int nr;
	void *ns;
};

struct pid {
	unsigned int level;
	struct upid___sized numbers[1];
} CORE;

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
} CORE;

struct kernfs_node {
	__u64 id;
} CORE;

struct cgroup {
	struct kernfs_node *kn;
} CORE;

struct css_set {
	struct cgroup *dfl_cgrp;
} CORE;

struct task_struct___proc {
	struct css_set *cgroups;
	struct files_struct *files;
	struct signal_struct *signal;
	struct pid *thread_pid;
} CORE;

// event is what user space gets.
struct event {
	__u64 start_ns; // since boot
	__u64 at_ns;    // since boot
	__u64 cgroup;
	__u32 tgid;
	__u32 parent;
	__u32 inner;  // number in the process's own namespace
	__u32 status; // as wait(2) gives it
	__u8 kind;
	__u8 gpu; // 1: it held a GPU open when it ended
	__u8 zero[6];
	char name[64];
};

struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 128 << 10);
} events SEC(".maps");

// Processes whose end is told. Of too many, those that were not told of for longest give way.
struct {
	UINT(type, BPF_MAP_TYPE_LRU_HASH);
	UINT(max_entries, 4096);
	TYPE(key, __u32);
	TYPE(value, __u8);
} tracked SEC(".maps");

// Control groups whose starts are told.
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 1024);
	TYPE(key, __u64);
	TYPE(value, __u8);
} cgroups SEC(".maps");

__u32 majors[MAX_MAJORS]; // of GPU devices; 0: none
__u64 dropped;            // events for which there was no room
__u64 untracked;          // processes for which there was none

INLINE bool major(__u32 rdev)
{
	__u32 m = rdev >> 20;
	if (!m)
		return false;
#pragma unroll
	for (int i = 0; i < MAX_MAJORS; i++)
		if (majors[i] == m)
			return true;
	return false;
}

INLINE bool device(struct file *file, __u32 *rdev)
{
	struct inode *inode = NULL;
	__u16 mode = 0;
	core_read(&inode, file, f_inode);
	if (!inode)
		return false;
	core_read(&mode, inode, i_mode);
	if ((mode & S_IFMT) != S_IFCHR)
		return false;
	core_read(rdev, inode, i_rdev);
	return major(*rdev);
}

INLINE __u64 cgroup_of(struct task_struct *task)
{
	struct css_set *set = NULL;
	struct cgroup *group = NULL;
	struct kernfs_node *kn = NULL;
	__u64 id = 0;
	core_read(&set, (struct task_struct___proc *)task, cgroups);
	if (set)
		core_read(&group, set, dfl_cgrp);
	if (group)
		core_read(&kn, group, kn);
	if (kn)
		core_read(&id, kn, id);
	return id;
}

struct descriptors {
	__u64 file[SCANNED];
};

struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct descriptors);
} scratch SEC(".maps");

// gpu is a function of its own, so that the verifier looks at it once and not at each turn
// of a loop.
__attribute__((noinline)) int gpu(__u64 file)
{
	__u32 rdev = 0;
	return device((struct file *)file, &rdev);
}

// holds reports whether a process has a GPU open, among its first descriptors.
INLINE bool holds(struct task_struct *task)
{
	struct files_struct *files = NULL;
	struct fdtable *fdt = NULL;
	struct file **fds = NULL;
	unsigned int max = 0;
	__u32 zero = 0;
	if (!majors[0])
		return false;
	struct descriptors *d = bpf_map_lookup_elem(&scratch, &zero);
	core_read(&files, (struct task_struct___proc *)task, files);
	if (!d || !files)
		return false;
	core_read(&fdt, files, fdt);
	if (!fdt)
		return false;
	core_read(&fds, fdt, fd);
	core_read(&max, fdt, max_fds);
	if (max < SCANNED) {
		max = SCANNED / 2; // the least that a table has
		if (bpf_probe_read_kernel(d, sizeof(*d) / 2, fds))
			return false;
	} else {
		max = SCANNED;
		if (bpf_probe_read_kernel(d, sizeof(*d), fds))
			return false;
	}
	for (int i = 0; i < SCANNED; i++) {
		if (i >= max)
			break;
		if (d->file[i] && gpu(d->file[i]))
			return true;
	}
	return false;
}

INLINE void fill(struct event *e, struct task_struct *task, __u8 kind)
{
	struct task_struct *parent = NULL;
	struct pid *pid = NULL;
	unsigned int level = 0;
	core_read(&e->start_ns, task, group_leader->start_boottime);
	e->at_ns = bpf_ktime_get_boot_ns();
	e->cgroup = cgroup_of(task);
	e->tgid = task->tgid;
	core_read(&parent, task, real_parent);
	e->parent = 0;
	if (parent)
		core_read(&e->parent, parent, tgid);
	e->inner = e->tgid;
	core_read(&pid, (struct task_struct___proc *)task, thread_pid);
	if (pid)
		core_read(&level, pid, level);
	if (pid && level > 0 && level <= 32) {
		__u64 at = (__u64)core_offset(pid, numbers) + level * sizeof(struct upid___sized);
		bpf_probe_read_kernel(&e->inner, sizeof(e->inner), (void *)at);
	}
	e->status = 0;
	e->kind = kind;
	e->gpu = 0;
	__builtin_memset(e->zero, 0, sizeof(e->zero));
	__builtin_memset(e->name, 0, sizeof(e->name));
}

SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct linux_binprm *bprm = (struct linux_binprm *)ctx[2];
	struct task_struct *parent = NULL;
	__u32 tgid = task->tgid, ptgid = 0;
	__u8 one = 1;
	core_read(&parent, task, real_parent);
	if (parent)
		core_read(&ptgid, parent, tgid);
	if (!bpf_map_lookup_elem(&tracked, &tgid)) {
		__u64 cgroup = cgroup_of(task);
		if (!bpf_map_lookup_elem(&tracked, &ptgid) && !bpf_map_lookup_elem(&cgroups, &cgroup))
			return 0;
		if (bpf_map_update_elem(&tracked, &tgid, &one, BPF_ANY))
			__sync_fetch_and_add(&untracked, 1);
	}
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&dropped, 1);
		return 0;
	}
	fill(e, task, EXEC);
	struct file *file = bprm->file;
	struct dentry___name *dentry = NULL;
	const unsigned char *name = NULL;
	if (file) {
		core_read(&dentry, file, f_path.dentry);
		if (dentry)
			core_read(&name, dentry, d_name.name);
		if (name)
			bpf_probe_read_kernel_str(e->name, sizeof(e->name), name);
	}
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct task_struct *leader = NULL;
	struct signal_struct *signal = NULL;
	__u32 tgid = task->tgid;
	int live = 0;
	core_read(&signal, (struct task_struct___proc *)task, signal);
	if (!signal)
		return 0;
	core_read(&live, signal, live.counter);
	if (live)
		return 0; // threads are left
	bool known = bpf_map_delete_elem(&tracked, &tgid) == 0;
	bool held = holds(task);
	if (!known && !held)
		return 0;
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&dropped, 1);
		return 0;
	}
	fill(e, task, EXIT);
	e->gpu = held;
	unsigned int flags = 0;
	core_read(&flags, signal, flags);
	if (flags & SIGNAL_GROUP_EXIT) {
		core_read(&e->status, signal, group_exit_code);
	} else {
		core_read(&leader, task, group_leader);
		if (leader)
			core_read(&e->status, leader, exit_code);
	}
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

// opener is one open file of a GPU device. A file that was inherited has the same address
// in both processes.
struct opener {
	__u64 file;
	__u32 tgid;
	__u32 parent;
	__u32 rdev;
	__u32 zero;
};

SEC("iter/task_file")
int openers(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct task_struct *parent = NULL;
	struct opener o = {};
	if (!task || !file)
		return 0;
	if (!device(file, &o.rdev))
		return 0;
	o.file = (__u64)file;
	o.tgid = task->tgid;
	core_read(&parent, task, real_parent);
	if (parent)
		core_read(&o.parent, parent, tgid);
	bpf_seq_write(ctx->meta->seq, &o, sizeof(o));
	return 0;
}
