// Field values: one call for many numbers, each with a return value of its own.
#include "stub.h"

#define ALL_LINKS 0xffffffffu

// Protocol around the data of a link, for the raw counters: a figure of our own.
#define RAW_SHARE 1.125

static nvmlReturn_t number(nvmlFieldValue_t *f, unsigned int v) {
    f->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    f->value.uiVal = v;
    return NVML_SUCCESS;
}

static nvmlReturn_t wide(nvmlFieldValue_t *f, uint64_t v) {
    f->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    f->value.ullVal = v;
    return NVML_SUCCESS;
}

// link_counter counts one link's part, or all of them.
static nvmlReturn_t link_counter(const struct call *c, nvmlFieldValue_t *f, int q, uint64_t start, double scale) {
    uint32_t links = c->gpu->nvlinks;
    if (links == 0) return NVML_ERROR_NOT_SUPPORTED;
    if (f->scopeId == ALL_LINKS) return wide(f, counter(c, q, start, scale));
    if (f->scopeId >= links) return NVML_ERROR_INVALID_ARGUMENT;
    return wide(f, counter(c, q, start / links, scale / links));
}

static nvmlReturn_t link_errors(const struct call *c, nvmlFieldValue_t *f, uint64_t one) {
    if (c->gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
    return wide(f, one * c->gpu->nvlinks);
}

static nvmlReturn_t of_link(const struct call *c, nvmlFieldValue_t *f, unsigned int v) {
    if (c->gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
    if (f->scopeId >= c->gpu->nvlinks) return NVML_ERROR_INVALID_ARGUMENT;
    return number(f, v);
}

#ifndef STUB_OLD_DRIVER
static nvmlReturn_t pcie_counter(const struct call *c, nvmlFieldValue_t *f, int q, uint64_t start) {
    uint64_t v = counter(c, q, start, 1);
    return wide(f, c->gpu->pcie_wrap > 0 ? v % c->gpu->pcie_wrap : v);
}
#endif

static nvmlReturn_t field(const struct call *c, nvmlFieldValue_t *f) {
    const struct stub_gpu *g = c->gpu;
    nvmlReturn_t r = part_fault(c, "field", f->fieldId);
    if (r != NVML_SUCCESS) return r;
    switch (f->fieldId) {
    case NVML_FI_DEV_ECC_CURRENT:
    case NVML_FI_DEV_ECC_PENDING: return g->ecc == 2 ? NVML_ERROR_NOT_SUPPORTED : number(f, g->ecc);
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL:
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: return g->ecc != 1 ? NVML_ERROR_NOT_SUPPORTED : wide(f, g->ecc_corrected);
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL:
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return g->ecc != 1 ? NVML_ERROR_NOT_SUPPORTED : wide(f, g->ecc_uncorrected);
    case NVML_FI_DEV_RETIRED_SBE: return wide(f, g->retired_sbe);
    case NVML_FI_DEV_RETIRED_DBE: return wide(f, g->retired_dbe);
    case NVML_FI_DEV_RETIRED_PENDING: return wide(f, g->retired_pending);
    case NVML_FI_DEV_REMAPPED_COR: return number(f, g->remapped_cor);
    case NVML_FI_DEV_REMAPPED_UNC: return number(f, g->remapped_unc);
    case NVML_FI_DEV_REMAPPED_PENDING: return number(f, g->remapped_pending);
    case NVML_FI_DEV_REMAPPED_FAILURE: return number(f, g->remapped_failed);
    case NVML_FI_DEV_MEMORY_TEMP: return number(f, (unsigned int)to_u64(value_at(c, STUB_MEM_TEMP_C, c->now_us)));
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: return wide(f, counter(c, STUB_POWER_W, g->energy_start_mj, 1000));
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER: return number(f, g->pcie_replays);
    case NVML_FI_DEV_NVLINK_LINK_COUNT: return number(f, g->nvlinks);
    case NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT: return number(f, g->nvlinks);
    case NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON: return g->nvlinks == 0 ? NVML_ERROR_NOT_SUPPORTED : number(f, g->nvlink_mbps);
    case NVML_FI_DEV_NVLINK_GET_SPEED: return of_link(c, f, g->nvlink_mbps);
    case NVML_FI_DEV_NVLINK_GET_STATE: return of_link(c, f, NVML_FEATURE_ENABLED);
    case NVML_FI_DEV_NVLINK_GET_VERSION: return of_link(c, f, g->nvlink_version);
    case NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: return link_errors(c, f, g->nvlink_crc_flit);
    case NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL: return link_errors(c, f, g->nvlink_crc_data);
    case NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL: return link_errors(c, f, g->nvlink_replay);
    case NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL: return link_errors(c, f, g->nvlink_recovery);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX: return link_counter(c, f, STUB_NVLINK_TX_BPS, g->nvlink_tx_start / 1024, 1.0 / 1024);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX: return link_counter(c, f, STUB_NVLINK_RX_BPS, g->nvlink_rx_start / 1024, 1.0 / 1024);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX: return link_counter(c, f, STUB_NVLINK_TX_BPS, g->nvlink_tx_start / 1024, RAW_SHARE / 1024);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX: return link_counter(c, f, STUB_NVLINK_RX_BPS, g->nvlink_rx_start / 1024, RAW_SHARE / 1024);
#ifndef STUB_OLD_DRIVER
    // scopeId 0 is the GPU. 1 is a module with a CPU on it, which none of ours is.
    case NVML_FI_DEV_POWER_AVERAGE: return f->scopeId != 0 ? NVML_ERROR_NOT_SUPPORTED : number(f, power_mw(c, false));
    case NVML_FI_DEV_POWER_INSTANT: return f->scopeId != 0 ? NVML_ERROR_NOT_SUPPORTED : number(f, power_mw(c, true));
    case NVML_FI_DEV_POWER_MIN_LIMIT: return number(f, g->power_min_mw);
    case NVML_FI_DEV_POWER_MAX_LIMIT: return number(f, g->power_max_mw);
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT: return number(f, g->power_default_mw);
    case NVML_FI_DEV_POWER_CURRENT_LIMIT:
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT: return number(f, g->power_limit_mw);
    case NVML_FI_DEV_ENERGY: return f->scopeId != 0 ? NVML_ERROR_NOT_SUPPORTED : wide(f, counter(c, STUB_POWER_W, g->energy_start_mj, 1000));
    case NVML_FI_DEV_PCIE_COUNT_TX_BYTES: return pcie_counter(c, f, STUB_PCIE_TX_BPS, g->pcie_tx_start);
    case NVML_FI_DEV_PCIE_COUNT_RX_BYTES: return pcie_counter(c, f, STUB_PCIE_RX_BPS, g->pcie_rx_start);
#endif
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

STUB nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    DEVICE(nvmlDeviceGetFieldValues);
    NEED(values != NULL && count > 0);
    for (int i = 0; i < count; i++) {
        values[i].timestamp = epoch_us(&c, c.now_us);
        values[i].latencyUsec = 0;
        values[i].nvmlReturn = field(&c, &values[i]);
    }
    return NVML_SUCCESS;
}
