/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The fields of kernel structures that programs here read, and no others. The loader looks
 * up each field by name in the running kernel's BTF. */
#ifndef FLOPWATCH_KERNEL_H
#define FLOPWATCH_KERNEL_H

#include "bpf.h"

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
} CORE;

struct inode {
	__u16 i_mode;
	__u32 i_rdev;
	__s64 i_size;
	unsigned long i_ino;
	struct super_block *i_sb;
} CORE;

struct dentry;
struct vfsmount;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} CORE;

struct file {
	__u32 f_mode;
	__s64 f_pos;
	__u32 f_flags;
	struct inode *f_inode;
	struct path f_path;
	void *private_data;
} CORE;

struct upid {
	int nr;
} CORE;

struct mm_struct;

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	__u64 start_time;
	__u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	char comm[16];
} CORE;

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
} CORE;

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
} CORE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;

#endif
