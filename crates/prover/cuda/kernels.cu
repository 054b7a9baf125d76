// The proof's five kernels (docs/proof.md, sections 4 to 6), for every tensor core since Turing.
//
// The same file is compiled twice: by nvcc, with the instructions of the first section as inline PTX, and by the host's compiler
// against emulator.h, which gives the same instructions a checked meaning. Everything below that section knows no difference.
// Operands are "half16": sixteen bits of bf16 from sm_80 on, of fp16 on sm_75. Both hold -255..=255 exactly, and a host that
// only passes buffers on never needs to know which one it is.
//
// Sizes: `n` is a multiple of 128 from 128 to 4096, `rows` of the operand and step kernels a multiple of 128 and at most
// 65,535 · 128, so that neither a grid nor a count of operand blocks overflows.

#if defined(NIC_EMULATOR)

#include "emulator.h"

#else

#include <stdint.h>

#define NIC_ARCH __CUDA_ARCH__
#define NIC_INLINE static __device__ __forceinline__
#define NIC_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define NIC_STATIC_SHARED(type, name, count) __shared__ type name[count]
#define NIC_UNROLL _Pragma("unroll")
#define NIC_PRAGMA(text) _Pragma(#text)
#define NIC_UNROLL_BY(count) NIC_PRAGMA(unroll count)
#define NIC_ROLLED _Pragma("unroll 1")

extern __shared__ __align__(1024) uint8_t nic_dynamic_shared[];

NIC_INLINE uint32_t shared_base() {
    return static_cast<uint32_t>(__cvta_generic_to_shared(nic_dynamic_shared));
}

// Sixteen bytes that are read again soon.
NIC_INLINE uint4 load_global(const void* from) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// Sixteen bytes of a line that nobody else on this multiprocessor wants.
NIC_INLINE uint4 load_global_once(const void* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

NIC_INLINE void store_global(void* to, uint4 v) { *static_cast<uint4*>(to) = v; }
NIC_INLINE void store_global(void* to, uint64_t v) { *static_cast<uint64_t*>(to) = v; }

NIC_INLINE uint4 load_shared(uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}

NIC_INLINE void store_shared(uint32_t to, uint32_t v) {
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(to), "r"(v) : "memory");
}

NIC_INLINE void store_shared(uint32_t to, uint16_t v) {
    asm volatile("st.shared.u16 [%0], %1;" :: "r"(to), "h"(v) : "memory");
}

NIC_INLINE void load_matrices(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

NIC_INLINE void load_matrices_transposed(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

// c += a · b for 16 rows, 16 products and 8 columns.
NIC_INLINE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if NIC_ARCH >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Two operands side by side, the first in the lower half.
NIC_INLINE uint32_t half16_pair(int32_t first, int32_t second) {
    const float low = __int2float_rn(first), high = __int2float_rn(second);
#if NIC_ARCH >= 800
    // Integers of nine bits fill only the upper half of a float, which is their bf16.
    return (__float_as_uint(low) >> 16) | (__float_as_uint(high) & 0xFFFF0000u);
#else
    uint16_t a, b;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(a) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(high));
    return static_cast<uint32_t>(a) | (static_cast<uint32_t>(b) << 16);
#endif
}

NIC_INLINE uint32_t sum_bits(float sum) { return static_cast<uint32_t>(__float2int_rn(sum)); }
NIC_INLINE uint64_t high_product(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
NIC_INLINE uint32_t from_lane_below(uint32_t v, uint32_t delta) { return __shfl_down_sync(0xFFFFFFFFu, v, delta); }
NIC_INLINE uint64_t from_lane_across(uint64_t v, uint32_t mask) { return __shfl_xor_sync(0xFFFFFFFFu, v, mask); }
NIC_INLINE void block_barrier() { __syncthreads(); }

#if NIC_ARCH < 800
NIC_INLINE void store_shared(uint32_t to, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
#else
NIC_INLINE void copy_async(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}

NIC_INLINE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int pending> NIC_INLINE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}
#endif

#endif // the compiler's instructions, or the emulator's

// A 32-byte key as little-endian words, passed by value.
struct Key {
    uint32_t w[8];
};

// ---------------------------------------------------------------------------------------------------------------------------
// Operands: ChaCha with eight rounds
// ---------------------------------------------------------------------------------------------------------------------------

NIC_INLINE uint32_t rotate_left(uint32_t v, int by) { return (v << by) | (v >> (32 - by)); }
NIC_INLINE uint32_t rotate_right(uint32_t v, int by) { return (v >> by) | (v << (32 - by)); }

NIC_INLINE void quarter_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
    a += b, d = rotate_left(d ^ a, 16);
    c += d, b = rotate_left(b ^ c, 12);
    a += b, d = rotate_left(d ^ a, 8);
    c += d, b = rotate_left(b ^ c, 7);
}

// Block `counter` of the key stream with number `stream`.
NIC_INLINE void chacha8(uint32_t (&v)[16], const Key& key, uint64_t stream, uint32_t counter) {
    const uint32_t start[16] = {
        0x61707865u, 0x3320646Eu, 0x79622D32u, 0x6B206574u,
        key.w[0], key.w[1], key.w[2], key.w[3], key.w[4], key.w[5], key.w[6], key.w[7],
        counter, static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32), 0u};
    NIC_UNROLL
    for (int i = 0; i < 16; ++i) v[i] = start[i];
    NIC_ROLLED
    for (int twice = 0; twice < 4; ++twice) {
        quarter_round(v[0], v[4], v[8], v[12]);
        quarter_round(v[1], v[5], v[9], v[13]);
        quarter_round(v[2], v[6], v[10], v[14]);
        quarter_round(v[3], v[7], v[11], v[15]);
        quarter_round(v[0], v[5], v[10], v[15]);
        quarter_round(v[1], v[6], v[11], v[12]);
        quarter_round(v[2], v[7], v[8], v[13]);
        quarter_round(v[3], v[4], v[9], v[14]);
    }
    NIC_UNROLL
    for (int i = 0; i < 16; ++i) v[i] += start[i];
}

