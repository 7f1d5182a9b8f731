// What holds of the host: confidential computing, the fabric, firmware.
#include <stdio.h>
#include <string.h>

#include "stub.h"

STUB nvmlReturn_t nvmlSystemGetConfComputeCapabilities(nvmlConfComputeSystemCaps_t *caps) {
    CALL(nvmlSystemGetConfComputeCapabilities);
    NEED(caps != NULL);
    caps->cpuCaps = c.conf->cc_capable == 1 ? NVML_CC_SYSTEM_CPU_CAPS_INTEL_TDX : NVML_CC_SYSTEM_CPU_CAPS_NONE;
    caps->gpusCaps = c.conf->cc_capable == 1 ? NVML_CC_SYSTEM_GPUS_CC_CAPABLE : NVML_CC_SYSTEM_GPUS_CC_NOT_CAPABLE;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *state) {
    CALL(nvmlSystemGetConfComputeState);
    NEED(state != NULL);
    if (c.conf->cc_capable != 1) return NVML_ERROR_NOT_SUPPORTED;
    *state = (nvmlConfComputeSystemState_t){c.conf->cc_environment, c.conf->cc_feature, c.conf->cc_devtools};
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlSystemGetConfComputeSettings(nvmlSystemConfComputeSettings_t *settings) {
    CALL(nvmlSystemGetConfComputeSettings);
    NEED(settings != NULL);
    if (settings->version != nvmlSystemConfComputeSettings_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (c.conf->cc_capable != 1) return NVML_ERROR_NOT_SUPPORTED;
    settings->environment = c.conf->cc_environment;
    settings->ccFeature = c.conf->cc_feature;
    settings->devToolsMode = c.conf->cc_devtools;
    settings->multiGpuMode = c.conf->cc_multi_gpu;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlSystemGetConfComputeGpusReadyState(unsigned int *accepting) {
    CALL(nvmlSystemGetConfComputeGpusReadyState);
    NEED(accepting != NULL);
    if (c.conf->cc_feature != NVML_CC_SYSTEM_FEATURE_ENABLED) return NVML_ERROR_NOT_SUPPORTED;
    *accepting = c.conf->cc_ready;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version) {
    DEVICE(nvmlDeviceGetGspFirmwareVersion);
    NEED(version != NULL);
    if (c.gpu->architecture < NVML_DEVICE_ARCH_TURING) return NVML_ERROR_NOT_SUPPORTED;
    snprintf(version, NVML_GSP_FIRMWARE_VERSION_BUF_SIZE, "%.*s", NVML_GSP_FIRMWARE_VERSION_BUF_SIZE - 1, c.conf->driver); // it comes with the driver
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, unsigned int *enabled, unsigned int *by_default) {
    DEVICE(nvmlDeviceGetGspFirmwareMode);
    NEED(enabled != NULL && by_default != NULL);
    if (c.gpu->architecture < NVML_DEVICE_ARCH_TURING) return NVML_ERROR_NOT_SUPPORTED;
    *enabled = *by_default = 1;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info) {
    DEVICE(nvmlDeviceGetGpuFabricInfo);
    NEED(info != NULL);
    const struct stub_gpu *g = c.gpu;
    if (g->architecture < NVML_DEVICE_ARCH_HOPPER) return NVML_ERROR_NOT_SUPPORTED;
    memcpy(info->clusterUuid, g->fabric_cluster, sizeof info->clusterUuid);
    info->status = (nvmlReturn_t)g->fabric_status;
    info->cliqueId = g->fabric_clique;
    info->state = (nvmlGpuFabricState_t)g->fabric_state;
    return NVML_SUCCESS;
}

// The second version ends where the third has its summary.
STUB nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfoV_t *info) {
    DEVICE(nvmlDeviceGetGpuFabricInfoV);
    NEED(info != NULL);
    if (info->version != nvmlGpuFabricInfo_v2 && info->version != nvmlGpuFabricInfo_v3) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct stub_gpu *g = c.gpu;
    if (g->architecture < NVML_DEVICE_ARCH_HOPPER) return NVML_ERROR_NOT_SUPPORTED;
    memcpy(info->clusterUuid, g->fabric_cluster, sizeof info->clusterUuid);
    info->status = (nvmlReturn_t)g->fabric_status;
    info->cliqueId = g->fabric_clique;
    info->state = (nvmlGpuFabricState_t)g->fabric_state;
    info->healthMask = g->fabric_health;
    if (info->version == nvmlGpuFabricInfo_v3) info->healthSummary = (unsigned char)g->fabric_summary;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetPlatformInfo(nvmlDevice_t device, nvmlPlatformInfo_t *info) {
    DEVICE(nvmlDeviceGetPlatformInfo);
    NEED(info != NULL);
    if (info->version != nvmlPlatformInfo_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (!IS_BLACKWELL(c.gpu)) return NVML_ERROR_NOT_SUPPORTED;
    *info = (nvmlPlatformInfo_t){.version = nvmlPlatformInfo_v2, .slotNumber = 1, .trayIndex = 1, .peerType = 1, .moduleId = (unsigned char)c.gpu->module_id};
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, nvmlC2cModeInfo_v1_t *info) {
    DEVICE(nvmlDeviceGetC2cModeInfoV);
    NEED(info != NULL);
    info->isC2cEnabled = c.gpu->c2c_links > 0;
    return NVML_SUCCESS;
}
