// A transformer of the BERT family on packed texts, between its matrix products. `encoder/src/accelerated/network.rs` says in which
// order these run.
//
// T rows are the tokens of all texts, one text after the other. What goes into a product is stored as f32, f16 or bf16; residuals,
// statistics and sums are f32. Widths are multiples of 8, so that rows can be read in 16 bytes.

// Layer normalization of a row that a warp holds in shared memory, where each lane reads what it wrote itself: four values of every
// 128. The result goes to `hidden`, and to `operand` where that is another type.
template <class Stored>
DEVICE void normalize_row(const float* row, u32 width, const float* weight, const float* bias, float epsilon, float* hidden,
                          typename Stored::Type* operand) {
    const u32 first = threadIdx.x % WARP * 4;
    const RowStatistics of = statistics(row, width, epsilon);
    for (u32 i = first; i < width; i += 4 * WARP) {
        float x[4];
        for (u32 j = 0; j < 4; j++) x[j] = (row[i + j] - of.mean) * of.scale * weight[i + j] + bias[i + j];
        *(Four*)(hidden + i) = Four{x[0], x[1], x[2], x[3]};
        if (operand != 0) Stored::store_four(operand + i, x);
    }
}

// Sums the rows of three tables and normalizes the sum. A warp takes a token; shared memory holds a row of each.
template <class Stored>
DEVICE void embed(const u32* ids, const u32* positions, const u32* types, u32 n_rows, u32 width, const float* token_table,
                  const float* position_table, const float* type_table, const float* weight, const float* bias, float epsilon,
                  float* hidden, typename Stored::Type* operand) {
    SHARED(float, shared_rows);
    const u32 warp = threadIdx.x / WARP, at = blockIdx.x * (blockDim.x / WARP) + warp;
    if (at >= n_rows) return;
    float* row = shared_rows + warp * width;
    const float* type = type_table != 0 ? type_table + (u64)types[at] * width : 0;
    sum_rows(token_table + (u64)ids[at] * width, position_table + (u64)positions[at] * width, type, width, row);
    normalize_row<Stored>(row, width, weight, bias, epsilon, hidden + (u64)at * width, operand + (operand != 0 ? (u64)at * width : 0));
}

// Adds a linear layer's bias and the residual to its product, and normalizes the sum, which replaces the product. The residual of row r
// is row `sources[r]` where there are sources, else row r.
template <class Stored>
DEVICE void add_norm(float* product, const float* added, const float* residual, const u32* sources, u32 n_rows, u32 width,
                     const float* weight, const float* bias, float epsilon, typename Stored::Type* operand) {
    SHARED(float, shared_rows);
    const u32 warp = threadIdx.x / WARP, at = blockIdx.x * (blockDim.x / WARP) + warp;
    if (at >= n_rows) return;
    float* row = shared_rows + warp * width;
    float* here = product + (u64)at * width;
    const float* before = residual + (u64)(sources != 0 ? sources[at] : at) * width;
    for (u32 i = threadIdx.x % WARP * 4; i < width; i += 4 * WARP) {
        Four sum = *(const Four*)(here + i);
        const Four first = *(const Four*)(added + i), second = *(const Four*)(before + i);
        for (u32 j = 0; j < 4; j++) sum.x[j] += first.x[j] + second.x[j];
        *(Four*)(row + i) = sum;
    }
    normalize_row<Stored>(row, width, weight, bias, epsilon, here, operand + (operand != 0 ? (u64)at * width : 0));
}

// Activations by number, as `Function` of the host has them.
DEVICE float activated(u32 activation, float x) {
    switch (activation) {
        case 0: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case 1: return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
        case 2: return x < 0.0f ? 0.0f : x;  // NaN stays
        case 3: return x / (1.0f + expf(-x));
        default: return tanhf(x);
    }
}

