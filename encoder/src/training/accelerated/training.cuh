// What the kernels of training share: the numbers of dropout, as `Mask` of the host and `function::drop_out` have them.

DEVICE u64 scramble(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

DEVICE u32 mix(u32 x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Drops elements whose random number is below `threshold`, and scales the others; a threshold of 0 keeps all, by a scale of 1.
struct Mask {
    u64 stream;
    u64 first_row;
    u32 threshold;
    float scale;
};

// The key of a row of the pass.
DEVICE u64 key_of_row(const Mask& mask, u64 row) {
    return scramble(mask.stream ^ (mask.first_row + row) * 0x9e3779b97f4a7c15ull);
}

// The key of a head's row of attention weights.
DEVICE u64 key_of_row(const Mask& mask, u64 row, u32 head, u32 n_heads) {
    return scramble(mask.stream ^ ((mask.first_row + row) * n_heads + head) * 0x9e3779b97f4a7c15ull);
}

// By what the element at `place` of the row with this key is multiplied.
DEVICE float factor(const Mask& mask, u64 key, u32 place) {
    return mix(mix((place * 0x9e3779b9u) ^ (u32)key) + (u32)(key >> 32)) < mask.threshold ? 0.0f : mask.scale;
}
