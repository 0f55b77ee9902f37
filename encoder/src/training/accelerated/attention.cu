// Attention of packed texts, forward and backward; the backward computes the weights again from their log-sums.
//
// T rows are the tokens of all texts, one text after the other; the context has K, which are those of the texts' wanted queries.
// `projected` is (T, 3 H): queries, keys and values with their biases. With P = softmax(scale * Q K^T), M the factors of dropout and
// dC the gradient of the context C:
//
//   C = (P * M) V,   dV = (P * M)^T dC,   dS = scale * P * (M * (dC V^T) - delta),   dQ = dS K,   dK = dS^T Q,
//
// where delta, the sum of dC * C in a row of a head, is what the softmax takes off. Log-sums and deltas are (heads, K). Blocks in y are
// heads. Each value has one writer, which adds in one order: equal calls have equal results.

// Queries or keys of one text that a block takes.
struct Tile {
    u32 start, length;  // the text's first row, and its tokens
    u32 first, n;       // of its queries or keys
    u32 n_queries;      // of the text
    u32 target;         // row of the context for the first of them
};

// What the backward knows of a query.
struct QueryRow {
    float log_sum, delta;
    u64 key;
};

// A query that is past the last has weights of 0.
DEVICE QueryRow query_row(const float* log_sums, const float* deltas, u32 n_kept, const Tile& tile, const Mask& mask, u32 query) {
    if (query >= tile.n_queries) return QueryRow{-minus_infinity(), 0.0f, 0};
    const u64 at = (u64)blockIdx.y * n_kept + tile.target + query;
    return QueryRow{log_sums[at], deltas[at], key_of_row(mask, tile.start + query, blockIdx.y, gridDim.y)};
}

// Rows of `d` columns in f32, the first `n` from memory and the others 0.
template <class Stored>
DEVICE void widen(const typename Stored::Type* from, u64 stride, u32 n, float* to, u32 n_rows, u32 d, u32 to_stride) {
    for (u32 i = threadIdx.x; i < n_rows * d; i += blockDim.x) {
        const u32 row = i / d, column = i % d;
        to[row * to_stride + column] = row < n ? Stored::value(from[row * stride + column]) : 0.0f;
    }
}

// For heads of up to C * 32 columns: a warp takes R queries; lanes are keys for the scores, then columns for the sums.
template <class Stored, u32 C>
DEVICE void attend_train(const typename Stored::Type* projected, const Tile* tiles, u32 n_kept, u32 d, float scale, const Mask& mask,
                         typename Stored::Type* context, float* log_sums) {
    const u32 R = 4, KEYS = WARP, QUERIES = 16;
    const u32 head = blockIdx.y, width = gridDim.y * d;
    const u64 stride = 3 * width;
    const Tile tile = tiles[blockIdx.x];
    SHARED(float, shared_floats);
    float* queries = shared_floats;         // (QUERIES, d)
    float* keys = queries + QUERIES * d;    // (KEYS, d + 1)
    float* values = keys + KEYS * (d + 1);  // (KEYS, d)
    float* weights = values + KEYS * d;     // (QUERIES, KEYS)
    const u32 lane = threadIdx.x % WARP, row = threadIdx.x / WARP * R;
    const typename Stored::Type* text = projected + tile.start * stride + head * d;
    widen<Stored>(text + tile.first * stride, stride, tile.n, queries, QUERIES, d, d);
    float most[R], total[R], sums[R][C];
    u64 mask_keys[R];
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        mask_keys[r] = key_of_row(mask, tile.start + tile.first + row + r, head, gridDim.y);
        most[r] = minus_infinity();
        total[r] = 0.0f;
#pragma unroll
        for (u32 c = 0; c < C; c++) sums[r][c] = 0.0f;
    }
    for (u32 from = 0; from < tile.length; from += KEYS) {
        const u32 n_here = tile.length - from < KEYS ? tile.length - from : KEYS;
        __syncthreads();
        widen<Stored>(text + from * stride + width, stride, n_here, keys, KEYS, d, d + 1);
        widen<Stored>(text + from * stride + 2 * width, stride, n_here, values, KEYS, d, d);
        __syncthreads();
        if (row >= tile.n) continue;
        float scores[R] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (u32 column = 0; column < d; column++) {
            const float key = keys[lane * (d + 1) + column];
#pragma unroll
            for (u32 r = 0; r < R; r++) scores[r] += queries[(row + r) * d + column] * key;
        }
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const float score = lane < n_here ? scores[r] * scale : minus_infinity();
            const float next = fmaxf(most[r], max_of_warp(score)), kept = expf(most[r] - next);
            const float weight = expf(score - next);
            most[r] = next;
            total[r] = total[r] * kept + weight;  // of this lane's keys
            weights[(row + r) * KEYS + lane] = weight * factor(mask, mask_keys[r], from + lane);
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
    if (row >= tile.n) return;
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        const float sum = sum_of_warp(total[r]), inverse = 1.0f / sum;
        if (row + r >= tile.n) continue;
        const u32 target = tile.target + tile.first + row + r;
        if (lane == 0) log_sums[(u64)head * n_kept + target] = most[r] + logf(sum);
#pragma unroll
        for (u32 c = 0; c < C; c++) {
            const u32 column = c * WARP + lane;
            if (column < d) context[(u64)target * width + head * d + column] = Stored::stored(sums[r][c] * inverse);
        }
    }
}

