// The shared memory: found, checked, copied; calls counted and faults met.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stub.h"

// Everything here is guarded by lock; readers hold it while they read the copy.
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static unsigned int inits;
static struct stub_memory *shm;
static bool writable;
static int shm_fd = -1;
static struct stub_config conf; // a checked copy of shm->config
static bool copied;             // whether conf is one
static uint64_t conf_seq;       // of the copy
static uint32_t own_epoch;      // of the driver that the library belongs to
static bool epoch_known;
static int slot[FN_COUNT];      // where a function is counted, -1: nowhere
static struct nvmlDevice_st handles[STUB_MAX_GPUS], mig_handles[STUB_MAX_GPUS][STUB_MAX_MIG];
static uint32_t under_way[STUB_MAX_GPUS + 1]; // calls of this process

static const char *const names[FN_COUNT] = {FN_NAMES};

void wait_us(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

static int64_t clock_us(clockid_t id) {
    struct timespec t;
    if (clock_gettime(id, &t) != 0) return 0;
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static bool memory_path(char *path, size_t size) {
    const char *set = secure_getenv("FLOPWATCH_NVMLSTUB");
    int n;
    if (set != NULL && set[0] != 0) {
        n = snprintf(path, size, "%s", set);
    } else {
        Dl_info info;
        if (dladdr((const void *)handles, &info) == 0 || info.dli_fname == NULL) return false;
        const char *slash = strrchr(info.dli_fname, '/');
        int dir = slash == NULL ? 0 : (int)(slash - info.dli_fname) + 1;
        n = snprintf(path, size, "%.*snvml.shm", dir, info.dli_fname);
    }
    return n > 0 && (size_t)n < size;
}

// A function's counter has a slot of its name; several processes may look for one at once.
static int find_slot(int fn) {
    for (int i = 0; i < STUB_MAX_FUNCTIONS; i++) {
        struct stub_function *f = &shm->function[(fn + i) % STUB_MAX_FUNCTIONS];
        uint32_t state = __atomic_load_n(&f->state, __ATOMIC_ACQUIRE);
        if (state == 0 && writable && __atomic_compare_exchange_n(&f->state, &state, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            memset(f->name, 0, sizeof f->name);
            strncpy(f->name, names[fn], sizeof f->name - 1);
            __atomic_store_n(&f->state, 2, __ATOMIC_RELEASE);
            return (fn + i) % STUB_MAX_FUNCTIONS;
        }
        for (int tries = 0; state == 1 && tries < 100; tries++) {
            wait_us(100);
            state = __atomic_load_n(&f->state, __ATOMIC_ACQUIRE);
        }
        if (state == 2 && strncmp(f->name, names[fn], sizeof f->name) == 0) return (fn + i) % STUB_MAX_FUNCTIONS;
    }
    return -1;
}

static bool same_layout(const struct stub_header *h) {
    return memcmp(h->magic, STUB_MAGIC, sizeof h->magic) == 0 && h->version == STUB_VERSION && h->size == sizeof(struct stub_memory) &&
           h->config_offset == offsetof(struct stub_memory, config) && h->functions_offset == offsetof(struct stub_memory, function);
}

// map_memory opens the memory, or keeps the one that is open where it is still the file of
// that name. An old mapping is left in place: a call that hangs may still hold it.
static nvmlReturn_t map_memory(void) {
    char path[4096];
    if (!memory_path(path, sizeof path)) return NVML_ERROR_DRIVER_NOT_LOADED;
    bool rw = true;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
        rw = false;
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0) return NVML_ERROR_DRIVER_NOT_LOADED;
    struct stat st, old;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t)sizeof(struct stub_memory)) {
        close(fd);
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    if (shm != NULL && shm_fd >= 0 && fstat(shm_fd, &old) == 0 && old.st_dev == st.st_dev && old.st_ino == st.st_ino) {
        close(fd);
        return same_layout(&shm->header) ? NVML_SUCCESS : NVML_ERROR_DRIVER_NOT_LOADED;
    }
    struct stub_memory *m = mmap(NULL, sizeof *m, rw ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED) {
        close(fd);
        return NVML_ERROR_OPERATING_SYSTEM;
    }
    if (!same_layout(&m->header)) {
        munmap(m, sizeof *m);
        close(fd);
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    if (shm_fd >= 0) close(shm_fd);
    shm = m, shm_fd = fd, writable = rw, copied = epoch_known = false;
    for (int fn = 0; fn < FN_COUNT; fn++) slot[fn] = find_slot(fn);
    for (unsigned int i = 0; i < STUB_MAX_GPUS; i++) {
        handles[i].index = i;
        for (unsigned int k = 0; k < STUB_MAX_MIG; k++) {
            struct nvmlDevice_st *h = &mig_handles[i][k];
            h->index = i, h->place = k, h->mig = true;
        }
    }
    return NVML_SUCCESS;
}

// whole reports whether the file still has the pages that the mapping shows: a read behind
// the end of a file would end the process.
static bool whole(void) {
    struct stat st;
    return fstat(shm_fd, &st) == 0 && st.st_size >= (off_t)sizeof(struct stub_memory);
}

// copy_config takes a copy that nobody was writing meanwhile. The lock is held for writing.
static bool copy_config(void) {
    copied = false;
    for (int tries = 0; tries < 100; tries++) {
        uint64_t before = __atomic_load_n(&shm->header.seq, __ATOMIC_ACQUIRE);
        if (before % 2 == 0) {
            memcpy(&conf, &shm->config, sizeof conf);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (__atomic_load_n(&shm->header.seq, __ATOMIC_ACQUIRE) == before) {
                conf_seq = before;
                copied = same_layout(&shm->header) && config_valid(&conf);
                if (copied && !epoch_known) own_epoch = conf.driver_epoch, epoch_known = true;
                return copied;
            }
        }
        wait_us(1000);
    }
    return false;
}

// lock_current takes the lock for reading, with a copy that is up to date.
static nvmlReturn_t lock_current(void) {
    for (int tries = 0; tries < 100; tries++) {
        pthread_rwlock_rdlock(&lock);
        nvmlReturn_t r = NVML_SUCCESS;
        if (inits == 0) r = NVML_ERROR_UNINITIALIZED;
        else if (!whole()) r = NVML_ERROR_DRIVER_NOT_LOADED;
        if (r == NVML_SUCCESS && copied && __atomic_load_n(&shm->header.seq, __ATOMIC_ACQUIRE) == conf_seq) return NVML_SUCCESS;
        pthread_rwlock_unlock(&lock);
        if (r != NVML_SUCCESS) return r;
        pthread_rwlock_wrlock(&lock);
        bool ok = inits > 0 && whole() && copy_config();
        pthread_rwlock_unlock(&lock);
        if (!ok) return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    return NVML_ERROR_DRIVER_NOT_LOADED;
}

static int64_t now_us(void) {
    int64_t t = conf.manual == 1 ? __atomic_load_n(&shm->header.now_us, __ATOMIC_ACQUIRE) : clock_us(CLOCK_BOOTTIME) - conf.base_boot_us;
    if (t < 0) return 0;
    return t > INT64_C(1) << 52 ? INT64_C(1) << 52 : t;
}

int64_t epoch_us(const struct call *c, int64_t at_us) { return c->conf->base_epoch_us + at_us; }

static bool fits(const char *pattern, const char *name) {
    size_t n = strlen(pattern);
    if (n > 0 && pattern[n - 1] == '*') return strncmp(pattern, name, n - 1) == 0;
    return strcmp(pattern, name) == 0;
}

// take uses one of a fault's calls up.
static bool take(uint32_t i) {
    int64_t *left = &shm->header.fault_left[i];
    int64_t n = __atomic_load_n(left, __ATOMIC_ACQUIRE);
    while (n > 0) {
        if (!writable) return true;
        if (__atomic_compare_exchange_n(left, &n, n - 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return true;
    }
    return n < 0;
}

static bool has_fault(uint64_t id) {
    for (uint32_t i = 0; i < conf.faults; i++)
        if (conf.fault[i].id == id) return true;
    return false;
}

// delay waits as long as a fault says, or until it is taken away. The lock is held before and
// after, not meanwhile.
static nvmlReturn_t delay(struct call *c, uint64_t id, int64_t us) {
    int64_t start = clock_us(CLOCK_MONOTONIC);
    for (;;) {
        int64_t left = us - (clock_us(CLOCK_MONOTONIC) - start);
        if (left <= 0) return NVML_SUCCESS;
        call_pause(c);
        wait_us(left < 5000 ? left : 5000);
        nvmlReturn_t r = lock_current();
        if (r != NVML_SUCCESS) return r;
        c->locked = true;
        if (!has_fault(id)) return NVML_SUCCESS;
    }
}

// count_in notes a call under way, and how many there were at once in this process: a process
// that was killed leaves its own in the sum, but spoils no maximum.
static void count_in(struct call *c, unsigned int gpu) {
    c->index = gpu;
    c->counted = true;
    uint32_t n = __atomic_add_fetch(&under_way[gpu], 1, __ATOMIC_RELAXED);
    if (!writable) return;
    __atomic_fetch_add(&shm->header.in_flight[gpu], 1, __ATOMIC_RELAXED);
    uint32_t *most = &shm->header.most_at_once[gpu], was = __atomic_load_n(most, __ATOMIC_RELAXED);
    while (was < n && !__atomic_compare_exchange_n(most, &was, n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static void count_out(struct call *c) {
    if (!c->counted) return;
    c->counted = false;
    __atomic_fetch_sub(&under_way[c->index], 1, __ATOMIC_RELAXED);
    if (!writable) return;
    uint32_t *all = &shm->header.in_flight[c->index], was = __atomic_load_n(all, __ATOMIC_RELAXED);
    while (was > 0 && !__atomic_compare_exchange_n(all, &was, was - 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

// part_fault is the code of a fault that names a part of a call, such as "field 94".
nvmlReturn_t part_fault(const struct call *c, const char *what, unsigned int id) {
    for (uint32_t i = 0; i < c->conf->faults; i++) {
        const struct stub_fault *f = &c->conf->fault[i];
        char name[32];
        if (f->code == 0 || f->function[0] != what[0] || !(f->gpus >> c->index & 1) || c->now_us < f->from_us || c->now_us >= f->to_us) continue;
        snprintf(name, sizeof name, "%s %u", what, id);
        if (fits(f->function, name) && take(i)) return (nvmlReturn_t)f->code;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t call_begin(struct call *c, int fn, unsigned int gpu) {
    memset(c, 0, sizeof *c);
    nvmlReturn_t r = lock_current();
    if (r != NVML_SUCCESS) return r;
    c->locked = true;
    if (gpu > STUB_NO_GPU) gpu = STUB_NO_GPU;
    count_in(c, gpu);
    if (writable && slot[fn] >= 0) __atomic_fetch_add(&shm->function[slot[fn]].calls[gpu], 1, __ATOMIC_RELAXED);
    int64_t t = now_us();
    for (uint32_t i = 0; i < conf.faults; i++) {
        const struct stub_fault *f = &conf.fault[i];
        if (!(f->gpus >> gpu & 1) || t < f->from_us || t >= f->to_us || !fits(f->function, names[fn]) || !take(i)) continue;
        nvmlReturn_t code = (nvmlReturn_t)f->code;
        if (f->delay_us > 0) r = delay(c, f->id, f->delay_us);
        if (r != NVML_SUCCESS) return r;
        if (code != NVML_SUCCESS) return code;
        break;
    }
    if (conf.driver_epoch != own_epoch) return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    for (uint32_t i = 0; i < conf.blocked; i++)
        if (fits(conf.block[i], names[fn])) return NVML_ERROR_NOT_SUPPORTED;
    c->conf = &conf;
    c->now_us = now_us();
    if (gpu < conf.gpus) {
        c->gpu = &conf.gpu[gpu];
        c->load = gpu_load(c->gpu);
    }
    if (c->gpu != NULL && c->now_us >= c->gpu->lost_us) return NVML_ERROR_GPU_IS_LOST;
    return c->gpu != NULL ? (nvmlReturn_t)c->gpu->broken : NVML_SUCCESS;
}

// call_again takes up a call that was ended to let time pass.
nvmlReturn_t call_again(struct call *c) {
    nvmlReturn_t r = lock_current();
    if (r != NVML_SUCCESS) return r;
    c->locked = true;
    c->now_us = now_us();
    return NVML_SUCCESS;
}

// call_pause lets go of the configuration while a call waits.
void call_pause(struct call *c) {
    if (!c->locked) return;
    c->locked = false;
    pthread_rwlock_unlock(&lock);
}

// call_end ends a call, once: more often does no harm.
void call_end(struct call *c) {
    if (c->counted) count_out(c);
    call_pause(c);
}

nvmlDevice_t any_handle(unsigned int index) { return &handles[index]; }

bool device_index(nvmlDevice_t device, unsigned int *index) {
    for (unsigned int i = 0; i < STUB_MAX_GPUS; i++) {
        if (device == &handles[i]) {
            *index = i;
            return true;
        }
    }
    return false;
}

// is_mig reports whether a pointer is a handle of a MIG device, whether or not that is still there.
static bool is_mig(nvmlDevice_t device) {
    uintptr_t at = (uintptr_t)device, from = (uintptr_t)mig_handles;
    return at >= from && at < from + sizeof mig_handles && (at - from) % sizeof mig_handles[0][0] == 0;
}

// mig_handle is the handle of a MIG device. One that was there before in its place has had the
// same, which is now of this one: as the header says, handles are used again.
nvmlDevice_t mig_handle(const struct stub_instance *m) {
    struct nvmlDevice_st *h = &mig_handles[m->gpu][m->place];
    __atomic_store_n(&h->id, m->id, __ATOMIC_RELEASE);
    return h;
}

const struct stub_instance *mig_device(const struct call *c, unsigned int gpu, unsigned int place) {
    for (uint32_t i = 0; i < c->conf->instances; i++)
        if (c->conf->instance[i].gpu == gpu && c->conf->instance[i].place == place) return &c->conf->instance[i];
    return NULL;
}

const struct stub_instance *gpu_instance(const struct call *c, unsigned int gpu, unsigned int gi) {
    for (uint32_t i = 0; i < c->conf->instances; i++)
        if (c->conf->instance[i].gpu == gpu && c->conf->instance[i].gi == gi) return &c->conf->instance[i];
    return NULL;
}

// call_begin_device begins a call on a GPU. Most of them do not work on MIG devices.
nvmlReturn_t call_begin_device(struct call *c, int fn, nvmlDevice_t device) {
    nvmlReturn_t r = call_begin_any(c, fn, device);
    return r == NVML_SUCCESS && c->mig != NULL ? NVML_ERROR_NOT_SUPPORTED : r;
}

// call_begin_any begins a call on a GPU or on a MIG device, which counts as its GPU.
nvmlReturn_t call_begin_any(struct call *c, int fn, nvmlDevice_t device) {
    unsigned int index = STUB_NO_GPU;
    bool mig = is_mig(device), known = device_index(device, &index) || mig;
    if (mig) index = device->index;
    nvmlReturn_t r = call_begin(c, fn, index);
    if (r != NVML_SUCCESS) return r;
    if (!known || c->gpu == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (!mig) return NVML_SUCCESS;
    const struct stub_instance *m = c->gpu->mig == 1 ? mig_device(c, index, device->place) : NULL;
    if (m == NULL || m->id != __atomic_load_n(&device->id, __ATOMIC_ACQUIRE)) return NVML_ERROR_INVALID_ARGUMENT;
    c->mig = m;
    c->load = instance_load(gpu_instance(c, index, m->gi));
    return NVML_SUCCESS;
}

nvmlReturn_t device_handle(const struct call *c, unsigned int index, nvmlDevice_t *device) {
    if (device == NULL || index >= c->conf->gpus) return NVML_ERROR_INVALID_ARGUMENT;
    if (c->now_us >= c->conf->gpu[index].lost_us) return NVML_ERROR_GPU_IS_LOST;
    *device = &handles[index];
    return NVML_SUCCESS;
}

nvmlReturn_t put_string(char *to, unsigned int length, const char *from) {
    if (to == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    size_t n = strlen(from);
    if (n >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(to, from, n + 1);
    return NVML_SUCCESS;
}

int stub_unsupported(int fn) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin(&c, fn, STUB_NO_GPU);
    return (int)(r != NVML_SUCCESS ? r : NVML_ERROR_NOT_SUPPORTED);
}

static nvmlReturn_t init(int fn) {
    pthread_rwlock_wrlock(&lock);
    nvmlReturn_t r = inits > 0 ? NVML_SUCCESS : map_memory();
    if (r == NVML_SUCCESS) inits++;
    pthread_rwlock_unlock(&lock);
    if (r != NVML_SUCCESS) return r;
    struct call c __attribute__((cleanup(call_end)));
    r = call_begin(&c, fn, STUB_NO_GPU);
    if (r == NVML_SUCCESS) return r;
    call_end(&c);
    pthread_rwlock_wrlock(&lock);
    if (inits > 0) inits--;
    pthread_rwlock_unlock(&lock);
    return r;
}

STUB nvmlReturn_t nvmlInit(void) { return init(FN_nvmlInit); }

STUB nvmlReturn_t nvmlInit_v2(void) { return init(FN_nvmlInit_v2); }

STUB nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return init(FN_nvmlInitWithFlags);
}

STUB nvmlReturn_t nvmlShutdown(void) {
    CALL(nvmlShutdown);
    call_end(&c);
    pthread_rwlock_wrlock(&lock);
    if (inits > 0) inits--;
    pthread_rwlock_unlock(&lock);
    return NVML_SUCCESS;
}
