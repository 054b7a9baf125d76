// A stand-in for NVIDIA's management library: GPUs as a file beside this library says, `gpus.txt`, read again at each call.
//
// One line a thing, its words separated by tabs, values as key=value:
//
//   driver   version=550.54.15 cuda=12040
//   init     error=9                      (nvmlInit fails with that code)
//   hang                                  (every call waits until the line is gone)
//   gpu      uuid=GPU-… name=… bus=00000000:01:00.0 minor=0 memory=… used=… cc=9.0 sm=… mem=… power=… limit=… temp=…
//            throttle=… ecc=corrected,uncorrected pids=1,2 mig=1 vgpu=1 error=15 xid=79 hang=1
//   mig      uuid=MIG-… name=… memory=…   (a slice of the gpu above it)
//
// A key that is missing is a value that the device does not support.

#include <dlfcn.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
};

typedef std::map<std::string, std::string> Words;

struct Gpu {
    Words words;
    std::vector<Words> slices;
};

struct Machine {
    Words driver;
    int init = SUCCESS;
    bool hangs = false;
    std::vector<Gpu> gpus;
};

std::string folder() {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void *>(&folder), &info) || !info.dli_fname) return ".";
    std::string path = info.dli_fname;
    size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::vector<std::string> split(const std::string &text, char at) {
    std::vector<std::string> parts;
    size_t from = 0;
    for (;;) {
        size_t to = text.find(at, from);
        parts.push_back(text.substr(from, to == std::string::npos ? to : to - from));
        if (to == std::string::npos) return parts;
        from = to + 1;
    }
}

Machine read_once() {
    Machine machine;
    FILE *file = fopen((folder() + "/gpus.txt").c_str(), "r");
    if (!file) return machine;
    char line[8192];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        std::vector<std::string> parts = split(line, '\t');
        Words words;
        for (size_t i = 1; i < parts.size(); i++) {
            size_t equals = parts[i].find('=');
            if (equals != std::string::npos)
                words[parts[i].substr(0, equals)] = parts[i].substr(equals + 1);
        }
        if (parts[0] == "driver") machine.driver = words;
        if (parts[0] == "init") machine.init = atoi(words["error"].c_str());
        if (parts[0] == "hang") machine.hangs = true;
        if (parts[0] == "gpu") machine.gpus.push_back(Gpu{words, {}});
        if (parts[0] == "mig" && !machine.gpus.empty()) machine.gpus.back().slices.push_back(words);
    }
    fclose(file);
    return machine;
}

void nap() {
    timespec span = {0, 10 * 1000 * 1000};
    nanosleep(&span, nullptr);
}

Machine read_machine() {
    Machine machine = read_once();
    while (machine.hangs) {
        nap();
        machine = read_once();
    }
    return machine;
}

// A handle is the GPU's number plus one, and 256 times the slice's number plus one.
void *handle(size_t gpu, size_t slice_plus_one) {
    return reinterpret_cast<void *>(gpu + 1 + (slice_plus_one << 8));
}

// What a handle names now: the words of the GPU and those of the slice, where it is one.
struct Named {
    int error = SUCCESS;
    Words gpu;
    Words own;
    bool is_slice = false;
    size_t slices = 0;
};

Named named(void *device) {
    size_t number = reinterpret_cast<size_t>(device);
    size_t gpu = (number & 255) - 1, slice = number >> 8;
    Named named;
    for (;;) {
        Machine machine = read_machine();
        if ((number & 255) == 0 || gpu >= machine.gpus.size()) {
            named.error = INVALID_ARGUMENT;
            return named;
        }
        Gpu &found = machine.gpus[gpu];
        if (found.words.count("hang")) {
            nap();
            continue;
        }
        if (found.words.count("error")) named.error = atoi(found.words["error"].c_str());
        if (slice > found.slices.size()) named.error = INVALID_ARGUMENT;
        if (named.error) return named;
        named.gpu = found.words;
        named.own = slice ? found.slices[slice - 1] : found.words;
        named.is_slice = slice > 0;
        named.slices = found.slices.size();
        return named;
    }
}

int text(const std::string &value, char *out, unsigned length) {
    if (value.size() + 1 > length) return INSUFFICIENT_SIZE;
    memcpy(out, value.c_str(), value.size() + 1);
    return SUCCESS;
}

int own_text(void *device, const char *key, char *out, unsigned length) {
    Named found = named(device);
    if (found.error) return found.error;
    if (!found.own.count(key)) return NOT_SUPPORTED;
    return text(found.own[key], out, length);
}

// A number of the whole GPU. A slice supports none of them.
int number_of(void *device, const char *key, unsigned long long *out) {
    Named found = named(device);
    if (found.error) return found.error;
    if (found.is_slice || !found.gpu.count(key)) return NOT_SUPPORTED;
    *out = strtoull(found.gpu[key].c_str(), nullptr, 10);
    return SUCCESS;
}

int small_number(void *device, const char *key, unsigned *out) {
    unsigned long long value = 0;
    int error = number_of(device, key, &value);
    if (!error) *out = static_cast<unsigned>(value);
    return error;
}

struct Pci {
    char bus_legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};

struct MemoryV2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

struct Process {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};

struct EventData {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};

struct EventSet {
    std::vector<void *> devices;
    std::map<void *, std::string> told;
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int nvmlInit_v2() { return read_machine().init; }
EXPORT int nvmlInitWithFlags(unsigned) { return read_machine().init; }
EXPORT int nvmlShutdown() { return SUCCESS; }

EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned length) {
    return text(read_machine().driver["version"], out, length);
}

