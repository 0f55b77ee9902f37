// What lies between the matrix products of training, forward and backward. `network.rs` says in which order these run, and
// `encoder/src/training/function.rs` has the formulas.
//
// R rows are tokens, of all texts or the first of each. Operands of products are stored as f32 or bf16; residuals, statistics,
// gradients of residuals and of parameters are f32. Widths are multiples of 8. No sum depends on the order in which blocks run.

// Normalizes a row that a warp holds in shared memory, where each lane reads what it wrote itself: four values of every 128. Writes
// x̂ to `normalized` and 1 / √(variance + epsilon) to `scale`; `drop(i)` multiplies the result.
template <class Stored, class Drop>
DEVICE void normalize_row(const float* row, u32 width, const float* weight, const float* bias, float epsilon, Drop drop,
                          float* hidden, float* normalized, float* scale, typename Stored::Type* operand) {
    const u32 first = threadIdx.x % WARP * 4;
    const RowStatistics of = statistics(row, width, epsilon);
    if (first == 0) *scale = of.scale;
    for (u32 i = first; i < width; i += 4 * WARP) {
        Four unit, x;
        for (u32 j = 0; j < 4; j++) {
            unit.x[j] = (row[i + j] - of.mean) * of.scale;
            x.x[j] = (unit.x[j] * weight[i + j] + bias[i + j]) * drop(i + j);
        }
        *(Four*)(normalized + i) = unit;
        *(Four*)(hidden + i) = x;
        if (operand != 0) Stored::store_four(operand + i, x.x);
    }
}

// Sums the rows of three tables, normalizes the sum and drops elements of the result. A warp takes a token; shared memory holds a row of each.
template <class Stored>
DEVICE void embed(const u32* ids, const u32* positions, const u32* types, u32 n_rows, u32 width, const float* token_table,
                  const float* position_table, const float* type_table, const float* weight, const float* bias, float epsilon,
                  Mask mask, float* hidden, float* normalized, float* scales, typename Stored::Type* operand) {
    SHARED(float, shared_rows);
    const u32 warp = threadIdx.x / WARP, at = blockIdx.x * (blockDim.x / WARP) + warp;
    if (at >= n_rows) return;
    float* row = shared_rows + warp * width;
    const float* type = type_table != 0 ? type_table + (u64)types[at] * width : 0;
    sum_rows(token_table + (u64)ids[at] * width, position_table + (u64)positions[at] * width, type, width, row);
    const u64 key = key_of_row(mask, at), start = (u64)at * width;
    const auto drop = [&](u32 place) { return mask.threshold != 0 ? factor(mask, key, place) : 1.0f; };
    normalize_row<Stored>(row, width, weight, bias, epsilon, drop, hidden + start, normalized + start, scales + at,
                          operand != 0 ? operand + start : 0);
}

// `norm(mask(product + bias) + residual)` in place of the product. Row r of the product belongs to row `sources[r]` of the pass, and to
// row `rows[r]` of the residual; without them to row r.
template <class Stored>
DEVICE void add_norm(float* product, const float* added, Mask mask, const u32* sources, const float* residual, const u32* rows,
                     u32 n_rows, u32 width, const float* weight, const float* bias, float epsilon, float* normalized,
                     float* scales, typename Stored::Type* operand) {
    SHARED(float, shared_rows);
    const u32 warp = threadIdx.x / WARP, at = blockIdx.x * (blockDim.x / WARP) + warp;
    if (at >= n_rows) return;
    float* row = shared_rows + warp * width;
    const u64 key = key_of_row(mask, sources != 0 ? sources[at] : at), start = (u64)at * width;
    const float* other = residual + (u64)(rows != 0 ? rows[at] : at) * width;
    for (u32 i = threadIdx.x % WARP * 4; i < width; i += 4 * WARP) {
        Four sum = *(const Four*)(product + start + i);
        const Four before = *(const Four*)(other + i);
        for (u32 j = 0; j < 4; j++) {
            const float x = sum.x[j] + added[i + j];
            sum.x[j] = (mask.threshold != 0 ? x * factor(mask, key, i + j) : x) + before.x[j];
        }
        *(Four*)(row + i) = sum;
    }
    const auto keep = [](u32) { return 1.0f; };
    normalize_row<Stored>(row, width, weight, bias, epsilon, keep, product + start, normalized + start, scales + at,
                          operand != 0 ? operand + start : 0);
}

