/*
 * A libnvidia-ml.so.1 without a driver: NVIDIA's C functions, answering from a file.
 *
 * NVIDIA's own binding, nvitop, gpustat and Gradlab's GPU monitor load it unmodified. The file is named by the
 * environment variable NVML_SCENARIO and is read again when it has changed (another inode, size or time), so a
 * test changes what a running program sees. gradlab/gpu/simulator/scenario.py writes it and says what may be in it.
 *
 * The file is text, one thing a line, words separated by one blank; the last word of "text" and "limit_used" is the
 * rest of the line. A word that is not known, a number that is none and a file without its last line are mistakes: one
 * line on stderr says which, and all functions answer "unknown error".
 *
 *   gradlab-nvml-scenario 1              the first line
 *   namespace INODE                      of the PID namespace in which the numbers of processes below are meant
 *   visibility host|namespace            whether callers in other PID namespaces get these numbers or their own
 *   missing FUNCTION                     answers "function not found"
 *   device                               a GPU; what follows concerns it
 *   moment                               the next state of the same GPU, complete; readings of utilisation lead to it
 *   instance | empty                     a MIG instance of this state, or a place without one
 *   end                                  the last line
 *
 * In the driver, in a state and in an instance:
 *
 *   text NAME TEXT | number NAME N | list NAME     a value; a list that is named exists, though it may be empty
 *   error NAME CODE                      what is asked of this value is answered with this NVML error
 *   fails FUNCTION|* CODE                the function answers with this error
 *   latency FUNCTION|* MICROSECONDS      a call takes this long
 *   hangs FUNCTION|*                     a call does not return until the file says otherwise
 *
 * In a state or an instance; a PID may have what it is in other PID namespaces behind it, as INODE:PID words:
 *
 *   process PID BYTES|- KINDS GPU-INSTANCE|- COMPUTE-INSTANCE|- [INODE:PID]...
 *   sample PID MICROSECONDS|now SM MEMORY ENCODER DECODER JPEG OPTICAL-FLOW [INODE:PID]...
 *   accounted PID GPU MEMORY BYTES MILLISECONDS START RUNNING [INODE:PID]...
 *   event TYPE DATA MICROSECONDS GPU-INSTANCE|- COMPUTE-INSTANCE|-
 *   metric NUMBER VALUE                  of GPM
 *   limit_used BYTES CGROUP              GPU memory that a cgroup uses
 *
 * Limits on memory that a program sets are appended to the file's name with ".limits", one a line: the GPU's UUID, the
 * cgroup, the hard and the soft limit in bytes, separated by tabs.
 *
 * One mutex guards everything; it is not held while a call waits.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- NVML's own types: sizes and layouts as in its binding, which the tests compare ------------------------------ */

typedef int Return;
typedef void *Device;
typedef unsigned long long u64;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    FUNCTION_NOT_FOUND = 13,
    LIB_RM_VERSION_MISMATCH = 18,
    OUT_OF_MEMORY = 20,
    NO_DATA = 21,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
typedef struct { u64 total, free, used; } Bar1Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; u64 used_protected; } ProcessDetail;
typedef struct { unsigned version, mode, count; ProcessDetail *processes; } ProcessDetailList;
typedef struct { unsigned pid; u64 time; unsigned sm, memory, encoder, decoder; } ProcessSample;
typedef struct { u64 time; unsigned pid, sm, memory, encoder, decoder, jpeg, flow; } ProcessSampleV2;
typedef struct { unsigned version, count; u64 since; ProcessSampleV2 *samples; } ProcessSamples;
typedef struct {
    char legacy_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char id[32];
} PciInfo;
typedef struct { unsigned version, sensor; int temperature; } TemperatureV1;
typedef union { double d; unsigned ui; u64 ull; long long sll; int si; unsigned short us; } FieldUnion;
typedef struct {
    uint32_t field, scope;
    int64_t time, latency;
    unsigned type;
    Return code;
    FieldUnion value;
} FieldValue;
typedef struct {
    unsigned gpu, memory;
    u64 most, time, start;
    unsigned running, reserved[5];
} AccountingStats;
typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, flows, gpu_slices, compute_slices;
    u64 memory_mib;
} Attributes;
typedef struct { Device device; u64 type, data; unsigned gpu_instance, compute_instance; } EventData;
typedef struct { const char *space; u64 soft, hard; } SetLimits;
typedef struct { const char *space; u64 soft, hard, used; } GetLimits;
typedef struct { const char *short_name, *long_name, *unit; } MetricInfo;
typedef struct { unsigned id; Return code; double value; MetricInfo info; } Metric;
#define METRICS 477
typedef struct { unsigned version, count; void *first, *second; Metric metrics[METRICS]; } MetricsGet;
typedef struct { unsigned version, supported; } GpmSupport;

/* The binding's name of each structure and its size, also for the tests. */
#define STRUCTURES(S)                                                                                                  \
    S(Memory, c_nvmlMemory_t, 24)                                                                                      \
    S(MemoryV2, c_nvmlMemory_v2_t, 40)                                                                                 \
    S(Bar1Memory, c_nvmlBAR1Memory_t, 24)                                                                              \
    S(Utilization, c_nvmlUtilization_t, 8)                                                                             \
    S(ProcessInfo, c_nvmlProcessInfo_v3_t, 24)                                                                         \
    S(ProcessDetail, c_nvmlProcessDetail_v1_t, 32)                                                                     \
    S(ProcessDetailList, c_nvmlProcessDetailList_v1_t, 24)                                                             \
    S(ProcessSample, c_nvmlProcessUtilizationSample_t, 32)                                                             \
    S(ProcessSampleV2, c_nvmlProcessUtilizationInfo_v1_t, 40)                                                          \
    S(ProcessSamples, c_nvmlProcessesUtilizationInfo_v1_t, 24)                                                         \
    S(PciInfo, nvmlPciInfo_t, 68)                                                                                      \
    S(TemperatureV1, c_nvmlTemperature_v1_t, 12)                                                                       \
    S(FieldValue, c_nvmlFieldValue_t, 40)                                                                              \
    S(AccountingStats, c_nvmlAccountingStats_t, 56)                                                                    \
    S(Attributes, c_nvmlDeviceAttributes, 40)                                                                          \
    S(EventData, c_nvmlEventData_t, 32)                                                                                \
    S(SetLimits, c_nvmlSetMemoryLimits_v1_t, 24)                                                                       \
    S(GetLimits, c_nvmlGetMemoryLimits_v1_t, 32)                                                                       \
    S(Metric, c_nvmlGpmMetric_t, 40)                                                                                   \
    S(MetricsGet, c_nvmlGpmMetricsGet_t, 19104)                                                                        \
    S(GpmSupport, c_nvmlGpmSupport_t, 8)
#define SAME(type, name, size) _Static_assert(sizeof(type) == size, #name);
STRUCTURES(SAME)
#undef SAME

#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFull
#define NO_INSTANCE 0xFFFFFFFFu
#define MEMORY_V2 0x02000028u
#define TEMPERATURE_V1 0x0100000Cu
#define PROCESS_SAMPLES_V1 0x01000018u
#define PROCESS_DETAILS_V1 0x01000018u
#define XID_CRITICAL 0x8ull
/* The driver always offers room for as many samples as its buffer holds. */
#define SAMPLE_BUFFER 100u
/* The first PID namespace of a machine has this inode on every Linux. */
#define FIRST_NAMESPACE 4026531836ull
#define GPM_NANOSECONDS 100000000ll

/* ---- what is simulated ------------------------------------------------------------------------------------------- */

#define FUNCTIONS(F)                                                                                                   \
    F(nvmlInit)                                                                                                        \
    F(nvmlInit_v2)                                                                                                     \
    F(nvmlInitWithFlags)                                                                                               \
    F(nvmlShutdown)                                                                                                    \
    F(nvmlSystemGetDriverVersion)                                                                                      \
    F(nvmlSystemGetNVMLVersion)                                                                                        \
    F(nvmlSystemGetCudaDriverVersion)                                                                                  \
    F(nvmlSystemGetCudaDriverVersion_v2)                                                                               \
    F(nvmlSystemGetProcessName)                                                                                        \
    F(nvmlDeviceGetCount)                                                                                              \
    F(nvmlDeviceGetCount_v2)                                                                                           \
    F(nvmlDeviceGetHandleByIndex)                                                                                      \
    F(nvmlDeviceGetHandleByIndex_v2)                                                                                   \
    F(nvmlDeviceGetHandleByUUID)                                                                                       \
    F(nvmlDeviceGetHandleByPciBusId)                                                                                   \
    F(nvmlDeviceGetHandleByPciBusId_v2)                                                                                \
    F(nvmlDeviceGetName)                                                                                               \
    F(nvmlDeviceGetUUID)                                                                                               \
    F(nvmlDeviceGetSerial)                                                                                             \
    F(nvmlDeviceGetIndex)                                                                                              \
    F(nvmlDeviceGetMinorNumber)                                                                                        \
    F(nvmlDeviceGetPciInfo_v3)                                                                                         \
    F(nvmlDeviceGetCudaComputeCapability)                                                                              \
    F(nvmlDeviceGetMemoryInfo)                                                                                         \
    F(nvmlDeviceGetMemoryInfo_v2)                                                                                      \
    F(nvmlDeviceGetBAR1MemoryInfo)                                                                                     \
    F(nvmlDeviceGetUtilizationRates)                                                                                   \
    F(nvmlDeviceGetEncoderUtilization)                                                                                 \
    F(nvmlDeviceGetDecoderUtilization)                                                                                 \
    F(nvmlDeviceGetComputeRunningProcesses_v2)                                                                         \
    F(nvmlDeviceGetComputeRunningProcesses_v3)                                                                         \
    F(nvmlDeviceGetGraphicsRunningProcesses_v2)                                                                        \
    F(nvmlDeviceGetGraphicsRunningProcesses_v3)                                                                        \
    F(nvmlDeviceGetMPSComputeRunningProcesses_v2)                                                                      \
    F(nvmlDeviceGetMPSComputeRunningProcesses_v3)                                                                      \
    F(nvmlDeviceGetRunningProcessDetailList)                                                                           \
    F(nvmlDeviceGetProcessUtilization)                                                                                 \
    F(nvmlDeviceGetProcessesUtilizationInfo)                                                                           \
    F(nvmlDeviceGetPowerUsage)                                                                                         \
    F(nvmlDeviceGetEnforcedPowerLimit)                                                                                 \
    F(nvmlDeviceGetPowerManagementLimit)                                                                               \
    F(nvmlDeviceGetPowerManagementDefaultLimit)                                                                        \
    F(nvmlDeviceGetTotalEnergyConsumption)                                                                             \
    F(nvmlDeviceGetTemperature)                                                                                        \
    F(nvmlDeviceGetTemperatureV)                                                                                       \
    F(nvmlDeviceGetFanSpeed)                                                                                           \
    F(nvmlDeviceGetFieldValues)                                                                                        \
    F(nvmlDeviceGetClockInfo)                                                                                          \
    F(nvmlDeviceGetMaxClockInfo)                                                                                       \
    F(nvmlDeviceGetPerformanceState)                                                                                   \
    F(nvmlDeviceGetPersistenceMode)                                                                                    \
    F(nvmlDeviceGetComputeMode)                                                                                        \
    F(nvmlDeviceGetDisplayActive)                                                                                      \
    F(nvmlDeviceGetDisplayMode)                                                                                        \
    F(nvmlDeviceGetCurrentClocksEventReasons)                                                                          \
    F(nvmlDeviceGetCurrentClocksThrottleReasons)                                                                       \
    F(nvmlDeviceGetEccMode)                                                                                            \
    F(nvmlDeviceGetTotalEccErrors)                                                                                     \
    F(nvmlDeviceGetPcieThroughput)                                                                                     \
    F(nvmlDeviceGetDriverModel)                                                                                        \
    F(nvmlDeviceGetDriverModel_v2)                                                                                     \
    F(nvmlDeviceGetMigMode)                                                                                            \
    F(nvmlDeviceGetMaxMigDeviceCount)                                                                                  \
    F(nvmlDeviceGetMigDeviceHandleByIndex)                                                                             \
    F(nvmlDeviceIsMigDeviceHandle)                                                                                     \
    F(nvmlDeviceGetDeviceHandleFromMigDeviceHandle)                                                                    \
    F(nvmlDeviceGetGpuInstanceId)                                                                                      \
    F(nvmlDeviceGetComputeInstanceId)                                                                                  \
    F(nvmlDeviceGetAttributes)                                                                                         \
    F(nvmlDeviceGetAttributes_v2)                                                                                      \
    F(nvmlGpmQueryDeviceSupport)                                                                                       \
    F(nvmlGpmSampleAlloc)                                                                                              \
    F(nvmlGpmSampleFree)                                                                                               \
    F(nvmlGpmSampleGet)                                                                                                \
    F(nvmlGpmMigSampleGet)                                                                                             \
    F(nvmlGpmMetricsGet)                                                                                               \
    F(nvmlDeviceGetAccountingMode)                                                                                     \
    F(nvmlDeviceSetAccountingMode)                                                                                     \
    F(nvmlDeviceGetAccountingBufferSize)                                                                               \
    F(nvmlDeviceGetAccountingPids)                                                                                     \
    F(nvmlDeviceGetAccountingStats)                                                                                    \
    F(nvmlEventSetCreate)                                                                                              \
    F(nvmlEventSetFree)                                                                                                \
    F(nvmlEventSetWait)                                                                                                \
    F(nvmlEventSetWait_v2)                                                                                             \
    F(nvmlDeviceGetSupportedEventTypes)                                                                                \
    F(nvmlDeviceRegisterEvents)                                                                                        \
    F(nvmlDeviceSetMemoryLimits_v1)                                                                                    \
    F(nvmlDeviceGetMemoryLimits_v1)

