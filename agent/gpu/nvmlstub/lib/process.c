// Processes on a GPU, and the driver's buffers of samples.
#include <string.h>

#include "stub.h"

#define NO_INSTANCE 0xffffffffu
#define SAMPLE_PERIOD_US 1000000
#define BUFFERED 16

enum { COMPUTE, GRAPHICS, MPS };

static bool runs(const struct call *c, const struct stub_process *p) {
    int64_t t = cycle_us(c->conf, c->now_us);
    if (!(p->gpus >> c->index & 1) || t < p->from_us || t >= p->to_us) return false;
    return c->mig == NULL || p->instance == 1 + 256 * c->mig->gi + c->mig->ci;
}

// What the first 535 drivers wrote for an entry of the third version.
struct slipped {
    nvmlProcessInfo_v2_t info;
    uint64_t protected_bytes;
};

// put_slipped writes an entry as those did: where the reader expects 24 bytes for each, what it
// reads are parts of others. Unlike theirs it does not go beyond the reader's buffer.
static void put_slipped(unsigned char *list, size_t size, unsigned int n, nvmlProcessInfo_v2_t info) {
    struct slipped s = {info, 0};
    size_t at = n * sizeof s;
    if (at < size) memcpy(list + at, &s, size - at < sizeof s ? size - at : sizeof s);
}

