// What the parts of the library share.
#ifndef FLOPWATCH_STUB_H
#define FLOPWATCH_STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "nvml.h"

#include "functions.h" // generated: FN_nvmlInit_v2 and so on

#define STUB __attribute__((visibility("default")))

// A handle of a GPU, or of the MIG device that had an id when it was asked for.
struct nvmlDevice_st {
    unsigned int index, place;
    bool mig;
    uint64_t id;
};

// What is integrated: segments by time, and what is between them.
struct load {
    uint32_t segments;
    const struct stub_segment *segment;
    const double *idle;
};

// Beside the quantities themselves, each of them in cycles of the SM clock, and those cycles.
#define CYCLES(q) (STUB_QUANTITIES + (q))
#define CYCLES_ELAPSED (2 * STUB_QUANTITIES)

// A call into the library. Between its begin and its end the configuration does not change.
struct call {
    const struct stub_config *conf;
    const struct stub_gpu *gpu;
    const struct stub_instance *mig; // of a MIG device; gpu is its parent then
    struct load load;                // the GPU's, or the GPU instance's
    int64_t now_us;   // since the scenario's start
    unsigned int index;
    bool locked, counted;
};

nvmlReturn_t call_begin(struct call *c, int fn, unsigned int gpu);
nvmlReturn_t call_begin_device(struct call *c, int fn, nvmlDevice_t device);
nvmlReturn_t call_begin_any(struct call *c, int fn, nvmlDevice_t device);
void call_pause(struct call *c);
void call_end(struct call *c);
nvmlReturn_t call_again(struct call *c);
nvmlReturn_t device_handle(const struct call *c, unsigned int index, nvmlDevice_t *device);
bool device_index(nvmlDevice_t device, unsigned int *index);
nvmlDevice_t any_handle(unsigned int index);
nvmlDevice_t mig_handle(const struct stub_instance *m);
const struct stub_instance *gpu_instance(const struct call *c, unsigned int gpu, unsigned int gi);
const struct stub_instance *mig_device(const struct call *c, unsigned int gpu, unsigned int place);
int64_t epoch_us(const struct call *c, int64_t at_us);
nvmlReturn_t part_fault(const struct call *c, const char *what, unsigned int id);
void wait_us(int64_t us);
nvmlReturn_t put_string(char *to, unsigned int length, const char *from);
int stub_unsupported(int fn);

// CALL and DEVICE begin a call, count it, meet its fault, and return where it ends there.
#define CALL(fn)                                                     \
    struct call c __attribute__((cleanup(call_end)));                \
    do {                                                             \
        nvmlReturn_t begun = call_begin(&c, FN_##fn, STUB_NO_GPU);   \
        if (begun != NVML_SUCCESS) return begun;                     \
    } while (0)

#define DEVICE(fn)                                                   \
    struct call c __attribute__((cleanup(call_end)));                \
    do {                                                             \
        nvmlReturn_t begun = call_begin_device(&c, FN_##fn, device); \
        if (begun != NVML_SUCCESS) return begun;                     \
    } while (0)

// ANY is DEVICE for what works on MIG devices too.
#define ANY(fn)                                                      \
    struct call c __attribute__((cleanup(call_end)));                \
    do {                                                             \
        nvmlReturn_t begun = call_begin_any(&c, FN_##fn, device);    \
        if (begun != NVML_SUCCESS) return begun;                     \
    } while (0)

#define NEED(condition)                                              \
    do {                                                             \
        if (!(condition)) return NVML_ERROR_INVALID_ARGUMENT;        \
    } while (0)

// TEXT and NUMBER are functions that give one member of the GPU; LINK begins one of a link.

#define TEXT(fn, member)                                                           \
    STUB nvmlReturn_t fn(nvmlDevice_t device, char *text, unsigned int length) {   \
        DEVICE(fn);                                                                \
        return put_string(text, length, c.gpu->member);                            \
    }

#define NUMBER(fn, type, value)                                                    \
    STUB nvmlReturn_t fn(nvmlDevice_t device, type *out) {                         \
        DEVICE(fn);                                                                \
        NEED(out != NULL);                                                         \
        *out = (type)(value);                                                      \
        return NVML_SUCCESS;                                                       \
    }

#define LINK(fn)                                                     \
    DEVICE(fn);                                                      \
    NEED(link < STUB_MAX_LINKS);                                     \
    if (c.gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;        \
    NEED(link < c.gpu->nvlinks)

// model.c: the scenario's functions of time.
int64_t cycle_us(const struct stub_config *conf, int64_t at_us);
struct load gpu_load(const struct stub_gpu *g);
struct load instance_load(const struct stub_instance *m);
const struct stub_segment *segment_at(const struct stub_config *conf, const struct load *l, int64_t at_us);
double value_at(const struct call *c, int q, int64_t at_us);
double integral(const struct stub_config *conf, const struct load *l, int q, int64_t to_us); // value x seconds from 0
double mean_of_last(const struct call *c, int q, int64_t window_us);
uint64_t counter(const struct call *c, int q, uint64_t start, double scale);
double count(const struct call *c, int q, uint64_t start, double scale);
uint64_t capped_ns(const struct call *c, uint64_t reasons, uint64_t start);
uint64_t to_u64(double v);
unsigned int to_percent(double fraction);
bool config_valid(struct stub_config *conf);

// What fields.c and device.c read both.
unsigned int power_mw(const struct call *c, bool instant);
uint64_t capped_by(const struct call *c, enum stub_cap cap);
uint64_t ecc_errors(const struct stub_gpu *g, bool corrected, bool aggregate);
bool link_up(const struct stub_gpu *g, unsigned int link);

// Generations, by what changed with them.
#define RETIRES_PAGES(g) ((g)->architecture < NVML_DEVICE_ARCH_AMPERE)
#define IS_GA100(g) ((g)->architecture == NVML_DEVICE_ARCH_AMPERE && (g)->cc_minor == 0)
#define HAS_TLIMIT(g) ((g)->architecture >= NVML_DEVICE_ARCH_ADA)
#define IS_BLACKWELL(g) ((g)->architecture >= NVML_DEVICE_ARCH_BLACKWELL)

#endif