// Deltas by head and row of the context. Eight lanes take one.
template <class Stored>
DEVICE void attend_delta(const typename Stored::Type* d_context, const typename Stored::Type* context, u32 n_kept, u32 n_heads, u32 d,
                         float* deltas) {
    const u32 at = (blockIdx.x * blockDim.x + threadIdx.x) / 8, row = at / n_heads, head = at % n_heads;
    float sum = 0.0f;
    if (row < n_kept) {
        for (u32 column = threadIdx.x % 8 * Stored::N; column < d; column += 8 * Stored::N) {
            alignas(16) typename Stored::Type x[Stored::N], y[Stored::N];
            *(Bytes16*)x = *(const Bytes16*)(d_context + (u64)at * d + column);
            *(Bytes16*)y = *(const Bytes16*)(context + (u64)at * d + column);
#pragma unroll
            for (u32 j = 0; j < Stored::N; j++) sum += Stored::value(x[j]) * Stored::value(y[j]);
        }
    }
    for (u32 step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    if (row < n_kept && threadIdx.x % 8 == 0) deltas[(u64)head * n_kept + row] = sum;
}

// The backward takes pairs of rows: of queries and of dC, and of keys and of values. A block has sixteen of one pair, and all of the
// text's of the other pass by, 32 at a time. With BY_KEYS the block's are keys and values, and their gradients are the sums; else they
// are queries and dC, and the only sum is dQ. Warps, lanes and C are as in the forward.
template <class Stored, u32 C, bool BY_KEYS>
DEVICE void attend_backward(const typename Stored::Type* projected, const typename Stored::Type* d_context, const float* log_sums,
                            const float* deltas, const Tile* tiles, u32 n_kept, u32 d, float scale, const Mask& mask,
                            typename Stored::Type* d_first, typename Stored::Type* d_second) {
    const u32 R = 4, OTHERS = WARP, ROWS = 16;
    const u32 head = blockIdx.y, width = gridDim.y * d;
    const Tile tile = tiles[blockIdx.x];
    SHARED(float, shared_floats);
    float* firsts = shared_floats;                          // (ROWS, d): queries or keys
    float* seconds = firsts + ROWS * d;                     // (ROWS, d): dC or values
    float* other_firsts = seconds + ROWS * d;               // (OTHERS, d + 1)
    float* other_seconds = other_firsts + OTHERS * (d + 1);  // (OTHERS, d + 1)
    float* d_scores = other_seconds + OTHERS * (d + 1);     // (ROWS, OTHERS)
    float* weights = d_scores + ROWS * OTHERS;              // (ROWS, OTHERS), with BY_KEYS only
    const u32 lane = threadIdx.x % WARP, row = threadIdx.x / WARP * R;
    const u64 stride = 3 * width, second_stride = BY_KEYS ? stride : width, other_second_stride = BY_KEYS ? width : stride;
    const typename Stored::Type* queries = projected + tile.start * stride + head * d;
    const typename Stored::Type* gradients = d_context + (u64)tile.target * width + head * d;
    const typename Stored::Type* first = BY_KEYS ? queries + width : queries;
    const typename Stored::Type* second = BY_KEYS ? queries + 2 * width : gradients;
    const typename Stored::Type* other_first = BY_KEYS ? queries : queries + width;
    const typename Stored::Type* other_second = BY_KEYS ? gradients : queries + 2 * width;
    const u32 n_others = BY_KEYS ? tile.n_queries : tile.length;
    widen<Stored>(first + tile.first * stride, stride, tile.n, firsts, ROWS, d, d);
    widen<Stored>(second + tile.first * second_stride, second_stride, tile.n, seconds, ROWS, d, d);

    QueryRow query[BY_KEYS ? 1 : R];
    float sums[R][C], second_sums[BY_KEYS ? R : 1][C];
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        if (!BY_KEYS) query[r] = query_row(log_sums, deltas, n_kept, tile, mask, tile.first + row + r);
#pragma unroll
        for (u32 c = 0; c < C; c++) {
            sums[r][c] = 0.0f;
            if (BY_KEYS) second_sums[r][c] = 0.0f;
        }
    }
    for (u32 from = 0; from < n_others; from += OTHERS) {
        const u32 n_here = n_others - from < OTHERS ? n_others - from : OTHERS;
        __syncthreads();
        widen<Stored>(other_first + from * stride, stride, n_here, other_firsts, OTHERS, d, d + 1);
        widen<Stored>(other_second + from * other_second_stride, other_second_stride, n_here, other_seconds, OTHERS, d, d + 1);
        __syncthreads();
        if (row >= tile.n) continue;
        if (BY_KEYS) query[0] = query_row(log_sums, deltas, n_kept, tile, mask, from + lane);
        float scores[R] = {0.0f, 0.0f, 0.0f, 0.0f}, d_weights[R] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (u32 column = 0; column < d; column++) {
            const float x = other_firsts[lane * (d + 1) + column], y = other_seconds[lane * (d + 1) + column];
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                scores[r] += firsts[(row + r) * d + column] * x;
                d_weights[r] += seconds[(row + r) * d + column] * y;
            }
        }
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            const QueryRow& mine = query[BY_KEYS ? 0 : r];
            const float kept = factor(mask, mine.key, BY_KEYS ? tile.first + row + r : from + lane);
            const float weight = expf(scores[r] * scale - mine.log_sum);
            d_scores[(row + r) * OTHERS + lane] = scale * weight * (kept * d_weights[r] - mine.delta);
            if (BY_KEYS) weights[(row + r) * OTHERS + lane] = weight * kept;
        }
        __syncwarp();
        for (u32 other = 0; other < n_here; other++) {
#pragma unroll
            for (u32 c = 0; c < C; c++) {
                const u32 column = c * WARP + lane;
                const float x = column < d ? other_firsts[other * (d + 1) + column] : 0.0f;
                const float y = BY_KEYS && column < d ? other_seconds[other * (d + 1) + column] : 0.0f;
#pragma unroll
                for (u32 r = 0; r < R; r++) {
                    sums[r][c] += d_scores[(row + r) * OTHERS + other] * x;
                    if (BY_KEYS) second_sums[r][c] += weights[(row + r) * OTHERS + other] * y;
                }
            }
        }
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        const u64 at = (u64)(tile.start + tile.first + row + r) * width + head * d;
#pragma unroll
        for (u32 c = 0; c < C; c++) {
            const u32 column = c * WARP + lane;
            if (column >= d || row + r >= tile.n) continue;
            d_first[at + column] = Stored::stored(sums[r][c]);
            if (BY_KEYS) d_second[at + column] = Stored::stored(second_sums[r][c]);
        }
    }
}

