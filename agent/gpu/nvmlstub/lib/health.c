// What a GPU tells rarely: errors, links, throttling, fans.
#include <string.h>

#include "stub.h"

uint64_t ecc_errors(const struct stub_gpu *g, bool corrected, bool aggregate) {
    if (corrected) return aggregate ? g->health.ecc_corrected_aggregate : g->health.ecc_corrected_volatile;
    return aggregate ? g->health.ecc_uncorrected_aggregate : g->health.ecc_uncorrected_volatile;
}

bool link_up(const struct stub_gpu *g, unsigned int link) { return !(g->health.nvlinks_down >> link & 1); }

uint64_t capped_by(const struct call *c, enum stub_cap cap) {
    static const uint64_t reasons[] = {
        [STUB_CAP_SW_POWER] = nvmlClocksEventReasonSwPowerCap,
        [STUB_CAP_SYNC_BOOST] = nvmlClocksEventReasonSyncBoost,
        [STUB_CAP_SW_THERMAL] = nvmlClocksEventReasonSwThermalSlowdown,
        [STUB_CAP_HW_THERMAL] = nvmlClocksThrottleReasonHwThermalSlowdown,
        [STUB_CAP_HW_BRAKE] = nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    };
    return capped_ns(c, reasons[cap], c->gpu->health.capped_ns[cap]);
}

// ECC and memory.

STUB nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
    DEVICE(nvmlDeviceGetEccMode);
    NEED(current != NULL && pending != NULL);
    if (c.gpu->ecc == 2) return NVML_ERROR_NOT_SUPPORTED;
    *current = c.gpu->ecc == 1 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    *pending = c.gpu->ecc_pending == 1 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counting, unsigned long long *count) {
    DEVICE(nvmlDeviceGetTotalEccErrors);
    NEED(count != NULL && (unsigned int)type < NVML_MEMORY_ERROR_TYPE_COUNT && (unsigned int)counting < NVML_ECC_COUNTER_TYPE_COUNT);
    if (c.gpu->ecc != 1) return NVML_ERROR_NOT_SUPPORTED;
    *count = ecc_errors(c.gpu, type == NVML_MEMORY_ERROR_TYPE_CORRECTED, counting == NVML_AGGREGATE_ECC);
    return NVML_SUCCESS;
}

// All errors are in the memory, none in caches.
STUB nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counting,
                                                  nvmlMemoryLocation_t location, unsigned long long *count) {
    DEVICE(nvmlDeviceGetMemoryErrorCounter);
    NEED(count != NULL && (unsigned int)type < NVML_MEMORY_ERROR_TYPE_COUNT && (unsigned int)counting < NVML_ECC_COUNTER_TYPE_COUNT);
    NEED((unsigned int)location < NVML_MEMORY_LOCATION_COUNT);
    if (c.gpu->ecc != 1 || (location != NVML_MEMORY_LOCATION_DRAM && location != NVML_MEMORY_LOCATION_SRAM)) return NVML_ERROR_NOT_SUPPORTED;
    *count = location == NVML_MEMORY_LOCATION_SRAM ? 0 : ecc_errors(c.gpu, type == NVML_MEMORY_ERROR_TYPE_CORRECTED, counting == NVML_AGGREGATE_ECC);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_t *status) {
    DEVICE(nvmlDeviceGetSramEccErrorStatus);
    NEED(status != NULL);
    if (status->version != nvmlEccSramErrorStatus_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (c.gpu->ecc != 1 || RETIRES_PAGES(c.gpu)) return NVML_ERROR_NOT_SUPPORTED;
    if (c.conf->unprivileged == 1) return NVML_ERROR_NO_PERMISSION;
    *status = (nvmlEccSramErrorStatus_t){.version = nvmlEccSramErrorStatus_v1};
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending, unsigned int *failed) {
    DEVICE(nvmlDeviceGetRemappedRows);
    NEED(corrected != NULL && uncorrected != NULL && pending != NULL && failed != NULL);
    if (RETIRES_PAGES(c.gpu) || (c.gpu->mig == 1 && mig_device(&c, c.index, 0) != NULL)) return NVML_ERROR_NOT_SUPPORTED;
    *corrected = c.gpu->health.rows_remapped_corrected;
    *uncorrected = c.gpu->health.rows_remapped_uncorrected;
    *pending = c.gpu->health.row_remap_pending;
    *failed = c.gpu->health.row_remap_failed;
    return NVML_SUCCESS;
}

// The addresses are made up, and the times are the scenario's start.
static nvmlReturn_t pages(int fn, nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *count, unsigned long long *addresses,
                          unsigned long long *times) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin_device(&c, fn, device);
    if (r != NVML_SUCCESS) return r;
    NEED(count != NULL && (unsigned int)cause < NVML_PAGE_RETIREMENT_CAUSE_COUNT);
    if (!RETIRES_PAGES(c.gpu)) return NVML_ERROR_NOT_SUPPORTED;
    unsigned int room = addresses == NULL ? 0 : *count;
    *count = cause == NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR ? c.gpu->health.pages_retired_dbe : c.gpu->health.pages_retired_sbe;
    for (unsigned int i = 0; i < *count && i < room; i++) {
        addresses[i] = 0x100000ull + 0x1000ull * i;
        if (times != NULL) times[i] = (unsigned long long)epoch_us(&c, 0);
    }
    return *count > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *count, unsigned long long *addresses) {
    return pages(FN_nvmlDeviceGetRetiredPages, device, cause, count, addresses, NULL);
}

