// What the kernels do on a real device: right first, then how fast. `cargo xtask bench cuda` builds and runs it.
//
// usage: measure KERNELS.FATBIN N ROWS PLOT_BYTES
//
// The driver is loaded by name, and no header or library of CUDA is needed. A block of 128 rows is made by the device and by
// the emulator under the same keys and compared bit for bit, with its leaves and a few walks; only then times are taken, by events
// of the device, best of several runs. References in the same run: cuBLAS in bf16 where its library is found, and a copy inside
// the device's memory. PLOT_BYTES 0 takes nine tenths of what is free.

#include <chrono>
#include <dlfcn.h>
#include <string>

#include "emulated.h"

namespace {

constexpr uint32_t kSteps = 4;
constexpr uint32_t kCheckedRows = 128;
constexpr uint32_t kWalks = 64;
constexpr uint32_t kReads = 32;
constexpr int kRuns = 5;

[[noreturn]] void end(const std::string& why) {
    std::fprintf(stderr, "measure: %s\n", why.c_str());
    std::exit(1);
}

// ---- the driver's functions, by name

class Library {
  public:
    explicit Library(std::initializer_list<const char*> names) {
        for (const char* name : names) {
            if (handle_ == nullptr) handle_ = dlopen(name, RTLD_NOW);
        }
    }
    bool is_here() const { return handle_ != nullptr; }
    template <class... Arguments> int operator()(const char* name, Arguments... arguments) const {
        void* symbol = dlsym(handle_, name);
        if (symbol == nullptr) end(std::string("no function ") + name);
        return reinterpret_cast<int (*)(Arguments...)>(symbol)(arguments...);
    }

  private:
    void* handle_ = nullptr;
};

const Library& driver() {
    static const Library library({"libcuda.so.1"});
    return library;
}

template <class... Arguments> void call(const char* name, Arguments... arguments) {
    const int result = driver()(name, arguments...);
    if (result != 0) end(std::string(name) + " gives error " + std::to_string(result));
}

struct Buffer {
    uint64_t address = 0;
    explicit Buffer(size_t bytes) { call("cuMemAlloc_v2", &address, bytes); }
    ~Buffer() { driver()("cuMemFree_v2", address); }
    Buffer(const Buffer&) = delete;
};

class Device {
  public:
    explicit Device(const std::string& image) {
        call("cuInit", 0u);
        int device = 0;
        call("cuDeviceGet", &device, 0);
        call("cuDevicePrimaryCtxRetain", &context_, device);
        call("cuCtxSetCurrent", context_);
        call("cuModuleLoadData", &module_, static_cast<const void*>(image.data()));
        char name[128] = {};
        call("cuDeviceGetName", name, 128, device);
        int major = 0, minor = 0, version = 0;
        call("cuDeviceGetAttribute", &major, 75, device);
        call("cuDeviceGetAttribute", &minor, 76, device);
        call("cuDriverGetVersion", &version);
        is_turing = major < 8;
        std::printf("device              %s, compute capability %d.%d, driver for CUDA %d.%d\n", name, major, minor, version / 1000,
                    version % 1000 / 10);
        void* step = function("nic_step");
        call("cuFuncSetAttribute", step, 8, 65536);
        for (void*& event : events_) call("cuEventCreate", &event, 0u);
    }

    template <class... Arguments> void launch(const char* name, emulator::Dim3 grid, uint32_t threads, uint32_t shared, Arguments... arguments) {
        void* parameters[] = {&arguments...};
        call("cuLaunchKernel", function(name), grid.x, grid.y, grid.z, threads, 1u, 1u, shared, static_cast<void*>(nullptr), parameters,
             static_cast<void**>(nullptr));
    }

    // The shortest of several runs, in seconds.
    template <class Work> double seconds(const Work& work) {
        work();
        float best = 0;
        for (int run = 0; run < kRuns; ++run) {
            call("cuEventRecord", events_[0], static_cast<void*>(nullptr));
            work();
            call("cuEventRecord", events_[1], static_cast<void*>(nullptr));
            call("cuEventSynchronize", events_[1]);
            float took = 0;
            call("cuEventElapsedTime", &took, events_[0], events_[1]);
            best = run == 0 || took < best ? took : best;
        }
        return best / 1000.0;
    }

