// The system and the devices: identity, memory, power, clocks, links.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "stub.h"

#define SECOND_US 1000000

STUB const char *nvmlErrorString(nvmlReturn_t result) {
    switch ((int)result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_OPERATING_SYSTEM: return "Operating System Error";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}

// System.

STUB nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    CALL(nvmlSystemGetDriverVersion);
    return put_string(version, length, c.conf->driver);
}

STUB nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    CALL(nvmlSystemGetNVMLVersion);
    return put_string(version, length, c.conf->nvml);
}

STUB nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    CALL(nvmlSystemGetCudaDriverVersion);
    NEED(version != NULL);
    *version = c.conf->cuda_version;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    CALL(nvmlSystemGetCudaDriverVersion_v2);
    NEED(version != NULL);
    *version = c.conf->cuda_version;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    CALL(nvmlSystemGetProcessName);
    NEED(name != NULL && length > 0);
    for (uint32_t i = 0; i < c.conf->processes; i++) {
        if (c.conf->process[i].pid != pid) continue;
        snprintf(name, length, "%s", c.conf->process[i].name);
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

// Handles.

static nvmlReturn_t get_count(int fn, unsigned int *count) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin(&c, fn, STUB_NO_GPU);
    if (r != NVML_SUCCESS) return r;
    NEED(count != NULL);
    *count = c.conf->gpus;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetCount(unsigned int *count) { return get_count(FN_nvmlDeviceGetCount, count); }
STUB nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { return get_count(FN_nvmlDeviceGetCount_v2, count); }

static nvmlReturn_t handle_by_index(int fn, unsigned int index, nvmlDevice_t *device) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin(&c, fn, index);
    return r != NVML_SUCCESS ? r : device_handle(&c, index, device);
}

STUB nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    return handle_by_index(FN_nvmlDeviceGetHandleByIndex, index, device);
}

STUB nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    return handle_by_index(FN_nvmlDeviceGetHandleByIndex_v2, index, device);
}

STUB nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    CALL(nvmlDeviceGetHandleByUUID);
    NEED(uuid != NULL && device != NULL);
    for (unsigned int i = 0; i < c.conf->gpus; i++)
        if (strcmp(c.conf->gpu[i].uuid, uuid) == 0) return device_handle(&c, i, device);
    for (uint32_t i = 0; i < c.conf->instances; i++) {
        const struct stub_instance *m = &c.conf->instance[i];
        if (strcmp(m->uuid, uuid) != 0 || m->gpu >= c.conf->gpus || c.conf->gpu[m->gpu].mig != 1) continue;
        nvmlReturn_t r = device_handle(&c, m->gpu, device);
        if (r == NVML_SUCCESS) *device = mig_handle(m);
        return r;
    }
    return NVML_ERROR_NOT_FOUND;
}

STUB nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    CALL(nvmlDeviceGetHandleBySerial);
    NEED(serial != NULL && device != NULL);
    for (unsigned int i = 0; i < c.conf->gpus; i++)
        if (strcmp(c.conf->gpu[i].serial, serial) == 0) return device_handle(&c, i, device);
    return NVML_ERROR_NOT_FOUND;
}

// A bus id is DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, the domain in as many digits as one likes, or left out.
static bool parse_bus(const char *text, unsigned int *domain, unsigned int *bus, unsigned int *device) {
    unsigned int function = 0;
    char rest;
    if (sscanf(text, "%8x:%4x:%4x.%4x%c", domain, bus, device, &function, &rest) == 4) return true;
    *domain = 0;
    return sscanf(text, "%4x:%4x.%4x%c", bus, device, &function, &rest) == 3;
}

static nvmlReturn_t handle_by_bus(int fn, const char *text, nvmlDevice_t *device) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin(&c, fn, STUB_NO_GPU);
    if (r != NVML_SUCCESS) return r;
    unsigned int domain, bus, slot;
    NEED(text != NULL && device != NULL && parse_bus(text, &domain, &bus, &slot));
    for (unsigned int i = 0; i < c.conf->gpus; i++) {
        const struct stub_gpu *g = &c.conf->gpu[i];
        if (g->pci_domain == domain && g->pci_bus == bus && g->pci_device == slot) return device_handle(&c, i, device);
    }
    return NVML_ERROR_NOT_FOUND;
}

