// Kernels that are wrong on purpose: the emulator must end the process over each of them, and over the sound one not.
//
// usage: emulator_faults NAME; without a name it lists them.

#define NIC_EMULATOR
#include "emulator.h"

#include <sys/prctl.h>

namespace {

alignas(16) uint8_t g_memory[4096];

uint64_t address() { return reinterpret_cast<uint64_t>(g_memory); }
const void* place(uint64_t offset) { return reinterpret_cast<const void*>(address() + offset); }
uint32_t thread() { return threadIdx.x; }

void load_row_of_zeroes(uint32_t (&r)[4]) {
    store_shared(thread() * 16, uint4{0, 0, 0, 0});
    block_barrier();
    load_matrices(r, (thread() & 31) * 16);
}

void copy_then_multiply(bool is_waiting, bool is_synchronized) {
    copy_async(thread() * 16, place(thread() * 16));
    copy_async_commit();
    if (is_waiting) copy_async_wait<0>();
    if (is_synchronized) block_barrier();
    uint32_t a[4];
    load_matrices(a, (thread() & 31) * 16);
    float c[4] = {};
    emulated_multiply_add<true>(c, a, a[0], a[1]);
    copy_async_wait<0>();
    block_barrier();
}

void sound() { copy_then_multiply(true, true); }
void copy_without_wait() { copy_then_multiply(false, true); }
void copy_without_barrier() { copy_then_multiply(true, false); }

void copy_over_what_others_read() {
    uint32_t r[4];
    load_row_of_zeroes(r);
    // The other warp has not read yet.
    copy_async((thread() & 31) * 16, place(0));
    copy_async_commit();
    float c[4] = {};
    emulated_multiply_add<true>(c, r, r[0], r[1]);
    copy_async_wait<0>();
    block_barrier();
}

void copy_nobody_waits_for() {
    copy_async(thread() * 16, place(0));
    copy_async_commit();
}

void part_of_a_warp() {
    uint32_t r[4];
    if (thread() % 32 != 7) load_row_of_zeroes(r);
    else block_barrier();
}

void product_of_part_of_a_warp() {
    float c[4] = {};
    const uint32_t a[4] = {};
    if (thread() % 32 != 7) emulated_multiply_add<true>(c, a, 0, 0);
    block_barrier();
}

void part_of_a_block() {
    if (thread() < 32) block_barrier();
}

void different_instructions() {
    if (thread() % 2 == 0) from_lane_below(1, 1);
    else from_lane_across(1, 1);
}

void operand_of_ten_bits() { emulated_half16_pair<true>(257, 0); }

void product_of_fractions() {
    float c[4] = {};
    const uint32_t half = 0x3F003F00, a[4] = {half, half, half, half};
    emulated_multiply_add<true>(c, a, half, half);
    block_barrier();
}

void sum_of_25_bits() {
    const uint32_t most = emulated_half16_pair<true>(255, 255), a[4] = {most, most, most, most};
    float c[4] = {};
    for (int i = 0; i < 4096 / 16; ++i) emulated_multiply_add<true>(c, a, most, most);
    block_barrier();
}

// Above 2^24 after eight products, below again after sixteen.
void partial_sum_of_25_bits() {
    const uint32_t most = emulated_half16_pair<true>(255, 255), least = emulated_half16_pair<true>(-255, -255);
    const uint32_t a[4] = {most, most, most, most};
    float c[4] = {16'500'000, 16'500'000, 16'500'000, 16'500'000};
    emulated_multiply_add<true>(c, a, most, least);
    block_barrier();
}

void load_outside() { load_global(place(sizeof g_memory)); }
void load_across_the_end() { load_global(place(sizeof g_memory - 8)); }
void store_outside() { store_global(const_cast<void*>(place(uint64_t{0} - 16)), uint4{}); }
void load_unaligned() { load_global(place(8)); }
void shared_outside() { store_shared(65536, uint32_t{1}); }

constexpr struct {
    const char* name;
    void (*kernel)();
} kKernels[] = {
    {"sound", sound},
    {"copy-without-wait", copy_without_wait},
    {"copy-without-barrier", copy_without_barrier},
    {"copy-over-what-others-read", copy_over_what_others_read},
    {"copy-nobody-waits-for", copy_nobody_waits_for},
    {"part-of-a-warp", part_of_a_warp},
    {"product-of-part-of-a-warp", product_of_part_of_a_warp},
    {"part-of-a-block", part_of_a_block},
    {"different-instructions", different_instructions},
    {"operand-of-ten-bits", operand_of_ten_bits},
    {"product-of-fractions", product_of_fractions},
    {"sum-of-25-bits", sum_of_25_bits},
    {"partial-sum-of-25-bits", partial_sum_of_25_bits},
    {"load-outside", load_outside},
    {"load-across-the-end", load_across_the_end},
    {"store-outside", store_outside},
    {"load-unaligned", load_unaligned},
    {"shared-outside", shared_outside},
};

}  // namespace

int main(int count, char** words) {
    // No core files.
    prctl(PR_SET_DUMPABLE, 0);
    for (const auto& row : kKernels) {
        if (count < 2) {
            std::puts(row.name);
        } else if (std::strcmp(row.name, words[1]) == 0) {
            const uint64_t page = address();
            const std::vector<emulator::Range> memory = {{page, sizeof g_memory, g_memory}};
            emulator::machine().run({1, 1, 1}, {64, 1, 1}, 65536, memory, row.name, row.kernel);
            return 0;
        }
    }
    return count < 2 ? 0 : 2;
}
