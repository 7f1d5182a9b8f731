//go:build ignore

// Which files are mapped as code: one record for each area of a file that a process may
// execute. The inode is the real one, below overlays: two containers of one image
// that map the same library are one file, as they are for the kernel's probes.
#include "kernel.h"

LICENSE;

#define VM_EXEC 4UL
#define S_IFMT 0170000
#define S_IFREG 0100000

struct mapping {
	__u32 tgid;
	__u32 dev;
	__u64 ino;
	__u64 start;
	__u64 end;
	__u64 offset; // in pages
};

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
	m.offset = vma->vm_pgoff;
	bpf_seq_write(ctx->meta->seq, &m, sizeof(m));
	return 0;
}
