//go:build ignore

// Regular files that watched processes have open for writing: where each is, how large it
// is and how far its writer has come. Nothing runs when data is written.
#include "kernel.h"

LICENSE;

#define S_IFMT 0170000
#define S_IFREG 0100000
#define FMODE_WRITE 2
#define PATH_MOST 512

struct file_system_type {
	const char *name;
} CORE;

struct super_block___type {
	struct file_system_type *s_type;
} CORE;

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
} CORE;

struct inode___blocks {
	__u64 i_blocks;
} CORE;

// The time of the last change, as kernels have named it.
struct inode___first {
	struct timespec64 i_mtime;
} CORE;

struct inode___second {
	struct timespec64 __i_mtime;
} CORE;

struct inode___third {
	__s64 i_mtime_sec;
	__u32 i_mtime_nsec;
} CORE;

// open is one open file; path_bytes of its path follow.
struct open {
	__u64 file;
	__u64 ino;
	__u64 size;
	__u64 pos;
	__u64 blocks; // of 512 bytes
	__u64 changed_ns;
	__u64 start_ns; // of the process, since boot
	__u32 dev;
	__u32 tgid;
	__u32 fd;
	__u32 flags;
	__u32 path_bytes;
	__u32 zero;
	char type[16];
};

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 4096);
	TYPE(key, __u32);
	TYPE(value, __u8);
} processes SEC(".maps");

struct room {
	char path[PATH_MOST];
};

struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct room);
} scratch SEC(".maps");

__u64 least = 64ULL << 20; // size from which the path is told

INLINE bool look(struct bpf_iter__task_file *ctx, struct open *o)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	if (!task || !file)
		return false;
	__u32 tgid = task->tgid;
	if (!bpf_map_lookup_elem(&processes, &tgid) || !(file->f_mode & FMODE_WRITE))
		return false;
	struct inode *inode = file->f_inode;
	__u16 mode = 0;
	core_read(&mode, inode, i_mode);
	if ((mode & S_IFMT) != S_IFREG)
		return false;
	o->file = (__u64)file;
	o->pos = file->f_pos;
	o->flags = file->f_flags;
	o->tgid = tgid;
	o->fd = ctx->fd;
	core_read(&o->start_ns, task, group_leader->start_boottime);
	core_read(&o->size, inode, i_size);
	core_read(&o->ino, inode, i_ino);
	core_read(&o->blocks, (struct inode___blocks *)inode, i_blocks);
	struct inode___first *first = (void *)inode;
	struct inode___second *second = (void *)inode;
	struct inode___third *third = (void *)inode;
	if (core_exists(third, i_mtime_sec)) {
		__s64 s = 0;
		__u32 ns = 0;
		core_read(&s, third, i_mtime_sec);
		core_read(&ns, third, i_mtime_nsec);
		o->changed_ns = s * 1000000000 + ns;
	} else if (core_exists(second, __i_mtime)) {
		struct timespec64 t = {};
		core_read(&t, second, __i_mtime);
		o->changed_ns = t.tv_sec * 1000000000 + t.tv_nsec;
	} else if (core_exists(first, i_mtime)) {
		struct timespec64 t = {};
		core_read(&t, first, i_mtime);
		o->changed_ns = t.tv_sec * 1000000000 + t.tv_nsec;
	}
	struct super_block *sb = NULL;
	core_read(&sb, inode, i_sb);
	if (sb) {
		struct file_system_type *type = NULL;
		const char *name = NULL;
		core_read(&o->dev, sb, s_dev);
		core_read(&type, (struct super_block___type *)sb, s_type);
		if (type)
			core_read(&name, type, name);
		if (name)
			bpf_probe_read_kernel_str(o->type, sizeof(o->type), name);
	}
	return true;
}

// with_path needs bpf_d_path in iterators: kernels after 5.10.
SEC("iter/task_file")
int with_path(struct bpf_iter__task_file *ctx)
{
	struct open o = {};
	struct file *file = ctx->file;
	if (!look(ctx, &o) || !file)
		return 0;
	struct room *room = NULL;
	if (o.size >= least) {
		__u32 zero = 0;
		room = bpf_map_lookup_elem(&scratch, &zero);
		if (room) {
			long n = bpf_d_path(&file->f_path, room->path, sizeof(room->path));
			if (n > 1 && n < PATH_MOST)
				o.path_bytes = n - 1;
		}
	}
	bpf_seq_write(ctx->meta->seq, &o, sizeof(o));
	if (room && o.path_bytes)
		bpf_seq_write(ctx->meta->seq, room->path, o.path_bytes & (PATH_MOST - 1));
	return 0;
}

SEC("iter/task_file")
int without_path(struct bpf_iter__task_file *ctx)
{
	struct open o = {};
	if (look(ctx, &o))
		bpf_seq_write(ctx->meta->seq, &o, sizeof(o));
	return 0;
}
