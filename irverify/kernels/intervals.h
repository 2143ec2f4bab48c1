/* Intervals of little convolutions, for elements of type REAL. */

/* Centre and radius of a box `[unit, plane 2]`, in planes with `t->first` zeros before them and some after. */
static void NAME(padded)(const Taps *t, const int64_t around[2], const REAL *lower, const REAL *upper, REAL *center,
                         REAL *radius) {
    memset(center, 0, t->unit * around[0] * around[1] * sizeof(REAL));
    memset(radius, 0, t->unit * around[0] * around[1] * sizeof(REAL));
    for (int64_t k = 0; k < t->unit; k++) {
        for (int64_t y = 0; y < t->plane[0]; y++, lower += t->plane[1], upper += t->plane[1]) {
            const int64_t at = (k * around[0] + y + t->first[0]) * around[1] + t->first[1];
            for (int64_t x = 0; x < t->plane[1]; x++) {
                center[at + x] = upper[x] - (upper[x] - lower[x]) * (REAL)0.5;
                radius[at + x] = upper[x] - center[at + x];
            }
        }
    }
}

/* Some channels of the result, `[windows 2]` each; weights `[unit, taps 2]` of them side by side. */
CLONED static void NAME(some_channels)(const Taps *t, const int64_t around[2], const REAL *center, const REAL *radius,
                                       const REAL weight[][SIDE_BY_SIDE], const REAL *bias, int64_t n, REAL *below,
                                       REAL *above) {
    const int64_t windows = t->windows[0] * t->windows[1], step = t->stride[1];
    for (int64_t y = 0; y < t->windows[0]; y++)
        for (int64_t x = 0; x < t->windows[1]; x += IN_A_LINE) {
            REAL middle[IN_A_LINE][SIDE_BY_SIDE] = {{0}}, reach[IN_A_LINE][SIDE_BY_SIDE] = {{0}};
            const int64_t some = least(IN_A_LINE, t->windows[1] - x); /* then some meet the last window again */
            int64_t shift[IN_A_LINE];
            for (int64_t g = 0; g < IN_A_LINE; g++) shift[g] = least(g, some - 1) * step;
            const REAL(*tap)[SIDE_BY_SIDE] = weight;
            for (int64_t k = 0; k < t->unit; k++) {
                for (int64_t i = 0; i < t->taps[0]; i++) {
                    const int64_t at = (k * around[0] + y * t->stride[0] + i) * around[1] + x * step;
                    for (int64_t j = 0; j < t->taps[1]; j++, tap++) {
                        DO_PRAGMA(GCC unroll 2)
                        for (int64_t g = 0; g < IN_A_LINE; g++) {
                            const REAL c = center[at + j + shift[g]], r = radius[at + j + shift[g]];
                            DO_PRAGMA(omp simd)
                            for (int64_t v = 0; v < SIDE_BY_SIDE; v++) {
                                const REAL a = (*tap)[v];
                                middle[g][v] += a * c;
                                reach[g][v] += (a < 0 ? -a : a) * r;
                            }
                        }
                    }
                }
            }
            for (int64_t v = 0; v < n; v++)
                for (int64_t g = 0; g < some; g++) {
                    const int64_t to = v * windows + y * t->windows[1] + x + g;
                    const REAL c = middle[g][v] + (bias ? bias[v] : 0);
                    below[to] = c - reach[g][v];
                    above[to] = c + reach[g][v];
                }
        }
}

/* The interval `[out, windows 2]` of a convolution of each example, from boxes `[unit, plane 2]` of the operand, by
   centre and radius. `weight` `[out, unit, taps 2]`, `bias` `[out]` or null. `around`: the extents of the operand with
   what it is padded by. Whether there was memory enough. */
static int NAME(interval)(int64_t examples, int64_t out, const Taps *t, const int64_t around[2], const REAL *lower,
                          const REAL *upper, const REAL *weight, const REAL *bias, REAL *below, REAL *above) {
    const int64_t size = t->unit * t->plane[0] * t->plane[1], whole = t->unit * around[0] * around[1];
    const int64_t windows = t->windows[0] * t->windows[1], taps = t->unit * t->taps[0] * t->taps[1];
    REAL *memory = malloc((taps * SIDE_BY_SIDE + 2 * whole) * sizeof(REAL));
    if (!memory) return 0;
    REAL(*some)[SIDE_BY_SIDE] = (REAL(*)[SIDE_BY_SIDE])memory;
    REAL *center = memory + taps * SIDE_BY_SIDE, *radius = center + whole;
    for (int64_t e = 0; e < examples; e++) {
        NAME(padded)(t, around, lower + e * size, upper + e * size, center, radius);
        for (int64_t o = 0; o < out; o += SIDE_BY_SIDE) {
            const int64_t n = least(SIDE_BY_SIDE, out - o), at = (e * out + o) * windows;
            if (e == 0 || out > SIDE_BY_SIDE)
                for (int64_t k = 0; k < taps; k++)
                    for (int64_t v = 0; v < SIDE_BY_SIDE; v++) some[k][v] = v < n ? weight[(o + v) * taps + k] : 0;
            NAME(some_channels)(t, around, center, radius, (const REAL(*)[SIDE_BY_SIDE])some, bias ? bias + o : NULL, n,
                                below + at, above + at);
        }
    }
    free(memory);
    return 1;
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
