// The host's spelling of what kernels use: blocks one after the other, the threads of a block as fibers that take turns at barriers.
//
// A block runs on one thread of the host. Its fibers run until they meet a barrier, of their warp or of the block; when all have
// arrived, or ended, they go on. Kernels that would deadlock on a device end the process with a message.

#pragma once
#define TRAWL_HOST 1

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

struct Index3 {
    unsigned x, y, z;
};

namespace emulated {
extern thread_local Index3 thread_index, block_index, block_size, grid_size;
extern thread_local unsigned char* shared_memory;
void block_barrier();
// Meets the other lanes of the warp, gives them 8 bytes, and returns theirs by lane.
const uint64_t* warp_exchange(uint64_t value);
struct Kernel {
    Kernel(const char* name, void (*run)(void**));
};
template <auto Function>
struct Call;
template <class... A, void (*Function)(A...)>
struct Call<Function> {
    template <unsigned... I>
    struct Numbers {};
    template <unsigned N, unsigned... I>
    struct Make : Make<N - 1, N - 1, I...> {};
    template <unsigned... I>
    struct Make<0, I...> {
        typedef Numbers<I...> Type;
    };
    template <unsigned... I>
    static void with(void** arguments, Numbers<I...>) {
        Function(*(typename std::remove_const<A>::type*)arguments[I]...);
    }
    static void run(void** arguments) { with(arguments, typename Make<sizeof...(A)>::Type()); }
};
}  // namespace emulated

#define threadIdx emulated::thread_index
#define blockIdx emulated::block_index
#define blockDim emulated::block_size
#define gridDim emulated::grid_size

#define KERNEL(name, ...)                                                          \
    static void name(__VA_ARGS__);                                                 \
    static emulated::Kernel kernel_##name(#name, &emulated::Call<&name>::run);     \
    static void name(__VA_ARGS__)
#define DEVICE static inline
#define SHARED(type, name) type* const name = (type*)emulated::shared_memory
#define __shared__ static thread_local

inline void __syncthreads() { emulated::block_barrier(); }
inline void __syncwarp() { emulated::warp_exchange(0); }

template <class T>
inline T __shfl_xor_sync(unsigned, T value, unsigned lanes) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t other = emulated::warp_exchange(bits)[(threadIdx.x % 32) ^ lanes];
    std::memcpy(&value, &other, sizeof value);
    return value;
}

inline unsigned atomicAdd(unsigned* at, unsigned n) {
    const unsigned before = *at;
    *at += n;
    return before;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __double2float_rn(double value) { return (float)value; }
inline float __double2float_rd(double value) {
    const float rounded = (float)value;
    return (double)rounded > value ? std::nextafterf(rounded, -INFINITY) : rounded;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using std::fabs;

static inline float half_to_float(uint16_t bits) {
    const unsigned sign = (unsigned)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, fraction = bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
    const float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}

static inline uint16_t float_to_half(float value) {
    const unsigned bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u;
    const float size = std::fabs(value);
    if (std::isnan(value)) return (uint16_t)(sign | 0x7fffu);
    if (size >= 65520.0f) return (uint16_t)(sign | 0x7c00u);
    if (size < 0x1p-14f) return (uint16_t)(sign | (unsigned)std::nearbyint(size * 0x1p24f));
    const unsigned rounded = __float_as_uint(size) + 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | ((rounded >> 13) - (112u << 10)));
}

static inline int dot_u8_s8(unsigned a, unsigned b, int start) {
    unsigned sum = (unsigned)start;
    for (int i = 0; i < 32; i += 8) sum += (unsigned)((int)(uint8_t)(a >> i) * (int)(int8_t)(b >> i));
    return (int)sum;
}

static inline unsigned pair_of_halves(float low, float high) {
    return float_to_half(low) | (unsigned)float_to_half(high) << 16;
}

// The prelude's rounding is defined after this, and is the same.
static inline unsigned pair_of_bf16(float low, float high) {
    const auto rounded = [](float value) {
        const unsigned bits = __float_as_uint(value);
        return std::isnan(value) ? bits >> 16 | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}

// The product of a warp's fragments. A lane reads the operands where the others have them, so nobody goes on before all have read.
// Products of two halves are exact in f64, and their sum is rounded once; a device may keep fewer bits of it.
template <class Value>
inline void multiply_add_fragments(float* c, const unsigned* a, const unsigned* b, Value value) {
    const unsigned* mine[2] = {a, b};
    const uint64_t* lanes = emulated::warp_exchange((uint64_t)mine);
    const auto at = [&](unsigned lane, int operand, unsigned word, unsigned half) {
        return (double)value((uint16_t)(((const unsigned**)lanes[lane])[operand][word] >> (16 * half)));
    };
    const unsigned group = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    for (unsigned i = 0; i < 4; i++) {
        double sum = c[i];
        for (unsigned k = 0; k < 16; k++) {
            const unsigned pair = k % 8 / 2, half = k % 2;
            sum += at(group * 4 + pair, 0, i / 2 + k / 8 * 2, half) * at((column + i % 2) * 4 + pair, 1, k / 8, half);
        }
        c[i] = (float)sum;
    }
    emulated::warp_exchange(0);
}

static inline void multiply_add_halves(float* c, const unsigned* a, const unsigned* b) {
    multiply_add_fragments(c, a, b, half_to_float);
}

static inline void multiply_add_bf16(float* c, const unsigned* a, const unsigned* b) {
    multiply_add_fragments(c, a, b, [](uint16_t bits) { return __uint_as_float((unsigned)bits << 16); });
}

// Each lane's part of four matrices, whose rows the lanes give. Nobody goes on, and writes to the rows, before all have read.
template <class Value>
inline void load_fragments(unsigned* to, const uint16_t* row, Value value) {
    if ((uint64_t)row % 16 != 0) {
        std::fprintf(stderr, "a row of a matrix is at %p, which is no multiple of 16\n", (const void*)row);
        std::abort();
    }
    const uint64_t* rows = emulated::warp_exchange((uint64_t)row);
    const unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        const uint16_t* const* of_matrix = (const uint16_t* const*)(rows + 8 * matrix);
        to[matrix] = value(of_matrix, lane / 4, lane % 4 * 2) | (unsigned)value(of_matrix, lane / 4, lane % 4 * 2 + 1) << 16;
    }
    emulated::warp_exchange(0);
}

static inline void load_matrices(unsigned* to, const uint16_t* row) {
    load_fragments(to, row, [](const uint16_t* const* rows, unsigned i, unsigned j) { return rows[i][j]; });
}

static inline void load_transposed_matrices(unsigned* to, const uint16_t* row) {
    load_fragments(to, row, [](const uint16_t* const* rows, unsigned i, unsigned j) { return rows[j][i]; });
}