STUB nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus, nvmlDevice_t *device) {
    return handle_by_bus(FN_nvmlDeviceGetHandleByPciBusId, bus, device);
}

STUB nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *device) {
    return handle_by_bus(FN_nvmlDeviceGetHandleByPciBusId_v2, bus, device);
}

// Identity.

TEXT(nvmlDeviceGetSerial, serial)
TEXT(nvmlDeviceGetVbiosVersion, vbios)
TEXT(nvmlDeviceGetBoardPartNumber, board_part)
NUMBER(nvmlDeviceGetMinorNumber, unsigned int, c.gpu->minor)
NUMBER(nvmlDeviceGetModuleId, unsigned int, c.gpu->module_id)
NUMBER(nvmlDeviceGetBoardId, unsigned int, c.gpu->board_id)
NUMBER(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
NUMBER(nvmlDeviceGetNumaNodeId, unsigned int, c.gpu->numa_node)
NUMBER(nvmlDeviceGetBrand, nvmlBrandType_t, c.gpu->brand)
NUMBER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, c.gpu->architecture)
NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned int, c.gpu->bus_width)
NUMBER(nvmlDeviceGetBusType, nvmlBusType_t, NVML_BUS_TYPE_PCIE)
NUMBER(nvmlDeviceGetPowerSource, nvmlPowerSource_t, NVML_POWER_SOURCE_AC)
NUMBER(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t, NVML_GPU_VIRTUALIZATION_MODE_NONE)
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NVML_COMPUTEMODE_DEFAULT)
NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
NUMBER(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetPowerManagementMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)

STUB nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    DEVICE(nvmlDeviceGetCudaComputeCapability);
    NEED(major != NULL && minor != NULL);
    *major = (int)c.gpu->cc_major;
    *minor = (int)c.gpu->cc_minor;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *cores) {
    DEVICE(nvmlDeviceGetNumGpuCores);
    NEED(cores != NULL);
    if (c.gpu->mig == 1) return NVML_ERROR_NOT_SUPPORTED;
    *cores = c.gpu->cores;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned int length) {
    ANY(nvmlDeviceGetName);
    if (c.mig == NULL) return put_string(text, length, c.gpu->name);
    char name[96];
    snprintf(name, sizeof name, "%s MIG %s", c.gpu->name, c.mig->profile);
    return put_string(text, length, name);
}

STUB nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned int length) {
    ANY(nvmlDeviceGetUUID);
    return put_string(text, length, c.mig == NULL ? c.gpu->uuid : c.mig->uuid);
}

STUB nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    ANY(nvmlDeviceGetIndex);
    NEED(index != NULL);
    *index = c.mig == NULL ? c.index : c.mig->place;
    return NVML_SUCCESS;
}

static nvmlReturn_t pci_info(int fn, nvmlDevice_t device, nvmlPciInfo_t *pci, bool subsystem) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin_device(&c, fn, device);
    if (r != NVML_SUCCESS) return r;
    NEED(pci != NULL);
    const struct stub_gpu *g = c.gpu;
    memset(pci, 0, subsystem ? sizeof *pci : offsetof(nvmlPciInfo_t, pciSubSystemId));
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", g->pci_domain & 0xffff, g->pci_bus & 0xff, g->pci_device & 0xff);
    pci->domain = g->pci_domain;
    pci->bus = g->pci_bus;
    pci->device = g->pci_device;
    pci->pciDeviceId = g->pci_device_id;
    if (!subsystem) return NVML_SUCCESS;
    pci->pciSubSystemId = g->pci_subsystem_id;
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", g->pci_domain, g->pci_bus & 0xff, g->pci_device & 0xff);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return pci_info(FN_nvmlDeviceGetPciInfo, device, pci, false);
}

STUB nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return pci_info(FN_nvmlDeviceGetPciInfo_v2, device, pci, false);
}

STUB nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return pci_info(FN_nvmlDeviceGetPciInfo_v3, device, pci, true);
}

