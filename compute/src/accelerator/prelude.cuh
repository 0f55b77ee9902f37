// What all kernels share. The host's spelling is in tests/emulated-gpu/src/host.h.
//
// There are no other headers: the run-time compiler has none where no toolkit is installed. So half floats are their bits, and
// three instructions that have no name without headers are written out.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32u
#define ALL_LANES 0xffffffffu

#ifndef TRAWL_HOST

// A kernel that the host launches, and its parameters.
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define DEVICE [[maybe_unused]] static __device__ __forceinline__
// Shared memory whose size the launch decides.
#define SHARED(type, name)                         \
    extern __shared__ __align__(16) u8 shared_##name[]; \
    type* const name = (type*)shared_##name

DEVICE float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE u16 float_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// The sum of four products of unsigned with signed bytes, and a start.
DEVICE int dot_u8_s8(u32 a, u32 b, int start) {
    int sum;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(start));
    return sum;
}

// Two values in 32 bits, the first in the low ones; to nearest, ties to even.
DEVICE u32 pair_of_halves(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE u32 pair_of_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// `C += A B` by a warp on tensor cores: A is (16, 16), B is (16, 8), C is (16, 8) in f32; fragments as PTX defines them.
DEVICE void multiply_add_halves(float* c, const u32* a, const u32* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void multiply_add_bf16(float* c, const u32* a, const u32* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four (8, 8) matrices of 16-bit values from shared memory: lane i gives row i % 8 of matrix i / 8, of 16 bytes at a multiple of 16. Of
// each matrix a lane gets two values, of row lane / 4 and columns lane % 4 * 2 and the next.
DEVICE void load_matrices(u32* to, const u16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}

// The same of the matrices transposed.
DEVICE void load_transposed_matrices(u32* to, const u16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}

#endif

DEVICE float bf16_to_float(u16 bits) { return __uint_as_float((u32)bits << 16); }

// To nearest, ties to even; NaN stays NaN.
DEVICE u16 float_to_bf16(float value) {
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct alignas(16) Bytes16 {
    u32 words[4];
};

// The sum over the lanes of a warp, in every lane.
DEVICE float sum_of_warp(float value) {
    for (u32 step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}
