//go:build ignore

// Which processes have a library of collectives mapped: one record for each area of such a
// file that a process may execute. Files are told by the beginning of their name. The inode is the real one, below overlays: two containers of one image
// that map the same library are one file, as they are for the kernel's probes.
#include "kernel.h"

LICENSE;

#define VM_EXEC 4UL
#define NAME 16

// The name of a file is within a structure without a name since some kernel: field by field.
struct qstr {
	const unsigned char *name;
} CORE;

struct dentry {
	struct qstr d_name;
} CORE;

struct mapping {
	__u32 tgid;
	__u32 dev;
	__u64 ino;
	__u64 start;
	__u64 end;
};

// named reports whether a name begins as those of libraries that have collectives:
// libnccl, librccl, libtorch_cuda, libtorch_hip.
INLINE bool named(const char *n)
{
	if (n[0] != 'l' || n[1] != 'i' || n[2] != 'b')
		return false;
	if ((n[3] == 'n' || n[3] == 'r') && n[4] == 'c' && n[5] == 'c' && n[6] == 'l')
		return true;
	return n[3] == 't' && n[4] == 'o' && n[5] == 'r' && n[6] == 'c' && n[7] == 'h' && n[8] == '_' &&
	       ((n[9] == 'c' && n[10] == 'u') || (n[9] == 'h' && n[10] == 'i'));
}

SEC("iter/task_vma")
int mappings(struct bpf_iter__task_vma *ctx)
{
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	if (!task || !vma)
		return 0;
	if (task->pid != task->tgid || !(vma->vm_flags & VM_EXEC))
		return 0;
	struct file *file = vma->vm_file;
	if (!file)
		return 0;
	struct dentry *entry = NULL;
	const unsigned char *at = NULL;
	char name[NAME] = {};
	core_read(&entry, file, f_path.dentry);
	if (!entry)
		return 0;
	core_read(&at, entry, d_name.name);
	if (bpf_probe_read_kernel_str(name, sizeof(name), at) < 0 || !named(name))
		return 0;
	struct inode *inode = file->f_inode;
	struct super_block *sb = NULL;
	struct mapping m = {};
	core_read(&m.ino, inode, i_ino);
	core_read(&sb, inode, i_sb);
	if (!sb)
		return 0;
	core_read(&m.dev, sb, s_dev);
	m.tgid = task->tgid;
	m.start = vma->vm_start;
	m.end = vma->vm_end;
	bpf_seq_write(ctx->meta->seq, &m, sizeof(m));
	return 0;
}
