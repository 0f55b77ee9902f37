// Exact search: three scans that append the rows they cannot rule out, one kernel that gives those their defined score, and one that
// keeps the best and raises the limits. `index/src/accelerated/mod.rs` says how they go together and why the answer is exact.
//
// A row is a number within its part. Candidates of query q are `keys[q * capacity ..][.. counts[q]]`: row numbers first, keys after
// `rescore`. A key is larger where the neighbour is better: the score's bits as an integer of the same order, then the complement of
// the ordinal.

// How the score to reach becomes the limit of what a scan computes; all of it in f64, rounded down at the end.
struct LimitRule {
    double relative, absolute;  // what the scan may be wrong by, of the score and in addition to it
    double shift, factor;       // what the scan computes is (score + shift) * factor
    double slack;               // of the result, for these operations themselves
};

// Rows are padded with zeros to whole 16 bytes. Of int8 rows, the step is in an array of its own.
struct RowsF32 {
    static const u32 N = 4;
    static const u32 BYTES = 4;
    DEVICE float value(const u8* row, u32 i, float) { return ((const float*)row)[i]; }
    DEVICE void values(const Bytes16& bytes, float, float* to) {
        for (u32 i = 0; i < 4; i++) to[i] = __uint_as_float(bytes.words[i]);
    }
};

struct RowsF16 {
    static const u32 N = 8;
    static const u32 BYTES = 2;
    DEVICE float value(const u8* row, u32 i, float) { return half_to_float(((const u16*)row)[i]); }
    DEVICE void values(const Bytes16& bytes, float, float* to) {
        for (u32 i = 0; i < 4; i++) {
            to[2 * i] = half_to_float((u16)bytes.words[i]);
            to[2 * i + 1] = half_to_float((u16)(bytes.words[i] >> 16));
        }
    }
};

struct RowsBf16 {
    static const u32 N = 8;
    static const u32 BYTES = 2;
    DEVICE float value(const u8* row, u32 i, float) { return bf16_to_float(((const u16*)row)[i]); }
    DEVICE void values(const Bytes16& bytes, float, float* to) {
        for (u32 i = 0; i < 4; i++) {
            to[2 * i] = __uint_as_float(bytes.words[i] << 16);
            to[2 * i + 1] = __uint_as_float(bytes.words[i] & 0xffff0000u);
        }
    }
};

struct RowsInt8 {
    static const u32 N = 16;
    static const u32 BYTES = 1;
    DEVICE float value(const u8* row, u32 i, float step) { return (float)(signed char)row[i] * step; }
    DEVICE void values(const Bytes16& bytes, float step, float* to) {
        for (u32 i = 0; i < 16; i++) to[i] = (float)(signed char)(bytes.words[i / 4] >> (8 * (i % 4))) * step;
    }
};

DEVICE bool passes(const u32* filter, u32 row) { return filter == 0 || (filter[row / 32] >> (row % 32)) & 1u; }

// Neither -inf nor what is no number proves anything: both come from overflow.
DEVICE bool reaches(float value, float limit) { return !(value < limit) || value == -__uint_as_float(0x7f800000u); }

DEVICE void append(u64* keys, u32* counts, u32 capacity, u32 query, u32 row) {
    const u32 slot = atomicAdd(counts + query, 1u);
    if (slot < capacity) keys[(u64)query * capacity + slot] = row;
}