// Adds a bias to every row and applies an activation, in place. A thread takes 16 bytes at a time.
template <class Stored>
DEVICE void activate(typename Stored::Type* rows, const float* bias, u32 activation, u32 n_chunks, u32 width) {
    for (u32 chunk = blockIdx.x * blockDim.x + threadIdx.x; chunk < n_chunks; chunk += gridDim.x * blockDim.x) {
        Bytes16* const at = (Bytes16*)rows + chunk;
        const float* added = bias + chunk % (width / Stored::N) * Stored::N;
        alignas(16) typename Stored::Type x[Stored::N];
        *(Bytes16*)x = *at;
#pragma unroll
        for (u32 j = 0; j < Stored::N; j++) x[j] = Stored::stored(activated(activation, Stored::value(x[j]) + added[j]));
        *at = *(const Bytes16*)x;
    }
}

// Queries of one text that a block takes.
struct Tile {
    u32 start, length;     // the text's first row, and its tokens
    u32 first, n_queries;  // of its tokens
    u32 target;            // row of the context for the first of them
};

// Attention: softmax(scale * Q K^T + relative) V. `projected` is (T, 3 H): queries, keys, values, still without their bias. That of
// the keys adds the same to all scores of a query and so changes nothing; that of the values is added at the end, since weights sum
// to 1. `relative` is (heads, 2 P - 1) by the offset of key to query, or null. Blocks in y are heads.

// A warp takes R queries; lanes are keys for the scores, then columns for the sums. `d` is at most C * 32.
template <class Stored, u32 C>
DEVICE void attend(const typename Stored::Type* projected, const float* bias, const Tile* tiles, const float* relative,
                   u32 n_positions, u32 d, float scale, typename Stored::Type* context) {
    const u32 R = 4, KEYS = WARP, QUERIES = 16;
    const u32 head = blockIdx.y, width = gridDim.y * d;
    const u64 stride = 3 * width;
    const Tile tile = tiles[blockIdx.x];
    SHARED(float, shared_floats);
    float* queries = shared_floats;            // (QUERIES, d)
    float* keys = queries + QUERIES * d;       // (KEYS, d + 1)
    float* values = keys + KEYS * (d + 1);     // (KEYS, d)
    float* weights = values + KEYS * d;        // (QUERIES, KEYS)
    const u32 lane = threadIdx.x % WARP, row = threadIdx.x / WARP * R;
    const typename Stored::Type* text = projected + tile.start * stride + head * d;
    for (u32 i = threadIdx.x; i < QUERIES * d; i += blockDim.x) {
        const u32 query = i / d, column = i % d;
        queries[i] = query < tile.n_queries
                         ? (Stored::value(text[(tile.first + query) * stride + column]) + bias[head * d + column]) * scale
                         : 0.0f;
    }
    float most[R], total[R], sums[R][C];
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        most[r] = minus_infinity();
        total[r] = 0.0f;
#pragma unroll
        for (u32 c = 0; c < C; c++) sums[r][c] = 0.0f;
    }
    for (u32 from = 0; from < tile.length; from += KEYS) {
        const u32 n_here = tile.length - from < KEYS ? tile.length - from : KEYS;
        __syncthreads();
        for (u32 i = threadIdx.x; i < KEYS * d; i += blockDim.x) {
            const u32 key = i / d, column = i % d;
            const typename Stored::Type* there = text + (from + key) * stride + column;
            keys[key * (d + 1) + column] = key < n_here ? Stored::value(there[width]) : 0.0f;
            values[i] = key < n_here ? Stored::value(there[2 * width]) : 0.0f;
        }
        __syncthreads();
        if (row < tile.n_queries) {
            float scores[R] = {0.0f, 0.0f, 0.0f, 0.0f};
            for (u32 column = 0; column < d; column++) {
                const float key = keys[lane * (d + 1) + column];
#pragma unroll
                for (u32 r = 0; r < R; r++) scores[r] += queries[(row + r) * d + column] * key;
            }
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                if (relative != 0 && lane < n_here && row + r < tile.n_queries) {
                    const u32 query = tile.first + row + r;
                    scores[r] += relative[head * (2 * n_positions - 1) + n_positions - 1 + from + lane - query];
                }
                const float score = lane < n_here ? scores[r] : minus_infinity();
                const float next = fmaxf(most[r], max_of_warp(score)), kept = expf(most[r] - next);
                const float weight = expf(score - next);
                most[r] = next;
                total[r] = total[r] * kept + weight;  // of this lane's keys
                weights[(row + r) * KEYS + lane] = weight;
#pragma unroll
                for (u32 c = 0; c < C; c++) sums[r][c] *= kept;
            }
            __syncwarp();
            for (u32 key = 0; key < n_here; key++) {
#pragma unroll
                for (u32 c = 0; c < C; c++) {
                    const u32 column = c * WARP + lane;
                    const float value = column < d ? values[key * d + column] : 0.0f;
#pragma unroll
                    for (u32 r = 0; r < R; r++) sums[r][c] += weights[(row + r) * KEYS + key] * value;
                }
            }
        }
    }
    if (row >= tile.n_queries) return;
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        const float inverse = 1.0f / sum_of_warp(total[r]);
#pragma unroll
        for (u32 c = 0; c < C; c++) {
            const u32 column = c * WARP + lane;
            if (column < d && row + r < tile.n_queries) {
                const float value = sums[r][c] * inverse + bias[2 * width + head * d + column];
                context[(u64)(tile.target + row + r) * width + head * d + column] = Stored::stored(value);
            }
        }
    }
}

