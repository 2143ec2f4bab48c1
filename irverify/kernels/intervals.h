/* Intervals of convolutions, for elements of type REAL. */

/* Centre and radius of a box `[unit, plane 2]`, combed; what pads it is left as it is. */
static void NAME(combed)(const Taps *t, const Comb *comb, const REAL *lower, const REAL *upper, REAL *center,
                         REAL *radius) {
    for (int64_t k = 0; k < t->unit; k++)
        for (int64_t y = 0; y < t->plane[0]; y++, lower += t->plane[1], upper += t->plane[1]) {
            const int64_t down = y + t->first[0], tooth = down % comb->teeth[0] * comb->teeth[1];
            for (int64_t x = 0; x < least(comb->teeth[1], t->plane[1]); x++) {
                const int64_t right = x + t->first[1], line = (tooth + right % comb->teeth[1]) * comb->high;
                const int64_t at = (line + down / comb->teeth[0]) * comb->across + right / comb->teeth[1];
                REAL *const middles = center + k * comb->size + at, *const radii = radius + k * comb->size + at;
                for (int64_t from = x, i = 0; from < t->plane[1]; from += comb->teeth[1], i++) {
                    const REAL high = upper[from], middle = high - (high - lower[from]) * (REAL)0.5;
                    middles[i] = middle;
                    radii[i] = high - middle;
                }
            }
        }
}

/* Some channels of the result, as they come out of vectors, `across` elements to a line, to `[windows 2]` each. */
CLONED static void NAME(apart)(const Taps *t, int64_t across, int64_t pitch, int64_t channels, const REAL *found,
                               REAL *to) {
    enum { RUN = 32 / sizeof(REAL) };
    const int64_t wide = t->windows[1];
    const REAL *const end = to + channels * t->windows[0] * wide;
    for (int64_t v = 0; v < channels; v++)
        for (int64_t y = 0; y < t->windows[0]; y++, to += wide) {
            const REAL *const from = found + v * pitch + y * across;
            if (end - to < wide + RUN)
                for (int64_t x = 0; x < wide; x++) to[x] = from[x];
            else /* what is written beyond this line will be written over */
                for (int64_t x = 0; x < wide; x += RUN) memcpy(to + x, from + x, RUN * sizeof(REAL));
        }
}

/* The interval `[out, windows 2]` of a convolution of each example, from boxes `[unit, plane 2]` of the operand, by
   centre and radius, with windows side by side in vectors. `weight` `[out, unit, taps 2]`, `bias` `[out]` or null.
   `around`: the extents of the operand with what it is padded by; `chip`: 1 for vectors of 64 bytes, else 0. Whether
   there was memory enough. */
static int NAME(interval)(int threads, int chip, int64_t examples, int64_t out, const Taps *t, const int64_t around[2],
                          const REAL *lower, const REAL *upper, const REAL *weight, const REAL *bias, REAL *below,
                          REAL *above) {
    const int64_t lanes = (chip ? 64 : 32) / sizeof(REAL), wide = chip ? BOXED_WIDE : BOXED_WIDE - 1;
    const int64_t size = t->unit * t->plane[0] * t->plane[1], windows = t->windows[0] * t->windows[1];
    const int64_t depth = t->unit * t->taps[0] * t->taps[1];
    Comb comb = {.teeth = {t->stride[0], t->stride[1]}};
    comb.high = (around[0] + comb.teeth[0] - 1) / comb.teeth[0];
    comb.across = (around[1] + comb.teeth[1] - 1) / comb.teeth[1];
    comb.size = comb.high * comb.across * comb.teeth[0] * comb.teeth[1];
    const int64_t whole = t->unit * comb.size, length = (t->windows[0] - 1) * comb.across + t->windows[1];
    const int64_t pitch = (length + lanes - 1) / lanes * lanes + lanes;
    const int64_t near = 2 * whole * (int64_t)sizeof(REAL) < NEAREST; /* else channels meet a part of the boxes at a time */
    const int64_t block = near ? BOXED_LINES : 4 * BOXED_LINES;
    const int64_t own = 2 * whole + lanes + 2 * block * pitch; /* vectors reach beyond the last element */
    Stack stack;
    int64_t *const places = ZEROED(stack, depth * sizeof(int64_t) + least(threads, examples) * own * sizeof(REAL));
    if (places) {
        REAL *const memory = (REAL *)(places + depth);
        for (int64_t c = 0, k = 0; c < t->unit; c++)
            for (int64_t i = 0; i < t->taps[0]; i++)
                for (int64_t j = 0; j < t->taps[1]; j++, k++) {
                    const int64_t tooth = i % comb.teeth[0] * comb.teeth[1] + j % comb.teeth[1];
                    places[k] = c * comb.size + (tooth * comb.high + i / comb.teeth[0]) * comb.across + j / comb.teeth[1];
                }
        IN_PARALLEL
        for (int64_t e = 0; e < examples; e++) {
            REAL *const center = memory + THREAD * own, *const radius = center + whole;
            REAL *const low = radius + whole + lanes, *const high = low + block * pitch;
            NAME(combed)(t, &comb, lower + e * size, upper + e * size, center, radius);
            Box box = {.depth = depth, .pitch = pitch, .places = places};
            for (int64_t first = 0; first < out; first += block) {
                const int64_t end = least(first + block, out), to = (e * out + first) * windows;
                for (int64_t at = 0, n; at < length; at += n * lanes) {
                    const int64_t left = (length - at + lanes - 1) / lanes, tiles = (left + wide - 1) / wide;
                    n = (left + tiles - 1) / tiles; /* about as wide as the others */
                    box.center = center + at, box.radius = radius + at;
                    for (int64_t o = first; o < end; o += BOXED_LINES) {
                        for (int64_t i = 0; i < BOXED_LINES; i++) {
                            const int64_t v = least(o + i, out - 1); /* the last one in place of those that are missing */
                            box.line[i] = weight + v * depth;
                            box.bias[i] = bias ? bias[v] : 0;
                        }
                        box.below = low + (o - first) * pitch + at, box.above = high + (o - first) * pitch + at;
                        NAME(boxed)[chip][n - 1](&box);
                    }
                }
                NAME(apart)(t, comb.across, pitch, end - first, low, below + to);
                NAME(apart)(t, comb.across, pitch, end - first, high, above + to);
            }
        }
    }
    GIVE_BACK(stack, places);
    return places != NULL;
}

/* Writes `center - radius` to where the radius stands, and `center + radius` to where the centre does. */
CLONED static void NAME(around_block)(int64_t n, REAL *RESTRICT center, REAL *RESTRICT radius) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL c = center[i], r = radius[i];
        center[i] = c + r;
        radius[i] = c - r;
    }
}

static void NAME(around)(int threads, int64_t n, REAL *center, REAL *radius) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY) NAME(around_block)(least(MANY, n - i), center + i, radius + i);
}
