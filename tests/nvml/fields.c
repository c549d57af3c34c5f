/* NVLink calls and nvmlDeviceGetFieldValues: which reading answers which field id, and with which value type.
 *
 * A line `gpu.<n>.field.<id>` or `gpu.<n>.field.<id>.<scope>` decides first; then the table below; a field that
 * neither knows answers NOT_SUPPORTED in its own nvmlReturn while the call succeeds, as the real library does.
 */
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- NVLink: gpu.<n>.nvlink_count links; a link's readings have defaults, gpu.<n>.nvlink.<link>.* changes them ---- */

Return link_value(const Call *call, unsigned link, const char *key, uint64_t fallback, uint64_t *out) {
    uint64_t count;
    char full[KEY_LENGTH];
    if (link >= MAX_LINKS) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_number(call, "nvlink_count", &count);
    if (code) return code;
    if (link >= count) return NVML_ERROR_NOT_SUPPORTED;
    snprintf(full, sizeof full, "nvlink.%u.%s", link, key);
    code = call_number(call, full, out);
    if (code != NVML_ERROR_NOT_SUPPORTED) return code;
    *out = fallback;
    return NVML_SUCCESS;
}

Return link_total(const Call *call, const char *key, uint64_t *out) {
    uint64_t count, one;
    Return code = call_number(call, "nvlink_count", &count);
    *out = 0;
    for (unsigned link = 0; !code && link < count && link < MAX_LINKS; link++)
        if (!(code = link_value(call, link, key, 0, &one))) *out += one;
    return code;
}

static Return query_link(const Device *device, const char *function, unsigned link, const char *key,
                         const char *fallback_key, uint64_t fallback, uint64_t *out) {
    Call call;
    if (!device) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, function, device);
    if (code) return code;
    if (fallback_key) call_number(&call, fallback_key, &fallback);
    code = link_value(&call, link, key, fallback, out);
    call_end(&call);
    return code;
}

EXPORT nvmlDeviceGetNvLinkState(const Device *device, unsigned link, unsigned *out) {
    uint64_t got;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = query_link(device, __func__, link, "active", NULL, 1, &got);
    if (!code) *out = (unsigned)got;
    return code;
}

EXPORT nvmlDeviceGetNvLinkVersion(const Device *device, unsigned link, unsigned *out) {
    uint64_t got;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = query_link(device, __func__, link, "version", "nvlink_version", 0, &got);
    if (!code) *out = (unsigned)got;
    return code;
}

static const char *const link_counters[] = {"replay", "recovery", "crc_flit", "crc_data", "ecc_data"};

EXPORT nvmlDeviceGetNvLinkErrorCounter(const Device *device, unsigned link, unsigned counter,
                                       unsigned long long *out) {
    uint64_t got;
    if (!out || counter >= sizeof link_counters / sizeof *link_counters) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = query_link(device, __func__, link, link_counters[counter], NULL, 0, &got);
    if (!code) *out = got;
    return code;
}

/* ---- field values ---- */

enum { TYPE_DOUBLE, TYPE_UINT, TYPE_ULONG, TYPE_ULONGLONG, TYPE_SLONGLONG, TYPE_SINT, TYPE_USHORT };

typedef struct {
    unsigned id, scope;
    int64_t timestamp, latency; /* microseconds */
    unsigned type;
    Return code;
    union {
        double real;
        unsigned long long number;
    } value;
} FieldValue;
_Static_assert(sizeof(FieldValue) == 40, "as pynvml declares it");

typedef enum {
    PLAIN,    /* one reading of the GPU */
    ECC,      /* a total; the key holds its two arguments */
    LINK,     /* the scope is the link */
    LINK_SUM, /* the scope is the link, or UINT32_MAX for all; the GPU's own key is the total */
    LANES,    /* six fields, one per link from 0; then one for all */
    MORE_LANES, /* fields for the links from 6 on */
    PAGES,    /* how many entries a list has */
} FieldKind;

typedef struct {
    unsigned first, last;
    unsigned type;
    FieldKind kind;
    const char *key;
} Field;

