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

// signed_number is for what may be below zero.
static nvmlReturn_t signed_number(nvmlFieldValue_t *f, int v) {
    f->valueType = NVML_VALUE_TYPE_SIGNED_INT;
    f->value.siVal = v;
    return NVML_SUCCESS;
}

// The error counters of links are others since Blackwell: fields 205 to 222.
static nvmlReturn_t link_errors(const struct call *c, nvmlFieldValue_t *f, uint64_t one) {
    if (c->gpu->nvlinks == 0 || IS_BLACKWELL(c->gpu)) return NVML_ERROR_NOT_SUPPORTED;
    return wide(f, one * c->gpu->nvlinks);
}

static nvmlReturn_t one_links_errors(const struct call *c, nvmlFieldValue_t *f, uint64_t one) {
    if (c->gpu->nvlinks == 0 || IS_BLACKWELL(c->gpu)) return NVML_ERROR_NOT_SUPPORTED;
    return f->scopeId >= c->gpu->nvlinks ? NVML_ERROR_INVALID_ARGUMENT : wide(f, one);
}

// nvlink5 answers for the counters of one link that came with Blackwell.
static nvmlReturn_t nvlink5(const struct call *c, nvmlFieldValue_t *f) {
    const struct stub_gpu *g = c->gpu;
    uint32_t links = g->nvlinks;
    if (links == 0 || !IS_BLACKWELL(g)) return NVML_ERROR_NOT_SUPPORTED;
    if (f->scopeId >= links) return NVML_ERROR_INVALID_ARGUMENT;
    switch (f->fieldId) {
    case NVML_FI_DEV_NVLINK_COUNT_XMIT_PACKETS: return wide(f, counter(c, STUB_NVLINK_TX_BPS, g->nvlink_tx_start / links, 1.0 / links) / 256);
    case NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES: return wide(f, counter(c, STUB_NVLINK_TX_BPS, g->nvlink_tx_start / links, 1.0 / links));
    case NVML_FI_DEV_NVLINK_COUNT_RCV_PACKETS: return wide(f, counter(c, STUB_NVLINK_RX_BPS, g->nvlink_rx_start / links, 1.0 / links) / 256);
    case NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES: return wide(f, counter(c, STUB_NVLINK_RX_BPS, g->nvlink_rx_start / links, 1.0 / links));
    case NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS: return wide(f, g->health.nvlink_crc_data);
    case NVML_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS: return wide(f, g->health.nvlink_crc_flit);
    case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS:
    case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS: return wide(f, g->health.nvlink_recovery);
    case NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS: return wide(f, g->health.nvlink_replay);
    case NVML_FI_DEV_NVLINK_COUNT_MALFORMED_PACKET_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_BUFFER_OVERRUN_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_RCV_REMOTE_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_RCV_GENERAL_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_XMIT_DISCARDS:
    case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS:
    case NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_BER:
    case NVML_FI_DEV_NVLINK_COUNT_SYMBOL_BER: return wide(f, 0);
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

// scoped is a figure of the GPU, or of the module that it and a CPU share.
static nvmlReturn_t scoped(const struct call *c, nvmlFieldValue_t *f, unsigned int mw) {
    if (f->scopeId == 0) return number(f, mw);
    if (f->scopeId != 1 || c->gpu->module_mw == 0) return NVML_ERROR_NOT_SUPPORTED;
    return number(f, mw + c->gpu->module_mw);
}

// ecc is a counter of errors that are all in the memory, and none of which in caches.
static nvmlReturn_t ecc(const struct call *c, nvmlFieldValue_t *f, bool corrected, bool aggregate) {
    return c->gpu->ecc != 1 ? NVML_ERROR_NOT_SUPPORTED : wide(f, ecc_errors(c->gpu, corrected, aggregate));
}

static nvmlReturn_t of_link(const struct call *c, nvmlFieldValue_t *f, unsigned int v) {
    if (c->gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
    if (f->scopeId >= c->gpu->nvlinks) return NVML_ERROR_INVALID_ARGUMENT;
    return number(f, v);
}

static nvmlReturn_t pcie_counter(const struct call *c, nvmlFieldValue_t *f, int q, uint64_t start) {
    uint64_t v = counter(c, q, start, 1);
    return wide(f, c->gpu->pcie_wrap > 0 ? v % c->gpu->pcie_wrap : v);
}

// since is about which driver brought a field. It is no record of certain releases.
static int since(unsigned int id) {
    if (id < NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS) return 470;
    if (id < NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT) return 535;
    return id < NVML_FI_DEV_NVLINK_GET_POWER_THRESHOLD_MAX ? 550 : 580;
}

static nvmlReturn_t field(const struct call *c, nvmlFieldValue_t *f) {
    const struct stub_gpu *g = c->gpu;
    const struct stub_health *h = &g->health;
    nvmlReturn_t r = part_fault(c, "field", f->fieldId);
    if (r != NVML_SUCCESS) return r;
    if (since(f->fieldId) > STUB_DRIVER) return NVML_ERROR_NOT_SUPPORTED;
    switch (f->fieldId) {
    case NVML_FI_DEV_ECC_CURRENT: return g->ecc == 2 ? NVML_ERROR_NOT_SUPPORTED : number(f, g->ecc);
    case NVML_FI_DEV_ECC_PENDING: return g->ecc == 2 ? NVML_ERROR_NOT_SUPPORTED : number(f, g->ecc_pending);
    case NVML_FI_DEV_ECC_SBE_VOL_DEV:
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL: return ecc(c, f, true, false);
    case NVML_FI_DEV_ECC_DBE_VOL_DEV:
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL: return ecc(c, f, false, false);
    case NVML_FI_DEV_ECC_SBE_AGG_DEV:
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: return ecc(c, f, true, true);
    case NVML_FI_DEV_ECC_DBE_AGG_DEV:
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return ecc(c, f, false, true);
    case NVML_FI_DEV_RETIRED_SBE: return RETIRES_PAGES(g) ? wide(f, h->pages_retired_sbe) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_RETIRED_DBE: return RETIRES_PAGES(g) ? wide(f, h->pages_retired_dbe) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_RETIRED_PENDING: return RETIRES_PAGES(g) ? wide(f, h->pages_pending) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_REMAPPED_COR: return RETIRES_PAGES(g) ? NVML_ERROR_NOT_SUPPORTED : number(f, h->rows_remapped_corrected);
    case NVML_FI_DEV_REMAPPED_UNC: return RETIRES_PAGES(g) ? NVML_ERROR_NOT_SUPPORTED : number(f, h->rows_remapped_uncorrected);
    case NVML_FI_DEV_REMAPPED_PENDING: return RETIRES_PAGES(g) ? NVML_ERROR_NOT_SUPPORTED : number(f, h->row_remap_pending);
    case NVML_FI_DEV_REMAPPED_FAILURE: return RETIRES_PAGES(g) ? NVML_ERROR_NOT_SUPPORTED : number(f, h->row_remap_failed);
    case NVML_FI_DEV_PERF_POLICY_POWER: return wide(f, capped_by(c, STUB_CAP_SW_POWER));
    case NVML_FI_DEV_PERF_POLICY_THERMAL: return wide(f, capped_by(c, STUB_CAP_SW_THERMAL));
    case NVML_FI_DEV_PERF_POLICY_SYNC_BOOST: return wide(f, capped_by(c, STUB_CAP_SYNC_BOOST));
    case NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT:
    case NVML_FI_DEV_PERF_POLICY_LOW_UTILIZATION:
    case NVML_FI_DEV_PERF_POLICY_RELIABILITY: return wide(f, 0);
    case NVML_FI_DEV_MEMORY_TEMP: return number(f, (unsigned int)to_u64(value_at(c, STUB_MEM_TEMP_C, c->now_us)));
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: return wide(f, counter(c, STUB_POWER_W, g->energy_start_mj, 1000));
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER: return number(f, h->pcie_replays);
    case NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER: return number(f, h->pcie_replay_rollovers);
    case NVML_FI_DEV_NVLINK_LINK_COUNT: return number(f, g->nvlinks);
    case NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT: return number(f, g->nvlinks);
    case NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON: return g->nvlinks == 0 ? NVML_ERROR_NOT_SUPPORTED : number(f, g->nvlink_mbps);
    case NVML_FI_DEV_NVLINK_GET_SPEED: return of_link(c, f, g->nvlink_mbps);
    case NVML_FI_DEV_NVLINK_GET_STATE: return of_link(c, f, f->scopeId < 64 && link_up(g, f->scopeId) ? NVML_NVLINK_STATE_ACTIVE : NVML_NVLINK_STATE_INACTIVE);
    case NVML_FI_DEV_NVLINK_GET_VERSION: return of_link(c, f, g->nvlink_version);
    case NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: return link_errors(c, f, h->nvlink_crc_flit);
    case NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL: return link_errors(c, f, h->nvlink_crc_data);
    case NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL: return link_errors(c, f, h->nvlink_replay);
    case NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL: return link_errors(c, f, h->nvlink_recovery);
    case NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL: return link_errors(c, f, h->nvlink_ecc);
    case NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY: return one_links_errors(c, f, h->nvlink_replay);
    case NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY: return one_links_errors(c, f, h->nvlink_recovery);
    case NVML_FI_DEV_NVLINK_ERROR_DL_CRC: return one_links_errors(c, f, h->nvlink_crc_flit);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX: return link_counter(c, f, STUB_NVLINK_TX_BPS, g->nvlink_tx_start / 1024, 1.0 / 1024);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX: return link_counter(c, f, STUB_NVLINK_RX_BPS, g->nvlink_rx_start / 1024, 1.0 / 1024);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX: return link_counter(c, f, STUB_NVLINK_TX_BPS, g->nvlink_tx_start / 1024, RAW_SHARE / 1024);
    case NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX: return link_counter(c, f, STUB_NVLINK_RX_BPS, g->nvlink_rx_start / 1024, RAW_SHARE / 1024);
    case NVML_FI_DEV_POWER_AVERAGE: return IS_GA100(g) || RETIRES_PAGES(g) ? NVML_ERROR_NOT_SUPPORTED : scoped(c, f, power_mw(c, false));
    case NVML_FI_DEV_POWER_INSTANT: return scoped(c, f, power_mw(c, true));
    case NVML_FI_DEV_POWER_MIN_LIMIT: return number(f, g->power_min_mw);
    case NVML_FI_DEV_POWER_MAX_LIMIT: return number(f, g->power_max_mw);
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT: return number(f, g->power_default_mw);
    case NVML_FI_DEV_POWER_CURRENT_LIMIT: return scoped(c, f, h->power_limit_mw);
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT: return number(f, g->power_limit_mw);
    case NVML_FI_DEV_ENERGY: return f->scopeId != 0 ? NVML_ERROR_NOT_SUPPORTED : wide(f, counter(c, STUB_POWER_W, g->energy_start_mj, 1000));
    case NVML_FI_DEV_PCIE_COUNT_TX_BYTES: return pcie_counter(c, f, STUB_PCIE_TX_BPS, g->pcie_tx_start);
    case NVML_FI_DEV_PCIE_COUNT_RX_BYTES: return pcie_counter(c, f, STUB_PCIE_RX_BPS, g->pcie_rx_start);
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN: return wide(f, capped_by(c, STUB_CAP_SW_THERMAL));
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN: return wide(f, capped_by(c, STUB_CAP_HW_THERMAL));
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN: return wide(f, capped_by(c, STUB_CAP_HW_BRAKE));
    // Not temperatures, but how far they are from the limit: below zero is beyond it.
    case NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT: return HAS_TLIMIT(g) ? signed_number(f, (int)(g->temp_gpu_max_c - g->temp_shutdown_c)) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT: return HAS_TLIMIT(g) ? signed_number(f, (int)(g->temp_gpu_max_c - g->temp_slowdown_c)) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT:
    case NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT: return HAS_TLIMIT(g) ? signed_number(f, 0) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: return number(f, h->recovery_action);
    case NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED: return number(f, g->mig != 2 && g->architecture >= NVML_DEVICE_ARCH_HOPPER);
    case NVML_FI_DEV_C2C_LINK_COUNT: return number(f, g->c2c_links);
    case NVML_FI_DEV_C2C_LINK_GET_STATUS: return f->scopeId < g->c2c_links ? number(f, 1) : NVML_ERROR_NOT_SUPPORTED;
    // Power smoothing, which came with Blackwell. In other releases these ids were the counters above.
    case NVML_FI_PWR_SMOOTHING_ENABLED:
    case NVML_FI_PWR_SMOOTHING_PRIV_LVL:
    case NVML_FI_PWR_SMOOTHING_IMM_RAMP_DOWN_ENABLED: return IS_BLACKWELL(g) ? number(f, 0) : NVML_ERROR_NOT_SUPPORTED;
    default: break;
    }
    if (f->fieldId >= NVML_FI_DEV_NVLINK_COUNT_XMIT_PACKETS && f->fieldId <= NVML_FI_DEV_NVLINK_COUNT_SYMBOL_BER) return nvlink5(c, f);
    if (f->fieldId >= NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS && f->fieldId <= NVML_FI_DEV_PCIE_COUNT_LANE_ERROR) {
        if (RETIRES_PAGES(g)) return NVML_ERROR_NOT_SUPPORTED;
        return number(f, h->pcie_errors[f->fieldId - NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS]);
    }
    return NVML_ERROR_NOT_SUPPORTED;
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