// The same on tensor cores, for heads of D columns: Dao 2023 (arXiv 2307.08691). A block takes 64 rows, a warp 16 of them, and 64
// others at a time. Fragments are those of `mma.m16n8k16`: of a (16, 8) product a lane has the rows `group` and `group + 8`, and the
// columns `column` and `column + 1`. Weights and gradients of scores stay in the registers that the products came in. Exponents are in
// base 2.
const u32 TILE = 64;
const float LOG2_E = 1.4426950409f;

// 64 rows in shared memory, the first `n` from memory and the others 0: D + 8 values apart, so that no two lanes of a load meet in a
// bank.
template <u32 D>
DEVICE void copy_tile(const u16* from, u64 stride, u32 n, u16* to) {
    const Bytes16 nothing = {{0, 0, 0, 0}};
    for (u32 i = threadIdx.x; i < TILE * (D / 8); i += blockDim.x) {
        const u32 row = i / (D / 8), column = i % (D / 8) * 8;
        *(Bytes16*)(to + row * (D + 8) + column) = row < n ? *(const Bytes16*)(from + row * stride + column) : nothing;
    }
}

// 16 rows as left operands, the first `n` from memory and the others 0.
template <u32 D>
DEVICE void load_left(const u16* from, u64 stride, u32 n, u32 (*left)[4]) {
    const u32 lane = threadIdx.x % WARP;
#pragma unroll
    for (u32 step = 0; step < D / 16; step++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 row = lane / 4 + i % 2 * 8, column = step * 16 + lane % 4 * 2 + i / 2 * 8;
            left[step][i] = row < n ? *(const u32*)(from + row * stride + column) : 0;
        }
    }
}