STUB nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci) {
    DEVICE(nvmlDeviceGetPciInfoExt);
    NEED(pci != NULL);
    if (pci->version != nvmlPciInfoExt_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct stub_gpu *g = c.gpu;
    pci->domain = g->pci_domain;
    pci->bus = g->pci_bus;
    pci->device = g->pci_device;
    pci->pciDeviceId = g->pci_device_id;
    pci->pciSubSystemId = g->pci_subsystem_id;
    pci->baseClass = 3; // a display controller
    pci->subClass = 2;  // for computing
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", g->pci_domain, g->pci_bus & 0xff, g->pci_device & 0xff);
    return NVML_SUCCESS;
}

// Memory.

// memory_of is a GPU's, or a GPU instance's, whose compute instances share it. What all instances
// of a GPU use is nothing that everybody may know.
static nvmlReturn_t memory_of(const struct call *c, uint64_t *total, uint64_t *reserved, uint64_t *used) {
    if (c->mig == NULL && c->gpu->mig == 1 && c->conf->unprivileged == 1) return NVML_ERROR_NO_PERMISSION;
    const struct stub_instance *gi = c->mig == NULL ? NULL : gpu_instance(c, c->index, c->mig->gi);
    *total = gi == NULL ? c->gpu->mem_total : gi->mem_total;
    *reserved = gi == NULL ? c->gpu->health.mem_reserved_bytes : gi->mem_reserved;
    *used = to_u64(value_at(c, STUB_MEM_USED_BYTES, c->now_us));
    if (*used > *total - *reserved) *used = *total - *reserved;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    ANY(nvmlDeviceGetMemoryInfo);
    NEED(memory != NULL);
    uint64_t total, reserved, used;
    nvmlReturn_t r = memory_of(&c, &total, &reserved, &used);
    if (r != NVML_SUCCESS) return r;
    memory->total = total;
    memory->used = used + reserved; // the first version counts the reserved part as used
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    ANY(nvmlDeviceGetMemoryInfo_v2);
    NEED(memory != NULL);
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    uint64_t total, reserved, used;
    nvmlReturn_t r = memory_of(&c, &total, &reserved, &used);
    if (r != NVML_SUCCESS) return r;
    memory->total = total;
    memory->reserved = reserved;
    memory->used = used;
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory) {
    ANY(nvmlDeviceGetBAR1MemoryInfo);
    NEED(memory != NULL);
    if (c.mig == NULL && c.gpu->mig == 1 && c.conf->unprivileged == 1) return NVML_ERROR_NO_PERMISSION;
    memory->bar1Total = c.mig == NULL ? c.gpu->bar1_total : c.mig->bar1_total;
    memory->bar1Used = c.mig == NULL ? c.gpu->health.bar1_used_bytes : c.mig->bar1_used;
    memory->bar1Free = memory->bar1Total - memory->bar1Used;
    return NVML_SUCCESS;
}

// Use, power, clocks, temperature.

STUB nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    DEVICE(nvmlDeviceGetUtilizationRates);
    NEED(utilization != NULL);
    if (c.gpu->mig == 1) return NVML_ERROR_NOT_SUPPORTED;
    utilization->gpu = to_percent(mean_of_last(&c, STUB_UTIL, SECOND_US));
    utilization->memory = to_percent(mean_of_last(&c, STUB_MEM_UTIL, SECOND_US));
    return NVML_SUCCESS;
}

static nvmlReturn_t engine(int fn, nvmlDevice_t device, int q, unsigned int *utilization, unsigned int *period_us) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin_device(&c, fn, device);
    if (r != NVML_SUCCESS) return r;
    NEED(utilization != NULL && period_us != NULL);
    if (c.gpu->mig == 1) return NVML_ERROR_NOT_SUPPORTED;
    *utilization = q < 0 ? 0 : to_percent(mean_of_last(&c, q, SECOND_US));
    *period_us = SECOND_US;
    return NVML_SUCCESS;
}

#define ENGINE(fn, q)                                                                                  \
    STUB nvmlReturn_t fn(nvmlDevice_t device, unsigned int *utilization, unsigned int *period_us) {    \
        return engine(FN_##fn, device, q, utilization, period_us);                                     \
    }

ENGINE(nvmlDeviceGetEncoderUtilization, STUB_NVENC)
ENGINE(nvmlDeviceGetDecoderUtilization, STUB_NVDEC)
ENGINE(nvmlDeviceGetJpgUtilization, -1)
ENGINE(nvmlDeviceGetOfaUtilization, -1)

unsigned int power_mw(const struct call *c, bool instant) {
    double w = instant ? value_at(c, STUB_POWER_W, c->now_us) : mean_of_last(c, STUB_POWER_W, SECOND_US);
    return (unsigned int)(to_u64(w * 1000 + 0.5) & 0xffffffff);
}

NUMBER(nvmlDeviceGetPowerUsage, unsigned int, power_mw(&c, c.gpu->power_instant == 1))
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned int, c.gpu->power_limit_mw)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, c.gpu->health.power_limit_mw)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, c.gpu->power_default_mw)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, counter(&c, STUB_POWER_W, c.gpu->energy_start_mj, 1000))