// processes fills a list of one of the two layouts: the second and third version are the same.
static nvmlReturn_t processes(int fn, nvmlDevice_t device, uint32_t type, unsigned int *count, nvmlProcessInfo_v1_t *v1, nvmlProcessInfo_v2_t *v2,
                              bool third) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin_any(&c, fn, device);
    if (r != NVML_SUCCESS) return r;
    NEED(count != NULL);
    if (c.mig == NULL && c.gpu->mig == 1 && c.conf->unprivileged == 1) return NVML_ERROR_NO_PERMISSION;
    unsigned int room = v1 == NULL && v2 == NULL ? 0 : *count, n = 0;
    for (uint32_t i = 0; i < c.conf->processes; i++) {
        const struct stub_process *p = &c.conf->process[i];
        if (p->type != type || !runs(&c, p)) continue;
        if (n < room && v1 != NULL) v1[n] = (nvmlProcessInfo_v1_t){.pid = p->pid, .usedGpuMemory = p->used_bytes};
        bool placed = c.gpu->mig == 1 && p->instance != 0;
        unsigned int gi = placed ? (p->instance - 1) / 256 : NO_INSTANCE, ci = placed ? (p->instance - 1) % 256 : NO_INSTANCE;
        nvmlProcessInfo_v2_t info = {p->pid, p->used_bytes, gi, ci};
        if (n < room && v2 != NULL && third && STUB_DRIVER == 535) put_slipped((unsigned char *)v2, room * sizeof *v2, n, info);
        else if (n < room && v2 != NULL) v2[n] = info;
        n++;
    }
    *count = n;
    return n > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESSES(fn, type)                                                                              \
    STUB nvmlReturn_t fn(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v1_t *infos) {        \
        return processes(FN_##fn, device, type, count, infos, NULL, false);                                \
    }                                                                                                    \
    STUB nvmlReturn_t fn##_v2(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v2_t *infos) {   \
        return processes(FN_##fn##_v2, device, type, count, NULL, infos, false);                                \
    }                                                                                                    \
    STUB nvmlReturn_t fn##_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {      \
        return processes(FN_##fn##_v3, device, type, count, NULL, infos, true);                                \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses, COMPUTE)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, GRAPHICS)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, MPS)

// at_us is the newest moment at which the driver's buffer got a sample.
static int64_t newest_us(const struct call *c) { return c->now_us - c->now_us % SAMPLE_PERIOD_US; }

// Each process that runs gets an even part of what the GPU did in the second before the sample.
STUB nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, unsigned int *count,
                                                  unsigned long long last_seen) {
    DEVICE(nvmlDeviceGetProcessUtilization);
    NEED(count != NULL);
    if (c.gpu->mig == 1) return NVML_ERROR_NOT_SUPPORTED;
    unsigned int running = 0, n = 0;
    for (uint32_t i = 0; i < c.conf->processes; i++) running += runs(&c, &c.conf->process[i]);
    if (samples == NULL) {
        *count = running;
        return running > 0 ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
    }
    uint64_t at = (uint64_t)epoch_us(&c, newest_us(&c));
    if (at <= last_seen) running = 0;
    c.now_us = newest_us(&c);
    double util = mean_of_last(&c, STUB_UTIL, SAMPLE_PERIOD_US), mem = mean_of_last(&c, STUB_MEM_UTIL, SAMPLE_PERIOD_US);
    double enc = mean_of_last(&c, STUB_NVENC, SAMPLE_PERIOD_US), dec = mean_of_last(&c, STUB_NVDEC, SAMPLE_PERIOD_US);
    for (uint32_t i = 0; i < c.conf->processes && running > 0; i++) {
        const struct stub_process *p = &c.conf->process[i];
        if (!runs(&c, p)) continue;
        if (n == *count) return NVML_ERROR_INSUFFICIENT_SIZE;
        samples[n++] = (nvmlProcessUtilizationSample_t){
            .pid = p->pid,
            .timeStamp = at,
            .smUtil = to_percent(util / running),
            .memUtil = to_percent(mem / running),
            .encUtil = to_percent(enc / running),
            .decUtil = to_percent(dec / running),
        };
    }
    *count = n;
    return n > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

STUB nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long last_seen, nvmlValueType_t *value_type,
                                       unsigned int *count, nvmlSample_t *samples) {
    DEVICE(nvmlDeviceGetSamples);
    NEED(value_type != NULL && count != NULL && (samples == NULL || *count > 0));
    int q;
    switch (type) {
    case NVML_TOTAL_POWER_SAMPLES: q = STUB_POWER_W; break;
    case NVML_GPU_UTILIZATION_SAMPLES: q = STUB_UTIL; break;
    case NVML_MEMORY_UTILIZATION_SAMPLES: q = STUB_MEM_UTIL; break;
    case NVML_ENC_UTILIZATION_SAMPLES: q = STUB_NVENC; break;
    case NVML_DEC_UTILIZATION_SAMPLES: q = STUB_NVDEC; break;
    case NVML_PROCESSOR_CLK_SAMPLES: q = STUB_SM_MHZ; break;
    case NVML_MEMORY_CLK_SAMPLES: q = STUB_MEM_MHZ; break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    if (c.gpu->mig == 1 && (q == STUB_UTIL || q == STUB_MEM_UTIL || q == STUB_NVENC || q == STUB_NVDEC)) return NVML_ERROR_NOT_SUPPORTED;
    *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
    if (samples == NULL) {
        *count = BUFFERED;
        return NVML_SUCCESS;
    }
    int64_t newest = newest_us(&c);
    unsigned int n = 0;
    for (int64_t i = BUFFERED - 1; i >= 0 && n < *count; i--) {
        int64_t at = newest - i * SAMPLE_PERIOD_US;
        if (at < 0 || (uint64_t)epoch_us(&c, at) <= last_seen) continue;
        c.now_us = at;
        double v = mean_of_last(&c, q, SAMPLE_PERIOD_US);
        bool share = q == STUB_UTIL || q == STUB_MEM_UTIL || q == STUB_NVENC || q == STUB_NVDEC;
        if (q == STUB_POWER_W) v *= 1000;
        samples[n].timeStamp = (unsigned long long)epoch_us(&c, at);
        samples[n].sampleValue.ullVal = 0;
        samples[n++].sampleValue.uiVal = share ? to_percent(v) : (unsigned int)(to_u64(v + 0.5) & 0xffffffff);
    }
    *count = n;
    return n > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}