// 0..=511 to -255..=255; 0 becomes 0 as 256 does.
NIC_INLINE int32_t centred(uint32_t nine_bits) {
    return nine_bits == 0 ? 0 : static_cast<int32_t>(nine_bits) - 256;
}

// Row r of `out` is operand row `first + r` under `key`. One thread makes 32 operands.
NIC_KERNEL(256, 4) nic_operands(uint16_t* out, Key key, uint64_t first, uint32_t rows, uint32_t n) {
    const uint32_t at = blockIdx.x * 256 + threadIdx.x;
    const uint32_t blocks = n / 32;
    const uint32_t row = at / blocks;
    if (row >= rows) return;
    uint32_t v[16];
    chacha8(v, key, first + row, at - row * blocks);
    NIC_UNROLL
    for (int i = 0; i < 16; ++i) v[i] = half16_pair(centred((v[i] & 0xFFFFu) >> 7), centred(v[i] >> 23));
    uint16_t* to = out + static_cast<uint64_t>(at) * 32;
    NIC_UNROLL
    for (int i = 0; i < 4; ++i) {
        const uint4 four = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
        store_global(to + 8 * i, four);
    }
}

// ---------------------------------------------------------------------------------------------------------------------------
// One step of the chain: a product, and the mix on the way out
// ---------------------------------------------------------------------------------------------------------------------------

// A block makes 128 x 128 sums from tiles of 32 products; its eight warps make 64 x 32 each.
static constexpr uint32_t kTile = 128;
static constexpr uint32_t kDepth = 32;
static constexpr uint32_t kStages = 4;
static constexpr uint32_t kOperandBytes = kTile * kDepth * 2;
static constexpr uint32_t kStageBytes = 2 * kOperandBytes;
// Neighbouring blocks share this many column tiles of B, which stay in the second-level cache while rows pass over them.
static constexpr uint32_t kBand = 16;

static constexpr uint32_t kMixStep = 0x85EBCA77u;
static constexpr uint32_t kMixColumn = 0x9E3779B1u;

NIC_INLINE uint32_t mix32(uint32_t u) {
    u ^= u >> 16;
    u *= 0x7FEB352Du;
    u ^= u >> 15;
    return u * 0x846CA68Bu;
}

// Where a thread copies from and to. Shared memory is swizzled in units of 16 bytes, so that neither the copies nor the
// matrix loads meet in a bank: a row of X has 4 units and every second row the same banks, a row of B has 16.
struct Copies {
    const uint16_t* x;
    const uint16_t* b;
    uint32_t to_x;
    uint32_t to_b;
    uint32_t n;
#if NIC_ARCH < 800
    uint4 held[4];
#endif
};

