// The kernels of kernels.cu, compiled for the emulator once for each kind of tensor core.

#ifndef NIC_EMULATED_H
#define NIC_EMULATED_H

#define NIC_EMULATOR
#include "emulator.h"

// Turing: fp16, and copies through registers.
namespace turing {
#define NIC_ARCH 750
static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulated_multiply_add<false>(c, a, b0, b1);
}
static inline uint32_t half16_pair(int32_t a, int32_t b) { return emulated_half16_pair<false>(a, b); }
#include "kernels.cu"
#undef NIC_ARCH
}  // namespace turing

// Ampere and everything since: bf16, and asynchronous copies.
namespace ampere {
#define NIC_ARCH 800
static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulated_multiply_add<true>(c, a, b0, b1);
}
static inline uint32_t half16_pair(int32_t a, int32_t b) { return emulated_half16_pair<true>(a, b); }
#include "kernels.cu"
#undef NIC_ARCH
}  // namespace ampere

#endif  // NIC_EMULATED_H