// The same on tensor cores, for heads of D columns: a warp takes 16 queries, a block four warps, 64 keys at a time. Fragments are those
// of `mma.m16n8k16`: of a (16, 8) result a lane has the rows `group` and `group + 8`, and the columns `column` and `column + 1`.
// Dao 2023 (arXiv 2307.08691): the weights stay in the registers that the scores came in. Scores are in base 2.
template <class Stored, u32 D>
DEVICE void attend_tiles(const u16* projected, const float* bias, const Tile* tiles, const float* relative, u32 n_positions,
                         float scale, u16* context) {
    const u32 KEYS = 64, KEY_STRIDE = D + 8, VALUE_STRIDE = KEYS + 8;  // 8 more: no two lanes of a load meet in a bank
    const float LOG2_E = 1.4426950409f;
    const u32 head = blockIdx.y, width = gridDim.y * D;
    const u64 stride = 3 * width;
    const Tile tile = tiles[blockIdx.x];
    SHARED(u16, shared_halves);
    u16* keys = shared_halves;                  // (KEYS, KEY_STRIDE)
    u16* values = keys + KEYS * KEY_STRIDE;     // (D, VALUE_STRIDE), transposed
    const u32 lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16;
    const u32 group = lane / 4, column = lane % 4 * 2;
    const u16* text = projected + tile.start * stride + head * D;

    u32 queries[D / 16][4];
#pragma unroll
    for (u32 step = 0; step < D / 16; step++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 query = row + group + i % 2 * 8, at = step * 16 + column + i / 2 * 8;
            queries[step][i] = 0;
            if (query < tile.n_queries) {
                const u32 both = *(const u32*)(text + (tile.first + query) * stride + at);
                const float* added = bias + head * D + at;
                queries[step][i] = Stored::pair((Stored::value((u16)both) + added[0]) * (scale * LOG2_E),
                                                (Stored::value((u16)(both >> 16)) + added[1]) * (scale * LOG2_E));
            }
        }
    }
    float most[2] = {minus_infinity(), minus_infinity()}, total[2] = {0.0f, 0.0f}, sums[D / 8][4];