// Adds the inner products of 16 rows with 16 of a tile.
template <class Stored, u32 D>
DEVICE void add_inner_products(const u32 (*left)[4], const u16* rows, float (*products)[4]) {
    const u32 lane = threadIdx.x % WARP;
    const u16* row = rows + (lane / 16 * 8 + lane % 8) * (D + 8) + lane / 8 % 2 * 8;
#pragma unroll
    for (u32 step = 0; step < D / 16; step++) {
        u32 right[4];
        load_matrices(right, row + step * 16);
        Stored::multiply_add(products[0], left[step], right);
        Stored::multiply_add(products[1], left[step], right + 2);
    }
}

// Adds 16 rows of a tile by (16, 16) weights.
template <class Stored, u32 D>
DEVICE void add_weighted_rows(const float (*weights)[4], const u16* rows, float (*sums)[4]) {
    const u32 lane = threadIdx.x % WARP;
    const u16* row = rows + lane % 16 * (D + 8) + lane / 16 * 8;
    const u32 left[4] = {Stored::pair(weights[0][0], weights[0][1]), Stored::pair(weights[0][2], weights[0][3]),
                         Stored::pair(weights[1][0], weights[1][1]), Stored::pair(weights[1][2], weights[1][3])};
#pragma unroll
    for (u32 n = 0; n < D / 8; n += 2) {
        u32 right[4];
        load_transposed_matrices(right, row + n * 8);
        Stored::multiply_add(sums[n], left, right);
        Stored::multiply_add(sums[n + 1], left, right + 2);
    }
}

// Writes a lane's part of a row of sums.
template <class Stored, u32 D>
DEVICE void store_sums(const float (*sums)[4], u32 half, float scale, u16* row) {
#pragma unroll
    for (u32 n = 0; n < D / 8; n++) {
        *(u32*)(row + n * 8 + threadIdx.x % 4 * 2) = Stored::pair(sums[n][2 * half] * scale, sums[n][2 * half + 1] * scale);
    }
}

template <class Stored, u32 D>
DEVICE void attend_train_tiles(const u16* projected, const Tile* tiles, u32 n_kept, u32, float scale, const Mask& mask, u16* context,
                               float* log_sums) {
    const u32 head = blockIdx.y, width = gridDim.y * D;
    const u64 stride = 3 * width;
    const Tile tile = tiles[blockIdx.x];
    SHARED(u16, shared_halves);
    u16* keys = shared_halves;               // (TILE, D + 8)
    u16* values = keys + TILE * (D + 8);     // (TILE, D + 8)
    const u32 lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16;
    const u32 group = lane / 4, column = lane % 4 * 2;
    const u16* text = projected + tile.start * stride + head * D;

    u32 queries[D / 16][4];
    load_left<D>(text + (tile.first + row) * stride, stride, row < tile.n ? tile.n - row : 0, queries);
    float most[2] = {minus_infinity(), minus_infinity()}, total[2] = {0.0f, 0.0f}, sums[D / 8][4];
#pragma unroll
    for (u32 n = 0; n < D / 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) sums[n][i] = 0.0f;
    }
    u64 mask_keys[2];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        mask_keys[half] = key_of_row(mask, tile.start + tile.first + row + group + half * 8, head, gridDim.y);
    }

    for (u32 from = 0; from < tile.length; from += TILE) {
        const u32 n_here = tile.length - from < TILE ? tile.length - from : TILE;
        __syncthreads();
        copy_tile<D>(text + from * stride + width, stride, n_here, keys);
        copy_tile<D>(text + from * stride + 2 * width, stride, n_here, values);
        __syncthreads();
        if (row >= tile.n) continue;

        float scores[TILE / 8][4];
#pragma unroll
        for (u32 n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) scores[n][i] = 0.0f;
        }
#pragma unroll
        for (u32 n = 0; n < TILE / 8; n += 2) {
            if (n * 8 < n_here) add_inner_products<Stored, D>(queries, keys + n * 8 * (D + 8), scores + n);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float next = most[half];
#pragma unroll
            for (u32 n = 0; n < TILE / 8; n++) {
#pragma unroll
                for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    const u32 key = n * 8 + column + i % 2;
                    scores[n][i] = key < n_here ? scores[n][i] * (scale * LOG2_E) : minus_infinity();
                    next = fmaxf(next, scores[n][i]);
                }
            }
            next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 1));
            next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 2));
            const float kept = exp2f(most[half] - next);
            most[half] = next;
            total[half] *= kept;