// Reads rows and compares each with Q queries in f32; a warp takes R rows at once, so that a value of a query is read once for them.
template <class Rows, u32 Q, bool L2>
DEVICE void scan_rows(const u8* rows, const float* steps, u32 row_bytes, u32 first, u32 end, const float* queries,
                      u32 n_queries, const float* limits, const u32* filter, u64* keys, u32* counts, u32 capacity) {
    const u32 R = 4;
    const u32 width = row_bytes / Rows::BYTES;
    SHARED(float, shared_queries);  // (Q, width), zeros where there is no query
    for (u32 i = threadIdx.x; i < Q * width; i += blockDim.x) {
        shared_queries[i] = i < n_queries * width ? queries[i] : 0.0f;
    }
    __syncthreads();

    const u32 lane = threadIdx.x % WARP, n_chunks = row_bytes / 16;
    const u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, n_warps = gridDim.x * blockDim.x / WARP;
    for (u32 row = first + warp * R; row < end; row += n_warps * R) {
        const u32 n_here = end - row < R ? end - row : R;
        if (filter != 0) {
            bool any = false;
            for (u32 r = 0; r < n_here; r++) any |= passes(filter, row + r);
            if (!any) continue;
        }
        float sums[R][Q];
        const u8* starts[R];
        float step[R];
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const u32 there = row + (r < n_here ? r : 0);  // past the end the first one is repeated, not a case of its own
            starts[r] = rows + (u64)there * row_bytes;
            step[r] = steps != 0 ? steps[there] : 1.0f;
#pragma unroll
            for (u32 q = 0; q < Q; q++) sums[r][q] = 0.0f;
        }
        for (u32 chunk = lane; chunk < n_chunks; chunk += WARP) {
            Bytes16 bytes[R];
#pragma unroll
            for (u32 r = 0; r < R; r++) bytes[r] = *(const Bytes16*)(starts[r] + chunk * 16);
            float x[R][Rows::N];
#pragma unroll
            for (u32 r = 0; r < R; r++) Rows::values(bytes[r], step[r], x[r]);
#pragma unroll
            for (u32 q = 0; q < Q; q++) {
                const float* query = shared_queries + q * width + chunk * Rows::N;
#pragma unroll
                for (u32 i = 0; i < Rows::N; i++) {
                    const float y = query[i];
#pragma unroll
                    for (u32 r = 0; r < R; r++) {
                        if (L2) {
                            const float difference = x[r][i] - y;
                            sums[r][q] -= difference * difference;
                        } else {
                            sums[r][q] += x[r][i] * y;
                        }
                    }
                }
            }
        }
#pragma unroll
        for (u32 r = 0; r < R; r++) {
#pragma unroll
            for (u32 q = 0; q < Q; q++) {
                const float score = sum_of_warp(sums[r][q]);
                if (lane == (r * Q + q) % WARP && r < n_here && q < n_queries && reaches(score, limits[q]) &&
                    passes(filter, row + r)) {
                    append(keys, counts, capacity, q, row + r);
                }
            }
        }
    }
}

#define SCAN_ROWS(name, Rows, Q, L2)                                                                              \
    KERNEL(name, const u8* rows, const float* steps, u32 row_bytes, u32 first, u32 end, const float* queries,     \
           u32 n_queries, const float* limits, const u32* filter, u64* keys, u32* counts, u32 capacity) {         \
        scan_rows<Rows, Q, L2>(rows, steps, row_bytes, first, end, queries, n_queries, limits, filter, keys,      \
                               counts, capacity);                                                                \
    }
