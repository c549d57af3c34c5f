/* The NVML stand-in: exports the symbols of libnvidia-ml.so.1 with its struct layouts and answers from a scenario file.
 *
 * scenario.c holds the file's format, gate.c what happens before any answer (not initialised, hang, error, lost),
 * events.c event sets, fields.c nvmlDeviceGetFieldValues and NVLink, gpm.c the profiling counters, samples.c the driver's
 * own samples, device.c everything else with a struct or a list.
 * This file holds the system calls, handles and the plain getters: one reading, one number.
 *
 * Struct layouts are those that pynvml's ctypes classes declare. Where the real library's answer was not known for
 * certain, README.md says so.
 */
#include "standin.h"

#include <stdio.h>
#include <string.h>

Return copy_text(const char *text, char *out, unsigned length) {
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, text);
    return NVML_SUCCESS;
}

static Return query_text(const Device *device, const char *function, const char *key, char *out, unsigned length) {
    Call call;
    const char *text;
    Return code = call_begin(&call, function, device);
    if (code) return code;
    if (!(code = call_text(&call, key, &text))) code = copy_text(text, out, length);
    call_end(&call);
    return code;
}

static Return query_number(const Device *device, const char *function, const char *key, uint64_t *out) {
    Call call;
    if (!device && strncmp(function, "nvmlDevice", 10) == 0) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, function, device);
    if (code) return code;
    code = call_number(&call, key, out);
    call_end(&call);
    return code;
}

static Return query_uint(const Device *device, const char *function, const char *key, unsigned *out) {
    uint64_t number;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = query_number(device, function, key, &number);
    if (!code) *out = (unsigned)number;
    return code;
}

static Return query_pair(const Device *device, const char *function, const char *first, const char *second,
                         unsigned *out_first, unsigned *out_second) {
    Call call;
    uint64_t got_first, got_second;
    if (!device || !out_first || !out_second) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, function, device);
    if (code) return code;
    code = call_number(&call, first, &got_first);
    if (!code) code = call_number(&call, second, &got_second);
    if (!code) *out_first = (unsigned)got_first, *out_second = (unsigned)got_second;
    call_end(&call);
    return code;
}

#define TEXT_QUERY(name, key) \
    EXPORT name(const Device *device, char *out, unsigned length) { \
        return device ? query_text(device, __func__, key, out, length) : NVML_ERROR_INVALID_ARGUMENT; \
    }
#define SYSTEM_TEXT_QUERY(name, key) \
    EXPORT name(char *out, unsigned length) { return query_text(NULL, __func__, key, out, length); }
#define UINT_QUERY(name, key) \
    EXPORT name(const Device *device, unsigned *out) { return query_uint(device, __func__, key, out); }
#define SYSTEM_UINT_QUERY(name, key) \
    EXPORT name(unsigned *out) { return query_uint(NULL, __func__, key, out); }
#define ULONG_QUERY(name, key) \
    EXPORT name(const Device *device, unsigned long long *out) { \
        uint64_t number; \
        if (!out) return NVML_ERROR_INVALID_ARGUMENT; \
        Return code = query_number(device, __func__, key, &number); \
        if (!code) *out = number; \
        return code; \
    }
#define PAIR_QUERY(name, first, second) \
    EXPORT name(const Device *device, unsigned *a, unsigned *b) { \
        return query_pair(device, __func__, first, second, a, b); \
    }
/* A getter whose argument chooses the reading. */
#define CHOICE_QUERY(name, ...) \
    EXPORT name(const Device *device, unsigned choice, unsigned *out) { \
        static const char *const keys[] = {__VA_ARGS__}; \
        if (choice >= sizeof keys / sizeof *keys) return NVML_ERROR_INVALID_ARGUMENT; \
        return query_uint(device, __func__, keys[choice], out); \
    }

SYSTEM_TEXT_QUERY(nvmlSystemGetDriverVersion, "driver_version")
SYSTEM_TEXT_QUERY(nvmlSystemGetNVMLVersion, "nvml_version")
SYSTEM_UINT_QUERY(nvmlSystemGetCudaDriverVersion, "cuda_driver_version")
SYSTEM_UINT_QUERY(nvmlSystemGetCudaDriverVersion_v2, "cuda_driver_version")