STUB nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least, unsigned int *most) {
    DEVICE(nvmlDeviceGetPowerManagementLimitConstraints);
    NEED(least != NULL && most != NULL);
    *least = c.gpu->power_min_mw;
    *most = c.gpu->power_max_mw;
    return NVML_SUCCESS;
}

static unsigned int clock_mhz(const struct call *c, nvmlClockType_t type) {
    double v = value_at(c, type == NVML_CLOCK_MEM ? STUB_MEM_MHZ : STUB_SM_MHZ, c->now_us);
    if (type == NVML_CLOCK_VIDEO && c->gpu->max_clock_mhz[NVML_CLOCK_SM] > 0) // follows the SM clock
        v = v * c->gpu->max_clock_mhz[NVML_CLOCK_VIDEO] / c->gpu->max_clock_mhz[NVML_CLOCK_SM];
    return (unsigned int)(to_u64(v + 0.5) & 0xffffffff);
}

STUB nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
    DEVICE(nvmlDeviceGetClockInfo);
    NEED(mhz != NULL && (unsigned int)type < NVML_CLOCK_COUNT);
    *mhz = clock_mhz(&c, type);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
    DEVICE(nvmlDeviceGetMaxClockInfo);
    NEED(mhz != NULL && (unsigned int)type < NVML_CLOCK_COUNT);
    *mhz = c.gpu->max_clock_mhz[type];
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
    DEVICE(nvmlDeviceGetMaxCustomerBoostClock);
    NEED(mhz != NULL && (unsigned int)type < NVML_CLOCK_COUNT);
    *mhz = c.gpu->max_clock_mhz[type];
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t type, nvmlClockId_t id, unsigned int *mhz) {
    DEVICE(nvmlDeviceGetClock);
    NEED(mhz != NULL && (unsigned int)type < NVML_CLOCK_COUNT && (unsigned int)id < NVML_CLOCK_ID_COUNT);
    *mhz = id == NVML_CLOCK_ID_CURRENT ? clock_mhz(&c, type) : c.gpu->max_clock_mhz[type];
    return NVML_SUCCESS;
}

static unsigned int pstate(const struct call *c) {
    const struct stub_segment *s = segment_at(c->conf, &c->load, c->now_us);
    return s == NULL ? c->gpu->idle_pstate : s->pstate;
}

static uint64_t reasons(const struct call *c) {
    const struct stub_segment *s = segment_at(c->conf, &c->load, c->now_us);
    return s == NULL ? c->gpu->idle_reasons : s->reasons;
}

NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, pstate(&c))
NUMBER(nvmlDeviceGetPowerState, nvmlPstates_t, pstate(&c))
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, reasons(&c))
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, reasons(&c))
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, 0x1ff)
NUMBER(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, 0x1ff)

STUB nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *temp) {
    DEVICE(nvmlDeviceGetTemperature);
    NEED(temp != NULL && sensor == NVML_TEMPERATURE_GPU);
    *temp = (unsigned int)to_u64(value_at(&c, STUB_TEMP_C, c.now_us));
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temp) {
    DEVICE(nvmlDeviceGetTemperatureV);
    NEED(temp != NULL);
    if (temp->version != nvmlTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    NEED(temp->sensorType == NVML_TEMPERATURE_GPU);
    temp->temperature = (int)to_u64(value_at(&c, STUB_TEMP_C, c.now_us));
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t type, unsigned int *temp) {
    DEVICE(nvmlDeviceGetTemperatureThreshold);
    NEED(temp != NULL && (unsigned int)type < NVML_TEMPERATURE_THRESHOLD_COUNT);
    switch (type) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN: *temp = c.gpu->temp_shutdown_c; break;
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: *temp = c.gpu->temp_slowdown_c; break;
    case NVML_TEMPERATURE_THRESHOLD_MEM_MAX: *temp = c.gpu->temp_mem_max_c; break;
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX: *temp = c.gpu->temp_gpu_max_c; break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    return NVML_SUCCESS;
}

// PCIe and NVLink.

NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, c.gpu->health.pcie_gen)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, c.gpu->health.pcie_width)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, c.gpu->pcie_max_gen)
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned int, c.gpu->pcie_max_gen)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, c.gpu->pcie_max_width)