NIC_INLINE Copies copies_of_thread(const uint16_t* x, const uint16_t* b, uint32_t n, uint32_t row_tile, uint32_t column_tile) {
    const uint32_t t = threadIdx.x;
    const uint32_t x_row = t >> 2, x_unit = t & 3, b_row = t >> 4, b_unit = t & 15;
    Copies c;
    c.x = x + (static_cast<uint64_t>(row_tile) * kTile + x_row) * n + x_unit * 8;
    c.b = b + static_cast<uint64_t>(b_row) * n + column_tile * kTile + b_unit * 8;
    c.to_x = x_row * 64 + ((x_unit ^ ((x_row >> 1) & 3)) << 4);
    c.to_b = kOperandBytes + b_row * 256 + ((b_unit ^ (b_row & 7)) << 4);
    c.n = n;
    return c;
}

// Begins the copy of the next 32 products into a stage.
NIC_INLINE void begin_copies(Copies& c, uint32_t stage) {
#if NIC_ARCH >= 800
    copy_async(stage + c.to_x, c.x);
    copy_async(stage + c.to_x + 4096, c.x + 64ull * c.n);
    copy_async(stage + c.to_b, c.b);
    copy_async(stage + c.to_b + 4096, c.b + 16ull * c.n);
#else
    (void)stage;
    c.held[0] = load_global(c.x);
    c.held[1] = load_global(c.x + 64ull * c.n);
    c.held[2] = load_global(c.b);
    c.held[3] = load_global(c.b + 16ull * c.n);
#endif
    c.x += kDepth;
    c.b += static_cast<uint64_t>(kDepth) * c.n;
}

// Ends it, where the hardware does not by itself.
NIC_INLINE void end_copies(const Copies& c, uint32_t stage) {
#if NIC_ARCH < 800
    store_shared(stage + c.to_x, c.held[0]);
    store_shared(stage + c.to_x + 4096, c.held[1]);
    store_shared(stage + c.to_b, c.held[2]);
    store_shared(stage + c.to_b + 4096, c.held[3]);
#else
    (void)c, (void)stage;
#endif
}

NIC_INLINE void end_group() {
#if NIC_ARCH >= 800
    copy_async_commit();
#endif
}

// Waits until at most `pending` groups of this thread's copies are under way, then for all threads.
template <int pending> NIC_INLINE void wait_for_copies() {
#if NIC_ARCH >= 800
    copy_async_wait<pending>();
#endif
    block_barrier();
}

// Adds the 32 products of a stage to a warp's sums. `from_x` and `from_b` are the lane's places in the first stage.
NIC_INLINE void multiply_stage(float (&sums)[4][4][4], uint32_t from_x, uint32_t from_b) {
    NIC_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
        uint32_t a[4][4], b[2][4];
        NIC_UNROLL
        for (uint32_t i = 0; i < 4; ++i) load_matrices(a[i], (from_x ^ (half * 32)) + i * 1024);
        NIC_UNROLL
        for (uint32_t j = 0; j < 2; ++j) load_matrices_transposed(b[j], (from_b ^ (j * 32)) + half * 4096);
        NIC_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            NIC_UNROLL
            for (uint32_t j = 0; j < 4; ++j) {
                multiply_add(sums[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);
            }
        }
    }
}

// Mixes a warp's sums and lays them out in shared memory, as pairs of operands or of the plot's bytes.
NIC_INLINE void mix_to_shared(const float (&sums)[4][4][4], uint32_t shared, uint32_t warp_row, uint32_t warp_column, uint32_t tweak,
                              bool is_last) {
    const uint32_t lane = threadIdx.x & 31;
    NIC_UNROLL
    for (uint32_t j = 0; j < 4; ++j) {
        const uint32_t first = tweak + j * (8 * kMixColumn), second = first + kMixColumn;
        NIC_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            NIC_UNROLL
            for (uint32_t h = 0; h < 2; ++h) {
                const uint32_t u = mix32(sum_bits(sums[i][j][2 * h]) + first);
                const uint32_t v = mix32(sum_bits(sums[i][j][2 * h + 1]) + second);
                const uint32_t row = warp_row + i * 16 + h * 8 + (lane >> 2);
                const uint32_t column = warp_column + j * 8 + (lane & 3) * 2;
                if (is_last) {
                    const uint32_t to = shared + row * 128 + (((column >> 4) ^ (row & 7)) << 4) + (column & 15);
                    store_shared(to, static_cast<uint16_t>((u >> 24) | ((v >> 24) << 8)));
                } else {
                    const uint32_t to = shared + row * 256 + (((column >> 3) ^ (row & 7)) << 4) + (column & 7) * 2;
                    store_shared(to, half16_pair(centred(u >> 23), centred(v >> 23)));
                }
            }
        }
    }
}

