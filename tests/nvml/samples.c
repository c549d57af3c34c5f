/* The driver's own samples of how busy a GPU is: one each 200 ms, the last 71 of them kept.
 *
 * `gpu.<n>.utilization_samples` is a pattern of percents that repeats on the grid of 200 ms since 1970; empty: always as busy as
 * gpu_utilization_percent says. `gpu.<n>.utilization_samples_newest_microseconds` says when the newest was taken; else it is the
 * last point of the grid that has passed.
 */
#include "standin.h"

#include <stdlib.h>
#include <time.h>

enum {
    GPU_UTILIZATION = 1,
    PROCESSOR_CLOCK = 5,
    MEMORY_CLOCK = 6,
    FIRST_UNKNOWN = 15,
    VALUE_UNSIGNED_INT = 1,
    KEPT = 71,
    MOST_WORDS = 256
};
static const uint64_t STEP_MICROSECONDS = 200000;

typedef struct {
    unsigned long long time_microseconds;
    union {
        unsigned as_unsigned;
        unsigned long long as_wide;
    } value;
} Sample;
_Static_assert(sizeof(Sample) == 16, "Sample");

typedef struct {
    unsigned percent[MOST_WORDS];
    unsigned length;
} Pattern;

static Return read_pattern(const Call *call, Pattern *out) {
    const char *text;
    char *end;
    uint64_t constant;
    Return code = call_text(call, "utilization_samples", &text);
    if (code) return code;
    for (out->length = 0; out->length < MOST_WORDS; text = end, out->length++) {
        unsigned long percent = strtoul(text, &end, 10);
        if (end == text) break;
        out->percent[out->length] = (unsigned)percent;
    }
    if (out->length) return NVML_SUCCESS;
    code = call_number(call, "gpu_utilization_percent", &constant);
    if (!code) out->percent[0] = (unsigned)constant, out->length = 1;
    return code;
}

static uint64_t newest_point(const Call *call) {
    uint64_t newest;
    if (call_number(call, "utilization_samples_newest_microseconds", &newest)) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        newest = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    }
    return newest / STEP_MICROSECONDS;
}

/* The samples newer than `seen`, the oldest first; without an array only their number. */
static Return answer(const Call *call, uint64_t seen, unsigned *count, Sample *out) {
    Pattern pattern;
    Return code = read_pattern(call, &pattern);
    if (code) return code;
    uint64_t last = newest_point(call), first = last < KEPT ? 1 : last - KEPT + 1;
    if (seen / STEP_MICROSECONDS >= first) first = seen / STEP_MICROSECONDS + 1;
    if (first > last) return NVML_ERROR_NOT_FOUND;
    unsigned there = (unsigned)(last - first + 1);
    if (!out || there < *count) *count = there;
    for (unsigned i = 0; out && i < *count; i++) {
        uint64_t point = first + i;
        out[i] = (Sample){point * STEP_MICROSECONDS, {.as_wide = 0}};
        out[i].value.as_unsigned = pattern.percent[point % pattern.length];
    }
    return NVML_SUCCESS;
}

EXPORT nvmlDeviceGetSamples(const Device *device, unsigned type, unsigned long long seen, unsigned *value_type,
                            unsigned *count, Sample *out) {
    Call call;
    if (!device || !value_type || !count || (out && !*count)) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    if (type >= FIRST_UNKNOWN) code = NVML_ERROR_INVALID_ARGUMENT;
    else if (type == PROCESSOR_CLOCK || type == MEMORY_CLOCK) code = NVML_ERROR_NOT_FOUND;
    else if (type != GPU_UTILIZATION) code = NVML_ERROR_NOT_SUPPORTED;
    else if (!(code = answer(&call, seen, count, out))) *value_type = VALUE_UNSIGNED_INT;
    call_end(&call);
    return code;
}