STUB nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *count, unsigned long long *addresses,
                                               unsigned long long *times) {
    return pages(FN_nvmlDeviceGetRetiredPages_v2, device, cause, count, addresses, times);
}

STUB nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, nvmlEnableState_t *pending) {
    DEVICE(nvmlDeviceGetRetiredPagesPendingStatus);
    NEED(pending != NULL);
    if (!RETIRES_PAGES(c.gpu)) return NVML_ERROR_NOT_SUPPORTED;
    *pending = c.gpu->health.pages_pending != 0 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

// Clocks held down.

STUB nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, nvmlPerfPolicyType_t policy, nvmlViolationTime_t *time) {
    DEVICE(nvmlDeviceGetViolationStatus);
    NEED(time != NULL && (unsigned int)policy < NVML_PERF_POLICY_COUNT);
    uint64_t ns = 0;
    switch (policy) {
    case NVML_PERF_POLICY_POWER: ns = capped_by(&c, STUB_CAP_SW_POWER); break;
    case NVML_PERF_POLICY_THERMAL: ns = capped_by(&c, STUB_CAP_SW_THERMAL); break;
    case NVML_PERF_POLICY_SYNC_BOOST: ns = capped_by(&c, STUB_CAP_SYNC_BOOST); break;
    case NVML_PERF_POLICY_BOARD_LIMIT:
    case NVML_PERF_POLICY_LOW_UTILIZATION:
    case NVML_PERF_POLICY_RELIABILITY: break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    time->referenceTime = (unsigned long long)epoch_us(&c, c.now_us);
    time->violationTime = ns;
    return NVML_SUCCESS;
}

// Fans: only some boards have them.

NUMBER(nvmlDeviceGetNumFans, unsigned int, c.gpu->health.fans)

STUB nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned int *percent) {
    DEVICE(nvmlDeviceGetFanSpeed);
    NEED(percent != NULL);
    if (c.gpu->health.fans == 0) return NVML_ERROR_NOT_SUPPORTED;
    *percent = c.gpu->health.fan_percent;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned int fan, unsigned int *percent) {
    DEVICE(nvmlDeviceGetFanSpeed_v2);
    NEED(percent != NULL);
    if (c.gpu->health.fans == 0) return NVML_ERROR_NOT_SUPPORTED;
    NEED(fan < c.gpu->health.fans);
    *percent = c.gpu->health.fan_percent;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *margin) {
    DEVICE(nvmlDeviceGetMarginTemperature);
    NEED(margin != NULL);
    if (margin->version != nvmlMarginTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (!HAS_TLIMIT(c.gpu)) return NVML_ERROR_NOT_SUPPORTED;
    margin->marginTemperature = (int)(c.gpu->temp_gpu_max_c - (uint32_t)to_u64(value_at(&c, STUB_TEMP_C, c.now_us)));
    return NVML_SUCCESS;
}

// PCIe and NVLink.

NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned int, c.gpu->health.pcie_replays)

// Megabits of a lane, by generation.
static unsigned int pcie_mbps(unsigned int gen) { return gen < 3 ? gen * 2500 : 1000u << gen % 8; }

NUMBER(nvmlDeviceGetPcieSpeed, unsigned int, pcie_mbps(c.gpu->health.pcie_gen))
NUMBER(nvmlDeviceGetPcieLinkMaxSpeed, unsigned int, c.gpu->pcie_max_gen) // an enum that counts as generations do

STUB nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, nvmlNvLinkErrorCounter_t which, unsigned long long *value) {
    LINK(nvmlDeviceGetNvLinkErrorCounter);
    NEED(value != NULL);
    if (IS_BLACKWELL(c.gpu)) return NVML_ERROR_NOT_SUPPORTED; // fields 206 to 221 there
    switch (which) {
    case NVML_NVLINK_ERROR_DL_REPLAY: *value = c.gpu->health.nvlink_replay; break;
    case NVML_NVLINK_ERROR_DL_RECOVERY: *value = c.gpu->health.nvlink_recovery; break;
    case NVML_NVLINK_ERROR_DL_CRC_FLIT: *value = c.gpu->health.nvlink_crc_flit; break;
    case NVML_NVLINK_ERROR_DL_CRC_DATA: *value = c.gpu->health.nvlink_crc_data; break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    return NVML_SUCCESS;
}