static const Field fields[] = {
    {1, 1, TYPE_UINT, PLAIN, "ecc_mode"},
    {2, 2, TYPE_UINT, PLAIN, "ecc_mode_pending"},
    {3, 6, TYPE_ULONGLONG, ECC, "total"},
    {11, 12, TYPE_ULONGLONG, ECC, "dram"},
    {22, 23, TYPE_ULONGLONG, ECC, "dram"},
    {29, 29, TYPE_ULONGLONG, PAGES, "retired_pages_single_bit"},
    {30, 30, TYPE_ULONGLONG, PAGES, "retired_pages_double_bit"},
    {31, 31, TYPE_ULONGLONG, PLAIN, "retired_pages_pending"},
    {32, 38, TYPE_ULONGLONG, LANES, "crc_flit"},
    {39, 45, TYPE_ULONGLONG, LANES, "crc_data"},
    {46, 52, TYPE_ULONGLONG, LANES, "replay"},
    {53, 59, TYPE_ULONGLONG, LANES, "recovery"},
    {74, 74, TYPE_ULONGLONG, PLAIN, "violation_power_nanoseconds"},
    {75, 75, TYPE_ULONGLONG, PLAIN, "violation_thermal_nanoseconds"},
    {82, 82, TYPE_UINT, PLAIN, "memory_temperature_celsius"},
    {83, 83, TYPE_ULONGLONG, PLAIN, "energy_millijoules"},
    {90, 90, TYPE_UINT, PLAIN, "nvlink_speed_mbps"},
    {91, 91, TYPE_UINT, PLAIN, "nvlink_count"},
    {94, 94, TYPE_UINT, PLAIN, "pcie_replay_counter"},
    {96, 101, TYPE_ULONGLONG, MORE_LANES, "crc_flit"},
    {102, 107, TYPE_ULONGLONG, MORE_LANES, "crc_data"},
    {108, 113, TYPE_ULONGLONG, MORE_LANES, "replay"},
    {114, 119, TYPE_ULONGLONG, MORE_LANES, "recovery"},
    {138, 138, TYPE_ULONGLONG, LINK_SUM, "data_tx_kibibytes"},
    {139, 139, TYPE_ULONGLONG, LINK_SUM, "data_rx_kibibytes"},
    {140, 140, TYPE_ULONGLONG, LINK_SUM, "raw_tx_kibibytes"},
    {141, 141, TYPE_ULONGLONG, LINK_SUM, "raw_rx_kibibytes"},
    {142, 142, TYPE_ULONGLONG, PLAIN, "remapped_rows_correctable"},
    {143, 143, TYPE_ULONGLONG, PLAIN, "remapped_rows_uncorrectable"},
    {144, 144, TYPE_ULONGLONG, PLAIN, "remapped_rows_pending"},
    {145, 145, TYPE_ULONGLONG, PLAIN, "remapped_rows_failure"},
    {160, 160, TYPE_ULONGLONG, LINK_SUM, "ecc_data"},
    {161, 161, TYPE_ULONGLONG, LINK_SUM, "replay"},
    {162, 162, TYPE_ULONGLONG, LINK_SUM, "recovery"},
    {163, 163, TYPE_ULONGLONG, LINK_SUM, "crc_flit"},
    {164, 164, TYPE_UINT, LINK, "speed_mbps"},
    {165, 165, TYPE_UINT, LINK, "active"},
    {166, 166, TYPE_UINT, LINK, "version"},
    {173, 173, TYPE_UINT, PLAIN, "pcie_correctable_errors"},
    {179, 179, TYPE_UINT, PLAIN, "pcie_non_fatal_errors"},
    {180, 180, TYPE_UINT, PLAIN, "pcie_fatal_errors"},
    {185, 185, TYPE_UINT, PLAIN, "power_milliwatts"},
    {186, 186, TYPE_UINT, PLAIN, "power_milliwatts"},
    {187, 187, TYPE_UINT, PLAIN, "power_limit_min_milliwatts"},
    {188, 188, TYPE_UINT, PLAIN, "power_limit_max_milliwatts"},
    {189, 189, TYPE_UINT, PLAIN, "power_limit_default_milliwatts"},
    {190, 190, TYPE_UINT, PLAIN, "enforced_power_limit_milliwatts"},
    {191, 191, TYPE_ULONGLONG, PLAIN, "energy_millijoules"},
    {192, 192, TYPE_UINT, PLAIN, "power_limit_milliwatts"},
    {197, 197, TYPE_UINT, PLAIN, "pcie_tx_bytes"},
    {198, 198, TYPE_UINT, PLAIN, "pcie_rx_bytes"},
    {215, 215, TYPE_ULONGLONG, LINK, "recovery_events"},
    {230, 230, TYPE_UINT, PLAIN, "recovery_action"},
};

/* NVIDIA's headers number these three from 251 for CUDA 12.9 and 13.0, and from 269 for 13.1 and later. */
static const Field slowdown_times[] = {
    {0, 0, TYPE_ULONGLONG, PLAIN, "violation_sw_thermal_nanoseconds"},
    {1, 1, TYPE_ULONGLONG, PLAIN, "violation_hw_thermal_nanoseconds"},
    {2, 2, TYPE_ULONGLONG, PLAIN, "violation_power_brake_nanoseconds"},
};

enum { NUMBERS_570 = 250, NUMBERS_575 = 268, NUMBERS_580_159 = 295 };

