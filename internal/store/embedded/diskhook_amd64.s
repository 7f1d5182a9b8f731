#include "textflag.h"

// The engine's own threads run what follows, by the C calling convention, without a g and on stacks of any size: nothing here calls Go, takes
// stack or touches a register that a system call does not touch anyhow. DI, SI, DX and CX hold the arguments; a system call spoils AX, CX and R11.

#define SYS_write 1
#define SYS_pwrite64 18
#define SYS_writev 20
#define SYS_nanosleep 35
#define SYS_fsync 74
#define SYS_fdatasync 75
#define SYS_exit_group 231

#define EINTR 4
#define EIO 5
#define EFBIG 27
#define ENOSPC 28
#define EROFS 30
#define EDQUOT 122

// What a library writes to stdout and stderr is no data: files of logs may be full.
#define JUDGE(nr, real) \
	CMPQ DI, $2; JLE pass; \
again: \
	MOVQ $nr, AX; SYSCALL; \
	CMPQ AX, $-ENOSPC; JEQ full; \
	CMPQ AX, $-EDQUOT; JEQ full; \
	CMPQ AX, $-EIO; JEQ lost; \
	CMPQ AX, $-EFBIG; JEQ lost; \
	CMPQ AX, $-EROFS; JEQ lost; \
	CMPQ AX, $-4095; JCC pass; \
	RET; \
pass: \
	MOVQ R10, CX; \
	MOVQ real, AX; JMP AX; \
full: \
	LOCK; INCQ ·diskStalls(SB); \
	CMPQ ·diskHurry(SB), $0; JNE gone; \
	MOVQ DI, R8; MOVQ SI, R9; \
	LEAQ ·diskPause(SB), DI; XORL SI, SI; \
	MOVQ $SYS_nanosleep, AX; SYSCALL; \
	MOVQ R8, DI; MOVQ R9, SI; \
	JMP again; \
gone: \
	XORL DI, DI; MOVQ $SYS_exit_group, AX; SYSCALL; \
lost: \
	MOVQ $2, DI; LEAQ ·diskLost(SB), SI; MOVQ ·diskLostLen(SB), DX; \
	MOVQ $SYS_write, AX; SYSCALL; \
	MOVQ $74, DI; MOVQ $SYS_exit_group, AX; SYSCALL; \
	INT $3

// ssize_t write(int, const void *, size_t)
TEXT ·diskWrite(SB), NOSPLIT|NOFRAME, $0-0
	MOVLQSX DI, DI
	MOVQ CX, R10
	JUDGE(SYS_write, ·realWrite(SB))

// ssize_t pwrite(int, const void *, size_t, off_t)
TEXT ·diskPwrite(SB), NOSPLIT|NOFRAME, $0-0
	MOVLQSX DI, DI
	MOVQ CX, R10
	JUDGE(SYS_pwrite64, ·realPwrite(SB))

// ssize_t writev(int, const struct iovec *, int)
TEXT ·diskWritev(SB), NOSPLIT|NOFRAME, $0-0
	MOVLQSX DI, DI
	MOVLQSX DX, DX
	MOVQ CX, R10
	JUDGE(SYS_writev, ·realWritev(SB))

// int fsync(int). What the kernel could not write it forgets: a second call would succeed.
TEXT ·diskFsync(SB), NOSPLIT|NOFRAME, $0-0
	MOVLQSX DI, DI
	MOVQ $SYS_fsync, AX
	SYSCALL
	JMP ·synced(SB)

// int fdatasync(int)
TEXT ·diskFdatasync(SB), NOSPLIT|NOFRAME, $0-0
	MOVLQSX DI, DI
	MOVQ $SYS_fdatasync, AX
	SYSCALL
	JMP ·synced(SB)

TEXT ·synced(SB), NOSPLIT|NOFRAME, $0-0
	CMPQ AX, $-EIO
	JEQ lost
	CMPQ AX, $-ENOSPC
	JEQ lost
	CMPQ AX, $-EDQUOT
	JEQ lost
	CMPQ AX, $-4095
	JCC pass
	RET
pass:
	MOVQ ·realFsync(SB), AX
	JMP AX
lost:
	MOVQ $2, DI
	LEAQ ·diskLost(SB), SI
	MOVQ ·diskLostLen(SB), DX
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ $74, DI
	MOVQ $SYS_exit_group, AX
	SYSCALL
	INT $3

DATA ·diskHooks+0(SB)/8, $·diskWrite(SB)
DATA ·diskHooks+8(SB)/8, $·diskPwrite(SB)
DATA ·diskHooks+16(SB)/8, $·diskWritev(SB)
DATA ·diskHooks+24(SB)/8, $·diskFsync(SB)
DATA ·diskHooks+32(SB)/8, $·diskFdatasync(SB)
GLOBL ·diskHooks(SB), RODATA, $40