#pragma unroll
    for (u32 n = 0; n < D / 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) sums[n][i] = 0.0f;
    }

    for (u32 from = 0; from < tile.length; from += KEYS) {
        const u32 n_here = tile.length - from < KEYS ? tile.length - from : KEYS;
        const Bytes16 nothing = {{0, 0, 0, 0}};
        __syncthreads();
        for (u32 i = threadIdx.x; i < KEYS * (D / 8); i += blockDim.x) {
            const u32 key = i / (D / 8), chunk = i % (D / 8) * 8;
            *(Bytes16*)(keys + key * KEY_STRIDE + chunk) =
                key < n_here ? *(const Bytes16*)(text + (from + key) * stride + width + chunk) : nothing;
        }
        for (u32 i = threadIdx.x; i < KEYS * (D / 8); i += blockDim.x) {
            const u32 key = i % KEYS, chunk = i / KEYS * 8;
            const Bytes16 eight =
                key < n_here ? *(const Bytes16*)(text + (from + key) * stride + 2 * width + chunk) : nothing;
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                values[(chunk + j) * VALUE_STRIDE + key] = (u16)(eight.words[j / 2] >> (16 * (j % 2)));
            }
        }
        __syncthreads();
        if (row >= tile.n_queries) continue;

        float scores[KEYS / 8][4];
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) scores[n][i] = 0.0f;
            if (n * 8 < n_here) {
                const u16* key = keys + (n * 8 + group) * KEY_STRIDE + column;
#pragma unroll
                for (u32 step = 0; step < D / 16; step++) {
                    const u32 b[2] = {*(const u32*)(key + step * 16), *(const u32*)(key + step * 16 + 8)};
                    Stored::multiply_add(scores[n], queries[step], b);
                }
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 key = n * 8 + column + i % 2, query = row + group + i / 2 * 8;
                if (relative != 0 && key < n_here && query < tile.n_queries) {
                    const u32 offset = n_positions - 1 + from + key - (tile.first + query);
                    scores[n][i] += relative[head * (2 * n_positions - 1) + offset] * LOG2_E;
                }
                if (key >= n_here) scores[n][i] = minus_infinity();
            }
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float next = most[half];
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++) next = fmaxf(next, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 1));
            next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 2));
            const float kept = exp2f(most[half] - next);
            most[half] = next;
            total[half] *= kept;
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = exp2f(scores[n][i] - next);
                    total[half] += scores[n][i];
                }
            }
#pragma unroll
            for (u32 n = 0; n < D / 8; n++) {
                sums[n][2 * half] *= kept;
                sums[n][2 * half + 1] *= kept;
            }
        }
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            if (step * 16 >= n_here) continue;
            const float *low = scores[2 * step], *high = scores[2 * step + 1];
            const u32 weights[4] = {Stored::pair(low[0], low[1]), Stored::pair(low[2], low[3]), Stored::pair(high[0], high[1]),
                                    Stored::pair(high[2], high[3])};
#pragma unroll
            for (u32 n = 0; n < D / 8; n++) {
                const u16* value = values + (n * 8 + group) * VALUE_STRIDE + step * 16 + column;
                const u32 b[2] = {*(const u32*)value, *(const u32*)(value + 8)};
                Stored::multiply_add(sums[n], weights, b);
            }
        }
    }
    if (row >= tile.n_queries) return;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
        const float inverse = 1.0f / total[half];
        const u32 query = row + group + half * 8;
        if (query >= tile.n_queries) continue;
        u16* to = context + (u64)(tile.target + query) * width + head * D + column;
        const float* added = bias + 2 * width + head * D + column;
#pragma unroll
        for (u32 n = 0; n < D / 8; n++) {
            *(u32*)(to + n * 8) = Stored::pair(sums[n][2 * half] * inverse + added[n * 8],
                                               sums[n][2 * half + 1] * inverse + added[n * 8 + 1]);
        }
    }
}