#define SCAN_ROWS_BY_QUERIES(type, Rows)                  \
    SCAN_ROWS(scan_##type##_1, Rows, 1, false)            \
    SCAN_ROWS(scan_##type##_4, Rows, 4, false)            \
    SCAN_ROWS(scan_##type##_16, Rows, 16, false)          \
    SCAN_ROWS(scan_##type##_1_l2, Rows, 1, true)          \
    SCAN_ROWS(scan_##type##_4_l2, Rows, 4, true)          \
    SCAN_ROWS(scan_##type##_16_l2, Rows, 16, true)
SCAN_ROWS_BY_QUERIES(f32, RowsF32)
SCAN_ROWS_BY_QUERIES(f16, RowsF16)
SCAN_ROWS_BY_QUERIES(bf16, RowsBf16)
SCAN_ROWS_BY_QUERIES(int8, RowsInt8)

// A query as it meets the heads of a shard's sketches; see `index/src/sketch/mod.rs`, whose names these are.
struct HeadQuery {
    int start;      // g - 128 * sum of the codes
    float rest;     // b
    float inverse;  // 1 / sigma
    u32 unused;
};

// Reads heads of sketches: a thread takes a row, half a warp a block of 16 rows.
template <u32 Q>
DEVICE void scan_heads(const u8* heads, u32 block_bytes, u32 codes_at, u32 n_groups, u32 has_squares, u32 first, u32 end,
                       const u32* codes, const HeadQuery* queries, u32 n_queries, const float* limits, const u32* filter,
                       u64* keys, u32* counts, u32 capacity) {
    const u32 LANES = 16;
    SHARED(u32, shared_codes);  // (n_groups, Q): what is read together is together
    for (u32 i = threadIdx.x; i < n_groups * Q; i += blockDim.x) {
        const u32 q = i % Q;
        shared_codes[i] = q < n_queries ? codes[q * n_groups + i / Q] : 0u;
    }
    __syncthreads();

    for (u32 row = first + blockIdx.x * blockDim.x + threadIdx.x; row < end; row += gridDim.x * blockDim.x) {
        if (!passes(filter, row)) continue;
        const u8* block = heads + (u64)(row / LANES) * block_bytes;
        const float* numbers = (const float*)block + row % LANES;
        const u32* groups = (const u32*)(block + codes_at) + row % LANES;
        int sums[Q];
#pragma unroll
        for (u32 q = 0; q < Q; q++) sums[q] = q < n_queries ? queries[q].start : 0;
#pragma unroll 4
        for (u32 group = 0; group < n_groups; group++) {
            const u32 of_row = groups[group * LANES];
#pragma unroll
            for (u32 q = 0; q < Q; q++) sums[q] = dot_u8_s8(of_row, shared_codes[group * Q + q], sums[q]);
        }
        const float step = numbers[0], rest = numbers[LANES], square = has_squares ? numbers[2 * LANES] : 0.0f;
#pragma unroll
        for (u32 q = 0; q < Q; q++) {
            if (q >= n_queries) break;
            const float product = step * (float)sums[q] - square * queries[q].inverse;
            const float bound = product + rest * queries[q].rest;
            if (reaches(bound, limits[q])) append(keys, counts, capacity, q, row);
        }
    }
}

#define SCAN_HEADS(name, Q)                                                                                          \
    KERNEL(name, const u8* heads, u32 block_bytes, u32 codes_at, u32 n_groups, u32 has_squares, u32 first, u32 end,  \
           const u32* codes, const HeadQuery* queries, u32 n_queries, const float* limits, const u32* filter,        \
           u64* keys, u32* counts, u32 capacity) {                                                                   \
        scan_heads<Q>(heads, block_bytes, codes_at, n_groups, has_squares, first, end, codes, queries, n_queries,    \
                      limits, filter, keys, counts, capacity);                                                       \
    }
SCAN_HEADS(scan_heads_1, 1)
SCAN_HEADS(scan_heads_4, 4)
SCAN_HEADS(scan_heads_16, 16)

// Filters products of queries and rows, (queries, rows) row-major. Blocks in y are queries. Under L2, `half_squares` has |x|^2 / 2 of
// every row, and `scales` what the query was multiplied by.
KERNEL(filter_products, const float* products, u32 first, u32 end, const float* half_squares, const float* scales,
       const float* limits, const u32* filter, u64* keys, u32* counts, u32 capacity) {
    const u32 query = blockIdx.y, n_rows = end - first;
    const float limit = limits[query];
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n_rows; i += gridDim.x * blockDim.x) {
        float product = products[(u64)query * n_rows + i];
        if (half_squares != 0) product -= half_squares[first + i] * scales[query];
        if (reaches(product, limit) && passes(filter, first + i)) append(keys, counts, capacity, query, first + i);
    }
}

// Replaces the row numbers of candidates by their keys. Eight lanes take a candidate, since the defined score has eight running sums:
// sum j takes the values j, j + 8, ..., and they are added pairwise. Nothing is fused: a product of two f32 is exact in f64.
template <class Rows, bool L2>
DEVICE void rescore(const u8* rows, const float* steps, u32 row_bytes, u32 width, u32 first_ordinal, const float* queries,
                    u64* keys, const u32* counts, u32 capacity) {
    const u32 EIGHT = 8;
    const u32 query = blockIdx.y, sum = threadIdx.x % EIGHT;
    const u32 n = counts[query] < capacity ? counts[query] : capacity;
    const float* values = queries + (u64)query * (row_bytes / Rows::BYTES);
    const u32 n_rounded = (n + WARP / EIGHT - 1) / (WARP / EIGHT) * (WARP / EIGHT);  // a warp goes round together
    for (u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / EIGHT; i < n_rounded; i += gridDim.x * blockDim.x / EIGHT) {
        u64* key = keys + (u64)query * capacity + (i < n ? i : 0);
        const u32 row = i < n ? (u32)*key : 0;
        const u8* start = rows + (u64)row * row_bytes;
        const float step = steps != 0 ? steps[row] : 1.0f;
        double total = 0.0;
        for (u32 at = sum; at < width; at += EIGHT) {
            const double x = (double)Rows::value(start, at, step), y = (double)values[at];
            if (L2) {
                const double difference = __dadd_rn(x, -y);
                total = __dadd_rn(total, __dmul_rn(difference, difference));
            } else {
                total = __dadd_rn(total, __dmul_rn(x, y));
            }
        }
        for (u32 apart = EIGHT / 2; apart > 0; apart /= 2) {
            total = __dadd_rn(total, __shfl_xor_sync(ALL_LANES, total, apart));
        }
        if (sum == 0 && i < n) {
            const float score = __fadd_rn(__double2float_rn(L2 ? -total : total), 0.0f);  // one spelling of zero
            const u32 bits = __float_as_uint(score);
            const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
            *key = (u64)ordered << 32 | (u64)~(first_ordinal + row);
        }
    }
}

#define RESCORE(name, Rows, L2)                                                                                     \
    KERNEL(name, const u8* rows, const float* steps, u32 row_bytes, u32 width, u32 first_ordinal,                   \
           const float* queries, u64* keys, const u32* counts, u32 capacity) {                                      \
        rescore<Rows, L2>(rows, steps, row_bytes, width, first_ordinal, queries, keys, counts, capacity);           \
    }
RESCORE(rescore_f32, RowsF32, false)
RESCORE(rescore_f16, RowsF16, false)
RESCORE(rescore_bf16, RowsBf16, false)
RESCORE(rescore_int8, RowsInt8, false)
RESCORE(rescore_f32_l2, RowsF32, true)
RESCORE(rescore_f16_l2, RowsF16, true)
RESCORE(rescore_bf16_l2, RowsBf16, true)
RESCORE(rescore_int8_l2, RowsInt8, true)

// Sorts so many shared keys, a power of two, the largest first: bitonic.
DEVICE void sort_shared(u64* keys, u32 n) {
    for (u32 size = 2; size <= n; size *= 2) {
        for (u32 apart = size / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < n / 2; i += blockDim.x) {
                const u32 a = 2 * i - (i & (apart - 1)), b = a + apart;
                const bool descending = (a & size) == 0;
                if ((keys[a] < keys[b]) == descending) {
                    const u64 key = keys[a];
                    keys[a] = keys[b];
                    keys[b] = key;
                }
            }
        }
    }
    __syncthreads();
}

// Merges the candidates of each query into its `k` best, which are sorted and 0 where there are none yet; then there are no candidates,
// and the limit is that of the k-th best. A block takes a query. `k` is at most SELECTED / 2.
#define SELECTED 2048u
KERNEL(keep_best, u64* keys, u32* counts, u32 capacity, u64* best, u32 k, const LimitRule* rules, float* limits,
       u64* n_rescored) {
    SHARED(u64, kept);  // SELECTED
    __shared__ u32 n_kept;
    const u32 query = blockIdx.x;
    const u32 n = counts[query] < capacity ? counts[query] : capacity;
    u64* const own_best = best + (u64)query * k;
    if (n > 0) {
        for (u32 i = threadIdx.x; i < SELECTED; i += blockDim.x) kept[i] = i < k ? own_best[i] : 0;
        if (threadIdx.x == 0) n_kept = k;
        __syncthreads();
        for (u32 from = 0; from < n; from += blockDim.x) {
            const u64 worst = kept[k - 1];
            const u32 i = from + threadIdx.x;
            const u64 key = i < n ? keys[(u64)query * capacity + i] : 0;
            if (key > worst) kept[atomicAdd(&n_kept, 1u)] = key;
            __syncthreads();
            const bool is_last = from + blockDim.x >= n;
            const u32 n_now = n_kept;
            if (is_last || n_now + blockDim.x > SELECTED) {
                u32 n_sorted = 2;
                while (n_sorted < n_now) n_sorted *= 2;
                sort_shared(kept, n_sorted);
                for (u32 j = k + threadIdx.x; j < SELECTED; j += blockDim.x) kept[j] = 0;
                if (threadIdx.x == 0) n_kept = k;
            }
            __syncthreads();
        }
        for (u32 i = threadIdx.x; i < k; i += blockDim.x) own_best[i] = kept[i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        counts[query] = 0;
        n_rescored[query] += n;
        const u64 worst = own_best[k - 1];
        float limit = -__uint_as_float(0x7f800000u);
        if (worst != 0) {
            const u32 ordered = (u32)(worst >> 32);
            const float reached = __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
            const float largest = __uint_as_float(0x7f7fffffu);
            const LimitRule rule = rules[query];
            const double score = (double)(reached < largest ? reached : largest);
            const double lowered = score - fabs(score) * rule.relative - rule.absolute;
            const double product = (lowered + rule.shift) * rule.factor;
            const double limited = product - fabs(product) * rule.slack - 1e-44;
            if (limited > -3e38) limit = __double2float_rd(limited < 3e38 ? limited : 3e38);
        }
        limits[query] = limit;
    }
}
