// GPM: a sample holds the integrals at its moment, and metrics are the exact averages between
// two, or, of counters since boot, what the newer sample counts.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stub.h"

#define SAMPLE_MAGIC 0x46574750u

struct nvmlGpmSample_st {
    uint32_t magic, gpu; // gpu STUB_NO_GPU: never taken
    uint64_t instance;   // id of the GPU instance, 0: of the GPU
    int64_t at_us;
    uint32_t nvlinks, cycles; // cycles: enum stub_cycles
    double sum[STUB_QUANTITIES];
    double counted[CYCLES_ELAPSED + 1]; // since boot: bytes, cycles
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

static void fill(const struct call *c, nvmlGpmSample_t s) {
    const struct stub_gpu *g = c->gpu;
    s->gpu = c->index;
    s->at_us = c->now_us;
    s->instance = c->mig == NULL ? 0 : gpu_instance(c, c->index, c->mig->gi)->id;
    s->nvlinks = c->mig == NULL ? g->nvlinks : 0; // instances have no part in them
    s->cycles = STUB_DRIVER > 580 ? g->cycles : STUB_CYCLES_UNKNOWN;
    for (int q = 0; q < STUB_QUANTITIES; q++) s->sum[q] = integral(c->conf, &c->load, q, c->now_us);
    for (int q = 0; q < STUB_QUANTITIES; q++) s->counted[CYCLES(q)] = floor(count(c, CYCLES(q), 0, 1));
    s->counted[CYCLES_ELAPSED] = floor(count(c, CYCLES_ELAPSED, g->cycles_start, 1));
    s->counted[STUB_PCIE_TX_BPS] = floor(count(c, STUB_PCIE_TX_BPS, g->pcie_tx_start, 1));
    s->counted[STUB_PCIE_RX_BPS] = floor(count(c, STUB_PCIE_RX_BPS, g->pcie_rx_start, 1));
    s->counted[STUB_NVLINK_TX_BPS] = count(c, STUB_NVLINK_TX_BPS, g->nvlink_tx_start, 1);
    s->counted[STUB_NVLINK_RX_BPS] = count(c, STUB_NVLINK_RX_BPS, g->nvlink_rx_start, 1);
}

STUB nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample) {
    ANY(nvmlGpmSampleGet);
    NEED(alive(sample));
    if (c.gpu->gpm == 0 || (c.gpu->mig == 1 && c.mig == NULL)) return NVML_ERROR_NOT_SUPPORTED;
    fill(&c, sample);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int gi, nvmlGpmSample_t sample) {
    DEVICE(nvmlGpmMigSampleGet);
    NEED(alive(sample));
    if (c.gpu->gpm == 0 || c.gpu->mig != 1) return NVML_ERROR_NOT_SUPPORTED;
    c.mig = gpu_instance(&c, c.index, gi);
    if (c.mig == NULL) return NVML_ERROR_NOT_FOUND;
    c.load = instance_load(c.mig);
    fill(&c, sample);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support) {
    ANY(nvmlGpmQueryDeviceSupport);
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

// counted maps a counter since boot to what a sample counted; -1: it is none.
static int counter_of(unsigned int id) {
    switch (id) {
    case NVML_GPM_METRIC_SM_CYCLES_ELAPSED: return CYCLES_ELAPSED;
    case NVML_GPM_METRIC_SM_CYCLES_ACTIVE: return CYCLES(STUB_SM);
    case NVML_GPM_METRIC_MMA_CYCLES_ACTIVE: return CYCLES(STUB_TENSOR);
    case NVML_GPM_METRIC_DMMA_CYCLES_ACTIVE: return CYCLES(STUB_DFMA); // the stub plays one kind of double precision on tensor cores
    case NVML_GPM_METRIC_HMMA_CYCLES_ACTIVE: return CYCLES(STUB_HMMA);
    case NVML_GPM_METRIC_IMMA_CYCLES_ACTIVE: return CYCLES(STUB_IMMA);
    case NVML_GPM_METRIC_DFMA_CYCLES_ACTIVE: return CYCLES(STUB_DFMA);
    case NVML_GPM_METRIC_PCIE_TX: return STUB_PCIE_TX_BPS;
    case NVML_GPM_METRIC_PCIE_RX: return STUB_PCIE_RX_BPS;
    case NVML_GPM_METRIC_INTEGER_CYCLES_ACTIVE: return CYCLES(STUB_INTEGER);
    case NVML_GPM_METRIC_FP64_CYCLES_ACTIVE: return CYCLES(STUB_FP64);
    case NVML_GPM_METRIC_FP32_CYCLES_ACTIVE: return CYCLES(STUB_FP32);
    case NVML_GPM_METRIC_FP16_CYCLES_ACTIVE: return CYCLES(STUB_FP16);
    default: break;
    }
    if (id < NVML_GPM_METRIC_NVLINK_L0_RX || id > NVML_GPM_METRIC_NVLINK_L71_TX) return -1;
    return (id - NVML_GPM_METRIC_NVLINK_L0_RX) % 2 == 0 ? STUB_NVLINK_RX_BPS : STUB_NVLINK_TX_BPS;
}

// since_boot answers for a counter since boot: one sample is enough for it, and of two it is
// the second that counts.
static void since_boot(nvmlGpmMetric_t *m, int q, const struct nvmlGpmSample_st *s) {
    bool link = m->metricId >= NVML_GPM_METRIC_NVLINK_L0_RX;
    if (s->cycles == STUB_CYCLES_UNKNOWN) {
        m->nvmlReturn = NVML_ERROR_INVALID_ARGUMENT;
        return;
    }
    if (s->cycles != STUB_CYCLES_COUNTED || (link && (m->metricId - NVML_GPM_METRIC_NVLINK_L0_RX) / 2 >= s->nvlinks)) return;
    m->nvmlReturn = NVML_SUCCESS;
    m->value = link ? floor(s->counted[q] / s->nvlinks) : s->counted[q];
    m->metricInfo.shortName = m->metricInfo.longName = (char *)(uintptr_t)(q < STUB_QUANTITIES ? "TRAFFIC" : "CYCLES");
    m->metricInfo.unit = (char *)(uintptr_t)(q < STUB_QUANTITIES ? "B" : "");
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
    NEED(alive(get->sample1) && alive(get->sample2) && a->gpu == b->gpu && a->gpu != STUB_NO_GPU && a->instance == b->instance);
    NEED(get->numMetrics > 0 && get->numMetrics <= NVML_GPM_METRIC_MAX);
    for (unsigned int i = 0; i < get->numMetrics && b->cycles == STUB_CYCLES_REFUSED; i++) NEED(counter_of(get->metrics[i].metricId) < 0);
    for (unsigned int i = 0; i < get->numMetrics; i++) {
        nvmlGpmMetric_t *m = &get->metrics[i];
        int since = counter_of(m->metricId);
        struct metric is = find(m->metricId, a->nvlinks);
        m->value = 0;
        m->metricInfo.shortName = m->metricInfo.longName = m->metricInfo.unit = NULL;
        m->nvmlReturn = part_fault(&c, "metric", m->metricId);
        if (m->nvmlReturn != NVML_SUCCESS) continue;
        m->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        if (since >= 0) since_boot(m, since, b);
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
