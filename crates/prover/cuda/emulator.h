// The instructions that kernels.cu uses, with a checked meaning on an ordinary processor.
//
// A block's threads are fibers of one host thread. They run warp by warp until a barrier, one warp as far ahead of the others as
// the program allows, so that a missing barrier shows. What real hardware leaves undefined ends the process with a
// sentence: a warp that is not whole at an instruction for whole warps, threads at different barriers, an access outside
// of memory, an operand that its sixteen bits do not hold, a sum that fp32 does not hold. Asynchronous copies reach
// shared memory only at the barrier after the wait for them; until then the place is poisoned, as is fresh shared memory.
//
// This header keeps no state beyond the host thread that runs a grid: several host threads may run grids at once.

#ifndef NIC_EMULATOR_H
#define NIC_EMULATOR_H

#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

struct uint4 {
    uint32_t x, y, z, w;
};

namespace emulator {

constexpr uint32_t kThreadsMax = 256;
constexpr uint32_t kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;
constexpr uint32_t kStaticSharedBytes = 8 << 10;
constexpr uint32_t kSharedBytesMax = 100 << 10;
// Not a sum of integers in either format, and no operand: bf16 and fp16 read 0xFFFF as "not a number".
constexpr uint8_t kPoison = 0xFF;
// Every integer below this is exact in fp32.
constexpr int64_t kExactSums = 1 << 24;

struct Dim3 {
    uint32_t x, y, z;
};

// Memory that a grid may touch: `length` bytes at the kernel's address `address` are at `host` in this process.
struct Range {
    uint64_t address;
    uint64_t length;
    uint8_t* host;
};

struct Copy {
    uint32_t to;
    uint8_t bytes[16];
};

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Grid;

// What a whole warp does at once. The arguments are one pointer a lane.
using Perform = void (*)(Grid&, void* const (&)[kWarp]);

// A lane's part of a product of the whole warp.
struct Product {
    float* c;
    uint32_t a[4];
    uint32_t b[2];
};

struct Fiber {
    jmp_buf place;
    bool is_started = false;
    State state = State::kDone;
    Perform perform = nullptr;
    void* argument = nullptr;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open_group;
    std::vector<Copy> landed;
    std::vector<Product> products;
};

// The host thread's machine: the fibers and shared memory of the block that is running.
struct Grid {
    Dim3 grid{}, block{}, at{};
    uint32_t thread = 0;
    uint32_t threads = 0;
    uint32_t dynamic_shared = 0;
    uint64_t bank_conflicts = 0;
    const std::vector<Range>* memory = nullptr;
    const Range* last_range = nullptr;
    const char* kernel = "";
    const std::function<void()>* body = nullptr;
    void (*multiply)(Grid&, uint32_t first, size_t at) = nullptr;
    jmp_buf scheduler;
    uint8_t* stacks = nullptr;
    std::vector<Fiber> fibers;
    alignas(1024) uint8_t shared[kSharedBytesMax];

