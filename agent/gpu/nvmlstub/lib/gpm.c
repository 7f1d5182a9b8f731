// GPM: a sample holds the integrals at its moment, and metrics are the exact averages between two.
#include <stdlib.h>
#include <string.h>

#include "stub.h"

#define SAMPLE_MAGIC 0x46574750u

struct nvmlGpmSample_st {
    uint32_t magic, gpu; // gpu STUB_NO_GPU: never taken
    int64_t at_us;
    uint32_t nvlinks, pad;
    double sum[STUB_QUANTITIES];
};

static bool alive(nvmlGpmSample_t s) { return s != NULL && s->magic == SAMPLE_MAGIC; }

STUB nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample) {
    CALL(nvmlGpmSampleAlloc);
    NEED(sample != NULL);
    struct nvmlGpmSample_st *s = calloc(1, sizeof *s);
    if (s == NULL) return NVML_ERROR_MEMORY;
    s->magic = SAMPLE_MAGIC;
    s->gpu = STUB_NO_GPU;
    *sample = s;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample) {
    CALL(nvmlGpmSampleFree);
    NEED(alive(sample));
    sample->magic = 0;
    free(sample);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample) {
    DEVICE(nvmlGpmSampleGet);
    NEED(alive(sample));
    if (c.gpu->gpm == 0 || c.gpu->mig == 1) return NVML_ERROR_NOT_SUPPORTED;
    sample->gpu = c.index;
    sample->at_us = c.now_us;
    sample->nvlinks = c.gpu->nvlinks;
    for (int q = 0; q < STUB_QUANTITIES; q++) sample->sum[q] = integral(c.conf, c.gpu, q, c.now_us);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support) {
    DEVICE(nvmlGpmQueryDeviceSupport);
    NEED(support != NULL);
    if (support->version != NVML_GPM_SUPPORT_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = c.gpu->gpm;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlGpmQueryIfStreamingEnabled(nvmlDevice_t device, unsigned int *state) {
    DEVICE(nvmlGpmQueryIfStreamingEnabled);
    NEED(state != NULL);
    if (c.gpu->gpm == 0) return NVML_ERROR_NOT_SUPPORTED;
    *state = NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

// Changing a setting needs root on a real driver, and an agent must not do it at all.
STUB nvmlReturn_t nvmlGpmSetStreamingEnabled(nvmlDevice_t device, unsigned int state) {
    DEVICE(nvmlGpmSetStreamingEnabled);
    (void)state;
    return c.gpu->gpm == 0 ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_NO_PERMISSION;
}

struct metric {
    int q;
    double scale;
    const char *name, *unit;
};

#define PERCENT 100.0
#define MIB (1.0 / (1 << 20))

// find maps a metric to a quantity; q -1: none.
static struct metric find(unsigned int id, uint32_t links) {
    switch (id) {
    case NVML_GPM_METRIC_GRAPHICS_UTIL: return (struct metric){STUB_GR, PERCENT, "GRAPHICS_UTIL", "%"};
    case NVML_GPM_METRIC_SM_UTIL: return (struct metric){STUB_SM, PERCENT, "SM_UTIL", "%"};
    case NVML_GPM_METRIC_SM_OCCUPANCY: return (struct metric){STUB_OCCUPANCY, PERCENT, "SM_OCCUPANCY", "%"};
    case NVML_GPM_METRIC_INTEGER_UTIL: return (struct metric){STUB_INTEGER, PERCENT, "INTEGER_UTIL", "%"};
    case NVML_GPM_METRIC_ANY_TENSOR_UTIL: return (struct metric){STUB_TENSOR, PERCENT, "ANY_TENSOR_UTIL", "%"};
    case NVML_GPM_METRIC_DFMA_TENSOR_UTIL: return (struct metric){STUB_DFMA, PERCENT, "DFMA_TENSOR_UTIL", "%"};
    case NVML_GPM_METRIC_HMMA_TENSOR_UTIL: return (struct metric){STUB_HMMA, PERCENT, "HMMA_TENSOR_UTIL", "%"};
    case NVML_GPM_METRIC_IMMA_TENSOR_UTIL: return (struct metric){STUB_IMMA, PERCENT, "IMMA_TENSOR_UTIL", "%"};
    case NVML_GPM_METRIC_DRAM_BW_UTIL: return (struct metric){STUB_DRAM, PERCENT, "DRAM_BW_UTIL", "%"};
    case NVML_GPM_METRIC_FP64_UTIL: return (struct metric){STUB_FP64, PERCENT, "FP64_UTIL", "%"};
    case NVML_GPM_METRIC_FP32_UTIL: return (struct metric){STUB_FP32, PERCENT, "FP32_UTIL", "%"};
    case NVML_GPM_METRIC_FP16_UTIL: return (struct metric){STUB_FP16, PERCENT, "FP16_UTIL", "%"};
    case NVML_GPM_METRIC_PCIE_TX_PER_SEC: return (struct metric){STUB_PCIE_TX_BPS, MIB, "PCIE_TX_PER_SEC", "MiB/s"};
    case NVML_GPM_METRIC_PCIE_RX_PER_SEC: return (struct metric){STUB_PCIE_RX_BPS, MIB, "PCIE_RX_PER_SEC", "MiB/s"};
    case NVML_GPM_METRIC_NVDEC_0_UTIL: return (struct metric){STUB_NVDEC, PERCENT, "NVDEC_0_UTIL", "%"};
    case NVML_GPM_METRIC_NVENC_0_UTIL: return (struct metric){STUB_NVENC, PERCENT, "NVENC_0_UTIL", "%"};
    default: break;
    }
    if (links == 0) return (struct metric){.q = -1};
    if (id == NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC) return (struct metric){STUB_NVLINK_RX_BPS, MIB, "NVLINK_TOTAL_RX_PER_SEC", "MiB/s"};
    if (id == NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC) return (struct metric){STUB_NVLINK_TX_BPS, MIB, "NVLINK_TOTAL_TX_PER_SEC", "MiB/s"};
    if (id >= NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC && id <= NVML_GPM_METRIC_NVLINK_L17_TX_PER_SEC) {
        unsigned int n = id - NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC;
        if (n / 2 < links) return (struct metric){n % 2 == 0 ? STUB_NVLINK_RX_BPS : STUB_NVLINK_TX_BPS, MIB / links, n % 2 == 0 ? "NVLINK_LINK_RX_PER_SEC" : "NVLINK_LINK_TX_PER_SEC", "MiB/s"};
    }
    return (struct metric){.q = -1};
}

// The list of a caller may end behind numMetrics: nothing else of it is touched.
STUB nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get) {
    struct call c __attribute__((cleanup(call_end)));
    unsigned int gpu = STUB_NO_GPU;
    if (get != NULL && alive(get->sample1)) gpu = get->sample1->gpu;
    nvmlReturn_t r = call_begin(&c, FN_nvmlGpmMetricsGet, gpu);
    if (r != NVML_SUCCESS) return r;
    NEED(get != NULL);
    if (get->version != NVML_GPM_METRICS_GET_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct nvmlGpmSample_st *a = get->sample1, *b = get->sample2;
    NEED(alive(get->sample1) && alive(get->sample2) && a->gpu == b->gpu && a->gpu != STUB_NO_GPU);
    NEED(get->numMetrics > 0 && get->numMetrics <= NVML_GPM_METRIC_MAX);
    for (unsigned int i = 0; i < get->numMetrics; i++) {
        nvmlGpmMetric_t *m = &get->metrics[i];
        struct metric is = find(m->metricId, a->nvlinks);
        m->value = 0;
        m->metricInfo.shortName = m->metricInfo.longName = m->metricInfo.unit = NULL;
        m->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        if (is.q < 0) continue;
        m->metricInfo.shortName = m->metricInfo.longName = (char *)(uintptr_t)is.name;
        m->metricInfo.unit = (char *)(uintptr_t)is.unit;
        m->nvmlReturn = NVML_ERROR_NO_DATA;
        if (b->at_us <= a->at_us) continue;
        m->nvmlReturn = NVML_SUCCESS;
        m->value = (b->sum[is.q] - a->sum[is.q]) * 1e6 / (double)(b->at_us - a->at_us) * is.scale;
        if (m->value < 0) m->value = 0;
    }
    return NVML_SUCCESS;
}
