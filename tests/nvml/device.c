/* Per-GPU calls that answer with a struct or a list. */
#include "standin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN(device, out) \
    Call call; \
    if (!(device) || !(out)) return NVML_ERROR_INVALID_ARGUMENT; \
    Return code = call_begin(&call, __func__, device); \
    if (code) return code

/* The version that a caller writes into a struct: its size, and a number in the highest byte. */
#define STRUCT_VERSION(type, number) ((unsigned)(sizeof(type) | (number) << 24))

/* The offsets agree with pynvml's ctypes classes if the sizes do: all members are naturally aligned. */
#define SAME_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)

static Return finish(const Call *call, Return code) {
    call_end(call);
    return code;
}

/* Reads keys in order into numbers; stops at the first that fails. */
static Return numbers(const Call *call, const char *const *keys, size_t count, uint64_t *out) {
    for (size_t i = 0; i < count; i++) {
        Return code = call_number(call, keys[i], &out[i]);
        if (code) return code;
    }
    return NVML_SUCCESS;
}

static uint64_t number_or(const Call *call, const char *key, uint64_t fallback) {
    uint64_t number;
    return call_number(call, key, &number) ? fallback : number;
}

typedef struct { unsigned gpu, memory; } Utilization;
EXPORT nvmlDeviceGetUtilizationRates(const Device *device, Utilization *out) {
    static const char *const keys[] = {"gpu_utilization_percent", "memory_utilization_percent"};
    uint64_t got[2];
    BEGIN(device, out);
    if (!(code = numbers(&call, keys, 2, got))) *out = (Utilization){(unsigned)got[0], (unsigned)got[1]};
    return finish(&call, code);
}

typedef struct { unsigned version, sensor; int temperature; } Temperature;
EXPORT nvmlDeviceGetTemperatureV(const Device *device, Temperature *out) {
    uint64_t got;
    BEGIN(device, out);
    if (out->version != STRUCT_VERSION(Temperature, 1)) code = NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    else if (out->sensor != 0) code = NVML_ERROR_INVALID_ARGUMENT;
    else if (!(code = call_number(&call, "temperature_celsius", &got))) out->temperature = (int)got;
    return finish(&call, code);
}

typedef struct { unsigned version; int margin; } MarginTemperature;
EXPORT nvmlDeviceGetMarginTemperature(const Device *device, MarginTemperature *out) {
    uint64_t got;
    BEGIN(device, out);
    if (out->version != STRUCT_VERSION(MarginTemperature, 1)) code = NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    else if (!(code = call_number(&call, "margin_temperature_celsius", &got))) out->margin = (int)got;
    return finish(&call, code);
}

typedef struct {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} PciInfo;
SAME_SIZE(PciInfo, 68);
EXPORT nvmlDeviceGetPciInfo_v3(const Device *device, PciInfo *out) {
    const char *text;
    unsigned domain, bus, slot;
    BEGIN(device, out);
    if ((code = call_text(&call, "pci_bus_id", &text))) return finish(&call, code);
    if (sscanf(text, "%x:%x:%x.", &domain, &bus, &slot) != 3) return finish(&call, NVML_ERROR_UNKNOWN);
    *out = (PciInfo){.domain = domain, .bus = bus & 0xFF, .device = slot & 0xFF};
    out->device_id = (unsigned)number_or(&call, "pci_device_id", 0);
    out->subsystem_id = (unsigned)number_or(&call, "pci_subsystem_id", 0);
    snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.0", domain, out->bus, out->device);
    snprintf(out->legacy_bus_id, sizeof out->legacy_bus_id, "%04X:%02X:%02X.0", domain & 0xFFFF, out->bus, out->device);
    return finish(&call, NVML_SUCCESS);
}

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
SAME_SIZE(MemoryV2, 40);
static const char *const memory_keys[] = {"memory_total_bytes", "memory_reserved_bytes", "memory_used_bytes"};

EXPORT nvmlDeviceGetMemoryInfo(const Device *device, Memory *out) {
    uint64_t got[3];
    BEGIN(device, out);
    if (!(code = numbers(&call, memory_keys, 3, got)))
        *out = (Memory){.total = got[0], .used = got[1] + got[2], .free = got[0] - got[1] - got[2]};
    return finish(&call, code);
}

