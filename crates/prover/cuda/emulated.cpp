// libnicompute_emulated.so: each kernel as a function, for tests that compare it with the processor's own path.
//
// Every function runs a whole grid over memory of the caller, with the grid and block sizes that a host would use, and
// refuses any access outside of the buffers that it was given. `is_turing` picks fp16, otherwise bf16.

#include "emulated.h"

using emulator::Dim3;
using emulator::Range;

namespace {

Range range(const void* memory, uint64_t length) {
    return {reinterpret_cast<uint64_t>(memory), length, static_cast<uint8_t*>(const_cast<void*>(memory))};
}

uint32_t blocks(uint64_t work, uint64_t each) { return static_cast<uint32_t>((work + each - 1) / each); }

template <class Key> Key key_of(const uint32_t* words) {
    Key key;
    std::memcpy(key.w, words, 32);
    return key;
}

void run(Dim3 grid, uint32_t threads, uint32_t shared, const std::vector<Range>& memory, const char* name,
         const std::function<void()>& body) {
    emulator::machine().run(grid, {threads, 1, 1}, shared, memory, name, body);
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void emu_operands(uint32_t is_turing, uint16_t* out, const uint32_t* key, uint64_t first,
                                                         uint32_t rows, uint32_t n) {
    const auto body = [&] {
        if (is_turing) turing::nic_operands(out, key_of<turing::Key>(key), first, rows, n);
        else ampere::nic_operands(out, key_of<ampere::Key>(key), first, rows, n);
    };
    run({blocks(uint64_t{rows} * n / 32, 256), 1, 1}, 256, 0, {range(out, uint64_t{rows} * n * 2)}, "nic_operands", body);
}

// Returns how often the eight rows of a matrix met in a bank of shared memory.
__attribute__((visibility("default"))) uint64_t emu_step(uint32_t is_turing, const uint16_t* x, const uint16_t* b, uint16_t* next,
                                                         uint8_t* plot, uint32_t rows, uint32_t n, uint32_t step, uint32_t last) {
    const auto body = [&] {
        if (is_turing) turing::nic_step(x, b, next, plot, rows, n, step, last);
        else ampere::nic_step(x, b, next, plot, rows, n, step, last);
    };
    const uint64_t cells = uint64_t{rows} * n;
    std::vector<Range> memory = {range(x, 2 * cells), range(b, 2ull * n * n)};
    memory.push_back(last ? range(plot, cells) : range(next, 2 * cells));
    const uint64_t before = emulator::machine().bank_conflicts;
    run({n / 128, rows / 128, 1}, 256, 65536, memory, "nic_step", body);
    return emulator::machine().bank_conflicts - before;
}

__attribute__((visibility("default"))) void emu_leaves(const uint8_t* plot, uint32_t* leaves, const uint32_t* key, uint32_t rows,
                                                       uint32_t n) {
    const auto body = [&] { ampere::nic_leaves(plot, leaves, key_of<ampere::Key>(key), rows, n); };
    const std::vector<Range> memory = {range(plot, uint64_t{rows} * n), range(leaves, uint64_t{rows} * 32)};
    run({blocks(rows, 32), 1, 1}, 128, 0, memory, "nic_leaves", body);
}

__attribute__((visibility("default"))) void emu_nodes(const uint32_t* children, uint32_t* parents, const uint32_t* key,
                                                      uint32_t count) {
    const auto body = [&] { ampere::nic_nodes(children, parents, key_of<ampere::Key>(key), count); };
    const std::vector<Range> memory = {range(children, uint64_t{count} * 64), range(parents, uint64_t{count} * 32)};
    run({blocks(count, 128), 1, 1}, 128, 0, memory, "nic_nodes", body);
}

__attribute__((visibility("default"))) void emu_walks(const uint8_t* plot, const uint32_t* words, uint64_t seed, uint64_t rows,
                                                      uint32_t n, uint32_t first_walk, uint32_t walks, uint32_t reads,
                                                      uint64_t* results) {
    const auto body = [&] { ampere::nic_walks(plot, words, seed, rows, n, first_walk, walks, reads, results); };
    const std::vector<Range> memory = {range(plot, rows * n), range(words, n), range(results, uint64_t{walks} * 8)};
    run({blocks(walks, 8), 1, 1}, 256, 0, memory, "nic_walks", body);
}

}  // extern "C"