/* F_ALL, the word "*", is every function. */
#define FUNCTION_NUMBER(name) F_##name,
enum { FUNCTIONS(FUNCTION_NUMBER) F_COUNT, F_ALL = F_COUNT };
#undef FUNCTION_NUMBER
#define FUNCTION_NAME(name) #name,
static const char *const function_names[] = {FUNCTIONS(FUNCTION_NAME)};
#undef FUNCTION_NAME

#define NUMBERS(N)                                                                                                     \
    N(CUDA_VERSION, "cuda_version")                                                                                    \
    N(MEMORY_TOTAL, "memory.total")                                                                                    \
    N(MEMORY_RESERVED, "memory.reserved")                                                                              \
    N(MEMORY_USED, "memory.used")                                                                                      \
    N(BAR1_TOTAL, "bar1.total")                                                                                        \
    N(BAR1_USED, "bar1.used")                                                                                          \
    N(UTILISATION_GPU, "utilisation.gpu")                                                                              \
    N(UTILISATION_MEMORY, "utilisation.memory")                                                                        \
    N(ENCODER, "encoder")                                                                                              \
    N(DECODER, "decoder")                                                                                              \
    N(TEMPERATURE, "temperature")                                                                                      \
    N(MEMORY_TEMPERATURE, "memory_temperature")                                                                        \
    N(FAN, "fan")                                                                                                      \
    N(POWER, "power")                                                                                                  \
    N(POWER_LIMIT, "power_limit")                                                                                      \
    N(ENERGY, "energy")                                                                                                \
    N(CLOCK_GRAPHICS, "clocks.graphics")                                                                               \
    N(CLOCK_SM, "clocks.sm")                                                                                           \
    N(CLOCK_MEMORY, "clocks.memory")                                                                                   \
    N(CLOCK_VIDEO, "clocks.video")                                                                                     \
    N(MAX_CLOCK_GRAPHICS, "max_clocks.graphics")                                                                       \
    N(MAX_CLOCK_SM, "max_clocks.sm")                                                                                   \
    N(MAX_CLOCK_MEMORY, "max_clocks.memory")                                                                           \
    N(MAX_CLOCK_VIDEO, "max_clocks.video")                                                                             \
    N(PERFORMANCE_STATE, "performance_state")                                                                          \
    N(PERSISTENCE_MODE, "persistence_mode")                                                                            \
    N(COMPUTE_MODE, "compute_mode")                                                                                    \
    N(DISPLAY_ACTIVE, "display_active")                                                                                \
    N(DISPLAY_MODE, "display_mode")                                                                                    \
    N(THROTTLE_REASONS, "throttle_reasons")                                                                            \
    N(ECC_NOW, "ecc.mode.now")                                                                                         \
    N(ECC_NEXT, "ecc.mode.next")                                                                                       \
    N(ECC_CORRECTED, "ecc.corrected")                                                                                  \
    N(ECC_UNCORRECTED, "ecc.uncorrected")                                                                              \
    N(PCIE_SENT, "pcie.sent")                                                                                          \
    N(PCIE_RECEIVED, "pcie.received")                                                                                  \
    N(MIG_NOW, "mig_mode.now")                                                                                         \
    N(MIG_NEXT, "mig_mode.next")                                                                                       \
    N(MODEL_NOW, "driver_model.now")                                                                                   \
    N(MODEL_NEXT, "driver_model.next")                                                                                 \
    N(CAPABILITY_MAJOR, "compute_capability.major")                                                                    \
    N(CAPABILITY_MINOR, "compute_capability.minor")                                                                    \
    N(RECOVERY_ACTION, "recovery_action")                                                                              \
    N(GPU_INSTANCE, "gpu_instance")                                                                                    \
    N(COMPUTE_INSTANCE, "compute_instance")                                                                            \
    N(ATTRIBUTE_MULTIPROCESSORS, "attributes.multiprocessors")                                                         \
    N(ATTRIBUTE_COPY_ENGINES, "attributes.copy_engines")                                                               \
    N(ATTRIBUTE_DECODERS, "attributes.decoders")                                                                       \
    N(ATTRIBUTE_ENCODERS, "attributes.encoders")                                                                       \
    N(ATTRIBUTE_JPEGS, "attributes.jpegs")                                                                             \
    N(ATTRIBUTE_FLOWS, "attributes.optical_flows")                                                                     \
    N(ATTRIBUTE_GPU_SLICES, "attributes.gpu_slices")                                                                   \
    N(ATTRIBUTE_COMPUTE_SLICES, "attributes.compute_slices")                                                           \
    N(ATTRIBUTE_MEMORY, "attributes.memory")                                                                           \
    N(ACCOUNTING_MODE, "accounting.mode")                                                                              \
    N(ACCOUNTING_BUFFER, "accounting.buffer")

#define TEXTS(T)                                                                                                       \
    T(DRIVER_VERSION, "driver_version")                                                                                \
    T(NVML_VERSION, "nvml_version")                                                                                    \
    T(NAME, "name")                                                                                                    \
    T(UUID, "uuid")                                                                                                    \
    T(SERIAL, "serial")                                                                                                \
    T(PCI_BUS_ID, "pci_bus_id")

#define LISTS(L)                                                                                                       \
    L(PROCESSES, "processes")                                                                                          \
    L(SAMPLES, "process_samples")                                                                                      \
    L(ACCOUNTING, "accounting")                                                                                        \
    L(EVENTS, "events")                                                                                                \
    L(GPM, "gpm")                                                                                                      \
    L(INSTANCES, "instances")                                                                                          \
    L(MEMORY_LIMITS, "memory_limits")

#define NUMBER_NUMBER(name, word) N_##name,
enum { NUMBERS(NUMBER_NUMBER) N_COUNT };
#define TEXT_NUMBER(name, word) T_##name,
enum { TEXTS(TEXT_NUMBER) T_COUNT };
#define LIST_NUMBER(name, word) L_##name,
enum { LISTS(LIST_NUMBER) L_COUNT };
#define WORD(name, word) word,
static const char *const number_names[] = {NUMBERS(WORD)};
static const char *const text_names[] = {TEXTS(WORD)};
static const char *const list_names[] = {LISTS(WORD)};

/* `code` is NOT_SUPPORTED until there is a value. */
typedef struct { Return code; u64 number; const char *text; } Value;

enum { FAILS, LATENCY, HANGS };
typedef struct Fault {
    struct Fault *next;
    int what, function;
    u64 number;
} Fault;

typedef struct { u64 space; unsigned pid; } Alias;
typedef struct { unsigned pid, aliases; Alias *alias; } Pid;

enum { COMPUTE = 1, GRAPHICS = 2, MPS = 4 };
typedef struct Process {
    struct Process *next;
    Pid pid;
    u64 memory;
    unsigned kinds, gpu_instance, compute_instance;
} Process;

typedef struct Sample {
    struct Sample *next;
    Pid pid;
    bool now;
    u64 time;
    unsigned sm, memory, encoder, decoder, jpeg, flow;
} Sample;

typedef struct Accounted {
    struct Accounted *next;
    Pid pid;
    AccountingStats stats;
} Accounted;

typedef struct Event {
    struct Event *next;
    u64 type, data, time;
    unsigned gpu_instance, compute_instance;
} Event;

typedef struct GpmValue {
    struct GpmValue *next;
    unsigned id;
    double value;
} GpmValue;

typedef struct Used {
    struct Used *next;
    u64 bytes;
    const char *group;
} Used;

/* The driver, a GPU at a moment, or a MIG instance; an empty place for one has `empty`. */
typedef struct State {
    struct State *next;
    bool empty, instance;
    Value numbers[N_COUNT], texts[T_COUNT], lists[L_COUNT];
    Fault *faults;
    Process *processes;
    Sample *samples;
    Accounted *accounted;
    Event *events;
    GpmValue *metrics;
    Used *used;
    struct State *instances;
    unsigned places;
} State;

typedef struct Gpu {
    struct Gpu *next;
    State *moments;
    u64 moment_count, readings;
} Gpu;

typedef struct Block {
    struct Block *next;
    _Alignas(max_align_t) char data[];
} Block;

typedef struct {
    Block *blocks;
    State *driver;
    Gpu **gpus;
    unsigned gpu_count;
    u64 space;
    bool translated;
    bool missing[F_COUNT];
} Scenario;

/* ---- reading the file -------------------------------------------------------------------------------------------- */

#define MOST_BYTES (64u << 20)
#define MOST_GPUS 4096u
#define MOST_PLACES 1024u

typedef struct {
    Scenario *scenario;
    const char *path;
    unsigned line;
    bool failed;
    Gpu *gpu;
    State *state, *gpu_state;
} Reader;

/* Zeroed memory that is freed with the scenario; NULL if there is none. */
static void *keep(Scenario *scenario, size_t size) {
    Block *block = calloc(1, sizeof(Block) + size);
    if (!block)
        return NULL;
    block->next = scenario->blocks;
    scenario->blocks = block;
    return block->data;
}

