/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Registers at the entry of a function of user space: integer and pointer arguments by
 * position from 0, and the stack pointer. */
#ifndef FLOPWATCH_REGS_H
#define FLOPWATCH_REGS_H

#include "bpf.h"

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#define ARG0(ctx) ((ctx)->di)
#define ARG1(ctx) ((ctx)->si)
#define ARG2(ctx) ((ctx)->dx)
#define ARG3(ctx) ((ctx)->cx)
#define ARG4(ctx) ((ctx)->r8)
#define ARG5(ctx) ((ctx)->r9)
#define STACK(ctx) ((ctx)->sp)
#define REGISTER_ARGS 6
/* The return address is on the stack, behind it the arguments that found no register. */
#define STACK_ARGS 8
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate;
};
#define ARG0(ctx) ((ctx)->regs[0])
#define ARG1(ctx) ((ctx)->regs[1])
#define ARG2(ctx) ((ctx)->regs[2])
#define ARG3(ctx) ((ctx)->regs[3])
#define ARG4(ctx) ((ctx)->regs[4])
#define ARG5(ctx) ((ctx)->regs[5])
#define ARG6(ctx) ((ctx)->regs[6])
#define ARG7(ctx) ((ctx)->regs[7])
#define STACK(ctx) ((ctx)->sp)
#define REGISTER_ARGS 8
#define STACK_ARGS 0
#else
#error "no target: bpf/gen sets it"
#endif

#endif