// Turns the gradient of a normalization's result into that of its input, in place, and writes it times the mask to `operand`: the
// gradient of what was added to the residual. With g = dy · weight: dx = scale · (g - mean(g) - x̂ · mean(g · x̂)). A warp takes a row.
template <class Stored>
DEVICE void norm_backward(float* gradient, const float* normalized, const float* scales, const float* weight, u32 n_rows, u32 width,
                          Mask mask, const u32* sources, typename Stored::Type* operand) {
    const u32 at = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (at >= n_rows) return;
    float* row = gradient + (u64)at * width;
    const float* unit = normalized + (u64)at * width;
    float sum = 0.0f, slopes = 0.0f;
    for (u32 i = threadIdx.x % WARP * 4; i < width; i += 4 * WARP) {
        const Four dy = *(const Four*)(row + i), x = *(const Four*)(unit + i);
        for (u32 j = 0; j < 4; j++) {
            const float g = dy.x[j] * weight[i + j];
            sum += g;
            slopes += g * x.x[j];
        }
    }
    const float mean = sum_of_warp(sum) / (float)width, slope = sum_of_warp(slopes) / (float)width, scale = scales[at];
    const u64 key = key_of_row(mask, sources != 0 ? sources[at] : at);
    for (u32 i = threadIdx.x % WARP * 4; i < width; i += 4 * WARP) {
        const Four dy = *(const Four*)(row + i), x = *(const Four*)(unit + i);
        Four dx, dropped;
        for (u32 j = 0; j < 4; j++) {
            dx.x[j] = scale * (dy.x[j] * weight[i + j] - mean - x.x[j] * slope);
            dropped.x[j] = mask.threshold != 0 ? dx.x[j] * factor(mask, key, i + j) : dx.x[j];
        }
        *(Four*)(row + i) = dx;
        if (operand != 0) Stored::store_four(operand + (u64)at * width + i, dropped.x);
    }
}

// An activation and its slope.
DEVICE float activation_of(u32 activation, float x, float* slope) {
    switch (activation) {
        case 0: {
            const float phi = 0.5f * (1.0f + erff(x * 0.70710678f));
            *slope = phi + x * 0.39894228f * expf(-0.5f * x * x);
            return x * phi;
        }
        case 1: {
            const float tanh = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
            *slope = 0.5f * (1.0f + tanh) + 0.5f * x * (1.0f - tanh * tanh) * 0.79788456f * (1.0f + 0.134145f * x * x);
            return 0.5f * x * (1.0f + tanh);
        }
        case 2: *slope = x > 0.0f ? 1.0f : 0.0f; return x < 0.0f ? 0.0f : x;
        case 3: {
            const float sigmoid = 1.0f / (1.0f + expf(-x));
            *slope = sigmoid * (1.0f + x * (1.0f - sigmoid));
            return x * sigmoid;
        }
        default: *slope = 1.0f; return x;
    }
}

// Adds a bias to rows of a product, in place, and writes the activation of the sums, where it is wanted. A thread takes 16 bytes at a time.
template <class Stored>
DEVICE void add_bias(typename Stored::Type* rows, const float* bias, u32 activation, u32 n_chunks, u32 width,
                     typename Stored::Type* activated) {
    for (u32 chunk = blockIdx.x * blockDim.x + threadIdx.x; chunk < n_chunks; chunk += gridDim.x * blockDim.x) {
        Bytes16* const at = (Bytes16*)rows + chunk;
        const float* added = bias + chunk % (width / Stored::N) * Stored::N;
        alignas(16) typename Stored::Type x[Stored::N], y[Stored::N];
        *(Bytes16*)x = *at;
        for (u32 j = 0; j < Stored::N; j++) {
            float slope;
            x[j] = Stored::stored(Stored::value(x[j]) + added[j]);
            y[j] = Stored::stored(activation_of(activation, Stored::value(x[j]), &slope));
        }
        *at = *(const Bytes16*)x;
        if (activated != 0) ((Bytes16*)activated)[chunk] = *(const Bytes16*)y;
    }
}

// Multiplies gradients by the slopes of the activation at `inner`, in place, and writes the activation itself, where it is wanted.
template <class Stored>
DEVICE void activation_backward(const typename Stored::Type* inner, typename Stored::Type* gradient, u32 activation, u32 n_chunks,
                                typename Stored::Type* activated) {
    for (u32 chunk = blockIdx.x * blockDim.x + threadIdx.x; chunk < n_chunks; chunk += gridDim.x * blockDim.x) {
        alignas(16) typename Stored::Type x[Stored::N], dy[Stored::N];
        *(Bytes16*)x = ((const Bytes16*)inner)[chunk];
        *(Bytes16*)dy = ((const Bytes16*)gradient)[chunk];
        for (u32 j = 0; j < Stored::N; j++) {
            float slope;
            const float y = activation_of(activation, Stored::value(x[j]), &slope);
            x[j] = Stored::stored(y);
            dy[j] = Stored::stored(Stored::value(dy[j]) * slope);
        }
        ((Bytes16*)gradient)[chunk] = *(const Bytes16*)dy;
        if (activated != 0) ((Bytes16*)activated)[chunk] = *(const Bytes16*)x;
    }
}

