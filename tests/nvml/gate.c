/* The gate: what happens before any answer. Also init and shutdown, the enumeration they make, and device handles.
 *
 * The order is the real library's: not initialised, bad handle, then what the scenario scripts (a hang, an error),
 * then a lost GPU. No lock is held while a call hangs.
 */
#include "standin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

const ErrorName error_names[] = {
    {0, "success", "Success"},
    {1, "uninitialized", "Uninitialized"},
    {2, "invalid_argument", "Invalid Argument"},
    {3, "not_supported", "Not Supported"},
    {4, "no_permission", "Insufficient Permissions"},
    {5, "already_initialized", "Already Initialized"},
    {6, "not_found", "Not Found"},
    {7, "insufficient_size", "Insufficient Size"},
    {8, "insufficient_power", "Insufficient External Power"},
    {9, "driver_not_loaded", "Driver Not Loaded"},
    {10, "timeout", "Timeout"},
    {11, "irq_issue", "Interrupt Request Issue"},
    {12, "library_not_found", "NVML Shared Library Not Found"},
    {13, "function_not_found", "Function Not Found"},
    {14, "corrupted_inforom", "Corrupted infoROM"},
    {15, "gpu_is_lost", "GPU is lost"},
    {16, "reset_required", "GPU requires reset"},
    {17, "operating_system", "The operating system has blocked the request."},
    {18, "lib_rm_version_mismatch", "Driver/library version mismatch"},
    {19, "in_use", "In use by another client"},
    {20, "memory", "Insufficient Memory"},
    {21, "no_data", "No data"},
    {23, "insufficient_resources", "Insufficient Resources"},
    {25, "argument_version_mismatch", "The provided version is invalid/unsupported"},
    {27, "not_ready", "The system is not ready for the request"},
    {28, "gpu_not_found", "No GPUs were found"},
    {29, "invalid_state", "Resource not in correct state to perform requested operation"},
    {999, "unknown", "Unknown Error"},
    {0, NULL, NULL},
};

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int init_count;
static int enumerated; /* written only while the first init runs, as with the real library */
static int slots[MAX_GPUS];
static Device devices[MAX_GPUS][1 + MAX_MIG];

__attribute__((constructor)) static void number_devices(void) {
    for (int slot = 0; slot < MAX_GPUS; slot++)
        for (int mig = -1; mig < MAX_MIG; mig++) devices[slot][mig + 1] = (Device){slot, mig};
}

Device *device_of(int slot, int mig) { return &devices[slot][mig + 1]; }

bool device_valid(const Device *device) {
    uintptr_t first = (uintptr_t)&devices[0][0], at = (uintptr_t)device;
    return at >= first && at < first + sizeof devices && (at - first) % sizeof(Device) == 0;
}

int enumeration_count(void) { return enumerated; }
int enumeration_slot(unsigned index) { return index < (unsigned)enumerated ? slots[index] : -1; }
int enumeration_index(int slot) {
    for (int index = 0; index < enumerated; index++)
        if (slots[index] == slot) return index;
    return -1;
}

static const Entry *script(const Snapshot *snapshot, const char *kind, const char *function, int gpu) {
    const char *names[] = {function, "*"};
    char key[KEY_LENGTH];
    for (int i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%s.%s.gpu.%d", kind, names[i], gpu);
        const Entry *entry = gpu >= 0 ? snapshot_find(snapshot, -1, key) : NULL;
        if (entry) return entry;
        snprintf(key, sizeof key, "%s.%s", kind, names[i]);
        if ((entry = snapshot_find(snapshot, -1, key))) return entry;
    }
    return NULL;
}

Return gate(const char *function, int gpu, const Snapshot **snapshot) {
    for (double started = 0;;) {
        const Snapshot *now = snapshot_get();
        if (!now) return NVML_ERROR_UNKNOWN;
        *snapshot = now;
        if (!now->scripted) return NVML_SUCCESS;
        const Entry *hang = script(now, "hang", function, gpu);
        if (started == 0) started = seconds_now();
        if (!hang || seconds_now() - started >= strtod(hang->text, NULL)) {
            const Entry *error = script(now, "error", function, gpu);
            uint64_t code = 0;
            if (error && !error_code(error->text, &code)) code = NVML_ERROR_UNKNOWN;
            if (code) snapshot_put(now);
            return (Return)code;
        }
        snapshot_put(now);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

Return call_begin(Call *call, const char *function, const Device *device) {
    if (!init_count) return NVML_ERROR_UNINITIALIZED;
    if (device && !device_valid(device)) return NVML_ERROR_INVALID_ARGUMENT;
    call->gpu = device ? device->slot : -1;
    call->mig = device ? device->mig : -1;
    Return code = gate(function, call->gpu, &call->snapshot);
    if (code) return code;
    if (device && call->snapshot->unreachable[call->gpu]) {
        call_end(call);
        return NVML_ERROR_GPU_IS_LOST;
    }
    return NVML_SUCCESS;
}

void call_end(const Call *call) { snapshot_put(call->snapshot); }

const Entry *call_find(const Call *call, const char *key) {
    if (call->mig < 0) return snapshot_find(call->snapshot, call->gpu, key);
    char prefixed[KEY_LENGTH];
    snprintf(prefixed, sizeof prefixed, "mig.%d.%s", call->mig, key);
    return snapshot_find(call->snapshot, call->gpu, prefixed);
}

Return call_number(const Call *call, const char *key, uint64_t *out) {
    const Entry *entry = call_find(call, key);
    if (!entry) return NVML_ERROR_NOT_SUPPORTED;
    if (entry->kind == VALUE_ERROR) return (Return)entry->number;
    if (entry->kind == VALUE_TEXT) {
        fprintf(stderr, "nvml stand-in: gpu.%d.%s = %s: not a number\n", call->gpu, key, entry->text);
        return NVML_ERROR_UNKNOWN;
    }
    *out = entry_number(entry);
    return NVML_SUCCESS;
}

Return call_text(const Call *call, const char *key, const char **out) {
    const Entry *entry = call_find(call, key);
    if (!entry) return NVML_ERROR_NOT_SUPPORTED;
    if (entry->kind == VALUE_ERROR) return (Return)entry->number;
    *out = entry->text;
    return NVML_SUCCESS;
}

EXPORT nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const Snapshot *snapshot;
    Return code = gate("nvmlInitWithFlags", -1, &snapshot);
    if (code) return code;
    uint64_t scripted = 0;
    const Entry *entry = snapshot_find(snapshot, -1, "init");
    if (entry && !error_code(entry->text, &scripted)) scripted = NVML_ERROR_UNKNOWN;
    if (!scripted) {
        pthread_mutex_lock(&init_lock);
        if (init_count == 0) {
            enumerated = 0;
            for (int slot = 0; slot < MAX_GPUS; slot++)
                if (snapshot->present[slot]) slots[enumerated++] = slot;
        }
        init_count++;
        pthread_mutex_unlock(&init_lock);
    }
    snapshot_put(snapshot);
    return (Return)scripted;
}

EXPORT nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlInit(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlShutdown(void) {
    if (!init_count) return NVML_ERROR_UNINITIALIZED;
    const Snapshot *snapshot;
    Return code = gate("nvmlShutdown", -1, &snapshot);
    if (code) return code;
    snapshot_put(snapshot);
    pthread_mutex_lock(&init_lock);
    if (init_count > 0) init_count--;
    pthread_mutex_unlock(&init_lock);
    return NVML_SUCCESS;
}
