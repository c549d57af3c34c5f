/* GPM, the profiling counters: gpu.<n>.gpm_supported and one gpu.<n>.gpm.<metric> = 62.5 per metric.
 *
 * A sample only remembers of which GPU it is and when it was taken: the metrics of two samples are what the file says
 * now. Two samples that a real driver could make nothing of are refused.
 */
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>

enum { SUPPORT_VERSION = 1, METRICS_VERSION = 1, MAX_METRICS = 477 };

typedef struct {
    const Device *device; /* NULL: nothing was sampled into it */
    double taken;
} Sample;

typedef struct { unsigned version, supported; } Support;

typedef struct {
    unsigned id;
    Return code;
    double value;
    const char *short_name, *long_name, *unit;
} Metric;
_Static_assert(sizeof(Metric) == 40, "as pynvml declares it");

typedef struct {
    unsigned version, count;
    Sample *before, *after;
    Metric metrics[MAX_METRICS];
} Metrics;

EXPORT nvmlGpmQueryDeviceSupport(const Device *device, Support *out) {
    Call call;
    uint64_t got = 0;
    if (!device || !out) return NVML_ERROR_INVALID_ARGUMENT;
    if (out->version != SUPPORT_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    code = call_number(&call, "gpm_supported", &got);
    out->supported = (unsigned)got;
    call_end(&call);
    return code == NVML_ERROR_NOT_SUPPORTED ? NVML_SUCCESS : code;
}

EXPORT nvmlGpmSampleAlloc(Sample **out) {
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    *out = calloc(1, sizeof **out);
    return NVML_SUCCESS;
}

EXPORT nvmlGpmSampleFree(Sample *sample) {
    if (!sample) return NVML_ERROR_INVALID_ARGUMENT;
    free(sample);
    return NVML_SUCCESS;
}

EXPORT nvmlGpmSampleGet(const Device *device, Sample *sample) {
    Call call;
    uint64_t supported = 0, divided = 0;
    if (!device || !sample) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    call_number(&call, "mig_mode", &divided);
    if (!(code = call_number(&call, "gpm_supported", &supported)) && (!supported || divided))
        code = NVML_ERROR_NOT_SUPPORTED;
    if (!code) *sample = (Sample){device, seconds_now()};
    call_end(&call);
    return code;
}

static void measure(const Call *call, Metric *metric) {
    char key[KEY_LENGTH];
    snprintf(key, sizeof key, "gpm.%u", metric->id);
    const Entry *entry = call_find(call, key);
    metric->code = !entry ? NVML_ERROR_NOT_SUPPORTED : entry->kind == VALUE_ERROR ? (Return)entry->number : NVML_SUCCESS;
    metric->value = metric->code ? 0.0 : strtod(entry->text, NULL);
}

EXPORT nvmlGpmMetricsGet(Metrics *metrics) {
    Call call;
    if (!metrics || !metrics->before || !metrics->after || metrics->count > MAX_METRICS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (metrics->version != METRICS_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const Device *device = metrics->before->device;
    if (!device || device != metrics->after->device || metrics->before->taken >= metrics->after->taken)
        return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    for (unsigned i = 0; i < metrics->count; i++) measure(&call, &metrics->metrics[i]);
    call_end(&call);
    return NVML_SUCCESS;
}