// Brings a tile from shared memory to its place, 16 bytes a thread and whole lines a row. `units` of 16 bytes make a row.
template <uint32_t units> NIC_INLINE void store_tile(uint8_t* to, uint64_t row_bytes, uint32_t shared) {
    NIC_UNROLL
    for (uint32_t part = 0; part < units / 2; ++part) {
        const uint32_t at = part * 256 + threadIdx.x;
        const uint32_t row = at / units, unit = at % units;
        const uint4 v = load_shared(shared + row * (units * 16) + ((unit ^ (row & 7)) << 4));
        store_global(to + row * row_bytes + unit * 16, v);
    }
}

NIC_KERNEL(256, 2) nic_step(const uint16_t* x, const uint16_t* b, uint16_t* next, uint8_t* plot, uint32_t rows, uint32_t n,
                            uint32_t step, uint32_t last) {
    const uint32_t column_tiles = n / kTile, row_tiles = rows / kTile;
    const uint32_t block = blockIdx.y * column_tiles + blockIdx.x;
    const uint32_t band = block / (kBand * row_tiles) * kBand;
    const uint32_t width = column_tiles - band < kBand ? column_tiles - band : kBand;
    const uint32_t in_band = block - band * row_tiles;
    const uint32_t row_tile = in_band / width, column_tile = band + in_band % width;

    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t warp_row = (warp >> 2) * 64, warp_column = (warp & 3) * 32;
    const uint32_t shared = shared_base();
    const uint32_t low = lane & 15, high = lane >> 4;
    const uint32_t from_x = shared + (warp_row + low) * 64 + ((high ^ ((low >> 1) & 3)) << 4);
    const uint32_t from_b = shared + kOperandBytes + low * 256 + ((((warp_column >> 3) + high) ^ (low & 7)) << 4);

    Copies copies = copies_of_thread(x, b, n, row_tile, column_tile);
    NIC_UNROLL
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) {
        begin_copies(copies, shared + stage * kStageBytes);
        end_copies(copies, shared + stage * kStageBytes);
        end_group();
    }

    float sums[4][4][4];
    NIC_UNROLL
    for (int i = 0; i < 64; ++i) sums[i >> 4][(i >> 2) & 3][i & 3] = 0.0f;

    const uint32_t tiles = n / kDepth;
    NIC_ROLLED
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        wait_for_copies<kStages - 2>();
        const uint32_t ahead = tile + kStages - 1;
        const uint32_t to = shared + (ahead % kStages) * kStageBytes, from = (tile % kStages) * kStageBytes;
        const bool copy = ahead < tiles;
        if (copy) begin_copies(copies, to);
        end_group();
        multiply_stage(sums, from_x + from, from_b + from);
        if (copy) end_copies(copies, to);
    }
    wait_for_copies<0>();

    const uint32_t column = column_tile * kTile + warp_column + (lane & 3) * 2;
    const uint32_t tweak = (step + 1) * kMixStep + column * kMixColumn;
    const uint64_t first_row = static_cast<uint64_t>(row_tile) * kTile;
    mix_to_shared(sums, shared, warp_row, warp_column, tweak, last != 0);
    block_barrier();
    if (last) {
        store_tile<8>(plot + first_row * n + column_tile * kTile, n, shared);
    } else {
        uint16_t* to = next + first_row * n + column_tile * kTile;
        store_tile<16>(reinterpret_cast<uint8_t*>(to), 2ull * n, shared);
    }
}

// ---------------------------------------------------------------------------------------------------------------------------
// Trees: keyed BLAKE3
// ---------------------------------------------------------------------------------------------------------------------------

static constexpr uint32_t kChunkStart = 1, kChunkEnd = 2, kParent = 4, kRoot = 8, kKeyed = 16;

