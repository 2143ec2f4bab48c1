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
    const int64_t windows = t->windows[0] * t->windows[1];
    for (int64_t w = 0; w < windows; w++) {
        const int64_t y = w / t->windows[1] * t->stride[0], x = w % t->windows[1] * t->stride[1];
        REAL middle[SIDE_BY_SIDE] = {0}, reach[SIDE_BY_SIDE] = {0};
        const REAL(*tap)[SIDE_BY_SIDE] = weight;
        for (int64_t k = 0; k < t->unit; k++) {
            for (int64_t i = 0; i < t->taps[0]; i++) {
                const int64_t at = (k * around[0] + y + i) * around[1] + x;
                for (int64_t j = 0; j < t->taps[1]; j++, tap++) {
                    const REAL c = center[at + j], r = radius[at + j];
                    DO_PRAGMA(omp simd)
                    for (int64_t v = 0; v < SIDE_BY_SIDE; v++) {
                        const REAL a = (*tap)[v];
                        middle[v] += a * c;
                        reach[v] += (a < 0 ? -a : a) * r;
                    }
                }
            }
        }
        for (int64_t v = 0; v < n; v++) {
            const REAL c = middle[v] + (bias ? bias[v] : 0);
            below[v * windows + w] = c - reach[v];
            above[v * windows + w] = c + reach[v];
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