// Real hardware counts over 20 ms for this one; the delay, if wanted, is a fault.
STUB nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t which, unsigned int *kbps) {
    DEVICE(nvmlDeviceGetPcieThroughput);
    NEED(kbps != NULL && (unsigned int)which < NVML_PCIE_UTIL_COUNT);
    double bps = mean_of_last(&c, which == NVML_PCIE_UTIL_TX_BYTES ? STUB_PCIE_TX_BPS : STUB_PCIE_RX_BPS, 20000);
    *kbps = (unsigned int)(to_u64(bps / 1000) & 0xffffffff);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *active) {
    LINK(nvmlDeviceGetNvLinkState);
    NEED(active != NULL);
    *active = link_up(c.gpu, link) ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link, unsigned int *version) {
    LINK(nvmlDeviceGetNvLinkVersion);
    NEED(version != NULL);
    *version = c.gpu->nvlink_version;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned int link, nvmlNvLinkCapability_t capability, unsigned int *result) {
    LINK(nvmlDeviceGetNvLinkCapability);
    NEED(result != NULL && (unsigned int)capability < NVML_NVLINK_CAP_COUNT);
    *result = capability != NVML_NVLINK_CAP_SLI_BRIDGE;
    return NVML_SUCCESS;
}

// All links lead to switches, four of them, which have no GPU's address.
static nvmlReturn_t remote_info(int fn, nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci, bool subsystem) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin_device(&c, fn, device);
    if (r != NVML_SUCCESS) return r;
    if (c.gpu->nvlinks == 0) return NVML_ERROR_NOT_SUPPORTED;
    NEED(pci != NULL && link < c.gpu->nvlinks);
    memset(pci, 0, subsystem ? sizeof *pci : offsetof(nvmlPciInfo_t, pciSubSystemId));
    pci->bus = 5 + link % 4;
    pci->pciDeviceId = 0x22a310de;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus & 0xff);
    if (subsystem) snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus & 0xff);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    return remote_info(FN_nvmlDeviceGetNvLinkRemotePciInfo, device, link, pci, false);
}

STUB nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    return remote_info(FN_nvmlDeviceGetNvLinkRemotePciInfo_v2, device, link, pci, true);
}

STUB nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link, nvmlIntNvLinkDeviceType_t *type) {
    LINK(nvmlDeviceGetNvLinkRemoteDeviceType);
    NEED(type != NULL);
    *type = NVML_NVLINK_DEVICE_TYPE_SWITCH;
    return NVML_SUCCESS;
}

// Topology: GPUs of one NUMA node are one level nearer than others.

static nvmlReturn_t two(struct call *c, int fn, nvmlDevice_t a, nvmlDevice_t b, unsigned int *other) {
    nvmlReturn_t r = call_begin_device(c, fn, a);
    if (r != NVML_SUCCESS) return r;
    return device_index(b, other) && *other < c->conf->gpus ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

STUB nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuTopologyLevel_t *level) {
    struct call c __attribute__((cleanup(call_end)));
    unsigned int other;
    nvmlReturn_t r = two(&c, FN_nvmlDeviceGetTopologyCommonAncestor, device1, device2, &other);
    if (r != NVML_SUCCESS) return r;
    NEED(level != NULL);
    if (other == c.index) *level = NVML_TOPOLOGY_INTERNAL;
    else *level = c.conf->gpu[other].numa_node == c.gpu->numa_node ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device1, nvmlDevice_t device2, int *same) {
    struct call c __attribute__((cleanup(call_end)));
    unsigned int other;
    nvmlReturn_t r = two(&c, FN_nvmlDeviceOnSameBoard, device1, device2, &other);
    if (r != NVML_SUCCESS) return r;
    NEED(same != NULL);
    *same = c.conf->gpu[other].board_id == c.gpu->board_id;
    return NVML_SUCCESS;
}