    [[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const char* format, ...) {
        std::fprintf(stderr, "emulator: %s, block (%u, %u), thread %u: ", kernel, at.x, at.y, thread);
        va_list arguments;
        va_start(arguments, format);
        std::vfprintf(stderr, format, arguments);
        va_end(arguments);
        std::fputc('\n', stderr);
        std::abort();
    }

    // ---- memory

    uint8_t* global(uint64_t address, uint64_t length, const char* what) {
        const auto holds = [&](const Range& range) {
            return address >= range.address && address - range.address <= range.length &&
                   range.length - (address - range.address) >= length;
        };
        if (last_range == nullptr || !holds(*last_range)) {
            last_range = nullptr;
            for (const Range& range : *memory) {
                if (holds(range)) {
                    last_range = &range;
                    break;
                }
            }
            if (last_range == nullptr) fail("%s of %llu bytes at %#llx is outside of its memory", what,
                                            static_cast<unsigned long long>(length), static_cast<unsigned long long>(address));
        }
        if (address % length != 0) fail("%s of %llu bytes at %#llx is not aligned", what,
                                        static_cast<unsigned long long>(length), static_cast<unsigned long long>(address));
        return last_range->host + (address - last_range->address);
    }

    uint8_t* shared_at(uint32_t address, uint32_t length, const char* what) {
        if (address % length != 0 || address > dynamic_shared || dynamic_shared - address < length) {
            fail("%s of %u bytes at %u of %u bytes of shared memory", what, length, address, dynamic_shared);
        }
        return shared + address;
    }

    // ---- fibers

    Fiber& me() { return fibers[thread]; }

    [[noreturn]] void resume(uint32_t next) {
        thread = next;
        Fiber& fiber = fibers[next];
        if (fiber.is_started) _longjmp(fiber.place, 1);
        fiber.is_started = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks + next * kStackBytes;
        context.uc_stack.ss_size = kStackBytes;
        context.uc_link = nullptr;
        makecontext(&context, reinterpret_cast<void (*)()>(&Grid::enter), 0);
        setcontext(&context);
        std::abort();
    }

    static void enter();

    // Leaves the fiber until the scheduler finds it ready again.
    __attribute__((noinline)) void leave(State state) {
        Fiber& fiber = me();
        fiber.state = state;
        if (_setjmp(fiber.place) != 0) return;
        const uint32_t next = thread + 1;
        if (next % kWarp != 0 && next < threads && fibers[next].state == State::kReady) resume(next);
        _longjmp(scheduler, 1);
    }

    // Runs the ready lanes of a warp until none is, without what comes after their stop.
    __attribute__((noinline)) void run_lanes(uint32_t first) {
        for (;;) {
            volatile uint32_t lane = 0;
            while (lane < kWarp && fibers[first + lane].state != State::kReady) lane = lane + 1;
            if (lane == kWarp) return;
            if (_setjmp(scheduler) == 0) resume(first + lane);
        }
    }

    uint32_t count(uint32_t first, uint32_t lanes, State state) const {
        uint32_t found = 0;
        for (uint32_t lane = 0; lane < lanes; ++lane) found += fibers[first + lane].state == state;
        return found;
    }

    // Makes the products that the lanes of a stopped warp have asked for.
    void make_products(uint32_t first) {
        const size_t wanted = fibers[first].products.size();
        for (uint32_t lane = 0; lane < kWarp; ++lane) {
            thread = first + lane;
            if (me().products.size() != wanted) fail("%zu products, and %zu of another lane", me().products.size(), wanted);
        }
        thread = first;
        for (size_t at = 0; at < wanted; ++at) multiply(*this, first, at);
        for (uint32_t lane = 0; wanted != 0 && lane < kWarp; ++lane) fibers[first + lane].products.clear();
    }

    // Runs a warp to the next barrier or to its end.
    void run_warp(uint32_t first) {
        for (;;) {
            run_lanes(first);
            make_products(first);
            const uint32_t at_warp = count(first, kWarp, State::kAtWarp);
            if (at_warp == 0) return;
            thread = first;
            if (at_warp != kWarp) fail("%u of 32 lanes are at an instruction for the whole warp", at_warp);
            void* arguments[kWarp];
            for (uint32_t lane = 0; lane < kWarp; ++lane) {
                if (fibers[first + lane].perform != fibers[first].perform) fail("lanes are at different instructions");
                arguments[lane] = fibers[first + lane].argument;
                fibers[first + lane].state = State::kReady;
            }
            fibers[first].perform(*this, arguments);
        }
    }

    void run_block() {
        std::memset(shared, kPoison, dynamic_shared + kStaticSharedBytes);
        for (uint32_t i = 0; i < threads; ++i) fibers[i].state = State::kReady;
        const uint32_t warps = threads / kWarp;
        for (uint32_t phase = at.x + at.y;; ++phase) {
            for (uint32_t i = 0; i < warps; ++i) run_warp((phase % 2 == 0 ? i : warps - 1 - i) * kWarp);
            const uint32_t done = count(0, threads, State::kDone);
            if (done == threads) break;
            thread = 0;
            if (done != 0) fail("%u of %u threads ended before a barrier", done, threads);
            for (uint32_t i = 0; i < threads; ++i) {
                for (const Copy& copy : fibers[i].landed) std::memcpy(shared + copy.to, copy.bytes, 16);
                fibers[i].landed.clear();
                fibers[i].state = State::kReady;
            }
        }
    }

    void run(Dim3 grid_size, Dim3 block_size, uint32_t shared_bytes, const std::vector<Range>& ranges, const char* name,
             const std::function<void()>& kernel_body) {
        kernel = name;
        grid = grid_size, block = block_size, threads = block_size.x, dynamic_shared = shared_bytes;
        at = {0, 0, 0}, thread = 0;
        memory = &ranges, last_range = nullptr, body = &kernel_body;
        if (threads == 0 || threads % kWarp != 0 || threads > kThreadsMax || block.y != 1 || block.z != 1 || grid.z != 1) {
            fail("%u x %u x %u threads", block.x, block.y, block.z);
        }
        if (shared_bytes > kSharedBytesMax - kStaticSharedBytes) fail("%u bytes of shared memory", shared_bytes);
        if (stacks == nullptr) {
            void* memory_of_stacks = mmap(nullptr, kThreadsMax * kStackBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (memory_of_stacks == MAP_FAILED) fail("no memory for stacks");
            stacks = static_cast<uint8_t*>(memory_of_stacks);
            fibers.resize(kThreadsMax);
        }
        for (at.y = 0; at.y < grid.y; ++at.y) {
            for (at.x = 0; at.x < grid.x; ++at.x) run_block();
        }
    }

    ~Grid() {
        if (stacks != nullptr) munmap(stacks, kThreadsMax * kStackBytes);
    }
};

inline Grid& machine() {
    static thread_local Grid grid;
    return grid;
}

// A fiber's whole life: one thread of a block after the other.
inline void Grid::enter() {
    for (;;) {
        Grid& grid = machine();
        (*grid.body)();
        Fiber& fiber = grid.me();
        if (!fiber.groups.empty()) {
            for (const std::vector<Copy>& group : fiber.groups) {
                if (!group.empty()) grid.fail("a copy that nobody waited for");
            }
            fiber.groups.clear();
        }
        if (!fiber.open_group.empty() || !fiber.landed.empty()) grid.fail("a copy that nobody can see");
        grid.leave(State::kDone);
    }
}

inline void whole_warp(Perform perform, void* argument) {
    Grid& grid = machine();
    Fiber& fiber = grid.me();
    fiber.perform = perform;
    fiber.argument = argument;
    grid.leave(State::kAtWarp);
}

// ---- ldmatrix

struct LoadMatrices {
    uint32_t from;
    uint32_t* r;
};

template <bool is_transposed> void perform_load(Grid& grid, void* const (&arguments)[kWarp]) {
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
        uint16_t cells[8][8];
        uint32_t banks = 0;
        for (uint32_t row = 0; row < 8; ++row) {
            const uint32_t from = static_cast<LoadMatrices*>(arguments[matrix * 8 + row])->from;
            std::memcpy(cells[row], grid.shared_at(from, 16, "matrix load"), 16);
            banks |= 1u << (from / 16 % 8);
        }
        grid.bank_conflicts += banks != 0xFF;
        for (uint32_t lane = 0; lane < kWarp; ++lane) {
            const uint32_t line = lane / 4, pair = lane % 4 * 2;
            const uint16_t low = is_transposed ? cells[pair][line] : cells[line][pair];
            const uint16_t high = is_transposed ? cells[pair + 1][line] : cells[line][pair + 1];
            static_cast<LoadMatrices*>(arguments[lane])->r[matrix] = low | (static_cast<uint32_t>(high) << 16);
        }
    }
}

// ---- mma

constexpr int16_t kNoOperand = INT16_MIN;

// The integer in sixteen bits of bf16 or fp16, where there is one of at most nine bits.
struct Operands {
    int16_t of[2][65536];

