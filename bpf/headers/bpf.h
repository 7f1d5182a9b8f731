/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What programs of this project need of the kernel's BPF interface: numbers of helpers and
 * map types are the kernel's stable interface (include/uapi/linux/bpf.h). */
#ifndef FLOPWATCH_BPF_H
#define FLOPWATCH_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define LICENSE char _license[] SEC("license") = "Dual MIT/GPL"
#define CORE __attribute__((preserve_access_index))

/* Maps in BTF form. */
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};

enum {
	BPF_F_NO_PREALLOC = 1,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
	BPF_RB_NO_WAKEUP = 1,
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static long (*const bpf_get_current_comm)(void *buf, __u32 size) = (void *)16;
static __u64 (*const bpf_get_current_task)(void) = (void *)35;
static __u64 (*const bpf_get_socket_cookie)(void *ctx) = (void *)46;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static void *(*const bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static long (*const bpf_sk_storage_delete)(void *map, void *sk) = (void *)108;
static long (*const bpf_probe_read_user)(void *dst, __u32 size, const void *src) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113;
static long (*const bpf_probe_read_user_str)(void *dst, __u32 size, const void *src) = (void *)114;
static long (*const bpf_probe_read_kernel_str)(void *dst, __u32 size, const void *src) = (void *)115;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*const bpf_seq_write)(void *seq, const void *data, __u32 len) = (void *)127;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
static __u64 (*const bpf_ringbuf_query)(void *ring, __u64 flags) = (void *)134;
static void *(*const bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static long (*const bpf_d_path)(void *path, char *buf, __u32 size) = (void *)147;
static void *(*const bpf_get_current_task_btf)(void) = (void *)158;
static void *(*const bpf_sock_from_file)(void *file) = (void *)162;
static __u64 (*const bpf_get_attach_cookie)(void *ctx) = (void *)174;

/* Reads of kernel memory by field, for pointers that the verifier does not know as trusted.
 * Address arithmetic stays on scalars, which kernel 6.1 wants. */
#define core_offset(ptr, field) __builtin_preserve_access_index(&(ptr)->field)
#define core_read(dst, ptr, field) bpf_probe_read_kernel((dst), sizeof(*(dst)), core_offset(ptr, field))
#define core_exists(ptr, field) __builtin_preserve_field_info((ptr)->field, 2)
#define core_size(ptr, field) __builtin_preserve_field_info((ptr)->field, 1)

/* What iterators get. */
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} CORE;

#endif