EXPORT nvmlDeviceGetMemoryInfo_v2(const Device *device, MemoryV2 *out) {
    uint64_t got[3];
    BEGIN(device, out);
    if (out->version != STRUCT_VERSION(MemoryV2, 2)) return finish(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    if (!(code = numbers(&call, memory_keys, 3, got))) {
        out->total = got[0], out->reserved = got[1], out->used = got[2];
        out->free = got[0] - got[1] - got[2];
    }
    return finish(&call, code);
}

EXPORT nvmlDeviceGetBAR1MemoryInfo(const Device *device, Memory *out) {
    static const char *const keys[] = {"bar1_total_bytes", "bar1_used_bytes"};
    uint64_t got[2];
    BEGIN(device, out);
    if (!(code = numbers(&call, keys, 2, got))) *out = (Memory){got[0], got[0] - got[1], got[1]};
    return finish(&call, code);
}

/* ---- memory errors ---- */

Return ecc_count(const Call *call, unsigned error, unsigned counter, const char *location, uint64_t *out) {
    static const char *const locations[] = {"l1", "l2", "dram", "register_file", "texture", "texture_shm", "cbu", "sram"};
    char key[KEY_LENGTH];
    uint64_t enabled, one, sum = 0;
    if (error > 1 || counter > 1) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_number(call, "ecc_mode", &enabled);
    if (code || !enabled) return code ? code : NVML_ERROR_NOT_SUPPORTED;
    const char *kind = error ? "uncorrected" : "corrected", *span = counter ? "aggregate" : "volatile";
    snprintf(key, sizeof key, "ecc_%s_%s_%s", span, kind, location);
    code = call_number(call, key, out);
    if (code != NVML_ERROR_NOT_SUPPORTED || strcmp(location, "total") != 0) return code;
    for (size_t i = 0; i < sizeof locations / sizeof *locations; i++) {
        snprintf(key, sizeof key, "ecc_%s_%s_%s", span, kind, locations[i]);
        Return part = call_number(call, key, &one);
        if (part == NVML_ERROR_NOT_SUPPORTED) continue;
        if (part) return part;
        code = NVML_SUCCESS;
        sum += one;
    }
    *out = sum;
    return code;
}

EXPORT nvmlDeviceGetTotalEccErrors(const Device *device, unsigned error, unsigned counter, unsigned long long *out) {
    uint64_t got;
    BEGIN(device, out);
    if (!(code = ecc_count(&call, error, counter, "total", &got))) *out = got;
    return finish(&call, code);
}

EXPORT nvmlDeviceGetMemoryErrorCounter(const Device *device, unsigned error, unsigned counter, unsigned location,
                                       unsigned long long *out) {
    static const char *const locations[] = {"l1", "l2", "dram", "register_file", "texture", "texture_shm", "cbu", "sram"};
    uint64_t got;
    if (location >= sizeof locations / sizeof *locations) return NVML_ERROR_INVALID_ARGUMENT;
    BEGIN(device, out);
    if (!(code = ecc_count(&call, error, counter, locations[location], &got))) *out = got;
    return finish(&call, code);
}

typedef struct {
    unsigned version;
    unsigned long long aggregate_parity, aggregate_secded, aggregate_corrected, volatile_parity, volatile_secded,
        volatile_corrected, bucket_l2, bucket_sm, bucket_pcie, bucket_mcu, bucket_other;
    unsigned threshold_exceeded;
} SramEccStatus;
SAME_SIZE(SramEccStatus, 104);
EXPORT nvmlDeviceGetSramEccErrorStatus(const Device *device, SramEccStatus *out) {
    uint64_t exceeded, got[4] = {0};
    BEGIN(device, out);
    if (out->version != STRUCT_VERSION(SramEccStatus, 1)) return finish(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    if ((code = call_number(&call, "sram_threshold_exceeded", &exceeded))) return finish(&call, code);
    for (unsigned i = 0; i < 4 && !code; i++) code = ecc_count(&call, i & 1, i >> 1, "sram", &got[i]);
    *out = (SramEccStatus){.version = out->version, .threshold_exceeded = (unsigned)exceeded,
                           .volatile_corrected = got[0], .volatile_parity = got[1],
                           .aggregate_corrected = got[2], .aggregate_parity = got[3],
                           .bucket_sm = got[3]};
    return finish(&call, code);
}

EXPORT nvmlDeviceGetRemappedRows(const Device *device, unsigned *correctable, unsigned *uncorrectable,
                                 unsigned *pending, unsigned *failure) {
    static const char *const keys[] = {"remapped_rows_correctable", "remapped_rows_uncorrectable",
                                       "remapped_rows_pending", "remapped_rows_failure"};
    unsigned *outs[] = {correctable, uncorrectable, pending, failure};
    uint64_t got[4];
    BEGIN(device, correctable && uncorrectable && pending && failure);
    if (!(code = numbers(&call, keys, 4, got)))
        for (int i = 0; i < 4; i++) *outs[i] = (unsigned)got[i];
    return finish(&call, code);
}

typedef struct { unsigned max, high, partial, low, none; } RowRemapperHistogram;
EXPORT nvmlDeviceGetRowRemapperHistogram(const Device *device, RowRemapperHistogram *out) {
    static const char *const keys[] = {"remap_banks_max", "remap_banks_high", "remap_banks_partial",
                                       "remap_banks_low", "remap_banks_none"};
    uint64_t got[5];
    BEGIN(device, out);
    if (!(code = numbers(&call, keys, 5, got)))
        *out = (RowRemapperHistogram){(unsigned)got[0], (unsigned)got[1], (unsigned)got[2], (unsigned)got[3],
                                      (unsigned)got[4]};
    return finish(&call, code);
}

/* ---- lists: the caller asks with a count of 0 and no array, learns the size, and asks again ---- */

static unsigned count_words(const char *text) {
    unsigned count = 0;
    for (bool inside = false; *text; text++) {
        if (*text != ' ' && !inside) count++;
        inside = *text != ' ';
    }
    return count;
}

Return word_count(const Call *call, const char *key, uint64_t *out) {
    const char *text;
    Return code = call_text(call, key, &text);
    if (!code) *out = count_words(text);
    return code;
}

static Return check_room(unsigned needed, unsigned *room, const void *array) {
    unsigned had = *room;
    *room = needed;
    if (had < needed) return NVML_ERROR_INSUFFICIENT_SIZE;
    return needed && !array ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

typedef struct {
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
} Process;
SAME_SIZE(Process, 24);

static Return processes(const Device *device, const char *function, const char *key, unsigned *room, Process *out) {
    Call call;
    const char *text = "";
    if (!device || !room) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, function, device);
    if (code) return code;
    if (!(code = call_text(&call, key, &text)) && !(code = check_room(count_words(text), room, out))) {
        for (unsigned i = 0; i < *room; i++) {
            Process *process = &out[i];
            char memory[32] = "-";
            *process = (Process){0, UINT64_MAX, UINT32_MAX, UINT32_MAX};
            text += strspn(text, " ");
            sscanf(text, "%u:%31[^: ]:%u:%u", &process->pid, memory, &process->gpu_instance, &process->compute_instance);
            if (memory[0] != '-') process->used_memory = strtoull(memory, NULL, 0);
            text += strcspn(text, " ");
        }
    }
    return finish(&call, code);
}

#define PROCESS_QUERY(name, key) \
    EXPORT name(const Device *device, unsigned *room, Process *out) { \
        return processes(device, __func__, key, room, out); \
    }
PROCESS_QUERY(nvmlDeviceGetComputeRunningProcesses_v2, "compute_processes")
PROCESS_QUERY(nvmlDeviceGetComputeRunningProcesses_v3, "compute_processes")
PROCESS_QUERY(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics_processes")
PROCESS_QUERY(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")

static Return retired_pages(const Device *device, const char *function, unsigned cause, unsigned *room,
                            unsigned long long *addresses, unsigned long long *timestamps) {
    static const char *const keys[] = {"retired_pages_single_bit", "retired_pages_double_bit"};
    Call call;
    const char *text = "";
    if (!device || !room || cause > 1) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, function, device);
    if (code) return code;
    if (!(code = call_text(&call, keys[cause], &text)) && !(code = check_room(count_words(text), room, addresses))) {
        for (unsigned i = 0; i < *room; i++) {
            char *end;
            addresses[i] = strtoull(text, &end, 0);
            uint64_t timestamp = *end == '@' ? strtoull(end + 1, &end, 0) : 0;
            if (timestamps) timestamps[i] = timestamp;
            text = end;
        }
    }
    return finish(&call, code);
}

EXPORT nvmlDeviceGetRetiredPages(const Device *device, unsigned cause, unsigned *room, unsigned long long *addresses) {
    return retired_pages(device, __func__, cause, room, addresses, NULL);
}
EXPORT nvmlDeviceGetRetiredPages_v2(const Device *device, unsigned cause, unsigned *room,
                                    unsigned long long *addresses, unsigned long long *timestamps) {
    return retired_pages(device, __func__, cause, room, addresses, timestamps);
}

/* ---- MIG: instances are keys gpu.<n>.mig.<i>.*, and an instance's handle reads only those ---- */

EXPORT nvmlDeviceGetMigDeviceHandleByIndex(const Device *device, unsigned index, Device **out) {
    static const char *const keys[] = {"mig_mode", "mig_max_count"};
    uint64_t got[2];
    BEGIN(device, out);
    Call instance = {call.snapshot, call.gpu, (int)index};
    if (!(code = numbers(&call, keys, 2, got))) {
        if (!got[0]) code = NVML_ERROR_NOT_SUPPORTED;
        else if (index >= got[1] || index >= MAX_MIG) code = NVML_ERROR_INVALID_ARGUMENT;
        else if (!call_find(&instance, "uuid")) code = NVML_ERROR_NOT_FOUND;
        else *out = device_of(device->slot, (int)index);
    }
    return finish(&call, code);
}

EXPORT nvmlDeviceIsMigDeviceHandle(const Device *device, unsigned *out) {
    BEGIN(device, out);
    *out = device->mig >= 0;
    return finish(&call, NVML_SUCCESS);
}

EXPORT nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const Device *device, Device **out) {
    BEGIN(device, out);
    if (device->mig < 0) code = NVML_ERROR_INVALID_ARGUMENT;
    else *out = device_of(device->slot, -1);
    return finish(&call, code);
}

/* ---- NVSwitch fabric ---- */

typedef struct {
    unsigned version;
    unsigned char cluster_uuid[16];
    int status;
    unsigned clique;
    unsigned char state; /* then three bytes of padding */
    unsigned health_mask;
} FabricInfoV2;
SAME_SIZE(FabricInfoV2, 36);

typedef struct {
    FabricInfoV2 v2;
    unsigned char health_summary;
} FabricInfoV3;
SAME_SIZE(FabricInfoV3, 40);

typedef struct {
    unsigned char cluster_uuid[16];
    int status;
    unsigned clique;
    unsigned char state;
} FabricInfoV1;
SAME_SIZE(FabricInfoV1, 28);

EXPORT nvmlDeviceGetGpuFabricInfo(const Device *device, FabricInfoV1 *out) {
    uint64_t state;
    BEGIN(device, out);
    if (!(code = call_number(&call, "fabric_state", &state)))
        *out = (FabricInfoV1){.state = (unsigned char)state,
                              .status = (int)number_or(&call, "fabric_status", 0),
                              .clique = (unsigned)number_or(&call, "fabric_clique_id", 0)};
    return finish(&call, code);
}

EXPORT nvmlDeviceGetGpuFabricInfoV(const Device *device, FabricInfoV3 *out) {
    uint64_t state;
    const char *uuid = "";
    BEGIN(device, out);
    if (out->v2.version != STRUCT_VERSION(FabricInfoV2, 2) && out->v2.version != STRUCT_VERSION(FabricInfoV3, 3))
        return finish(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    if ((code = call_number(&call, "fabric_state", &state))) return finish(&call, code);
    out->v2.state = (unsigned char)state;
    out->v2.status = (int)number_or(&call, "fabric_status", 0);
    out->v2.clique = (unsigned)number_or(&call, "fabric_clique_id", 0);
    out->v2.health_mask = (unsigned)number_or(&call, "fabric_health_mask", 0);
    call_text(&call, "fabric_cluster_uuid", &uuid);
    for (int i = 0; i < 16 && sscanf(uuid, "%2hhx", &out->v2.cluster_uuid[i]) == 1; i++)
        uuid += 2 + (uuid[2] == '-');
    if (out->v2.version == STRUCT_VERSION(FabricInfoV3, 3))
        out->health_summary = (unsigned char)number_or(&call, "fabric_health_summary", 0);
    return finish(&call, code);
}