/* The highest field id that the driver knows; that of 580.159.04 is recorded, the others are those of NVIDIA's headers. */
static unsigned highest_id(const Call *call) {
    const Entry *driver = snapshot_find(call->snapshot, -1, "driver_version");
    int branch = 0, minor = 0;
    if (driver) sscanf(driver->text, "%d.%d", &branch, &minor);
    if (branch > 580 || (branch == 580 && minor >= 159)) return NUMBERS_580_159;
    return branch >= 575 ? NUMBERS_575 : NUMBERS_570;
}

static const Field *find_field(const Call *call, unsigned id) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (id >= fields[i].first && id <= fields[i].last) return &fields[i];
    unsigned highest = highest_id(call);
    unsigned first = highest == NUMBERS_580_159 ? 269 : highest == NUMBERS_575 ? 251 : UINT32_MAX;
    return id >= first && id - first < 3 ? &slowdown_times[id - first] : NULL;
}

static Return link_field(const Call *call, const Field *field, unsigned scope, uint64_t *out) {
    char key[KEY_LENGTH];
    uint64_t fallback = strcmp(field->key, "active") == 0, total;
    snprintf(key, sizeof key, "nvlink_%s", field->key);
    bool known = call_number(call, key, &total) == NVML_SUCCESS;
    if (field->kind == LINK && !known && !fallback) return NVML_ERROR_NOT_SUPPORTED;
    if (field->kind == LINK) return link_value(call, scope, field->key, known ? total : fallback, out);
    if (scope == UINT32_MAX) {
        if (!known) return link_total(call, field->key, out);
        *out = total;
        return NVML_SUCCESS;
    }
    uint64_t count = 1;
    call_number(call, "nvlink_count", &count);
    return link_value(call, scope, field->key, known && count ? total / count : 0, out);
}

static Return table_value(const Call *call, const Field *field, const FieldValue *asked, uint64_t *out) {
    unsigned offset = asked->id - field->first;
    switch (field->kind) {
    case PLAIN: return call_number(call, field->key, out);
    case ECC: { /* in pairs: single bit, double bit; the volatile ids come first */
        bool aggregate = asked->id >= 22 || asked->id == 5 || asked->id == 6;
        return ecc_count(call, offset & 1, aggregate, field->key, out);
    }
    case LANES:
        return offset == 6 ? link_total(call, field->key, out) : link_value(call, offset, field->key, 0, out);
    case MORE_LANES: return link_value(call, offset + 6, field->key, 0, out);
    case PAGES: return word_count(call, field->key, out);
    case LINK:
    case LINK_SUM: return link_field(call, field, asked->scope, out);
    }
    return NVML_ERROR_UNKNOWN;
}

/* A scripted value: a number, or `double 1.5`, `uint 3`, `int -4` where the type matters. */
static Return scripted_value(const Entry *entry, FieldValue *value) {
    if (entry->kind == VALUE_ERROR) return (Return)entry->number;
    value->value.number = entry_number(entry);
    if (entry->kind == VALUE_NUMBER) return NVML_SUCCESS;
    if (strncmp(entry->text, "double ", 7) == 0) {
        value->type = TYPE_DOUBLE;
        value->value.real = strtod(entry->text + 7, NULL);
    } else if (strncmp(entry->text, "uint ", 5) == 0) {
        value->type = TYPE_UINT;
        value->value.number = strtoul(entry->text + 5, NULL, 0);
    } else if (strncmp(entry->text, "int ", 4) == 0) {
        value->type = TYPE_SINT;
        value->value.number = (unsigned)strtol(entry->text + 4, NULL, 0);
    } else {
        return NVML_ERROR_UNKNOWN;
    }
    return NVML_SUCCESS;
}

static void answer(const Call *call, FieldValue *value) {
    char key[KEY_LENGTH];
    const Field *field = find_field(call, value->id);
    value->type = field ? field->type : TYPE_ULONGLONG;
    value->value.number = 0;
    snprintf(key, sizeof key, "field.%u.%u", value->id, value->scope);
    const Entry *entry = call_find(call, key);
    if (!entry) {
        snprintf(key, sizeof key, "field.%u", value->id);
        entry = call_find(call, key);
    }
    uint64_t number = 0;
    if (entry) {
        value->code = scripted_value(entry, value);
    } else if (field) {
        value->code = table_value(call, field, value, &number);
        value->value.number = number;
    } else {
        value->code = value->id > highest_id(call) ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED;
    }
}

EXPORT nvmlDeviceGetFieldValues(const Device *device, int count, FieldValue *values) {
    Call call;
    if (!device || count < 1 || !values) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        values[i].timestamp = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        values[i].latency = 0;
        answer(&call, &values[i]);
    }
    call_end(&call);
    return NVML_SUCCESS;
}