// Kernels of every type.
#define OF_TYPE(type, Stored)                                                                                                  \
    KERNEL(embed_##type, const u32* ids, const u32* positions, const u32* types, u32 n_rows, u32 width,                        \
           const float* token_table, const float* position_table, const float* type_table, const float* weight,                \
           const float* bias, float epsilon, float* hidden, Stored::Type* operand) {                                           \
        embed<Stored>(ids, positions, types, n_rows, width, token_table, position_table, type_table, weight, bias, epsilon,    \
                      hidden, operand);                                                                                        \
    }                                                                                                                          \
    KERNEL(add_norm_##type, float* product, const float* added, const float* residual, const u32* sources, u32 n_rows,         \
           u32 width, const float* weight, const float* bias, float epsilon, Stored::Type* operand) {                          \
        add_norm<Stored>(product, added, residual, sources, n_rows, width, weight, bias, epsilon, operand);                    \
    }                                                                                                                          \
    KERNEL(activate_##type, Stored::Type* rows, const float* bias, u32 activation, u32 n_chunks, u32 width) {                  \
        activate<Stored>(rows, bias, activation, n_chunks, width);                                                             \
    }                                                                                                                          \
    ATTEND(type, Stored, 32, 1)                                                                                                \
    ATTEND(type, Stored, 64, 2)                                                                                                \
    ATTEND(type, Stored, 128, 4)
#define ATTEND(type, Stored, most, C)                                                                                          \
    KERNEL(attend_##type##_##most, const Stored::Type* projected, const float* bias, const Tile* tiles, const float* relative, \
           u32 n_positions, u32 d, float scale, Stored::Type* context) {                                                       \
        attend<Stored, C>(projected, bias, tiles, relative, n_positions, d, scale, context);                                   \
    }
#define ATTEND_TILES(type, Stored, D)                                                                                          \
    KERNEL(attend_tiles_##type##_##D, const u16* projected, const float* bias, const Tile* tiles, const float* relative,       \
           u32 n_positions, u32, float scale, u16* context) {                                                                  \
        attend_tiles<Stored, D>(projected, bias, tiles, relative, n_positions, scale, context);                                \
    }
OF_TYPE(f32, StoredF32)
OF_TYPE(f16, StoredF16)
OF_TYPE(bf16, StoredBf16)
ATTEND_TILES(f16, StoredF16, 32)
ATTEND_TILES(f16, StoredF16, 64)
ATTEND_TILES(bf16, StoredBf16, 32)
ATTEND_TILES(bf16, StoredBf16, 64)

// Pools the rows of a text, without the first `skips[text]`, into `width` columns of a row of `out`; poolings by number, as
// `pooling_number` of the host has them. A block takes a text.
KERNEL(pool, const float* hidden, const u32* starts, const u32* skips, u32 pooling, u32 width, float* out, u32 out_stride) {
    const u32 text = blockIdx.x, start = starts[text], length = starts[text + 1] - start, skip = skips[text];
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        const float* rows = hidden + (u64)start * width + column;
        float pooled = 0.0f;
        if (pooling == 0) {
            pooled = rows[(u64)(skip < length ? skip : 0) * width];
        } else if (pooling == 1) {
            pooled = rows[(u64)(length - 1) * width];
        } else if (pooling == 2) {
            pooled = minus_infinity();
            for (u32 i = skip; i < length; i++) {
                const float x = rows[(u64)i * width];
                if (x > pooled || x != x) pooled = x;
            }
        } else {
            float total = 0.0f;
            for (u32 i = skip; i < length; i++) {
                const float weight = pooling == 5 ? (float)(i + 1) : 1.0f;
                pooled += weight * rows[(u64)i * width];
                total += weight;
            }
            pooled /= fmaxf(pooling == 4 ? sqrtf(total) : total, 1e-9f);
        }
        out[(u64)text * out_stride + column] = pooled;
    }
}

// Labels of pairs: a linear layer of few outputs. A warp takes one.
KERNEL(classify, const float* rows, const float* weight, const float* bias, u32 n_rows, u32 width, u32 n_labels, float* logits) {
    const u32 at = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (at >= n_rows * n_labels) return;
    const float* row = rows + (u64)(at / n_labels) * width;
    const float* label = weight + (u64)(at % n_labels) * width;
    float sum = 0.0f;
    for (u32 i = threadIdx.x % WARP; i < width; i += WARP) sum += row[i] * label[i];
    sum = sum_of_warp(sum);
    if (threadIdx.x % WARP == 0) logits[at] = sum + bias[at % n_labels];
}