NIC_INLINE void hash_mix(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t x, uint32_t y) {
    a += b + x, d = rotate_right(d ^ a, 16);
    c += d, b = rotate_right(b ^ c, 12);
    a += b + y, d = rotate_right(d ^ a, 8);
    c += d, b = rotate_right(b ^ c, 7);
}

// The chaining value after a block of 64 bytes. `rounds_unrolled` trades the program's size for a tenth of its time.
template <int rounds_unrolled>
NIC_INLINE void compress(uint32_t (&cv)[8], uint32_t (&m)[16], uint32_t chunk, uint32_t flags) {
    uint32_t v[16] = {cv[0], cv[1], cv[2], cv[3], cv[4], cv[5], cv[6], cv[7],
                      0x6A09E667u, 0xBB67AE85u, 0x3C6EF372u, 0xA54FF53Au, chunk, 0u, 64u, flags};
    NIC_UNROLL_BY(rounds_unrolled)
    for (int round = 0; round < 7; ++round) {
        hash_mix(v[0], v[4], v[8], v[12], m[0], m[1]);
        hash_mix(v[1], v[5], v[9], v[13], m[2], m[3]);
        hash_mix(v[2], v[6], v[10], v[14], m[4], m[5]);
        hash_mix(v[3], v[7], v[11], v[15], m[6], m[7]);
        hash_mix(v[0], v[5], v[10], v[15], m[8], m[9]);
        hash_mix(v[1], v[6], v[11], v[12], m[10], m[11]);
        hash_mix(v[2], v[7], v[8], v[13], m[12], m[13]);
        hash_mix(v[3], v[4], v[9], v[14], m[14], m[15]);
        const uint32_t p[16] = {m[2], m[6], m[3], m[10], m[7], m[0], m[4], m[13],
                                m[1], m[11], m[12], m[5], m[9], m[14], m[15], m[8]};
        NIC_UNROLL
        for (int i = 0; i < 16; ++i) m[i] = p[i];
    }
    NIC_UNROLL
    for (int i = 0; i < 8; ++i) cv[i] = v[i] ^ v[i + 8];
}

NIC_INLINE void load_block(uint32_t (&m)[16], const uint8_t* from) {
    NIC_UNROLL
    for (int i = 0; i < 4; ++i) {
        const uint4 v = load_global(from + 16 * i);
        m[4 * i] = v.x, m[4 * i + 1] = v.y, m[4 * i + 2] = v.z, m[4 * i + 3] = v.w;
    }
}

NIC_INLINE void store_digest(uint32_t* to, const uint32_t (&cv)[8]) {
    const uint4 first = {cv[0], cv[1], cv[2], cv[3]}, second = {cv[4], cv[5], cv[6], cv[7]};
    store_global(to, first);
    store_global(to + 4, second);
}

// Four threads hash a row, one for each chunk of 1,024 bytes. One loop passes over the blocks of a chunk and over the two
// levels of parents, so that the compression stands in the program once.
NIC_KERNEL(128, 4) nic_leaves(const uint8_t* plot, uint32_t* leaves, Key key, uint32_t rows, uint32_t n) {
    const uint32_t row = blockIdx.x * 32 + (threadIdx.x >> 2), part = threadIdx.x & 3;
    const uint32_t chunks = (n + 1023) / 1024, begin = part * 1024;
    const uint32_t left = n > begin ? n - begin : 0;
    const uint32_t blocks = row < rows ? (left < 1024 ? left : 1024) / 64 : 0;
    const uint32_t longest = (n < 1024 ? n : 1024) / 64;
    const uint8_t* from = plot + static_cast<uint64_t>(row) * n + begin;

    uint32_t cv[8];
    NIC_UNROLL
    for (int i = 0; i < 8; ++i) cv[i] = key.w[i];
    NIC_ROLLED
    for (uint32_t at = 0; at < longest + 2; ++at) {
        uint32_t m[16], chain[8], flags = kKeyed;
        bool is_active;
        if (at < longest) {
            is_active = at < blocks;
            if (is_active) {
                load_block(m, from + at * 64);
            } else {
                NIC_UNROLL
                for (int i = 0; i < 16; ++i) m[i] = 0;
            }
            flags |= at == 0 ? kChunkStart : 0;
            flags |= at + 1 == blocks ? (chunks == 1 ? kChunkEnd | kRoot : kChunkEnd) : 0;
            NIC_UNROLL
            for (int i = 0; i < 8; ++i) chain[i] = cv[i];
        } else {
            const uint32_t level = at - longest, apart = 1u << level;
            is_active = (part & (2 * apart - 1)) == 0 && part + apart < chunks;
            flags |= chunks <= 2 * apart ? kParent | kRoot : kParent;
            NIC_UNROLL
            for (int i = 0; i < 8; ++i) {
                m[i] = cv[i];
                m[i + 8] = from_lane_below(cv[i], apart);
                chain[i] = key.w[i];
            }
        }
        compress<7>(chain, m, at < longest ? part : 0, flags);
        NIC_UNROLL
        for (int i = 0; i < 8; ++i) cv[i] = is_active ? chain[i] : cv[i];
    }
    if (part == 0 && row < rows) store_digest(leaves + static_cast<uint64_t>(row) * 8, cv);
}

