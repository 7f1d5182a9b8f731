// MIG: a GPU that is cut into instances, each of which is a device with a handle of its own.
#include "stub.h"

STUB nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    DEVICE(nvmlDeviceGetMigMode);
    NEED(current != NULL && pending != NULL);
    if (c.gpu->mig == 2) return NVML_ERROR_NOT_SUPPORTED;
    *current = c.gpu->mig;
    *pending = c.gpu->mig_pending;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    DEVICE(nvmlDeviceGetMaxMigDeviceCount);
    NEED(count != NULL);
    *count = c.gpu->mig == 1 ? STUB_MAX_MIG - 1 : 0; // seven slices on all that have them
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is) {
    ANY(nvmlDeviceIsMigDeviceHandle);
    NEED(is != NULL);
    *is = c.mig != NULL;
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig) {
    DEVICE(nvmlDeviceGetMigDeviceHandleByIndex);
    NEED(mig != NULL);
    if (c.gpu->mig != 1) return NVML_ERROR_NOT_SUPPORTED;
    NEED(index < STUB_MAX_MIG - 1);
    const struct stub_instance *m = mig_device(&c, c.index, index);
    if (m == NULL) return NVML_ERROR_NOT_FOUND;
    *mig = mig_handle(m);
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *parent) {
    ANY(nvmlDeviceGetDeviceHandleFromMigDeviceHandle);
    NEED(parent != NULL && c.mig != NULL);
    *parent = any_handle(c.index);
    return NVML_SUCCESS;
}

// PART is a function that gives one number of a MIG device, and is of no use on a GPU.
#define PART(fn, value)                                              \
    STUB nvmlReturn_t fn(nvmlDevice_t device, unsigned int *out) {   \
        ANY(fn);                                                     \
        NEED(out != NULL);                                           \
        if (c.mig == NULL) return NVML_ERROR_NOT_SUPPORTED;          \
        *out = (value);                                              \
        return NVML_SUCCESS;                                         \
    }

PART(nvmlDeviceGetGpuInstanceId, c.mig->gi)
PART(nvmlDeviceGetComputeInstanceId, c.mig->ci)

static nvmlReturn_t attributes(int fn, nvmlDevice_t device, nvmlDeviceAttributes_t *a) {
    struct call c __attribute__((cleanup(call_end)));
    nvmlReturn_t r = call_begin_any(&c, fn, device);
    if (r != NVML_SUCCESS) return r;
    NEED(a != NULL);
    const struct stub_instance *m = c.mig;
    if (m == NULL) return NVML_ERROR_NOT_SUPPORTED;
    *a = (nvmlDeviceAttributes_t){
        .multiprocessorCount = m->sms,
        .sharedCopyEngineCount = m->copy_engines,
        .sharedDecoderCount = m->decoders,
        .sharedEncoderCount = m->encoders,
        .sharedJpegCount = m->jpegs,
        .sharedOfaCount = m->ofas,
        .gpuInstanceSliceCount = m->slices,
        .computeInstanceSliceCount = m->ci_slices,
        .memorySizeMB = gpu_instance(&c, c.index, m->gi)->mem_total >> 20,
    };
    return NVML_SUCCESS;
}

STUB nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *a) { return attributes(FN_nvmlDeviceGetAttributes, device, a); }

STUB nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *a) {
    return attributes(FN_nvmlDeviceGetAttributes_v2, device, a);
}