    Operands() {
        for (auto& table : of) {
            for (int16_t& cell : table) cell = kNoOperand;
        }
        for (int value = -256; value <= 256; ++value) {
            of[0][fp16(value)] = static_cast<int16_t>(value);
            of[1][bf16(value)] = static_cast<int16_t>(value);
        }
    }

    static uint16_t bf16(int value) {
        const float wide = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &wide, 4);
        return static_cast<uint16_t>(bits >> 16);
    }

    static uint16_t fp16(int value) {
        const uint16_t sign = value < 0 ? 0x8000 : 0;
        const uint32_t size = static_cast<uint32_t>(std::abs(value));
        if (size == 0) return 0;
        uint32_t exponent = 31 - static_cast<uint32_t>(__builtin_clz(size));
        const uint32_t fraction = (size << (10 - exponent)) & 0x3FF;
        return static_cast<uint16_t>(sign | ((exponent + 15) << 10) | fraction);
    }

    static const Operands& table() {
        static const Operands operands;
        return operands;
    }
};

// What the products of one instruction can add at most.
constexpr int64_t kProductsMax = 16 * 256 * 256;

// Tensor cores of different generations add the sixteen products in groups of four, eight or sixteen and cut off what does not
// fit beside the largest number: the sum is the same on all of them where every partial sum is exact.
inline float checked_sum(Grid& grid, float before, int32_t products, const int16_t (&a)[16], const int16_t (&b)[16]) {
    const int64_t start = static_cast<int64_t>(before);
    if (start >= kExactSums - kProductsMax || start <= kProductsMax - kExactSums) {
        int64_t sum = start;
        for (uint32_t k = 0; k < 16; ++k) {
            sum += a[k] * b[k];
            if (sum >= kExactSums || sum <= -kExactSums) grid.fail("the sum %lld is not exact in fp32", static_cast<long long>(sum));
        }
    }
    return static_cast<float>(start + products);
}

template <bool is_bf16> void perform_multiply(Grid& grid, uint32_t first, size_t at) {
    const int16_t* table = Operands::table().of[is_bf16];
    // Columns of b lie side by side, so that a sum is one run of multiply-add instructions.
    int16_t a[16][16], b[8][16];
    int bad = 0;
    const auto operand = [&](uint32_t bits) {
        const int16_t value = table[bits & 0xFFFF];
        bad |= value == kNoOperand;
        return value;
    };
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
        const Product& mine = grid.fibers[first + lane].products[at];
        const uint32_t line = lane / 4, pair = lane % 4 * 2;
        for (uint32_t quarter = 0; quarter < 4; ++quarter) {
            const uint32_t row = line + quarter % 2 * 8, k = pair + quarter / 2 * 8;
            a[row][k] = operand(mine.a[quarter]);
            a[row][k + 1] = operand(mine.a[quarter] >> 16);
        }
        for (uint32_t half = 0; half < 2; ++half) {
            b[line][pair + half * 8] = operand(mine.b[half]);
            b[line][pair + half * 8 + 1] = operand(mine.b[half] >> 16);
        }
    }
    if (bad != 0) grid.fail("a product of something that is no operand");
    int32_t sums[16][8];
    for (uint32_t row = 0; row < 16; ++row) {
        for (uint32_t column = 0; column < 8; ++column) {
            int32_t sum = 0;
            for (uint32_t k = 0; k < 16; ++k) sum += a[row][k] * b[column][k];
            sums[row][column] = sum;
        }
    }
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
        float* c = grid.fibers[first + lane].products[at].c;
        const uint32_t line = lane / 4, pair = lane % 4 * 2;
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t row = line + i / 2 * 8, column = pair + i % 2;
            c[i] = checked_sum(grid, c[i], sums[row][column], a[row], b[column]);
        }
    }
}