    bool is_turing = false;

  private:
    void* function(const char* name) {
        void* handle = nullptr;
        call("cuModuleGetFunction", &handle, module_, name);
        return handle;
    }

    void* context_ = nullptr;
    void* module_ = nullptr;
    void* events_[2] = {};
};

template <class T> std::vector<T> fetch(uint64_t from, size_t count) {
    std::vector<T> host(count);
    call("cuMemcpyDtoH_v2", static_cast<void*>(host.data()), from, count * sizeof(T));
    return host;
}

ampere::Key key_of(uint32_t seed) {
    ampere::Key key;
    for (uint32_t i = 0; i < 8; ++i) key.w[i] = seed * 0x9E3779B1u + i;
    return key;
}

turing::Key turings(const ampere::Key& key) {
    turing::Key copy;
    std::memcpy(copy.w, key.w, sizeof copy.w);
    return copy;
}

// ---- the same work, on the device and emulated

struct Sizes {
    uint32_t n;
    uint32_t rows;
    uint64_t plot_bytes;
};

constexpr uint32_t kMatrixKey = 1, kOperandsKey = 2, kLeafKey = 3;
constexpr uint64_t kSeed = 0x0123456789ABCDEFull;

void operands(Device& device, uint64_t out, uint32_t key, uint32_t rows, uint32_t n) {
    const uint32_t blocks = static_cast<uint32_t>((uint64_t{rows} * n / 32 + 255) / 256);
    device.launch("nic_operands", {blocks, 1, 1}, 256, 0, out, key_of(key), uint64_t{0}, rows, n);
}

void step(Device& device, uint64_t x, uint64_t b, uint64_t next, uint64_t plot, Sizes sizes, uint32_t at) {
    const uint32_t last = at + 1 == kSteps;
    device.launch("nic_step", {sizes.n / 128, sizes.rows / 128, 1}, 256, 65536, x, b, next, plot, sizes.rows, sizes.n, at, last);
}

void leaves(Device& device, uint64_t plot, uint64_t out, uint32_t rows, uint32_t n) {
    device.launch("nic_leaves", {(rows + 31) / 32, 1, 1}, 128, 0, plot, out, key_of(kLeafKey), rows, n);
}

void walks(Device& device, uint64_t plot, uint64_t words, uint64_t rows, uint32_t n, uint32_t count, uint64_t results) {
    device.launch("nic_walks", {(count + 7) / 8, 1, 1}, 256, 0, plot, words, kSeed, rows, n, 0u, count, kReads, results);
}

template <class Kernel> void emulate(emulator::Dim3 grid, uint32_t threads, uint32_t shared, const char* name, const Kernel& kernel,
                                     const std::vector<emulator::Range>& memory) {
    emulator::machine().run(grid, {threads, 1, 1}, shared, memory, name, kernel);
}

template <class T> emulator::Range range(std::vector<T>& memory) {
    const auto address = reinterpret_cast<uint64_t>(memory.data());
    return {address, memory.size() * sizeof(T), reinterpret_cast<uint8_t*>(memory.data())};
}

// The plot of the checked rows, by the emulator.
std::vector<uint8_t> emulated_plot(bool is_turing, uint32_t n) {
    std::vector<uint16_t> b(size_t{n} * n), x(size_t{kCheckedRows} * n), next(x.size());
    std::vector<uint8_t> plot(x.size());
    const auto make = [&](std::vector<uint16_t>& out, uint32_t key, uint32_t rows) {
        const auto body = [&] {
            if (is_turing) turing::nic_operands(out.data(), turings(key_of(key)), 0, rows, n);
            else ampere::nic_operands(out.data(), key_of(key), 0, rows, n);
        };
        emulate({static_cast<uint32_t>((uint64_t{rows} * n / 32 + 255) / 256), 1, 1}, 256, 0, "nic_operands", body, {range(out)});
    };
    make(b, kMatrixKey, n);
    make(x, kOperandsKey, kCheckedRows);
    for (uint32_t at = 0; at < kSteps; ++at) {
        const uint32_t last = at + 1 == kSteps;
        const auto body = [&] {
            if (is_turing) turing::nic_step(x.data(), b.data(), next.data(), plot.data(), kCheckedRows, n, at, last);
            else ampere::nic_step(x.data(), b.data(), next.data(), plot.data(), kCheckedRows, n, at, last);
        };
        emulate({n / 128, kCheckedRows / 128, 1}, 256, 65536, "nic_step", body, {range(b), range(x), range(next), range(plot)});
        x.swap(next);
    }
    return plot;
}

void compare(bool is_same, const char* what) {
    if (!is_same) end(std::string("the device's ") + what + " differ from the emulator's");
    std::printf("%-19s equal to the emulator's\n", what);
}

void check(Device& device, uint32_t n) {
    const Sizes sizes = {n, kCheckedRows, 0};
    const size_t cells = size_t{kCheckedRows} * n;
    Buffer b(size_t{n} * n * 2), x(cells * 2), next(cells * 2), plot(cells), digests(kCheckedRows * 32), words(n), results(kWalks * 8);
    operands(device, b.address, kMatrixKey, n, n);
    operands(device, x.address, kOperandsKey, kCheckedRows, n);
    for (uint32_t at = 0; at < kSteps; ++at) {
        const bool is_even = at % 2 == 0;
        step(device, is_even ? x.address : next.address, b.address, is_even ? next.address : x.address, plot.address, sizes, at);
    }
    leaves(device, plot.address, digests.address, kCheckedRows, n);
    operands(device, x.address, kLeafKey, kCheckedRows, n);
    call("cuMemcpyDtoD_v2", words.address, x.address, size_t{n});
    walks(device, plot.address, words.address, kCheckedRows, n, kWalks, results.address);
    call("cuCtxSynchronize");

    std::vector<uint8_t> rows = emulated_plot(device.is_turing, n);
    compare(fetch<uint8_t>(plot.address, cells) == rows, "rows");
    std::vector<uint32_t> hashes(kCheckedRows * 8);
    emulate({kCheckedRows / 32, 1, 1}, 128, 0, "nic_leaves",
            [&] { ampere::nic_leaves(rows.data(), hashes.data(), key_of(kLeafKey), kCheckedRows, n); }, {range(rows), range(hashes)});
    compare(fetch<uint32_t>(digests.address, hashes.size()) == hashes, "leaves");
    std::vector<uint32_t> key = fetch<uint32_t>(words.address, n / 4);
    std::vector<uint64_t> states(kWalks);
    emulate({kWalks / 8, 1, 1}, 256, 0, "nic_walks",
            [&] { ampere::nic_walks(rows.data(), key.data(), kSeed, kCheckedRows, n, 0, kWalks, kReads, states.data()); },
            {range(rows), range(key), range(states)});
    compare(fetch<uint64_t>(results.address, kWalks) == states, "walks");
}

// ---- times

void print(const char* what, double value, const char* unit) { std::printf("%-19s %.2f %s\n", what, value, unit); }

// The rate of one bf16 product by cuBLAS, where its library is here.
void measure_cublas(Device& device, uint64_t x, uint64_t b, uint64_t c, Sizes sizes) {
    const Library cublas({"libcublas.so.13", "libcublas.so.12", "libcublas.so.11"});
    if (!cublas.is_here() || device.is_turing) {
        std::printf("%-19s not here\n", "cuBLAS bf16");
        return;
    }
    void* handle = nullptr;
    if (cublas("cublasCreate_v2", &handle) != 0) end("cublasCreate gives an error");
    const float one = 1, zero = 0;
    const int n = static_cast<int>(sizes.n), rows = static_cast<int>(sizes.rows), bf16 = 14, compute_fp32 = 68;
    const auto product = [&] {
        // Row-major x·b is column-major b·x.
        const int result = cublas("cublasGemmEx", handle, 0, 0, n, rows, n, static_cast<const void*>(&one), b, bf16, n, x, bf16, n,
                                  static_cast<const void*>(&zero), c, bf16, n, compute_fp32, -1);
        if (result != 0) end("cublasGemmEx gives error " + std::to_string(result));
    };
    print("cuBLAS bf16", 2.0 * rows * n * n / device.seconds(product) / 1e12, "TFLOP/s");
    cublas("cublasDestroy_v2", handle);
}

void measure_fill(Device& device, Sizes sizes) {
    const size_t cells = size_t{sizes.rows} * sizes.n;
    Buffer b(size_t{sizes.n} * sizes.n * 2), x(cells * 2), next(cells * 2), plot(cells), digests(size_t{sizes.rows} * 32);
    operands(device, b.address, kMatrixKey, sizes.n, sizes.n);
    const double made = device.seconds([&] { operands(device, x.address, kOperandsKey, sizes.rows, sizes.n); });
    print("operands", static_cast<double>(cells) * 2 / made / 1e9, "GB/s");
    const double products = 2.0 * sizes.rows * sizes.n * sizes.n;
    const double inner = device.seconds([&] { step(device, x.address, b.address, next.address, plot.address, sizes, 0); });
    print("step", products / inner / 1e12, "TFLOP/s");
    const double last = device.seconds([&] { step(device, x.address, b.address, next.address, plot.address, sizes, kSteps - 1); });
    print("last step", products / last / 1e12, "TFLOP/s");
    measure_cublas(device, x.address, b.address, next.address, sizes);
    const double hashed = device.seconds([&] { leaves(device, plot.address, digests.address, sizes.rows, sizes.n); });
    print("leaves", static_cast<double>(cells) / hashed / 1e9, "GB/s");
    const double row_seconds = (made + (kSteps - 1) * inner + last + hashed) / sizes.rows;
    print("plot", sizes.n / row_seconds / 1e9, "GB/s with four steps and leaves");
}

void measure_walks(Device& device, Sizes sizes) {
    size_t free = 0, total = 0;
    call("cuMemGetInfo_v2", &free, &total);
    const uint64_t bytes = sizes.plot_bytes == 0 ? free / 10 * 9 : sizes.plot_bytes;
    const uint64_t rows = bytes / sizes.n / 2 * 2, copied = rows / 2 * sizes.n;
    // As many warps as fill any device several times.
    const uint32_t count = rows > (1u << 16) ? 1u << 16 : 256;
    Buffer plot(rows * sizes.n), words(sizes.n), results(uint64_t{count} * 8);
    // Noise, as a plot is; an operand has two bytes.
    operands(device, plot.address, kOperandsKey, static_cast<uint32_t>(rows / 2), sizes.n);
    call("cuMemcpyDtoD_v2", words.address, plot.address, size_t{sizes.n});
    const double walked = device.seconds([&] { walks(device, plot.address, words.address, rows, sizes.n, count, results.address); });
    std::printf("%-19s %.2f GB\n", "walked over", static_cast<double>(rows) * sizes.n / 1e9);
    print("walks", static_cast<double>(count) * kReads * sizes.n / walked / 1e9, "GB/s read");
    const double copy = device.seconds([&] {
        call("cuMemcpyDtoDAsync_v2", plot.address + copied, plot.address, size_t{copied}, static_cast<void*>(nullptr));
    });
    print("device copy", 2.0 * static_cast<double>(copied) / copy / 1e9, "GB/s read and written");
}

std::string read_file(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) end(std::string("no file ") + path);
    std::string bytes;
    char part[65536];
    for (size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0;) bytes.append(part, got);
    std::fclose(file);
    return bytes;
}

}  // namespace

int main(int count, char** words) {
    if (count != 5) end("usage: measure KERNELS.FATBIN N ROWS PLOT_BYTES");
    if (!driver().is_here()) end("libcuda.so.1 is not here: no NVIDIA driver");
    const Sizes sizes = {static_cast<uint32_t>(std::strtoul(words[2], nullptr, 10)),
                         static_cast<uint32_t>(std::strtoul(words[3], nullptr, 10)), std::strtoull(words[4], nullptr, 10)};
    if (sizes.n < 128 || sizes.n > 4096 || sizes.n % 128 != 0 || sizes.rows < 128 || sizes.rows % 128 != 0) {
        end("N is a multiple of 128 up to 4096, ROWS a multiple of 128");
    }
    Device device(read_file(words[1]));
    check(device, sizes.n);
    measure_fill(device, sizes);
    measure_walks(device, sizes);
    return 0;
}