// One thread makes one parent of two digests.
NIC_KERNEL(128, 4) nic_nodes(const uint32_t* children, uint32_t* parents, Key key, uint32_t count) {
    const uint32_t at = blockIdx.x * 128 + threadIdx.x;
    if (at >= count) return;
    uint32_t m[16], cv[8];
    load_block(m, reinterpret_cast<const uint8_t*>(children) + static_cast<uint64_t>(at) * 64);
    NIC_UNROLL
    for (int i = 0; i < 8; ++i) cv[i] = key.w[i];
    compress<1>(cv, m, 0, kChunkStart | kChunkEnd | kRoot | kKeyed);
    store_digest(parents + static_cast<uint64_t>(at) * 8, cv);
}

// ---------------------------------------------------------------------------------------------------------------------------
// Walks
// ---------------------------------------------------------------------------------------------------------------------------

static constexpr uint64_t kWalkStride = 0x9E3779B97F4A7C15ull;

NIC_INLINE uint64_t mix64(uint64_t s) {
    s ^= s >> 30;
    s *= 0xBF58476D1CE4E5B9ull;
    s ^= s >> 27;
    s *= 0x94D049BB133111EBull;
    return s ^ (s >> 31);
}

// The products of sixteen bytes of a row under the halves of the state and four key words.
NIC_INLINE uint64_t absorb(uint4 m, uint4 k, uint32_t low, uint32_t high) {
    const uint64_t a = static_cast<uint64_t>((m.x ^ low) + k.x) * ((m.y ^ high) + k.y);
    const uint64_t b = static_cast<uint64_t>((m.z ^ low) + k.z) * ((m.w ^ high) + k.w);
    return a + b;
}

// One warp makes one walk. `plot` may be another device's memory.
NIC_KERNEL(256, 4) nic_walks(const uint8_t* plot, const uint32_t* words, uint64_t seed, uint64_t rows, uint32_t n,
                             uint32_t first_walk, uint32_t walks, uint32_t reads, uint64_t* results) {
    NIC_STATIC_SHARED(uint4, key, 256);
    const uint32_t units = n / 16, lane = threadIdx.x & 31;
    if (threadIdx.x < units) key[threadIdx.x] = load_global(words + 4 * threadIdx.x);
    block_barrier();
    const uint32_t walk = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (walk >= walks) return;
    uint64_t s = seed ^ ((static_cast<uint64_t>(first_walk) + walk + 1) * kWalkStride);
    NIC_ROLLED
    for (uint32_t read = 0; read < reads; ++read) {
        s = mix64(s);
        const uint8_t* row = plot + high_product(s, rows) * n;
        const uint32_t low = static_cast<uint32_t>(s), high = static_cast<uint32_t>(s >> 32);
        uint64_t sum = 0;
        if (n == 4096) {
            uint4 m[8];
            NIC_UNROLL
            for (uint32_t i = 0; i < 8; ++i) m[i] = load_global_once(row + (i * 32 + lane) * 16);
            NIC_UNROLL
            for (uint32_t i = 0; i < 8; ++i) sum += absorb(m[i], key[i * 32 + lane], low, high);
        } else {
            NIC_ROLLED
            for (uint32_t at = lane; at < units; at += 32) {
                sum += absorb(load_global_once(row + at * 16), key[at], low, high);
            }
        }
        NIC_UNROLL
        for (uint32_t mask = 16; mask > 0; mask >>= 1) sum += from_lane_across(sum, mask);
        s += sum;
    }
    if (lane == 0) store_global(results + walk, s);
}