// ---- shuffles

struct Shuffle {
    uint64_t value;
    uint32_t by;
    uint64_t result;
};

template <bool is_across> void perform_shuffle(Grid& grid, void* const (&arguments)[kWarp]) {
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
        Shuffle& mine = *static_cast<Shuffle*>(arguments[lane]);
        if (mine.by == 0 || mine.by >= kWarp) grid.fail("a shuffle by %u", mine.by);
        const uint32_t from = is_across ? lane ^ mine.by : lane + mine.by;
        mine.result = static_cast<Shuffle*>(arguments[from < kWarp ? from : lane])->value;
    }
}

template <bool is_across> uint64_t shuffle(uint64_t value, uint32_t by) {
    Shuffle mine = {value, by, 0};
    whole_warp(perform_shuffle<is_across>, &mine);
    return mine.result;
}

}  // namespace emulator

// ---- the names that kernels.cu uses

#define NIC_INLINE static inline
#define NIC_KERNEL(threads, blocks) static inline void
#define NIC_STATIC_SHARED(type, name, count)                                                     \
    static_assert(sizeof(type) * (count) <= emulator::kStaticSharedBytes, "static shared memory"); \
    type* const name = reinterpret_cast<type*>(emulator::machine().shared + emulator::machine().dynamic_shared)
#define NIC_UNROLL
#define NIC_UNROLL_BY(count)
#define NIC_ROLLED

struct ThreadIndex {
    struct X {
        operator uint32_t() const { return emulator::machine().thread; }
    } x;
};