// Sums of columns over rows, of `rows` alone or times `others`: a block of rows leaves a row of `partial`. A thread takes a column.
template <class Stored>
DEVICE void sum_columns(const typename Stored::Type* rows, const float* others, u32 n_rows, u32 width, u32 rows_of_block,
                        float* partial) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * rows_of_block;
    if (column >= width) return;
    const u32 end = n_rows - first < rows_of_block ? n_rows : first + rows_of_block;
    float sum = 0.0f;
    for (u32 row = first; row < end; row++) {
        const u64 at = (u64)row * width + column;
        const float x = Stored::value(rows[at]);
        sum += others != 0 ? x * others[at] : x;
    }
    partial[(u64)blockIdx.y * width + column] = sum;
}

// Rounds values to another type.
template <class Stored>
DEVICE void store(const float* values, u64 n, typename Stored::Type* stored) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        stored[i] = Stored::stored(values[i]);
    }
}

// Turns logits into the gradient of the mean of losses: (softmax - onehot(target)) * scale.
template <class Stored>
DEVICE void cross_entropy_backward(const float* logits, const float* bias, const u32* targets, const float* log_sums,
                                   u32 n_classes, float scale, typename Stored::Type* gradient) {
    const u64 start = (u64)blockIdx.x * n_classes;
    const u32 target = targets[blockIdx.x];
    const float log_sum = log_sums[blockIdx.x];
    for (u32 i = threadIdx.x; i < n_classes; i += blockDim.x) {
        const float p = expf(logits[start + i] + bias[i] - log_sum);
        gradient[start + i] = Stored::stored((i == target ? p - 1.0f : p) * scale);
    }
}

#define MASK u64 stream, u64 first_row, u32 threshold, float kept
#define TRAINED(type, Stored)                                                                                                  \
    KERNEL(train_embed_##type, const u32* ids, const u32* positions, const u32* types, u32 n_rows, u32 width,                  \
           const float* token_table, const float* position_table, const float* type_table, const float* weight,                \
           const float* bias, float epsilon, MASK, float* hidden, float* normalized, float* scales, Stored::Type* operand) {    \
        embed<Stored>(ids, positions, types, n_rows, width, token_table, position_table, type_table, weight, bias, epsilon,    \
                      Mask{stream, first_row, threshold, kept}, hidden, normalized, scales, operand);                          \
    }                                                                                                                          \
    KERNEL(train_add_norm_##type, float* product, const float* added, MASK, const u32* sources, const float* residual,         \
           const u32* rows, u32 n_rows, u32 width, const float* weight, const float* bias, float epsilon, float* normalized,   \
           float* scales, Stored::Type* operand) {                                                                             \
        add_norm<Stored>(product, added, Mask{stream, first_row, threshold, kept}, sources, residual, rows, n_rows, width,     \
                         weight, bias, epsilon, normalized, scales, operand);                                                  \
    }                                                                                                                          \
    KERNEL(norm_backward_##type, float* gradient, const float* normalized, const float* scales, const float* weight,           \
           u32 n_rows, u32 width, MASK, const u32* sources, Stored::Type* operand) {                                           \
        norm_backward<Stored>(gradient, normalized, scales, weight, n_rows, width, Mask{stream, first_row, threshold, kept},   \
                              sources, operand);                                                                               \
    }                                                                                                                          \
    KERNEL(add_bias_##type, Stored::Type* rows, const float* bias, u32 activation, u32 n_chunks, u32 width,                    \
           Stored::Type* activated) {                                                                                          \
        add_bias<Stored>(rows, bias, activation, n_chunks, width, activated);                                                  \
    }                                                                                                                          \
    KERNEL(activation_backward_##type, const Stored::Type* inner, Stored::Type* gradient, u32 activation, u32 n_chunks,        \
           Stored::Type* activated) {                                                                                          \
        activation_backward<Stored>(inner, gradient, activation, n_chunks, activated);                                         \
    }                                                                                                                          \
    KERNEL(sum_columns_##type, const Stored::Type* rows, const float* others, u32 n_rows, u32 width, u32 rows_of_block,        \
           float* partial) {                                                                                                   \
        sum_columns<Stored>(rows, others, n_rows, width, rows_of_block, partial);                                              \
    }                                                                                                                          \
    KERNEL(store_##type, const float* values, u64 n, Stored::Type* stored) { store<Stored>(values, n, stored); }               \
    KERNEL(cross_entropy_backward_##type, const float* logits, const float* bias, const u32* targets, const float* log_sums,   \
           u32 n_classes, float scale, Stored::Type* gradient) {                                                               \
        cross_entropy_backward<Stored>(logits, bias, targets, log_sums, n_classes, scale, gradient);                           \
    }
TRAINED(f32, StoredF32)
TRAINED(bf16, StoredBf16)

// Adds rows of partial sums, first to last, to a vector.
KERNEL(add_partial, const float* partial, u32 n_rows, u32 width, float* sums) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (u32 row = 0; row < n_rows; row++) sum += partial[(u64)row * width + column];
    sums[column] += sum;
}