TEXT_QUERY(nvmlDeviceGetUUID, "uuid")
TEXT_QUERY(nvmlDeviceGetName, "name")
TEXT_QUERY(nvmlDeviceGetSerial, "serial")
TEXT_QUERY(nvmlDeviceGetVbiosVersion, "vbios_version")
TEXT_QUERY(nvmlDeviceGetBoardPartNumber, "board_part_number")

UINT_QUERY(nvmlDeviceGetMinorNumber, "minor_number")
UINT_QUERY(nvmlDeviceGetModuleId, "module_id")
UINT_QUERY(nvmlDeviceGetNumaNodeId, "numa_node")
UINT_QUERY(nvmlDeviceGetArchitecture, "architecture")
UINT_QUERY(nvmlDeviceGetPowerUsage, "power_milliwatts")
UINT_QUERY(nvmlDeviceGetEnforcedPowerLimit, "enforced_power_limit_milliwatts")
UINT_QUERY(nvmlDeviceGetPowerManagementLimit, "power_limit_milliwatts")
UINT_QUERY(nvmlDeviceGetPowerManagementDefaultLimit, "power_limit_default_milliwatts")
UINT_QUERY(nvmlDeviceGetPerformanceState, "performance_state")
UINT_QUERY(nvmlDeviceGetPersistenceMode, "persistence_mode")
UINT_QUERY(nvmlDeviceGetComputeMode, "compute_mode")
UINT_QUERY(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pages_pending")
UINT_QUERY(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
UINT_QUERY(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
UINT_QUERY(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
UINT_QUERY(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
UINT_QUERY(nvmlDeviceGetPcieReplayCounter, "pcie_replay_counter")
UINT_QUERY(nvmlDeviceGetMaxMigDeviceCount, "mig_max_count")
UINT_QUERY(nvmlDeviceGetGpuInstanceId, "gpu_instance_id")
UINT_QUERY(nvmlDeviceGetComputeInstanceId, "compute_instance_id")

ULONG_QUERY(nvmlDeviceGetTotalEnergyConsumption, "energy_millijoules")
ULONG_QUERY(nvmlDeviceGetCurrentClocksEventReasons, "clocks_event_reasons")
ULONG_QUERY(nvmlDeviceGetCurrentClocksThrottleReasons, "clocks_event_reasons")
ULONG_QUERY(nvmlDeviceGetSupportedClocksEventReasons, "clocks_event_reasons_supported")
ULONG_QUERY(nvmlDeviceGetSupportedClocksThrottleReasons, "clocks_event_reasons_supported")

PAIR_QUERY(nvmlDeviceGetEccMode, "ecc_mode", "ecc_mode_pending")
PAIR_QUERY(nvmlDeviceGetMigMode, "mig_mode", "mig_mode_pending")
PAIR_QUERY(nvmlDeviceGetCudaComputeCapability, "cuda_capability_major", "cuda_capability_minor")
PAIR_QUERY(nvmlDeviceGetPowerManagementLimitConstraints, "power_limit_min_milliwatts", "power_limit_max_milliwatts")
PAIR_QUERY(nvmlDeviceGetEncoderUtilization, "encoder_utilization_percent", "sampling_period_microseconds")
PAIR_QUERY(nvmlDeviceGetDecoderUtilization, "decoder_utilization_percent", "sampling_period_microseconds")

CHOICE_QUERY(nvmlDeviceGetTemperature, "temperature_celsius")
CHOICE_QUERY(nvmlDeviceGetTemperatureThreshold, "temperature_shutdown_celsius", "temperature_slowdown_celsius",
             "temperature_memory_max_celsius", "temperature_gpu_max_celsius", "temperature_acoustic_min_celsius",
             "temperature_acoustic_celsius", "temperature_acoustic_max_celsius", "temperature_gps_celsius")
CHOICE_QUERY(nvmlDeviceGetClockInfo, "clock_graphics_mhz", "clock_sm_mhz", "clock_memory_mhz", "clock_video_mhz")
CHOICE_QUERY(nvmlDeviceGetMaxClockInfo, "clock_graphics_max_mhz", "clock_sm_max_mhz", "clock_memory_max_mhz",
             "clock_video_max_mhz")
CHOICE_QUERY(nvmlDeviceGetPcieThroughput, "pcie_tx_kilobytes_per_second", "pcie_rx_kilobytes_per_second")

PUBLIC const char *nvmlErrorString(int code) {
    for (const ErrorName *error = error_names; error->name; error++)
        if (error->code == code) return error->text;
    return "Unknown Error";
}

/* The enumeration made at init, unless a line `count` says otherwise. */
static unsigned device_count(const Call *call) {
    uint64_t count;
    return call_number(call, "count", &count) ? (unsigned)enumeration_count() : (unsigned)count;
}

EXPORT nvmlDeviceGetCount_v2(unsigned *out) {
    Call call;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, NULL);
    if (code) return code;
    *out = device_count(&call);
    call_end(&call);
    return NVML_SUCCESS;
}

EXPORT nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    Call call;
    int slot = enumeration_slot(index);
    Device *device = slot < 0 ? NULL : device_of(slot, -1);
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    bool known = out && device && index < device_count(&(Call){call.snapshot, -1, -1});
    if (known) *out = device;
    call_end(&call);
    return known ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

/* The first enumerated GPU that the predicate accepts; a lost one answers so, a stranger is NOT_FOUND. */
static Return find_device(const char *function, bool (*accepts)(const Call *, const char *), const char *wanted,
                          Device **out) {
    Call call;
    if (!wanted || !out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, function, NULL);
    if (code) return code;
    code = NVML_ERROR_NOT_FOUND;
    for (int index = 0; index < enumeration_count() && code == NVML_ERROR_NOT_FOUND; index++) {
        call.gpu = enumeration_slot((unsigned)index);
        for (call.mig = -1; call.mig < MAX_MIG; call.mig++) {
            if (!accepts(&call, wanted)) continue;
            code = call.snapshot->unreachable[call.gpu] ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
            *out = device_of(call.gpu, call.mig);
            break;
        }
    }
    call_end(&call);
    return code;
}

static bool has_uuid(const Call *call, const char *wanted) {
    const Entry *entry = call_find(call, "uuid");
    return entry && strcmp(entry->text, wanted) == 0;
}

static bool has_serial(const Call *call, const char *wanted) {
    const Entry *entry = call_find(call, "serial");
    return entry && call->mig < 0 && strcmp(entry->text, wanted) == 0;
}

/* Domain, bus and device of "00000000:3B:00.0", "0000:3B:00.0" or "3B:00.0". */
static bool parse_bus_id(const char *text, unsigned out[3]) {
    out[0] = 0;
    unsigned function;
    return sscanf(text, "%x:%x:%x.%x", &out[0], &out[1], &out[2], &function) == 4 ||
           (out[0] = 0, sscanf(text, "%x:%x.%x", &out[1], &out[2], &function) == 3);
}

static bool has_bus_id(const Call *call, const char *wanted) {
    unsigned left[3], right[3];
    const Entry *entry = call->mig < 0 ? call_find(call, "pci_bus_id") : NULL;
    return entry && parse_bus_id(entry->text, left) && parse_bus_id(wanted, right) &&
           memcmp(left, right, sizeof left) == 0;
}

EXPORT nvmlDeviceGetHandleByUUID(const char *uuid, Device **out) { return find_device(__func__, has_uuid, uuid, out); }
EXPORT nvmlDeviceGetHandleBySerial(const char *serial, Device **out) {
    return find_device(__func__, has_serial, serial, out);
}
EXPORT nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Device **out) {
    unsigned parts[3];
    if (!bus_id || !parse_bus_id(bus_id, parts)) return NVML_ERROR_INVALID_ARGUMENT;
    return find_device(__func__, has_bus_id, bus_id, out);
}

EXPORT nvmlDeviceGetIndex(const Device *device, unsigned *out) {
    Call call;
    if (!device || !out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    int index = device->mig >= 0 ? device->mig : enumeration_index(device->slot);
    call_end(&call);
    if (index < 0) return NVML_ERROR_GPU_IS_LOST;
    *out = (unsigned)index;
    return NVML_SUCCESS;
}