#pragma unroll
            for (u32 n = 0; n < TILE / 8; n++) {
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
        if (mask.threshold != 0) {
#pragma unroll
            for (u32 n = 0; n < TILE / 8; n++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    scores[n][i] *= factor(mask, mask_keys[i / 2], from + n * 8 + column + i % 2);
                }
            }
        }
#pragma unroll
        for (u32 n = 0; n < TILE / 8; n += 2) {
            if (n * 8 < n_here) add_weighted_rows<Stored, D>(scores + n, values + n * 8 * (D + 8), sums);
        }
    }
    if (row >= tile.n) return;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
        total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
        const u32 query = row + group + half * 8, target = tile.target + tile.first + query;
        if (query >= tile.n) continue;
        if (column == 0) log_sums[(u64)head * n_kept + target] = most[half] / LOG2_E + logf(total[half]);
        store_sums<Stored, D>(sums, half, 1.0f / total[half], context + (u64)target * width + head * D);
    }
}

template <class Stored, u32 D, bool BY_KEYS>
DEVICE void attend_backward_tiles(const u16* projected, const u16* d_context, const float* log_sums, const float* deltas,
                                  const Tile* tiles, u32 n_kept, u32, float scale, const Mask& mask, u16* d_first, u16* d_second) {
    const u32 head = blockIdx.y, width = gridDim.y * D;
    const Tile tile = tiles[blockIdx.x];
    SHARED(u16, shared_halves);
    u16* other_firsts = shared_halves;                                     // (TILE, D + 8)
    u16* other_seconds = other_firsts + TILE * (D + 8);                    // (TILE, D + 8)
    QueryRow* other_queries = (QueryRow*)(other_seconds + TILE * (D + 8));  // (TILE), with BY_KEYS only
    const u32 lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16;
    const u32 group = lane / 4, column = lane % 4 * 2;
    const u64 stride = 3 * width, second_stride = BY_KEYS ? stride : width, other_second_stride = BY_KEYS ? width : stride;
    const u16* queries = projected + tile.start * stride + head * D;
    const u16* gradients = d_context + (u64)tile.target * width + head * D;
    const u16* first = BY_KEYS ? queries + width : queries;
    const u16* second = BY_KEYS ? queries + 2 * width : gradients;
    const u16* other_first = BY_KEYS ? queries : queries + width;
    const u16* other_second = BY_KEYS ? gradients : queries + 2 * width;
    const u32 n_others = BY_KEYS ? tile.n_queries : tile.length, n_rows = row < tile.n ? tile.n - row : 0;

    u32 firsts[D / 16][4], seconds[D / 16][4];
    load_left<D>(first + (tile.first + row) * stride, stride, n_rows, firsts);
    load_left<D>(second + (tile.first + row) * second_stride, second_stride, n_rows, seconds);
    QueryRow query[2];
    if (!BY_KEYS) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            query[half] = query_row(log_sums, deltas, n_kept, tile, mask, tile.first + row + group + half * 8);
            query[half].log_sum *= LOG2_E;
        }
    }
    float sums[D / 8][4], second_sums[BY_KEYS ? D / 8 : 1][4];