static void forget(Scenario *scenario) {
    if (!scenario)
        return;
    for (Block *block = scenario->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(scenario->gpus);
    free(scenario);
}

__attribute__((format(printf, 2, 3))) static bool wrong(Reader *reader, const char *format, ...) {
    if (!reader->failed) {
        char what[256];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(what, sizeof what, format, arguments);
        va_end(arguments);
        fprintf(stderr, "gradlab's NVML simulator: %s, line %u: %s\n", reader->path, reader->line, what);
    }
    reader->failed = true;
    return false;
}

static void *keep_for(Reader *reader, size_t size) {
    void *found = keep(reader->scenario, size);
    if (!found)
        wrong(reader, "there is no memory left");
    return found;
}

static State *new_state(Reader *reader) {
    State *state = keep_for(reader, sizeof(State));
    if (!state)
        return NULL;
    for (int i = 0; i < N_COUNT; i++)
        state->numbers[i].code = NOT_SUPPORTED;
    for (int i = 0; i < T_COUNT; i++)
        state->texts[i].code = NOT_SUPPORTED;
    for (int i = 0; i < L_COUNT; i++)
        state->lists[i].code = NOT_SUPPORTED;
    return state;
}

/* The next word of the line; NULL at its end. */
static char *word(char **rest) {
    char *start = *rest;
    if (!start)
        return NULL;
    char *blank = strchr(start, ' ');
    if (blank)
        *blank++ = '\0';
    *rest = blank;
    return start;
}

static bool is_number(const char *text, u64 *number) {
    char *end;
    if (!text || (!isdigit((unsigned char)*text) && *text != '-'))
        return false;
    errno = 0;
    *number = *text == '-' ? (u64)strtoll(text, &end, 10) : strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

static bool read_number(Reader *reader, char **rest, u64 most, u64 *number) {
    const char *text = word(rest);
    if (!is_number(text, number) || *number > most)
        return wrong(reader, "%s is no number up to %llu", text ? text : "nothing", most);
    return true;
}

static bool read_unsigned(Reader *reader, char **rest, unsigned *number) {
    u64 wide;
    if (!read_number(reader, rest, UINT_MAX, &wide))
        return false;
    *number = (unsigned)wide;
    return true;
}

/* A number, or "-" for what there is instead of one. */
static bool read_or(Reader *reader, char **rest, u64 most, u64 none, u64 *number) {
    if (*rest && (*rest)[0] == '-' && ((*rest)[1] == ' ' || (*rest)[1] == '\0')) {
        word(rest);
        *number = none;
        return true;
    }
    return read_number(reader, rest, most, number);
}

static bool read_instance(Reader *reader, char **rest, unsigned *gpu, unsigned *compute) {
    u64 one, two;
    if (!read_or(reader, rest, UINT_MAX, NO_INSTANCE, &one) || !read_or(reader, rest, UINT_MAX, NO_INSTANCE, &two))
        return false;
    *gpu = (unsigned)one;
    *compute = (unsigned)two;
    return true;
}

/* What a process is called in other namespaces, to the end of the line. */
static bool read_aliases(Reader *reader, char **rest, Pid *pid) {
    unsigned room = 0;
    for (const char *c = *rest; c && *c; c++)
        room += *c == ':';
    if (room == 0)
        return *rest == NULL || wrong(reader, "%s is no INODE:PID", *rest);
    pid->alias = keep_for(reader, room * sizeof(Alias));
    if (!pid->alias)
        return false;
    for (char *text; (text = word(rest));) {
        char *colon = strchr(text, ':');
        u64 space, inner;
        if (!colon || pid->aliases == room)
            return wrong(reader, "%s is no INODE:PID", text);
        *colon = '\0';
        if (!is_number(text, &space) || !is_number(colon + 1, &inner) || inner > UINT_MAX)
            return wrong(reader, "%s:%s is no INODE:PID", text, colon + 1);
        pid->alias[pid->aliases++] = (Alias){space, (unsigned)inner};
    }
    return true;
}

static int find_word(const char *const *names, int count, const char *text) {
    for (int i = 0; text && i < count; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -1;
}

static bool read_function(Reader *reader, char **rest, bool all, int *function) {
    const char *text = word(rest);
    *function = all && text && strcmp(text, "*") == 0 ? F_ALL : find_word(function_names, F_COUNT, text);
    return *function >= 0 || wrong(reader, "%s is no function of this library", text ? text : "nothing");
}

/* Appends to a list in which `next` comes first. */
static void append(void *list, void *one) {
    void **at = list;
    while (*at)
        at = *at;
    *at = one;
}

static Value *value_named(State *state, const char *name) {
    int i;
    if ((i = find_word(number_names, N_COUNT, name)) >= 0)
        return &state->numbers[i];
    if ((i = find_word(text_names, T_COUNT, name)) >= 0)
        return &state->texts[i];
    if ((i = find_word(list_names, L_COUNT, name)) >= 0)
        return &state->lists[i];
    return NULL;
}

static bool read_value(Reader *reader, const char *kind, char *rest) {
    State *state = reader->state;
    const char *name = word(&rest);
    int i;
    if (strcmp(kind, "error") == 0) {
        Value *value = name ? value_named(state, name) : NULL;
        u64 code;
        if (!value)
            return wrong(reader, "%s is no value", name ? name : "nothing");
        if (!read_number(reader, &rest, UNKNOWN, &code))
            return false;
        value->code = (Return)code;
    } else if (strcmp(kind, "number") == 0) {
        if ((i = find_word(number_names, N_COUNT, name)) < 0)
            return wrong(reader, "%s is no number", name ? name : "nothing");
        if (!read_number(reader, &rest, ULLONG_MAX, &state->numbers[i].number))
            return false;
        state->numbers[i].code = SUCCESS;
    } else if (strcmp(kind, "text") == 0) {
        if ((i = find_word(text_names, T_COUNT, name)) < 0)
            return wrong(reader, "%s is no text", name ? name : "nothing");
        size_t size = rest ? strlen(rest) + 1 : 1;
        char *copy = keep_for(reader, size);
        if (!copy)
            return false;
        if (rest)
            memcpy(copy, rest, size);
        state->texts[i] = (Value){SUCCESS, 0, copy};
        rest = NULL;
    } else {
        if ((i = find_word(list_names, L_COUNT, name)) < 0)
            return wrong(reader, "%s is no list", name ? name : "nothing");
        state->lists[i].code = SUCCESS;
    }
    return rest == NULL || wrong(reader, "%s is too much", rest);
}

static bool read_fault(Reader *reader, int what, char *rest) {
    Fault *fault = keep_for(reader, sizeof(Fault));
    if (!fault || !read_function(reader, &rest, true, &fault->function))
        return false;
    fault->what = what;
    if (what != HANGS && !read_number(reader, &rest, what == FAILS ? UNKNOWN : 86400000000ull, &fault->number))
        return false;
    append(&reader->state->faults, fault);
    return rest == NULL || wrong(reader, "%s is too much", rest);
}

static bool read_process(Reader *reader, char *rest) {
    Process *process = keep_for(reader, sizeof(Process));
    if (!process || !read_unsigned(reader, &rest, &process->pid.pid) ||
        !read_or(reader, &rest, ULLONG_MAX, NOT_AVAILABLE, &process->memory))
        return false;
    const char *kinds = word(&rest);
    for (const char *c = kinds; c && *c; c++) {
        if (*c != 'C' && *c != 'G' && *c != 'M')
            return wrong(reader, "%s are no kinds of process", kinds);
        process->kinds |= *c == 'C' ? COMPUTE : *c == 'G' ? GRAPHICS : MPS;
    }
    append(&reader->state->processes, process);
    return read_instance(reader, &rest, &process->gpu_instance, &process->compute_instance) &&
           read_aliases(reader, &rest, &process->pid);
}

static bool read_sample(Reader *reader, char *rest) {
    Sample *sample = keep_for(reader, sizeof(Sample));
    if (!sample || !read_unsigned(reader, &rest, &sample->pid.pid))
        return false;
    sample->now = rest && strncmp(rest, "now ", 4) == 0;
    if (sample->now)
        word(&rest);
    else if (!read_number(reader, &rest, ULLONG_MAX, &sample->time))
        return false;
    append(&reader->state->samples, sample);
    return read_unsigned(reader, &rest, &sample->sm) && read_unsigned(reader, &rest, &sample->memory) &&
           read_unsigned(reader, &rest, &sample->encoder) && read_unsigned(reader, &rest, &sample->decoder) &&
           read_unsigned(reader, &rest, &sample->jpeg) && read_unsigned(reader, &rest, &sample->flow) &&
           read_aliases(reader, &rest, &sample->pid);
}

static bool read_accounted(Reader *reader, char *rest) {
    Accounted *one = keep_for(reader, sizeof(Accounted));
    if (!one || !read_unsigned(reader, &rest, &one->pid.pid))
        return false;
    AccountingStats *stats = &one->stats;
    append(&reader->state->accounted, one);
    return read_unsigned(reader, &rest, &stats->gpu) && read_unsigned(reader, &rest, &stats->memory) &&
           read_or(reader, &rest, ULLONG_MAX, NOT_AVAILABLE, &stats->most) &&
           read_number(reader, &rest, ULLONG_MAX, &stats->time) &&
           read_number(reader, &rest, ULLONG_MAX, &stats->start) && read_unsigned(reader, &rest, &stats->running) &&
           read_aliases(reader, &rest, &one->pid);
}

static bool read_event(Reader *reader, char *rest) {
    Event *event = keep_for(reader, sizeof(Event));
    if (!event || !read_number(reader, &rest, ULLONG_MAX, &event->type) ||
        !read_number(reader, &rest, ULLONG_MAX, &event->data) || !read_number(reader, &rest, ULLONG_MAX, &event->time))
        return false;
    append(&reader->state->events, event);
    return read_instance(reader, &rest, &event->gpu_instance, &event->compute_instance) &&
           (rest == NULL || wrong(reader, "%s is too much", rest));
}

static bool read_metric(Reader *reader, char *rest) {
    GpmValue *metric = keep_for(reader, sizeof(GpmValue));
    char *end = NULL;
    if (!metric || !read_unsigned(reader, &rest, &metric->id))
        return false;
    if (!rest || (metric->value = strtod(rest, &end), end == rest) || *end != '\0')
        return wrong(reader, "%s is no number", rest ? rest : "nothing");
    append(&reader->state->metrics, metric);
    return true;
}

static bool read_used(Reader *reader, char *rest) {
    Used *used = keep_for(reader, sizeof(Used));
    if (!used || !read_number(reader, &rest, ULLONG_MAX, &used->bytes))
        return false;
    char *group = rest ? keep_for(reader, strlen(rest) + 1) : NULL;
    if (!group)
        return wrong(reader, "there is no cgroup");
    used->group = strcpy(group, rest);
    append(&reader->state->used, used);
    return true;
}

static bool read_gpu(Reader *reader) {
    Scenario *scenario = reader->scenario;
    Gpu **more = realloc(scenario->gpus, (scenario->gpu_count + 1) * sizeof(Gpu *));
    if (!more || scenario->gpu_count == MOST_GPUS)
        return wrong(reader, "there are too many GPUs");
    scenario->gpus = more;
    reader->gpu = keep_for(reader, sizeof(Gpu));
    reader->gpu_state = reader->state = new_state(reader);
    if (!reader->gpu || !reader->state)
        return false;
    reader->gpu->moments = reader->state;
    reader->gpu->moment_count = 1;
    more[scenario->gpu_count++] = reader->gpu;
    return true;
}

static bool read_moment(Reader *reader) {
    State *before = reader->gpu_state;
    if (!before)
        return wrong(reader, "a moment needs a GPU");
    reader->gpu_state = reader->state = before->next = new_state(reader);
    reader->gpu->moment_count++;
    return reader->state != NULL;
}

static bool read_place(Reader *reader, bool empty) {
    if (!reader->gpu_state)
        return wrong(reader, "an instance needs a GPU");
    if (reader->gpu_state->places == MOST_PLACES)
        return wrong(reader, "there are too many instances");
    State *place = new_state(reader);
    if (!place)
        return false;
    place->empty = empty;
    place->instance = true;
    append(&reader->gpu_state->instances, place);
    reader->gpu_state->places++;
    reader->state = place;
    return true;
}

static bool read_line(Reader *reader, char *line) {
    Scenario *scenario = reader->scenario;
    char *rest = line;
    const char *key = word(&rest);
    if (strcmp(key, "text") == 0 || strcmp(key, "number") == 0 || strcmp(key, "error") == 0 || strcmp(key, "list") == 0)
        return read_value(reader, key, rest);
    if (strcmp(key, "fails") == 0)
        return read_fault(reader, FAILS, rest);
    if (strcmp(key, "latency") == 0)
        return read_fault(reader, LATENCY, rest);
    if (strcmp(key, "hangs") == 0)
        return read_fault(reader, HANGS, rest);
    if (strcmp(key, "process") == 0)
        return read_process(reader, rest);
    if (strcmp(key, "sample") == 0)
        return read_sample(reader, rest);
    if (strcmp(key, "accounted") == 0)
        return read_accounted(reader, rest);
    if (strcmp(key, "event") == 0)
        return read_event(reader, rest);
    if (strcmp(key, "metric") == 0)
        return read_metric(reader, rest);
    if (strcmp(key, "limit_used") == 0)
        return read_used(reader, rest);
    if (strcmp(key, "namespace") == 0)
        return read_number(reader, &rest, ULLONG_MAX, &scenario->space);
    if (strcmp(key, "visibility") == 0) {
        const char *whose = word(&rest);
        scenario->translated = whose && strcmp(whose, "namespace") == 0;
        return scenario->translated || (whose && strcmp(whose, "host") == 0) ||
               wrong(reader, "%s is no visibility", whose ? whose : "nothing");
    }
    if (strcmp(key, "missing") == 0) {
        int function;
        if (!read_function(reader, &rest, false, &function))
            return false;
        scenario->missing[function] = true;
        return true;
    }
    if (strcmp(key, "device") == 0)
        return read_gpu(reader);
    if (strcmp(key, "moment") == 0)
        return read_moment(reader);
    if (strcmp(key, "instance") == 0 || strcmp(key, "empty") == 0)
        return read_place(reader, *key == 'e');
    return wrong(reader, "%s is not known here", key);
}

/* A scenario from a text, which is taken apart; NULL, after a line on stderr, if it is none. */
static Scenario *parse(const char *path, char *text, size_t size) {
    Reader reader = {.scenario = calloc(1, sizeof(Scenario)), .path = path, .line = 1};
    bool ended = false;
    if (!reader.scenario)
        return NULL;
    reader.scenario->driver = reader.state = new_state(&reader);
    if (memchr(text, '\0', size))
        wrong(&reader, "a byte of the file is zero");
    for (char *line = text, *next; !reader.failed && !ended && line; line = next, reader.line++) {
        if ((next = strchr(line, '\n')))
            *next++ = '\0';
        if (reader.line == 1 && strcmp(line, "gradlab-nvml-scenario 1") != 0)
            wrong(&reader, "the first line is not \"gradlab-nvml-scenario 1\"");
        else if (reader.line > 1 && strcmp(line, "end") == 0)
            ended = next != NULL;
        else if (reader.line > 1 && next)
            read_line(&reader, line);
        else if (reader.line > 1)
            wrong(&reader, "the file ends before its line \"end\"");
    }
    if (!ended && !reader.failed)
        wrong(&reader, "the file ends before its line \"end\"");
    if (reader.failed) {
        forget(reader.scenario);
        return NULL;
    }
    return reader.scenario;
}

/* ---- the state of this process ----------------------------------------------------------------------------------- */

enum { ABSENT, MALFORMED, PRESENT };

typedef struct { dev_t device; ino_t inode; off_t size; struct timespec time; } Stamp;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Scenario *scenario;
static int condition = ABSENT;
static Stamp stamp;
static unsigned users;
/* A process that met a driver of another version than its library has that library until it ends. */
static bool mismatched;

static void lock_all(void) { pthread_mutex_lock(&lock); }
static void unlock_all(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void loaded(void) { pthread_atfork(lock_all, unlock_all, unlock_all); }

static const char *scenario_path(void) {
    const char *path = getenv("NVML_SCENARIO");
    return path && *path ? path : NULL;
}

static Stamp stamp_of(const struct stat *status) {
    return (Stamp){status->st_dev, status->st_ino, status->st_size, status->st_mtim};
}

static bool same(Stamp one, Stamp other) {
    return one.device == other.device && one.inode == other.inode && one.size == other.size &&
           one.time.tv_sec == other.time.tv_sec && one.time.tv_nsec == other.time.tv_nsec;
}

/* The whole file with a zero behind it; NULL if it cannot be read. */
static char *contents(int file, off_t size) {
    char *text = size < MOST_BYTES ? malloc((size_t)size + 1) : NULL;
    off_t got = 0;
    while (text && got < size) {
        ssize_t more = read(file, text + got, (size_t)(size - got));
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0) {
            free(text);
            return NULL;
        }
        got += more;
    }
    if (text)
        text[size] = '\0';
    return text;
}

/* Reads the file if it is not the one that was read before. */
static void refresh(void) {
    const char *path = scenario_path();
    struct stat status;
    if (path && condition != ABSENT && stat(path, &status) == 0 && same(stamp, stamp_of(&status)))
        return;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    forget(scenario);
    scenario = NULL;
    condition = ABSENT;
    if (file < 0)
        return;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
        char *text = contents(file, status.st_size);
        stamp = stamp_of(&status);
        if (!text)
            fprintf(stderr, "gradlab's NVML simulator: %s cannot be read, or has more than 64 MiB\n", path);
        scenario = text ? parse(path, text, (size_t)status.st_size) : NULL;
        condition = scenario ? PRESENT : MALFORMED;
        free(text);
    }
    close(file);
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

/* A GPU's handle is its index; an instance's is the number of its identity, which is never given to another one. */
#define GPU_HANDLES 0x1000u
#define INSTANCE_HANDLES 0x1000000u

typedef struct {
    unsigned gpu, gpu_instance, compute_instance;
    char *uuid;
} Identity;

static Identity *identities;
static unsigned identity_count;

static Device gpu_handle(unsigned index) { return (Device)(uintptr_t)(GPU_HANDLES + 8 * index); }

static unsigned instance_number(const State *instance, int which) {
    const Value *value = &instance->numbers[which];
    return value->code == SUCCESS ? (unsigned)value->number : NO_INSTANCE;
}

static const char *uuid_of(const State *state) {
    const Value *value = &state->texts[T_UUID];
    return value->code == SUCCESS ? value->text : "";
}

static bool is_identity(const Identity *identity, unsigned gpu, const State *instance) {
    return identity->gpu == gpu && strcmp(identity->uuid, uuid_of(instance)) == 0 &&
           identity->gpu_instance == instance_number(instance, N_GPU_INSTANCE) &&
           identity->compute_instance == instance_number(instance, N_COMPUTE_INSTANCE);
}

static Return instance_handle(unsigned gpu, const State *instance, Device *handle) {
    unsigned i = 0;
    while (i < identity_count && !is_identity(&identities[i], gpu, instance))
        i++;
    if (i == identity_count) {
        Identity *more = realloc(identities, (i + 1) * sizeof(Identity));
        if (!more)
            return OUT_OF_MEMORY;
        identities = more;
        identities[i] = (Identity){gpu, instance_number(instance, N_GPU_INSTANCE),
                                   instance_number(instance, N_COMPUTE_INSTANCE), strdup(uuid_of(instance))};
        if (!identities[i].uuid)
            return OUT_OF_MEMORY;
        identity_count++;
    }
    *handle = (Device)(uintptr_t)(INSTANCE_HANDLES + 8 * i);
    return SUCCESS;
}

static State *moment_of(Gpu *gpu) {
    u64 number = gpu->readings < 1 ? 1 : gpu->readings;
    State *state = gpu->moments;
    while (--number && state->next)
        state = state->next;
    return state;
}

/* What a handle stands for now: `gpu` is its index, `parent` the state of the whole GPU. */
typedef struct {
    unsigned gpu;
    State *parent, *state;
} Target;

static bool find_gpu(unsigned index, Target *target) {
    if (!scenario || index >= scenario->gpu_count)
        return false;
    target->gpu = index;
    target->parent = target->state = moment_of(scenario->gpus[index]);
    return true;
}

static bool find(Device handle, Target *target) {
    uintptr_t number = (uintptr_t)handle;
    if (number < GPU_HANDLES || number % 8)
        return false;
    if (number < INSTANCE_HANDLES)
        return find_gpu((unsigned)(number - GPU_HANDLES) / 8, target);
    uintptr_t which = (number - INSTANCE_HANDLES) / 8;
    if (which >= identity_count || !find_gpu(identities[which].gpu, target))
        return false;
    for (State *place = target->parent->instances; place; place = place->next)
        if (!place->empty && is_identity(&identities[which], target->gpu, place)) {
            target->state = place;
            return true;
        }
    return false;
}

/* ---- every call -------------------------------------------------------------------------------------------------- */

static void nap(u64 microseconds) {
    struct timespec left = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static u64 now_microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (u64)now.tv_sec * 1000000 + (u64)now.tv_nsec / 1000;
}

static int64_t monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* One that names the function comes before one for all. */
static const Fault *fault_of(const State *state, int what, int function) {
    const Fault *general = NULL;
    for (const Fault *fault = state ? state->faults : NULL; fault; fault = fault->next) {
        if (fault->what != what)
            continue;
        if (fault->function == function)
            return fault;
        if (fault->function == F_ALL && !general)
            general = fault;
    }
    return general;
}

static const Fault *fault_at(const Target *target, int what, int function) {
    const Fault *fault = target ? fault_of(target->state, what, function) : NULL;
    if (!fault && target && target->state != target->parent)
        fault = fault_of(target->parent, what, function);
    return fault;
}

static Return failure_at(const Target *target, int function) {
    const Fault *fault = fault_at(target, FAILS, function);
    return fault ? (Return)fault->number : SUCCESS;
}

static Return failure_of_driver(int function) {
    const Fault *fault = fault_of(scenario->driver, FAILS, function);
    return fault ? (Return)fault->number : SUCCESS;
}

/* Sleeps, without the lock, as long as the scenario wants for this call. */
static void wait_for(int function, const Device *handle) {
    bool slept = false;
    for (;;) {
        Target target;
        refresh();
        const Target *at = handle && find(*handle, &target) ? &target : NULL;
        const State *driver = scenario ? scenario->driver : NULL;
        const Fault *latency = fault_at(at, LATENCY, function);
        u64 pause = 0;
        if (fault_at(at, HANGS, function) || fault_of(driver, HANGS, function)) {
            pause = 10000;
        } else if (!slept && (latency || (latency = fault_of(driver, LATENCY, function)))) {
            slept = true;
            pause = latency->number;
        } else {
            return;
        }
        pthread_mutex_unlock(&lock);
        nap(pause);
        pthread_mutex_lock(&lock);
    }
}

static bool is_init(int function) {
    return function == F_nvmlInit || function == F_nvmlInit_v2 || function == F_nvmlInitWithFlags;
}

static Return admit(int function, const Device *handle, Target *target) {
    if (scenario && scenario->missing[function])
        return FUNCTION_NOT_FOUND;
    if (!is_init(function) && users == 0)
        return UNINITIALIZED;
    if (function == F_nvmlShutdown && !scenario)
        return SUCCESS;
    if (condition != PRESENT)
        return condition == ABSENT && is_init(function) ? DRIVER_NOT_LOADED : UNKNOWN;
    Return code = failure_of_driver(function);
    if (code != SUCCESS || !handle)
        return code;
    if (!find(*handle, target))
        return INVALID_ARGUMENT;
    /* Time passes with readings of a GPU's utilisation. */
    if (function == F_nvmlDeviceGetUtilizationRates && target->state == target->parent) {
        scenario->gpus[target->gpu]->readings++;
        find(*handle, target);
    }
    return failure_at(target, function);
}

static Return leave(Return code) {
    pthread_mutex_unlock(&lock);
    return code;
}

/* SUCCESS with the lock held, or the answer. `handle` is NULL for what is asked of the driver. */
static Return enter(int function, const Device *handle, Target *target) {
    pthread_mutex_lock(&lock);
    wait_for(function, handle);
    Return code = admit(function, handle, target);
    return code == SUCCESS ? SUCCESS : leave(code);
}

#define ENTER_DRIVER(function)                                                                                         \
    do {                                                                                                               \
        Return entered = enter(F_##function, NULL, NULL);                                                              \
        if (entered != SUCCESS)                                                                                        \
            return entered;                                                                                            \
    } while (0)

#define ENTER(function, handle)                                                                                        \
    Target target;                                                                                                     \
    do {                                                                                                               \
        Return entered = enter(F_##function, &(handle), &target);                                                      \
        if (entered != SUCCESS)                                                                                        \
            return entered;                                                                                            \
    } while (0)

/* ---- single values ----------------------------------------------------------------------------------------------- */

static Return copy_text(const Value *value, char *text, unsigned size) {
    if (value->code != SUCCESS)
        return value->code;
    if (!text)
        return INVALID_ARGUMENT;
    if (strlen(value->text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(text, value->text);
    return SUCCESS;
}

static Return copy_unsigned(const Value *value, unsigned *out) {
    if (value->code != SUCCESS)
        return value->code;
    if (!out)
        return INVALID_ARGUMENT;
    *out = (unsigned)value->number;
    return SUCCESS;
}

static Return copy_wide(const Value *value, u64 *out) {
    if (value->code != SUCCESS)
        return value->code;
    if (!out)
        return INVALID_ARGUMENT;
    *out = value->number;
    return SUCCESS;
}

static Return copy_pair(const Value *one, const Value *two, unsigned *first, unsigned *second) {
    Return code = copy_unsigned(one, first);
    return code == SUCCESS ? copy_unsigned(two, second) : code;
}

static u64 number_or(const State *state, int which, u64 otherwise) {
    return state->numbers[which].code == SUCCESS ? state->numbers[which].number : otherwise;
}

static bool in_mig_mode(const State *state) { return number_or(state, N_MIG_NOW, 0) == 1; }

#define NUMBER_OF(function, which)                                                                                     \
    EXPORT Return function(Device device, unsigned *out) {                                                             \
        ENTER(function, device);                                                                                       \
        return leave(copy_unsigned(&target.state->numbers[which], out));                                               \
    }
#define WIDE_NUMBER_OF(function, which)                                                                                \
    EXPORT Return function(Device device, u64 *out) {                                                                  \
        ENTER(function, device);                                                                                       \
        return leave(copy_wide(&target.state->numbers[which], out));                                                   \
    }
#define PAIR_OF(function, one, two)                                                                                    \
    EXPORT Return function(Device device, unsigned *first, unsigned *second) {                                         \
        ENTER(function, device);                                                                                       \
        return leave(copy_pair(&target.state->numbers[one], &target.state->numbers[two], first, second));              \
    }
#define TEXT_OF(function, which)                                                                                       \
    EXPORT Return function(Device device, char *text, unsigned size) {                                                 \
        ENTER(function, device);                                                                                       \
        return leave(copy_text(&target.state->texts[which], text, size));                                              \
    }

NUMBER_OF(nvmlDeviceGetPowerUsage, N_POWER)
NUMBER_OF(nvmlDeviceGetEnforcedPowerLimit, N_POWER_LIMIT)
NUMBER_OF(nvmlDeviceGetPowerManagementLimit, N_POWER_LIMIT)
NUMBER_OF(nvmlDeviceGetPowerManagementDefaultLimit, N_POWER_LIMIT)
NUMBER_OF(nvmlDeviceGetFanSpeed, N_FAN)
NUMBER_OF(nvmlDeviceGetPerformanceState, N_PERFORMANCE_STATE)
NUMBER_OF(nvmlDeviceGetPersistenceMode, N_PERSISTENCE_MODE)
NUMBER_OF(nvmlDeviceGetComputeMode, N_COMPUTE_MODE)
NUMBER_OF(nvmlDeviceGetDisplayActive, N_DISPLAY_ACTIVE)
NUMBER_OF(nvmlDeviceGetDisplayMode, N_DISPLAY_MODE)
WIDE_NUMBER_OF(nvmlDeviceGetTotalEnergyConsumption, N_ENERGY)
WIDE_NUMBER_OF(nvmlDeviceGetCurrentClocksEventReasons, N_THROTTLE_REASONS)
WIDE_NUMBER_OF(nvmlDeviceGetCurrentClocksThrottleReasons, N_THROTTLE_REASONS)
PAIR_OF(nvmlDeviceGetMigMode, N_MIG_NOW, N_MIG_NEXT)
PAIR_OF(nvmlDeviceGetDriverModel, N_MODEL_NOW, N_MODEL_NEXT)
PAIR_OF(nvmlDeviceGetDriverModel_v2, N_MODEL_NOW, N_MODEL_NEXT)
PAIR_OF(nvmlDeviceGetEccMode, N_ECC_NOW, N_ECC_NEXT)
PAIR_OF(nvmlDeviceGetCudaComputeCapability, N_CAPABILITY_MAJOR, N_CAPABILITY_MINOR)
TEXT_OF(nvmlDeviceGetName, T_NAME)
TEXT_OF(nvmlDeviceGetUUID, T_UUID)
TEXT_OF(nvmlDeviceGetSerial, T_SERIAL)

/* ---- the library and the driver ---------------------------------------------------------------------------------- */

/* No driver has this: it tells a reader that what it shows is simulated. */
EXPORT int gradlabSimulated(void) { return 1; }

static Return start(int function) {
    Return code = enter(function, NULL, NULL);
    if (code != SUCCESS) {
        mismatched = mismatched || code == LIB_RM_VERSION_MISMATCH;
        return code;
    }
    if (mismatched)
        return leave(LIB_RM_VERSION_MISMATCH);
    users++;
    return leave(SUCCESS);
}

EXPORT Return nvmlInit(void) { return start(F_nvmlInit); }

EXPORT Return nvmlInit_v2(void) { return start(F_nvmlInit_v2); }

EXPORT Return nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return start(F_nvmlInitWithFlags);
}

static void forget_events(void);

EXPORT Return nvmlShutdown(void) {
    ENTER_DRIVER(nvmlShutdown);
    if (--users == 0)
        forget_events();
    return leave(SUCCESS);
}

EXPORT const char *nvmlErrorString(Return code) {
    static const char *const words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires restart", "The operating system has blocked the request.",
        "RM has detected an NVML/RM version mismatch.", "In use by another client", "Insufficient Memory", "No data",
        "The requested vgpu operation is not available on target device, becasue ECC is enabled",
        "Insufficient Resources", "The requested frequency is not supported", "Argument version mismatch",
        "Deprecated", "Not Ready", "No GPU Found", "Invalid State"};
    if (code >= 0 && (size_t)code < sizeof words / sizeof *words)
        return words[code];
    return "Unknown Error";
}

EXPORT Return nvmlSystemGetDriverVersion(char *text, unsigned size) {
    ENTER_DRIVER(nvmlSystemGetDriverVersion);
    return leave(copy_text(&scenario->driver->texts[T_DRIVER_VERSION], text, size));
}

EXPORT Return nvmlSystemGetNVMLVersion(char *text, unsigned size) {
    ENTER_DRIVER(nvmlSystemGetNVMLVersion);
    return leave(copy_text(&scenario->driver->texts[T_NVML_VERSION], text, size));
}

EXPORT Return nvmlSystemGetCudaDriverVersion(int *out) {
    ENTER_DRIVER(nvmlSystemGetCudaDriverVersion);
    return leave(copy_unsigned(&scenario->driver->numbers[N_CUDA_VERSION], (unsigned *)out));
}

EXPORT Return nvmlSystemGetCudaDriverVersion_v2(int *out) {
    ENTER_DRIVER(nvmlSystemGetCudaDriverVersion_v2);
    return leave(copy_unsigned(&scenario->driver->numbers[N_CUDA_VERSION], (unsigned *)out));
}

/* Of a process that the caller sees, whoever it is, as the driver does. */
EXPORT Return nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size) {
    char path[64], line[4096];
    ENTER_DRIVER(nvmlSystemGetProcessName);
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, line, sizeof line - 1);
    if (file >= 0)
        close(file);
    if (got <= 0)
        return leave(NOT_FOUND);
    if (!name || size == 0)
        return leave(INVALID_ARGUMENT);
    line[got] = '\0';
    snprintf(name, size, "%s", line);
    return leave(SUCCESS);
}

static Return count_gpus(unsigned *out) {
    if (!out)
        return INVALID_ARGUMENT;
    *out = scenario->gpu_count;
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetCount(unsigned *out) {
    ENTER_DRIVER(nvmlDeviceGetCount);
    return leave(count_gpus(out));
}

EXPORT Return nvmlDeviceGetCount_v2(unsigned *out) {
    ENTER_DRIVER(nvmlDeviceGetCount_v2);
    return leave(count_gpus(out));
}

/* ---- from an index, a UUID or an address to a handle ------------------------------------------------------------- */

/* A GPU that fails, or hangs, does so here already. */
static Return give_by_index(int function, unsigned index, Device *handle) {
    Target target;
    Device device = gpu_handle(index < MOST_GPUS ? index : MOST_GPUS);
    Return code = enter(function, &device, &target);
    if (code != SUCCESS)
        return code;
    if (handle)
        *handle = device;
    return leave(handle ? SUCCESS : INVALID_ARGUMENT);
}

EXPORT Return nvmlDeviceGetHandleByIndex(unsigned index, Device *handle) {
    return give_by_index(F_nvmlDeviceGetHandleByIndex, index, handle);
}

EXPORT Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *handle) {
    return give_by_index(F_nvmlDeviceGetHandleByIndex_v2, index, handle);
}

static Return give_found(int function, const Target *target, Device *handle) {
    Return code = failure_at(target, function);
    if (code != SUCCESS)
        return code;
    if (target->state->instance)
        return instance_handle(target->gpu, target->state, handle);
    *handle = gpu_handle(target->gpu);
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetHandleByUUID(const char *uuid, Device *handle) {
    ENTER_DRIVER(nvmlDeviceGetHandleByUUID);
    if (!uuid || !handle)
        return leave(INVALID_ARGUMENT);
    for (unsigned i = 0; *uuid && i < scenario->gpu_count; i++) {
        Target target;
        find_gpu(i, &target);
        if (strcasecmp(uuid_of(target.state), uuid) == 0)
            return leave(give_found(F_nvmlDeviceGetHandleByUUID, &target, handle));
        for (State *place = target.parent->instances; place; place = place->next) {
            if (place->empty || strcasecmp(uuid_of(place), uuid) != 0)
                continue;
            target.state = place;
            return leave(give_found(F_nvmlDeviceGetHandleByUUID, &target, handle));
        }
    }
    return leave(NOT_FOUND);
}

typedef struct { unsigned domain, bus, device, function; } Address;

static bool is_address(const char *text, Address *address) {
    int end = 0;
    *address = (Address){0, 0, 0, 0};
    if (sscanf(text, "%x:%x:%x.%x%n", &address->domain, &address->bus, &address->device, &address->function, &end) == 4)
        return text[end] == '\0';
    address->domain = 0;
    return sscanf(text, "%x:%x.%x%n", &address->bus, &address->device, &address->function, &end) == 3 &&
           text[end] == '\0';
}

static Return give_by_address(int function, const char *text, Device *handle) {
    Address wanted, found;
    if (!handle || !text || !is_address(text, &wanted))
        return INVALID_ARGUMENT;
    for (unsigned i = 0; i < scenario->gpu_count; i++) {
        Target target;
        find_gpu(i, &target);
        const Value *value = &target.state->texts[T_PCI_BUS_ID];
        if (value->code == SUCCESS && is_address(value->text, &found) && memcmp(&found, &wanted, sizeof found) == 0)
            return give_found(function, &target, handle);
    }
    return NOT_FOUND;
}

EXPORT Return nvmlDeviceGetHandleByPciBusId(const char *text, Device *handle) {
    ENTER_DRIVER(nvmlDeviceGetHandleByPciBusId);
    return leave(give_by_address(F_nvmlDeviceGetHandleByPciBusId, text, handle));
}

EXPORT Return nvmlDeviceGetHandleByPciBusId_v2(const char *text, Device *handle) {
    ENTER_DRIVER(nvmlDeviceGetHandleByPciBusId_v2);
    return leave(give_by_address(F_nvmlDeviceGetHandleByPciBusId_v2, text, handle));
}

static unsigned place_of(const Target *target) {
    unsigned place = 0;
    for (const State *one = target->parent->instances; one && one != target->state; one = one->next)
        place++;
    return place;
}

EXPORT Return nvmlDeviceGetIndex(Device device, unsigned *out) {
    ENTER(nvmlDeviceGetIndex, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    *out = target.state->instance ? place_of(&target) : target.gpu;
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetMinorNumber(Device device, unsigned *out) {
    ENTER(nvmlDeviceGetMinorNumber, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    *out = target.gpu;
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetPciInfo_v3(Device device, PciInfo *info) {
    ENTER(nvmlDeviceGetPciInfo_v3, device);
    const Value *value = &target.state->texts[T_PCI_BUS_ID];
    Address address;
    if (value->code != SUCCESS)
        return leave(value->code);
    if (!info)
        return leave(INVALID_ARGUMENT);
    if (!is_address(value->text, &address))
        return leave(UNKNOWN);
    memset(info, 0, sizeof *info);
    /* The older form has four digits of the domain instead of eight. */
    const char *legacy = strlen(value->text) > sizeof info->legacy_id - 1 ? value->text + 4 : value->text;
    snprintf(info->legacy_id, sizeof info->legacy_id, "%.15s", legacy);
    snprintf(info->id, sizeof info->id, "%.31s", value->text);
    info->domain = address.domain;
    info->bus = address.bus;
    info->device = address.device;
    return leave(SUCCESS);
}

/* ---- memory, utilisation, temperature, clocks -------------------------------------------------------------------- */

/* What the first version calls used has the reserved part in it. */
static Return copy_memory(const State *state, Memory *out, u64 *reserved) {
    const Value *total = &state->numbers[N_MEMORY_TOTAL], *used = &state->numbers[N_MEMORY_USED];
    if (total->code != SUCCESS || used->code != SUCCESS)
        return total->code != SUCCESS ? total->code : used->code;
    if (!out)
        return INVALID_ARGUMENT;
    *reserved = number_or(state, N_MEMORY_RESERVED, 0);
    /* All ones is what a driver says that does not know. */
    bool known = total->number != NOT_AVAILABLE && used->number != NOT_AVAILABLE;
    out->total = total->number;
    out->used = used->number == NOT_AVAILABLE ? NOT_AVAILABLE : used->number + *reserved;
    out->free = known ? total->number - out->used : NOT_AVAILABLE;
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetMemoryInfo(Device device, Memory *out) {
    u64 reserved;
    ENTER(nvmlDeviceGetMemoryInfo, device);
    return leave(copy_memory(target.state, out, &reserved));
}

EXPORT Return nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2 *out) {
    Memory memory;
    u64 reserved;
    ENTER(nvmlDeviceGetMemoryInfo_v2, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    if (out->version != MEMORY_V2)
        return leave(ARGUMENT_VERSION_MISMATCH);
    Return code = copy_memory(target.state, &memory, &reserved);
    if (code != SUCCESS)
        return leave(code);
    out->total = memory.total;
    out->reserved = reserved;
    out->free = memory.free;
    out->used = memory.used == NOT_AVAILABLE ? NOT_AVAILABLE : memory.used - reserved;
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetBAR1MemoryInfo(Device device, Bar1Memory *out) {
    ENTER(nvmlDeviceGetBAR1MemoryInfo, device);
    const Value *total = &target.state->numbers[N_BAR1_TOTAL];
    if (total->code != SUCCESS)
        return leave(total->code);
    if (!out)
        return leave(INVALID_ARGUMENT);
    out->total = total->number;
    out->used = number_or(target.state, N_BAR1_USED, 0);
    out->free = out->total - out->used;
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetUtilizationRates(Device device, Utilization *out) {
    ENTER(nvmlDeviceGetUtilizationRates, device);
    if (in_mig_mode(target.parent))
        return leave(NOT_SUPPORTED);
    if (!out)
        return leave(INVALID_ARGUMENT);
    return leave(copy_pair(&target.state->numbers[N_UTILISATION_GPU], &target.state->numbers[N_UTILISATION_MEMORY],
                           &out->gpu, &out->memory));
}

static Return copy_engine(const Target *target, int which, unsigned *utilisation, unsigned *period) {
    Return code = in_mig_mode(target->parent) ? NOT_SUPPORTED
                                              : copy_unsigned(&target->state->numbers[which], utilisation);
    if (code == SUCCESS && period)
        *period = 167000;
    return code;
}

EXPORT Return nvmlDeviceGetEncoderUtilization(Device device, unsigned *utilisation, unsigned *period) {
    ENTER(nvmlDeviceGetEncoderUtilization, device);
    return leave(copy_engine(&target, N_ENCODER, utilisation, period));
}

EXPORT Return nvmlDeviceGetDecoderUtilization(Device device, unsigned *utilisation, unsigned *period) {
    ENTER(nvmlDeviceGetDecoderUtilization, device);
    return leave(copy_engine(&target, N_DECODER, utilisation, period));
}

EXPORT Return nvmlDeviceGetTemperature(Device device, unsigned sensor, unsigned *out) {
    ENTER(nvmlDeviceGetTemperature, device);
    return leave(sensor ? INVALID_ARGUMENT : copy_unsigned(&target.state->numbers[N_TEMPERATURE], out));
}

EXPORT Return nvmlDeviceGetTemperatureV(Device device, TemperatureV1 *out) {
    ENTER(nvmlDeviceGetTemperatureV, device);
    if (!out || out->sensor)
        return leave(INVALID_ARGUMENT);
    if (out->version != TEMPERATURE_V1)
        return leave(ARGUMENT_VERSION_MISMATCH);
    return leave(copy_unsigned(&target.state->numbers[N_TEMPERATURE], (unsigned *)&out->temperature));
}

EXPORT Return nvmlDeviceGetClockInfo(Device device, unsigned kind, unsigned *out) {
    ENTER(nvmlDeviceGetClockInfo, device);
    return leave(kind > 3 ? INVALID_ARGUMENT : copy_unsigned(&target.state->numbers[N_CLOCK_GRAPHICS + kind], out));
}

EXPORT Return nvmlDeviceGetMaxClockInfo(Device device, unsigned kind, unsigned *out) {
    ENTER(nvmlDeviceGetMaxClockInfo, device);
    return leave(kind > 3 ? INVALID_ARGUMENT : copy_unsigned(&target.state->numbers[N_MAX_CLOCK_GRAPHICS + kind], out));
}

EXPORT Return nvmlDeviceGetTotalEccErrors(Device device, unsigned kind, unsigned counter, u64 *out) {
    ENTER(nvmlDeviceGetTotalEccErrors, device);
    if (kind > 1 || counter > 1)
        return leave(INVALID_ARGUMENT);
    if (number_or(target.state, N_ECC_NOW, 1) == 0)
        return leave(NOT_SUPPORTED);
    return leave(copy_wide(&target.state->numbers[kind ? N_ECC_UNCORRECTED : N_ECC_CORRECTED], out));
}

EXPORT Return nvmlDeviceGetPcieThroughput(Device device, unsigned counter, unsigned *out) {
    ENTER(nvmlDeviceGetPcieThroughput, device);
    if (counter > 1)
        return leave(INVALID_ARGUMENT);
    return leave(copy_unsigned(&target.state->numbers[counter ? N_PCIE_RECEIVED : N_PCIE_SENT], out));
}

enum { TYPE_UNSIGNED = 1, TYPE_U64 = 3 };
typedef struct { unsigned field; int number; unsigned type; } Field;
static const Field fields[] = {
    {82, N_MEMORY_TEMPERATURE, TYPE_UNSIGNED}, {83, N_ENERGY, TYPE_U64},
    {185, N_POWER, TYPE_UNSIGNED},             {186, N_POWER, TYPE_UNSIGNED},
    {188, N_POWER_LIMIT, TYPE_UNSIGNED},       {189, N_POWER_LIMIT, TYPE_UNSIGNED},
    {190, N_POWER_LIMIT, TYPE_UNSIGNED},       {191, N_ENERGY, TYPE_U64},
    {230, N_RECOVERY_ACTION, TYPE_UNSIGNED},
};

static void fill_field(const State *state, FieldValue *value) {
    value->time = (int64_t)now_microseconds();
    value->latency = 0;
    value->code = NOT_SUPPORTED;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const Field *field = &fields[i];
        if (field->field != value->field || value->scope != 0)
            continue;
        value->type = field->type;
        value->value.ull = 0;
        value->code = field->type == TYPE_U64 ? copy_wide(&state->numbers[field->number], &value->value.ull)
                                              : copy_unsigned(&state->numbers[field->number], &value->value.ui);
    }
}

EXPORT Return nvmlDeviceGetFieldValues(Device device, int count, FieldValue *values) {
    ENTER(nvmlDeviceGetFieldValues, device);
    if (count <= 0 || !values)
        return leave(INVALID_ARGUMENT);
    for (int i = 0; i < count; i++)
        fill_field(target.state, &values[i]);
    return leave(SUCCESS);
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

/* The inode of the caller's PID namespace; 0 where /proc does not tell. */
static u64 own_namespace(void) {
    char text[64];
    u64 space = 0;
    ssize_t size = readlink("/proc/self/ns/pid", text, sizeof text - 1);
    if (size <= 0)
        return 0;
    text[size] = '\0';
    return sscanf(text, "pid:[%llu]", &space) == 1 ? space : 0;
}

static bool at_home(u64 space) {
    return !scenario->translated || scenario->space == 0 || space == 0 || space == scenario->space;
}

/* Whether a caller in this namespace sees the process, and as which number. */
static bool seen(const Pid *pid, u64 space, unsigned *as) {
    *as = pid->pid;
    if (at_home(space))
        return true;
    for (unsigned i = 0; i < pid->aliases; i++)
        if (pid->alias[i].space == space) {
            *as = pid->alias[i].pid;
            return true;
        }
    return false;
}

typedef struct {
    ProcessInfo *found;
    unsigned room, count;
} Listing;

static void list_process(Listing *listing, const Process *process, const State *instance, u64 space) {
    unsigned pid;
    if (!seen(&process->pid, space, &pid))
        return;
    if (listing->found && listing->count < listing->room) {
        ProcessInfo *info = &listing->found[listing->count];
        info->pid = pid;
        info->used = process->memory;
        info->gpu_instance = instance ? instance_number(instance, N_GPU_INSTANCE) : process->gpu_instance;
        info->compute_instance = instance ? instance_number(instance, N_COMPUTE_INSTANCE) : process->compute_instance;
    }
    listing->count++;
}

/* Those of a GPU with all of its instances, or of one instance. */
static Return list_processes(const Target *target, unsigned kinds, Listing *listing) {
    const State *state = target->state;
    u64 space = own_namespace();
    if (state->lists[L_PROCESSES].code != SUCCESS)
        return state->lists[L_PROCESSES].code;
    for (const Process *process = state->processes; process; process = process->next)
        if (process->kinds & kinds)
            list_process(listing, process, state->instance ? state : NULL, space);
    for (const State *place = state->instances; place; place = place->next)
        for (const Process *process = place->processes; process; process = process->next)
            if (process->kinds & kinds)
                list_process(listing, process, place, space);
    for (const Process *process = state->instance ? target->parent->processes : NULL; process; process = process->next)
        if ((process->kinds & kinds) && process->gpu_instance != NO_INSTANCE &&
            process->gpu_instance == instance_number(state, N_GPU_INSTANCE) &&
            process->compute_instance == instance_number(state, N_COMPUTE_INSTANCE))
            list_process(listing, process, NULL, space);
    return SUCCESS;
}

/* Both calls of a process list: for the size without a buffer, then with one. */
static Return give_processes(const Target *target, unsigned kind, unsigned *count, ProcessInfo *out) {
    if (!count)
        return INVALID_ARGUMENT;
    Listing listing = {out, out ? *count : 0, 0};
    Return code = list_processes(target, kind, &listing);
    if (code != SUCCESS)
        return code;
    *count = listing.count;
    return listing.room < listing.count ? INSUFFICIENT_SIZE : SUCCESS;
}

#define PROCESSES_OF(function, kind)                                                                                   \
    EXPORT Return function(Device device, unsigned *count, ProcessInfo *out) {                                         \
        ENTER(function, device);                                                                                       \
        return leave(give_processes(&target, kind, count, out));                                                       \
    }

PROCESSES_OF(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE)
PROCESSES_OF(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE)
PROCESSES_OF(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS)
PROCESSES_OF(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS)
PROCESSES_OF(nvmlDeviceGetMPSComputeRunningProcesses_v2, MPS)
PROCESSES_OF(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS)

EXPORT Return nvmlDeviceGetRunningProcessDetailList(Device device, ProcessDetailList *out) {
    static const unsigned kinds[] = {COMPUTE, GRAPHICS, MPS, COMPUTE | GRAPHICS | MPS};
    ENTER(nvmlDeviceGetRunningProcessDetailList, device);
    if (!out || out->mode > 3)
        return leave(INVALID_ARGUMENT);
    if (out->version != PROCESS_DETAILS_V1)
        return leave(ARGUMENT_VERSION_MISMATCH);
    Listing counted = {0};
    Return code = list_processes(&target, kinds[out->mode], &counted);
    if (code != SUCCESS)
        return leave(code);
    unsigned room = out->processes ? out->count : 0;
    out->count = counted.count;
    if (room < counted.count)
        return leave(INSUFFICIENT_SIZE);
    if (counted.count == 0)
        return leave(SUCCESS);
    Listing listing = {calloc(counted.count, sizeof(ProcessInfo)), counted.count, 0};
    if (!listing.found)
        return leave(OUT_OF_MEMORY);
    list_processes(&target, kinds[out->mode], &listing);
    for (unsigned i = 0; i < counted.count; i++) {
        const ProcessInfo *info = &listing.found[i];
        out->processes[i] = (ProcessDetail){info->pid, info->used, info->gpu_instance, info->compute_instance, 0};
    }
    free(listing.found);
    return leave(SUCCESS);
}

/* The newest sample of each process since a time, as (time, sample) in the order of the processes' first samples. */
typedef struct { u64 time; const Sample *sample; unsigned pid; } Timed;

static int by_time(const void *one, const void *other) {
    const Timed *a = one, *b = other;
    if (a->time != b->time)
        return a->time < b->time ? -1 : 1;
    return a->pid < b->pid ? -1 : a->pid > b->pid; /* here `pid` is still the place in the file */
}

static Return newest_samples(const Target *target, u64 since, Timed **found, unsigned *count) {
    const State *state = target->state;
    *found = NULL;
    *count = 0;
    if (in_mig_mode(target->parent))
        return NOT_SUPPORTED;
    if (state->lists[L_SAMPLES].code != SUCCESS)
        return state->lists[L_SAMPLES].code;
    unsigned all = 0, kept = 0;
    for (const Sample *sample = state->samples; sample; sample = sample->next)
        all++;
    Timed *timed = calloc(all + 1, sizeof(Timed));
    if (!timed)
        return OUT_OF_MEMORY;
    all = 0;
    for (const Sample *sample = state->samples; sample; sample = sample->next) {
        u64 time = sample->now ? now_microseconds() : sample->time;
        if (time > since)
            timed[all] = (Timed){time, sample, all}, all++;
    }
    qsort(timed, all, sizeof(Timed), by_time);
    u64 space = own_namespace();
    for (unsigned i = 0; i < all; i++) {
        unsigned place = 0;
        Timed one = timed[i];
        /* A process that the caller does not see keeps its number in the scenario's namespace, as with a driver. */
        seen(&one.sample->pid, space, &one.pid);
        while (place < kept && timed[place].pid != one.pid)
            place++;
        timed[place] = one;
        kept += place == kept;
    }
    *found = timed;
    *count = kept;
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetProcessUtilization(Device device, ProcessSample *out, unsigned *count, u64 since) {
    Timed *found;
    unsigned size;
    ENTER(nvmlDeviceGetProcessUtilization, device);
    if (!count)
        return leave(INVALID_ARGUMENT);
    Return code = newest_samples(&target, since, &found, &size);
    if (code != SUCCESS)
        return leave(code);
    unsigned room = out ? *count : 0;
    *count = out ? size : SAMPLE_BUFFER > size ? SAMPLE_BUFFER : size;
    code = !out || room < size ? INSUFFICIENT_SIZE : size == 0 ? NOT_FOUND : SUCCESS;
    for (unsigned i = 0; code == SUCCESS && i < size; i++) {
        const Sample *sample = found[i].sample;
        out[i] = (ProcessSample){found[i].pid,   found[i].time,   sample->sm,
                                 sample->memory, sample->encoder, sample->decoder};
    }
    free(found);
    return leave(code);
}

EXPORT Return nvmlDeviceGetProcessesUtilizationInfo(Device device, ProcessSamples *out) {
    Timed *found;
    unsigned size;
    ENTER(nvmlDeviceGetProcessesUtilizationInfo, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    if (out->version != PROCESS_SAMPLES_V1)
        return leave(ARGUMENT_VERSION_MISMATCH);
    Return code = newest_samples(&target, out->since, &found, &size);
    if (code != SUCCESS)
        return leave(code);
    unsigned room = out->samples ? out->count : 0;
    out->count = out->samples ? size : SAMPLE_BUFFER > size ? SAMPLE_BUFFER : size;
    code = !out->samples || room < size ? INSUFFICIENT_SIZE : size == 0 ? NOT_FOUND : SUCCESS;
    for (unsigned i = 0; code == SUCCESS && i < size; i++) {
        const Sample *sample = found[i].sample;
        out->samples[i] = (ProcessSampleV2){found[i].time,   found[i].pid,    sample->sm,   sample->memory,
                                            sample->encoder, sample->decoder, sample->jpeg, sample->flow};
    }
    free(found);
    return leave(code);
}

/* ---- accounting -------------------------------------------------------------------------------------------------- */

NUMBER_OF(nvmlDeviceGetAccountingBufferSize, N_ACCOUNTING_BUFFER)

EXPORT Return nvmlDeviceGetAccountingMode(Device device, unsigned *out) {
    ENTER(nvmlDeviceGetAccountingMode, device);
    Return code = copy_unsigned(&target.state->numbers[N_ACCOUNTING_MODE], out);
    if (code == SUCCESS && in_mig_mode(target.parent))
        *out = 0;
    return leave(code);
}

/* Lasts until the file changes, and only in this process. */
EXPORT Return nvmlDeviceSetAccountingMode(Device device, unsigned mode) {
    ENTER(nvmlDeviceSetAccountingMode, device);
    Value *value = &target.state->numbers[N_ACCOUNTING_MODE];
    if (mode > 1)
        return leave(INVALID_ARGUMENT);
    if (value->code != SUCCESS || in_mig_mode(target.parent))
        return leave(value->code != SUCCESS ? value->code : NOT_SUPPORTED);
    if (geteuid() != 0)
        return leave(NO_PERMISSION);
    value->number = mode;
    return leave(SUCCESS);
}

static Return accounts(const Target *target) {
    const Value *mode = &target->state->numbers[N_ACCOUNTING_MODE];
    if (mode->code != SUCCESS)
        return mode->code;
    if (mode->number != 1 || in_mig_mode(target->parent))
        return NOT_SUPPORTED;
    return target->state->lists[L_ACCOUNTING].code;
}

/* The dead are told only to the first namespace, which is the scenario's as well as the machine's. */
static bool accounted_for(const Accounted *one, u64 space, unsigned *pid) {
    if (!seen(&one->pid, space, pid))
        return false;
    return one->stats.running || space == FIRST_NAMESPACE || at_home(space);
}

EXPORT Return nvmlDeviceGetAccountingPids(Device device, unsigned *count, unsigned *pids) {
    ENTER(nvmlDeviceGetAccountingPids, device);
    Return code = count ? accounts(&target) : INVALID_ARGUMENT;
    if (code != SUCCESS)
        return leave(code);
    unsigned room = pids ? *count : 0, found = 0, pid;
    u64 space = own_namespace();
    for (const Accounted *one = target.state->accounted; one; one = one->next) {
        if (!accounted_for(one, space, &pid))
            continue;
        if (found < room)
            pids[found] = pid;
        found++;
    }
    *count = found;
    return leave(room < found ? INSUFFICIENT_SIZE : SUCCESS);
}

EXPORT Return nvmlDeviceGetAccountingStats(Device device, unsigned pid, AccountingStats *out) {
    ENTER(nvmlDeviceGetAccountingStats, device);
    Return code = out ? accounts(&target) : INVALID_ARGUMENT;
    const Accounted *found = NULL;
    u64 space = own_namespace();
    unsigned as;
    for (const Accounted *one = target.state->accounted; one; one = one->next)
        if (accounted_for(one, space, &as) && as == pid)
            found = one; /* of two with one number the later counts */
    if (code == SUCCESS && found)
        *out = found->stats;
    return leave(code != SUCCESS ? code : found ? SUCCESS : NOT_FOUND);
}

/* ---- MIG --------------------------------------------------------------------------------------------------------- */

EXPORT Return nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *out) {
    ENTER(nvmlDeviceGetMaxMigDeviceCount, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    *out = target.state->places;
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *out) {
    ENTER(nvmlDeviceGetMigDeviceHandleByIndex, device);
    if (!out || target.state->instance)
        return leave(INVALID_ARGUMENT);
    if (target.state->numbers[N_MIG_NOW].code != SUCCESS)
        return leave(target.state->numbers[N_MIG_NOW].code);
    if (!in_mig_mode(target.state))
        return leave(NOT_FOUND);
    if (index >= target.state->places)
        return leave(INVALID_ARGUMENT);
    State *place = target.state->instances;
    for (unsigned i = 0; i < index; i++)
        place = place->next;
    if (place->empty)
        return leave(NOT_FOUND);
    target.state = place;
    return leave(give_found(F_nvmlDeviceGetMigDeviceHandleByIndex, &target, out));
}

EXPORT Return nvmlDeviceIsMigDeviceHandle(Device device, unsigned *out) {
    ENTER(nvmlDeviceIsMigDeviceHandle, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    *out = target.state->instance;
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device device, Device *out) {
    ENTER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device);
    if (!out || !target.state->instance)
        return leave(INVALID_ARGUMENT);
    *out = gpu_handle(target.gpu);
    return leave(SUCCESS);
}

static Return copy_instance_number(const Target *target, int which, unsigned *out) {
    return target->state->instance ? copy_unsigned(&target->state->numbers[which], out) : INVALID_ARGUMENT;
}

EXPORT Return nvmlDeviceGetGpuInstanceId(Device device, unsigned *out) {
    ENTER(nvmlDeviceGetGpuInstanceId, device);
    return leave(copy_instance_number(&target, N_GPU_INSTANCE, out));
}

EXPORT Return nvmlDeviceGetComputeInstanceId(Device device, unsigned *out) {
    ENTER(nvmlDeviceGetComputeInstanceId, device);
    return leave(copy_instance_number(&target, N_COMPUTE_INSTANCE, out));
}

static Return copy_attributes(const State *state, Attributes *out) {
    const Value *memory = &state->numbers[N_ATTRIBUTE_MEMORY];
    if (memory->code != SUCCESS)
        return memory->code;
    if (!out)
        return INVALID_ARGUMENT;
    *out = (Attributes){(unsigned)number_or(state, N_ATTRIBUTE_MULTIPROCESSORS, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_COPY_ENGINES, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_DECODERS, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_ENCODERS, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_JPEGS, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_FLOWS, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_GPU_SLICES, 0),
                        (unsigned)number_or(state, N_ATTRIBUTE_COMPUTE_SLICES, 0),
                        memory->number};
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetAttributes(Device device, Attributes *out) {
    ENTER(nvmlDeviceGetAttributes, device);
    return leave(copy_attributes(target.state, out));
}

EXPORT Return nvmlDeviceGetAttributes_v2(Device device, Attributes *out) {
    ENTER(nvmlDeviceGetAttributes_v2, device);
    return leave(copy_attributes(target.state, out));
}

/* ---- GPM: figures of the hardware between two samples ------------------------------------------------------------ */

#define GPM_VALUES 64
typedef struct GpmSample {
    struct GpmSample *next;
    bool taken;
    int64_t at;
    Device device;
    unsigned count, ids[GPM_VALUES];
    double values[GPM_VALUES];
} GpmSample;

static GpmSample *gpm_samples;

static GpmSample *gpm_sample(const void *handle) {
    GpmSample *sample = gpm_samples;
    while (sample && sample != handle)
        sample = sample->next;
    return sample;
}

EXPORT Return nvmlGpmQueryDeviceSupport(Device device, GpmSupport *out) {
    ENTER(nvmlGpmQueryDeviceSupport, device);
    if (!out)
        return leave(INVALID_ARGUMENT);
    if (out->version != 1)
        return leave(ARGUMENT_VERSION_MISMATCH);
    out->supported = target.state->lists[L_GPM].code == SUCCESS;
    for (const State *place = target.state->instances; place; place = place->next)
        out->supported |= place->lists[L_GPM].code == SUCCESS;
    return leave(SUCCESS);
}

EXPORT Return nvmlGpmSampleAlloc(void **out) {
    ENTER_DRIVER(nvmlGpmSampleAlloc);
    GpmSample *sample = out ? calloc(1, sizeof(GpmSample)) : NULL;
    if (!sample)
        return leave(out ? OUT_OF_MEMORY : INVALID_ARGUMENT);
    sample->next = gpm_samples;
    gpm_samples = sample;
    *out = sample;
    return leave(SUCCESS);
}

EXPORT Return nvmlGpmSampleFree(void *handle) {
    ENTER_DRIVER(nvmlGpmSampleFree);
    GpmSample **at = &gpm_samples;
    while (*at && *at != handle)
        at = &(*at)->next;
    if (!*at)
        return leave(INVALID_ARGUMENT);
    *at = (*at)->next;
    free(handle);
    return leave(SUCCESS);
}

static Return take_gpm(const State *state, Device device, GpmSample *sample) {
    if (!sample)
        return INVALID_ARGUMENT;
    if (state->lists[L_GPM].code != SUCCESS)
        return state->lists[L_GPM].code;
    sample->taken = true;
    sample->at = monotonic_nanoseconds();
    sample->device = device;
    sample->count = 0;
    for (const GpmValue *metric = state->metrics; metric && sample->count < GPM_VALUES; metric = metric->next) {
        sample->ids[sample->count] = metric->id;
        sample->values[sample->count++] = metric->value;
    }
    return SUCCESS;
}

EXPORT Return nvmlGpmSampleGet(Device device, void *handle) {
    ENTER(nvmlGpmSampleGet, device);
    return leave(take_gpm(target.state, device, gpm_sample(handle)));
}

EXPORT Return nvmlGpmMigSampleGet(Device device, unsigned gpu_instance, void *handle) {
    ENTER(nvmlGpmMigSampleGet, device);
    for (State *place = target.state->instances; place; place = place->next) {
        Device instance;
        if (place->empty || instance_number(place, N_GPU_INSTANCE) != gpu_instance)
            continue;
        target.state = place;
        Return code = give_found(F_nvmlGpmMigSampleGet, &target, &instance);
        return leave(code == SUCCESS ? take_gpm(place, instance, gpm_sample(handle)) : code);
    }
    return leave(target.state->lists[L_INSTANCES].code == SUCCESS ? NOT_FOUND : NOT_SUPPORTED);
}

static MetricInfo metric_info(unsigned id) {
    switch (id) {
    case 1: return (MetricInfo){"GRACT", "Graphics Engine Activity", "%"};
    case 2: return (MetricInfo){"SMACT", "SM Activity", "%"};
    case 3: return (MetricInfo){"SMOCC", "SM Occupancy", "%"};
    case 5: return (MetricInfo){"TENSO", "Tensor Activity", "%"};
    case 10: return (MetricInfo){"DRAMA", "DRAM Activity", "%"};
    default: return (MetricInfo){NULL, NULL, NULL};
    }
}

EXPORT Return nvmlGpmMetricsGet(MetricsGet *out) {
    ENTER_DRIVER(nvmlGpmMetricsGet);
    if (!out || out->count > METRICS)
        return leave(INVALID_ARGUMENT);
    if (out->version != 1)
        return leave(ARGUMENT_VERSION_MISMATCH);
    const GpmSample *first = gpm_sample(out->first), *second = gpm_sample(out->second);
    if (!first || !second || !first->taken || !second->taken || first->device != second->device)
        return leave(INVALID_ARGUMENT);
    if (second->at - first->at < GPM_NANOSECONDS)
        return leave(NO_DATA);
    for (unsigned i = 0; i < out->count; i++) {
        Metric *metric = &out->metrics[i];
        metric->code = NOT_SUPPORTED;
        metric->info = metric_info(metric->id);
        for (unsigned k = 0; k < second->count; k++)
            if (second->ids[k] == metric->id) {
                metric->value = second->values[k];
                metric->code = SUCCESS;
            }
    }
    return leave(SUCCESS);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

/* How many of an event, which may be in the file several times, a set has delivered. */
typedef struct Delivered {
    struct Delivered *next;
    unsigned gpu, count;
    Event event;
} Delivered;

typedef struct Watch {
    struct Watch *next;
    unsigned gpu;
    u64 types;
} Watch;

typedef struct EventSet {
    struct EventSet *next;
    Watch *watches;
    Delivered *delivered;
} EventSet;

static EventSet *event_sets;

static void free_list(void *list) {
    for (void *one = list, *next; one; one = next) {
        next = *(void **)one;
        free(one);
    }
}

static void free_set(EventSet *set) {
    free_list(set->watches);
    free_list(set->delivered);
    free(set);
}

static void forget_events(void) {
    for (EventSet *next; event_sets; event_sets = next) {
        next = event_sets->next;
        free_set(event_sets);
    }
}

static EventSet *event_set(const void *handle) {
    EventSet *set = event_sets;
    while (set && set != handle)
        set = set->next;
    return set;
}

static bool same_event(const Event *one, const Event *other) {
    return one->type == other->type && one->data == other->data && one->time == other->time &&
           one->gpu_instance == other->gpu_instance && one->compute_instance == other->compute_instance;
}

static Delivered *delivered(EventSet *set, unsigned gpu, const Event *event) {
    Delivered *one = set->delivered;
    while (one && !(one->gpu == gpu && same_event(&one->event, event)))
        one = one->next;
    if (!one && (one = calloc(1, sizeof(Delivered)))) {
        one->gpu = gpu;
        one->event = *event;
        one->next = set->delivered;
        set->delivered = one;
    }
    return one;
}

/* The next event of a GPU that this set has not had yet; NULL if there is none. */
static const Event *next_event(EventSet *set, const Watch *watch) {
    Target target;
    if (!find_gpu(watch->gpu, &target))
        return NULL;
    for (const Event *event = target.state->events; event; event = event->next) {
        if (!(event->type & watch->types) || event->time > now_microseconds())
            continue;
        unsigned before = 0;
        for (const Event *other = target.state->events; other != event; other = other->next)
            before += same_event(other, event);
        Delivered *count = delivered(set, watch->gpu, event);
        if (count && before >= count->count) {
            count->count++;
            return event;
        }
    }
    return NULL;
}

static bool deliver(EventSet *set, EventData *out) {
    for (const Watch *watch = set->watches; watch; watch = watch->next) {
        const Event *event = next_event(set, watch);
        if (!event)
            continue;
        *out = (EventData){gpu_handle(watch->gpu), event->type, event->data, event->gpu_instance,
                           event->compute_instance};
        return true;
    }
    return false;
}

EXPORT Return nvmlEventSetCreate(void **out) {
    ENTER_DRIVER(nvmlEventSetCreate);
    EventSet *set = out ? calloc(1, sizeof(EventSet)) : NULL;
    if (!set)
        return leave(out ? OUT_OF_MEMORY : INVALID_ARGUMENT);
    set->next = event_sets;
    event_sets = set;
    *out = set;
    return leave(SUCCESS);
}

EXPORT Return nvmlEventSetFree(void *handle) {
    ENTER_DRIVER(nvmlEventSetFree);
    EventSet **at = &event_sets;
    while (*at && *at != handle)
        at = &(*at)->next;
    if (!*at)
        return leave(INVALID_ARGUMENT);
    EventSet *set = *at;
    *at = set->next;
    free_set(set);
    return leave(SUCCESS);
}

EXPORT Return nvmlDeviceGetSupportedEventTypes(Device device, u64 *out) {
    ENTER(nvmlDeviceGetSupportedEventTypes, device);
    const Value *events = &target.state->lists[L_EVENTS];
    if (!out)
        return leave(INVALID_ARGUMENT);
    if (events->code == SUCCESS)
        *out = 0x1F;
    return leave(events->code);
}

EXPORT Return nvmlDeviceRegisterEvents(Device device, u64 types, void *handle) {
    ENTER(nvmlDeviceRegisterEvents, device);
    EventSet *set = event_set(handle);
    if (!set || target.state->instance)
        return leave(INVALID_ARGUMENT);
    if (target.state->lists[L_EVENTS].code != SUCCESS)
        return leave(target.state->lists[L_EVENTS].code);
    Watch *watch = set->watches;
    while (watch && watch->gpu != target.gpu)
        watch = watch->next;
    if (!watch) {
        if (!(watch = calloc(1, sizeof(Watch))))
            return leave(OUT_OF_MEMORY);
        watch->gpu = target.gpu;
        append(&set->watches, watch);
    }
    watch->types |= types;
    return leave(SUCCESS);
}

static Return wait_for_event(int function, void *handle, EventData *out, unsigned milliseconds) {
    int64_t deadline = monotonic_nanoseconds() + (int64_t)milliseconds * 1000000;
    Return code = enter(function, NULL, NULL);
    if (code != SUCCESS)
        return code;
    for (;;) {
        EventSet *set = event_set(handle);
        if (!set || !out)
            return leave(INVALID_ARGUMENT);
        if (deliver(set, out))
            return leave(SUCCESS);
        int64_t left = deadline - monotonic_nanoseconds();
        if (left <= 0)
            return leave(TIMEOUT);
        pthread_mutex_unlock(&lock);
        nap(left < 10000000 ? (u64)left / 1000 + 1 : 10000);
        pthread_mutex_lock(&lock);
        refresh();
        if ((code = admit(function, NULL, NULL)) != SUCCESS)
            return leave(code);
    }
}

EXPORT Return nvmlEventSetWait(void *handle, EventData *out, unsigned milliseconds) {
    return wait_for_event(F_nvmlEventSetWait, handle, out, milliseconds);
}

EXPORT Return nvmlEventSetWait_v2(void *handle, EventData *out, unsigned milliseconds) {
    return wait_for_event(F_nvmlEventSetWait_v2, handle, out, milliseconds);
}

/* ---- limits on the memory of a cgroup ---------------------------------------------------------------------------- */

static Return limitable(const Target *target, const char *space) {
    if (target->state->instance || in_mig_mode(target->parent))
        return NOT_SUPPORTED;
    if (target->state->lists[L_MEMORY_LIMITS].code != SUCCESS)
        return target->state->lists[L_MEMORY_LIMITS].code;
    return space && *space == '/' && !strpbrk(space, "\t\n") ? SUCCESS : INVALID_ARGUMENT;
}

static FILE *limits_file(const char *mode) {
    char path[PATH_MAX];
    const char *name = scenario_path();
    if (!name || snprintf(path, sizeof path, "%s.limits", name) >= (int)sizeof path)
        return NULL;
    return fopen(path, mode);
}

EXPORT Return nvmlDeviceSetMemoryLimits_v1(Device device, const SetLimits *limits) {
    ENTER(nvmlDeviceSetMemoryLimits_v1, device);
    Return code = limits ? limitable(&target, limits->space) : INVALID_ARGUMENT;
    if (code != SUCCESS)
        return leave(code);
    FILE *file = limits_file("ae");
    if (!file)
        return leave(UNKNOWN);
    fprintf(file, "%s\t%s\t%llu\t%llu\n", uuid_of(target.state), limits->space, limits->hard, limits->soft);
    return leave(fclose(file) == 0 ? SUCCESS : UNKNOWN);
}

/* The last limits that any process set for this GPU and cgroup. */
static void find_limits(const char *uuid, GetLimits *out) {
    FILE *file = limits_file("re");
    char *line = NULL;
    size_t room = 0;
    while (file && getline(&line, &room, file) > 0) {
        char *rest = line, *one = strsep(&rest, "\t"), *space = strsep(&rest, "\t");
        u64 hard, soft;
        if (!rest || strcmp(one, uuid) != 0 || strcmp(space, out->space) != 0)
            continue;
        if (sscanf(rest, "%llu\t%llu", &hard, &soft) == 2) {
            out->hard = hard;
            out->soft = soft;
        }
    }
    free(line);
    if (file)
        fclose(file);
}

EXPORT Return nvmlDeviceGetMemoryLimits_v1(Device device, GetLimits *limits) {
    ENTER(nvmlDeviceGetMemoryLimits_v1, device);
    Return code = limits ? limitable(&target, limits->space) : INVALID_ARGUMENT;
    if (code != SUCCESS)
        return leave(code);
    limits->hard = NOT_AVAILABLE;
    limits->soft = limits->used = 0;
    find_limits(uuid_of(target.state), limits);
    for (const Used *used = target.state->used; used; used = used->next)
        if (strcmp(used->group, limits->space) == 0)
            limits->used = used->bytes;
    return leave(SUCCESS);
}