EXPORT int nvmlSystemGetNVMLVersion(char *out, unsigned length) {
    return text("12." + read_machine().driver["version"], out, length);
}

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = atoi(read_machine().driver["cuda"].c_str());
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *out) {
    *out = static_cast<unsigned>(read_machine().gpus.size());
    return SUCCESS;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    void *device = handle(index, 0);
    int error = named(device).error;
    if (!error) *out = device;
    return error;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    Machine machine = read_machine();
    for (size_t gpu = 0; gpu < machine.gpus.size(); gpu++) {
        if (machine.gpus[gpu].words["uuid"] == uuid) {
            *out = handle(gpu, 0);
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

EXPORT int nvmlDeviceGetUUID(void *device, char *out, unsigned length) {
    return own_text(device, "uuid", out, length);
}

EXPORT int nvmlDeviceGetName(void *device, char *out, unsigned length) {
    return own_text(device, "name", out, length);
}

EXPORT int nvmlDeviceGetMinorNumber(void *device, unsigned *out) {
    return small_number(device, "minor", out);
}

EXPORT int nvmlDeviceGetPciInfo_v3(void *device, Pci *out) {
    Named found = named(device);
    if (found.error) return found.error;
    if (found.is_slice || !found.gpu.count("bus")) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    sscanf(found.gpu["bus"].c_str(), "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->bus_id, sizeof out->bus_id, "%s", found.gpu["bus"].c_str());
    snprintf(out->bus_legacy, sizeof out->bus_legacy, "%04x:%02x:%02x.0", out->domain & 0xffff,
             out->bus & 0xff, out->device & 0xff);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(void *device, MemoryV2 *out) {
    Named found = named(device);
    if (found.error) return found.error;
    out->total = strtoull(found.own["memory"].c_str(), nullptr, 10);
    out->used = strtoull(found.own["used"].c_str(), nullptr, 10);
    out->reserved = 0;
    out->free = out->total - out->used;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    Named found = named(device);
    if (found.error) return found.error;
    if (found.is_slice || !found.gpu.count("cc")) return NOT_SUPPORTED;
    sscanf(found.gpu["cc"].c_str(), "%d.%d", major, minor);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    int error = small_number(device, "mig", current);
    if (!error) *pending = *current;
    return error;
}

// The number of slots: seven, however many hold a slice.
EXPORT int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *out) {
    Named found = named(device);
    if (!found.error) *out = 7;
    return found.error;
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **out) {
    Named found = named(device);
    if (found.error) return found.error;
    if (index >= found.slices) return NOT_FOUND;
    *out = handle((reinterpret_cast<size_t>(device) & 255) - 1, index + 1);
    return SUCCESS;
}

EXPORT int nvmlDeviceIsMigDeviceHandle(void *device, unsigned *out) {
    Named found = named(device);
    if (!found.error) *out = found.is_slice ? 1 : 0;
    return found.error;
}

EXPORT int nvmlDeviceGetVirtualizationMode(void *device, unsigned *out) {
    Named found = named(device);
    if (!found.error) *out = found.gpu.count("vgpu") ? 2 : 0;
    return found.error;
}

// 0 graphics, 1 multiprocessors, 2 memory, 3 video.
EXPORT int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *out) {
    return small_number(device, kind == 2 ? "mem" : "sm", out);
}

EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned *out) {
    return small_number(device, "power", out);
}

EXPORT int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *out) {
    return small_number(device, "limit", out);
}

EXPORT int nvmlDeviceGetTemperature(void *device, int, unsigned *out) {
    return small_number(device, "temp", out);
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *out) {
    return number_of(device, "throttle", out);
}

// Corrected errors are kind 0, uncorrected ones kind 1.
EXPORT int nvmlDeviceGetTotalEccErrors(void *device, int kind, int, unsigned long long *out) {
    Named found = named(device);
    if (found.error) return found.error;
    if (found.is_slice || !found.gpu.count("ecc")) return NOT_SUPPORTED;
    std::vector<std::string> counts = split(found.gpu["ecc"], ',');
    size_t at = kind == 1 ? 1 : 0;
    *out = at < counts.size() ? strtoull(counts[at].c_str(), nullptr, 10) : 0;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *out) {
    Named found = named(device);
    if (found.error) return found.error;
    std::vector<std::string> pids;
    if (found.own.count("pids") && !found.own["pids"].empty()) pids = split(found.own["pids"], ',');
    unsigned room = *count;
    *count = static_cast<unsigned>(pids.size());
    if (pids.size() > room) return INSUFFICIENT_SIZE;
    for (size_t i = 0; i < pids.size() && out; i++) {
        memset(&out[i], 0, sizeof out[i]);
        out[i].pid = static_cast<unsigned>(strtoul(pids[i].c_str(), nullptr, 10));
    }
    return SUCCESS;
}

EXPORT int nvmlEventSetCreate(EventSet **out) {
    *out = new EventSet();
    return SUCCESS;
}

EXPORT int nvmlEventSetFree(EventSet *set) {
    delete set;
    return SUCCESS;
}

EXPORT int nvmlDeviceRegisterEvents(void *device, unsigned long long, EventSet *set) {
    Named found = named(device);
    if (found.error) return found.error;
    if (found.gpu.count("vgpu")) return NOT_SUPPORTED;
    set->devices.push_back(device);
    return SUCCESS;
}

// Each new value of `xid` is one event.
EXPORT int nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned) {
    for (void *device : set->devices) {
        Named found = named(device);
        if (found.error || !found.gpu.count("xid")) continue;
        std::string &told = set->told[device];
        if (told == found.gpu["xid"]) continue;
        told = found.gpu["xid"];
        memset(out, 0, sizeof *out);
        out->device = device;
        out->type = 8;
        out->data = strtoull(told.c_str(), nullptr, 10);
        return SUCCESS;
    }
    return TIMEOUT;
}
