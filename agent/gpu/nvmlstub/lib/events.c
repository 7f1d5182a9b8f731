// Event sets: each delivers what the scenario lists from the moment of its registration on.
#include <stdlib.h>
#include <time.h>

#include "stub.h"

#define SET_MAGIC 0x46574553u
// Between looks at whether an event is due: more and more while there is none, as nobody shall take the cost
// of these looks for that of the program that waits.
#define POLL_US 5000
#define POLL_MOST_US 250000
#define KNOWN_EVENTS                                                                                                           \
    (nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeXidCriticalError | nvmlEventTypePState |   \
     nvmlEventTypeClock)

// What came with Blackwell, as far as the header tells: a guess.
#define BLACKWELL_EVENTS                                                                                                               \
    (nvmlEventTypeSingleBitEccErrorStorm | nvmlEventTypeDramRetirementEvent | nvmlEventTypeDramRetirementFailure |                     \
     nvmlEventTypeNonFatalPoisonError | nvmlEventTypeFatalPoisonError | nvmlEventTypeGpuUnavailableError | nvmlEventTypeGpuRecoveryAction)

// A set belongs to one thread at a time, as the header asks of its users.
struct nvmlEventSet_st {
    uint32_t magic, pad;
    uint64_t types[STUB_MAX_GPUS];
    uint64_t from[STUB_MAX_GPUS]; // id of the newest event there was at the registration
    uint64_t seen;                // that of the newest that was delivered
    int64_t poll_us;              // until the next look
};

static unsigned long long known(const struct stub_gpu *g) {
    unsigned long long types = (unsigned long long)KNOWN_EVENTS;
    if (g->mig != 2) types |= nvmlEventMigConfigChange;
    if (IS_BLACKWELL(g) && STUB_DRIVER >= 580) types |= BLACKWELL_EVENTS;
    return types;
}

static bool alive(nvmlEventSet_t s) { return s != NULL && s->magic == SET_MAGIC; }

STUB nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    CALL(nvmlEventSetCreate);
    NEED(set != NULL);
    struct nvmlEventSet_st *s = calloc(1, sizeof *s);
    if (s == NULL) return NVML_ERROR_MEMORY;
    s->magic = SET_MAGIC;
    s->poll_us = POLL_US;
    *set = s;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    CALL(nvmlEventSetFree);
    NEED(alive(set));
    set->magic = 0;
    free(set);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    DEVICE(nvmlDeviceGetSupportedEventTypes);
    NEED(types != NULL);
    *types = known(c.gpu);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    DEVICE(nvmlDeviceRegisterEvents);
    NEED(alive(set));
    if ((types & ~known(c.gpu)) != 0) return NVML_ERROR_NOT_SUPPORTED;
    for (uint32_t i = 0; i < c.conf->events && set->types[c.index] == 0; i++)
        if (c.conf->event[i].at_us <= c.now_us) set->from[c.index] = c.conf->event[i].id;
    set->types[c.index] |= types;
    return NVML_SUCCESS;
}

static bool next_event(const struct call *c, nvmlEventSet_t set, const struct stub_event **found) {
    for (uint32_t i = 0; i < c->conf->events; i++) {
        const struct stub_event *e = &c->conf->event[i];
        if (e->at_us > c->now_us) return false;
        if (e->id <= set->seen || !(set->types[e->gpu] & e->type) || e->id <= set->from[e->gpu]) continue;
        set->seen = e->id;
        set->poll_us = POLL_US;
        *found = e;
        return true;
    }
    return false;
}

// place says on which instance an event was: of Xids alone, and not to everybody.
static void place(const struct call *c, const struct stub_event *e, nvmlEventData_t *data) {
    data->gpuInstanceId = data->computeInstanceId = 0xffffffffu;
    if (e->instance == 0 || e->type != nvmlEventTypeXidCriticalError || c->conf->unprivileged == 1 || c->conf->gpu[e->gpu].mig != 1) return;
    data->gpuInstanceId = (e->instance - 1) / 256;
    data->computeInstanceId = (e->instance - 1) % 256;
}

static int64_t monotonic_us(void) {
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

// The timeout is of the real clock; the events are due by the scenario's.
static nvmlReturn_t event_wait(int fn, nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms, bool instances) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin(&c, fn, STUB_NO_GPU);
    if (r != NVML_SUCCESS) return r;
    NEED(alive(set) && data != NULL);
    int64_t end = monotonic_us() + (int64_t)timeout_ms * 1000;
    for (;;) {
        const struct stub_event *e;
        if (next_event(&c, set, &e)) {
            data->device = any_handle(e->gpu); // of a lost GPU too: that is what its last event is about
            data->eventType = e->type;
            data->eventData = e->data;
            if (instances) place(&c, e, data);
            return NVML_SUCCESS;
        }
        int64_t left = end - monotonic_us();
        if (left <= 0) return NVML_ERROR_TIMEOUT;
        call_pause(&c);
        wait_us(left < set->poll_us ? left : set->poll_us);
        set->poll_us = set->poll_us * 2 < POLL_MOST_US ? set->poll_us * 2 : POLL_MOST_US;
        r = call_again(&c);
        if (r != NVML_SUCCESS) return r;
    }
}

STUB nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    return event_wait(FN_nvmlEventSetWait, set, data, timeout_ms, false);
}

STUB nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    return event_wait(FN_nvmlEventSetWait_v2, set, data, timeout_ms, true);
}