// Drops elements of rows, in place. A block takes a row.
KERNEL(drop_rows, float* rows, u32 width, MASK) {
    const Mask mask{stream, first_row, threshold, kept};
    const u64 key = key_of_row(mask, blockIdx.x);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) rows[(u64)blockIdx.x * width + i] *= factor(mask, key, i);
}

// Copies rows of a table. A block takes a row.
KERNEL(gather_rows, const u32* ids, u32 width, const float* table, float* rows) {
    const float* from = table + (u64)ids[blockIdx.x] * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) rows[(u64)blockIdx.x * width + i] = from[i];
}

// Adds rows to rows of a table. A block takes the table's row `ids[b]`, to which the rows `order[starts[b]..starts[b + 1]]` belong.
KERNEL(add_rows, const u32* ids, const u32* starts, const u32* order, u32 width, const float* rows, float* table) {
    float* to = table + (u64)ids[blockIdx.x] * width;
    const u32 first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 row = first; row < end; row++) sum += rows[(u64)order[row] * width + i];
        to[i] += sum;
    }
}

// The mean of each text's rows. A block takes a text.
KERNEL(mean_rows, const u32* starts, const float* rows, u32 width, float* means) {
    const u32 first = starts[blockIdx.x], n = starts[blockIdx.x + 1] - first;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 row = first; row < first + n; row++) sum += rows[(u64)row * width + i];
        means[(u64)blockIdx.x * width + i] = sum / (float)n;
    }
}

// The gradient of a text's vector becomes that of its tokens': of the first, or of all in equal shares. A block takes a text.
KERNEL(spread_rows, const u32* starts, const float* pooled, u32 width, u32 all, float* rows) {
    const u32 first = starts[blockIdx.x], n = starts[blockIdx.x + 1] - first;
    const float share = all != 0 ? 1.0f / (float)n : 1.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        const float value = pooled[(u64)blockIdx.x * width + i] * share;
        for (u32 row = 0; row < n; row++) rows[(u64)(first + row) * width + i] = all != 0 || row == 0 ? value : 0.0f;
    }
}

// `sums += values`.
KERNEL(add_values, const float* values, u64 n, float* sums) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) sums[i] += values[i];
}

// Sums of squares; a block leaves one. Blocks of 256 threads.
KERNEL(sum_squares, const float* values, u64 n, double* partial) {
    __shared__ double sums[256];
    double sum = 0.0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        sum += (double)values[i] * (double)values[i];
    }
    sums[threadIdx.x] = sum;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// One step of AdamW: `function::adamw`.
KERNEL(adamw, float* values, const float* gradient, float* first, float* second, u64 n, float gradient_scale, float beta1,
       float beta2, float second_scale, float epsilon, float rate, float keep) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        const float g = gradient[i] * gradient_scale;
        const float m = beta1 * first[i] + (1.0f - beta1) * g;
        const float v = beta2 * second[i] + (1.0f - beta2) * g * g;
        first[i] = m;
        second[i] = v;
        values[i] = values[i] * keep - rate * (m / (sqrtf(v) * second_scale + epsilon));
    }
}

// ln sum of e^logit of each row, and its difference to the target's: the loss. A block of 256 threads takes a row.
KERNEL(cross_entropy, const float* logits, const float* bias, const u32* targets, u32 n_classes, float* log_sums, float* losses) {
    __shared__ float largest[256], sums[256];
    const float* row = logits + (u64)blockIdx.x * n_classes;
    float most = minus_infinity(), sum = 0.0f;
    for (u32 i = threadIdx.x; i < n_classes; i += blockDim.x) {
        const float x = row[i] + bias[i], next = fmaxf(most, x);
        sum = x != x ? x : sum * expf(most - next) + expf(x - next);
        most = next;
    }
    largest[threadIdx.x] = most;
    sums[threadIdx.x] = sum;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            const float a = largest[threadIdx.x], b = largest[threadIdx.x + half], next = fmaxf(a, b);
            if (next > minus_infinity()) {
                sums[threadIdx.x] = sums[threadIdx.x] * expf(a - next) + sums[threadIdx.x + half] * expf(b - next);
                largest[threadIdx.x] = next;
            }
        }
    }
    if (threadIdx.x == 0) {
        const float log_sum = largest[0] + logf(sums[0]);
        log_sums[blockIdx.x] = log_sum;
        losses[blockIdx.x] = log_sum - (row[targets[blockIdx.x]] + bias[targets[blockIdx.x]]);
    }
}