struct BlockIndex {
    struct X {
        operator uint32_t() const { return emulator::machine().at.x; }
    } x;
    struct Y {
        operator uint32_t() const { return emulator::machine().at.y; }
    } y;
};

static const ThreadIndex threadIdx;
static const BlockIndex blockIdx;

static inline uint32_t shared_base() { return 0; }

static inline uint4 load_global(const void* from) {
    uint4 v;
    std::memcpy(&v, emulator::machine().global(reinterpret_cast<uint64_t>(from), 16, "load"), 16);
    return v;
}

static inline uint4 load_global_once(const void* from) { return load_global(from); }

static inline void store_global(void* to, uint4 v) {
    std::memcpy(emulator::machine().global(reinterpret_cast<uint64_t>(to), 16, "store"), &v, 16);
}

static inline void store_global(void* to, uint64_t v) {
    std::memcpy(emulator::machine().global(reinterpret_cast<uint64_t>(to), 8, "store"), &v, 8);
}

static inline uint4 load_shared(uint32_t from) {
    uint4 v;
    std::memcpy(&v, emulator::machine().shared_at(from, 16, "load"), 16);
    return v;
}

static inline void store_shared(uint32_t to, uint4 v) { std::memcpy(emulator::machine().shared_at(to, 16, "store"), &v, 16); }
static inline void store_shared(uint32_t to, uint32_t v) { std::memcpy(emulator::machine().shared_at(to, 4, "store"), &v, 4); }
static inline void store_shared(uint32_t to, uint16_t v) { std::memcpy(emulator::machine().shared_at(to, 2, "store"), &v, 2); }

static inline void load_matrices(uint32_t (&r)[4], uint32_t from) {
    emulator::LoadMatrices mine = {from, r};
    emulator::whole_warp(emulator::perform_load<false>, &mine);
}

static inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t from) {
    emulator::LoadMatrices mine = {from, r};
    emulator::whole_warp(emulator::perform_load<true>, &mine);
}

// Sums are there at the warp's next stop, which may be later than on a GPU but not too late: whoever reads them before gets
// old ones, and a wrong result. Stopping the lanes at each product would double the time of everything.
template <bool is_bf16> void emulated_multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator::Grid& grid = emulator::machine();
    grid.multiply = emulator::perform_multiply<is_bf16>;
    grid.me().products.push_back({c, {a[0], a[1], a[2], a[3]}, {b0, b1}});
}

template <bool is_bf16> uint32_t emulated_half16_pair(int32_t first, int32_t second) {
    const auto bits = [](int32_t value) {
        if (value < -256 || value > 256) emulator::machine().fail("%d is not exact in bf16", value);
        return static_cast<uint32_t>(is_bf16 ? emulator::Operands::bf16(value) : emulator::Operands::fp16(value));
    };
    return bits(first) | (bits(second) << 16);
}

static inline uint32_t sum_bits(float sum) { return static_cast<uint32_t>(static_cast<int32_t>(sum)); }

static inline uint64_t high_product(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}

static inline uint32_t from_lane_below(uint32_t v, uint32_t delta) {
    return static_cast<uint32_t>(emulator::shuffle<false>(v, delta));
}

static inline uint64_t from_lane_across(uint64_t v, uint32_t mask) { return emulator::shuffle<true>(v, mask); }
static inline void block_barrier() { emulator::machine().leave(emulator::State::kAtBlock); }

static inline void copy_async(uint32_t to, const void* from) {
    emulator::Grid& grid = emulator::machine();
    emulator::Copy copy;
    copy.to = to;
    std::memcpy(copy.bytes, grid.global(reinterpret_cast<uint64_t>(from), 16, "copy"), 16);
    std::memset(grid.shared_at(to, 16, "copy"), emulator::kPoison, 16);
    grid.me().open_group.push_back(copy);
}

static inline void copy_async_commit() {
    emulator::Fiber& fiber = emulator::machine().me();
    fiber.groups.push_back(std::move(fiber.open_group));
    fiber.open_group.clear();
}

template <int pending> void copy_async_wait() {
    emulator::Fiber& fiber = emulator::machine().me();
    while (fiber.groups.size() > pending) {
        fiber.landed.insert(fiber.landed.end(), fiber.groups.front().begin(), fiber.groups.front().end());
        fiber.groups.erase(fiber.groups.begin());
    }
}

#endif  // NIC_EMULATOR_H
