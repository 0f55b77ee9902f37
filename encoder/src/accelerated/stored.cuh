// How values are stored, and read and written in 16 bytes: what the kernels of encoders and of training share.

struct alignas(16) Four {
    float x[4];
};

struct alignas(8) Bytes8 {
    u32 words[2];
};

// How values are stored: one, those of 16 bytes, and four.
struct StoredF32 {
    typedef float Type;
    static const u32 N = 4;
    DEVICE float value(float stored) { return stored; }
    DEVICE float stored(float value) { return value; }
    DEVICE void store_four(float* to, const float* x) { *(Four*)to = Four{x[0], x[1], x[2], x[3]}; }
};

struct StoredF16 {
    typedef u16 Type;
    static const u32 N = 8;
    DEVICE float value(u16 stored) { return half_to_float(stored); }
    DEVICE u16 stored(float value) { return float_to_half(value); }
    DEVICE u32 pair(float low, float high) { return pair_of_halves(low, high); }
    DEVICE void store_four(u16* to, const float* x) { *(Bytes8*)to = Bytes8{pair(x[0], x[1]), pair(x[2], x[3])}; }
    DEVICE void multiply_add(float* c, const u32* a, const u32* b) { multiply_add_halves(c, a, b); }
};

struct StoredBf16 {
    typedef u16 Type;
    static const u32 N = 8;
    DEVICE float value(u16 stored) { return bf16_to_float(stored); }
    DEVICE u16 stored(float value) { return float_to_bf16(value); }
    DEVICE u32 pair(float low, float high) { return pair_of_bf16(low, high); }
    DEVICE void store_four(u16* to, const float* x) { *(Bytes8*)to = Bytes8{pair(x[0], x[1]), pair(x[2], x[3])}; }
    DEVICE void multiply_add(float* c, const u32* a, const u32* b) { multiply_add_bf16(c, a, b); }
};

DEVICE float max_of_warp(float value) {
    for (u32 step = WARP / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

struct RowStatistics {
    float mean, scale;  // 1 / √(variance + epsilon)
};

// Of a row that a warp holds in shared memory, where each lane reads what it wrote itself: four values of every 128.
DEVICE RowStatistics statistics(const float* row, u32 width, float epsilon) {
    const u32 first = threadIdx.x % WARP * 4;
    float sum = 0.0f, squares = 0.0f;
    for (u32 i = first; i < width; i += 4 * WARP) {
        for (u32 j = 0; j < 4; j++) sum += row[i + j];
    }
    const float mean = sum_of_warp(sum) / (float)width;
    for (u32 i = first; i < width; i += 4 * WARP) {
        for (u32 j = 0; j < 4; j++) {
            const float centered = row[i + j] - mean;
            squares += centered * centered;
        }
    }
    return {mean, 1.0f / sqrtf(sum_of_warp(squares) / (float)width + epsilon)};
}

// The sum of a row of each of three tables, of which the third may be missing, by a warp: four values of every 128 a lane.
DEVICE void sum_rows(const float* token, const float* position, const float* type, u32 width, float* row) {
    for (u32 i = threadIdx.x % WARP * 4; i < width; i += 4 * WARP) {
        Four sum = *(const Four*)(token + i);
        const Four second = *(const Four*)(position + i);
        for (u32 j = 0; j < 4; j++) sum.x[j] += second.x[j];
        if (type != 0) {
            const Four third = *(const Four*)(type + i);
            for (u32 j = 0; j < 4; j++) sum.x[j] += third.x[j];
        }
        *(Four*)(row + i) = sum;
    }
}