#pragma unroll
    for (u32 n = 0; n < D / 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            sums[n][i] = 0.0f;
            if (BY_KEYS) second_sums[n][i] = 0.0f;
        }
    }
    for (u32 from = 0; from < n_others; from += TILE) {
        const u32 n_here = n_others - from < TILE ? n_others - from : TILE;
        __syncthreads();
        copy_tile<D>(other_first + from * stride, stride, n_here, other_firsts);
        copy_tile<D>(other_second + from * other_second_stride, other_second_stride, n_here, other_seconds);
        if (BY_KEYS && threadIdx.x < TILE) {
            QueryRow other = query_row(log_sums, deltas, n_kept, tile, mask, from + threadIdx.x);
            other.log_sum *= LOG2_E;
            other_queries[threadIdx.x] = other;
        }
        __syncthreads();
        if (row >= tile.n) continue;
#pragma unroll 1
        for (u32 others = 0; others < n_here; others += 16) {
            float scores[2][4], weights[2][4];
#pragma unroll
            for (u32 n = 0; n < 2; n++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) scores[n][i] = weights[n][i] = 0.0f;
            }
            add_inner_products<Stored, D>(firsts, other_firsts + others * (D + 8), scores);
            // First the gradients of the weights, then the weights.
            add_inner_products<Stored, D>(seconds, other_seconds + others * (D + 8), weights);
#pragma unroll
            for (u32 n = 0; n < 2; n++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32 other = others + n * 8 + column + i % 2;
                    const QueryRow mine = BY_KEYS ? other_queries[other] : query[i / 2];
                    const u32 key = BY_KEYS ? tile.first + row + group + i / 2 * 8 : from + other;
                    const float kept = mask.threshold != 0 ? factor(mask, mine.key, key) : 1.0f;
                    const float weight = other < n_here ? exp2f(scores[n][i] * (scale * LOG2_E) - mine.log_sum) : 0.0f;
                    scores[n][i] = weight * (kept * weights[n][i] - mine.delta);
                    weights[n][i] = weight * kept;
                }
            }
            add_weighted_rows<Stored, D>(scores, other_firsts + others * (D + 8), sums);
            if (BY_KEYS) add_weighted_rows<Stored, D>(weights, other_seconds + others * (D + 8), second_sums);
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 mine = row + group + half * 8;
        if (mine >= tile.n) continue;
        const u64 at = (u64)(tile.start + tile.first + mine) * width + head * D;
        store_sums<Stored, D>(sums, half, scale, d_first + at);
        if (BY_KEYS) store_sums<Stored, D>(second_sums, half, 1.0f, d_second + at);
    }
}

// Kernels of every type and width.
#define ATTENTION(name, Stored, forward, backward, N)                                                                               \
    KERNEL(attend_train_##name, const Stored::Type* projected, const Tile* tiles, u32 n_kept, u32 d, float scale, u64 stream,       \
           u64 first_row, u32 threshold, float kept, Stored::Type* context, float* log_sums) {                                      \
        const Mask mask = {stream, first_row, threshold, kept};                                                                     \
        forward<Stored, N>(projected, tiles, n_kept, d, scale, mask, context, log_sums);                                            \
    }                                                                                                                               \
    KERNEL(attend_queries_##name, const Stored::Type* projected, const Tile* tiles, u32 n_kept, u32 d, float scale, u64 stream,     \
           u64 first_row, u32 threshold, float kept, const Stored::Type* d_context, const float* log_sums, const float* deltas,     \
           Stored::Type* d_queries) {                                                                                               \
        const Mask mask = {stream, first_row, threshold, kept};                                                                     \
        backward<Stored, N, false>(projected, d_context, log_sums, deltas, tiles, n_kept, d, scale, mask, d_queries, 0);            \
    }                                                                                                                               \
    KERNEL(attend_keys_##name, const Stored::Type* projected, const Tile* tiles, u32 n_kept, u32 d, float scale, u64 stream,        \
           u64 first_row, u32 threshold, float kept, const Stored::Type* d_context, const float* log_sums, const float* deltas,     \
           Stored::Type* d_keys, Stored::Type* d_values) {                                                                          \
        const Mask mask = {stream, first_row, threshold, kept};                                                                     \
        backward<Stored, N, true>(projected, d_context, log_sums, deltas, tiles, n_kept, d, scale, mask, d_keys, d_values);         \
    }
ATTENTION(f32_32, StoredF32, attend_train, attend_backward, 1)
ATTENTION(f32_64, StoredF32, attend_train, attend_backward, 2)
ATTENTION(f32_128, StoredF32, attend_train, attend_backward, 4)
ATTENTION(bf16_32, StoredBf16, attend_train, attend_backward, 1)
ATTENTION(bf16_64, StoredBf16, attend_train, attend_backward, 2)
ATTENTION(bf16_128, StoredBf16, attend_train, attend_backward, 4)
ATTENTION(tiles_bf16_32, StoredBf16, attend_train_tiles, attend_backward_tiles, 32)
ATTENTION(tiles_bf16_64, StoredBf16, attend_train_tiles, attend_backward_tiles, 64)
#define ATTEND_DELTA(type, Stored)                                                                                                  \
    KERNEL(attend_delta_##type, const Stored::Type* d_context, const Stored::Type* context, u32 n_kept, u32 n_heads, u32 d,         \
           float* deltas) {                                                                                                         \
        attend_delta<Stored>(d_context, context, n_kept, n_heads, d, deltas);                                                       \
    }
ATTEND_DELTA(f32, StoredF32)
ATTEND_DELTA(bf16, StoredBf16)
