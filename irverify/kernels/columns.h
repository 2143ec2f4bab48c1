/* Projected columns of examples, for elements of type REAL. */

/* Columns `[examples, count, size]`: `slope v + radius drawn`, with slope and radius of each example and `drawn` of each
   column. */
CLONED static void NAME(columns_example)(int64_t count, int64_t size, const REAL *columns, const REAL *slope,
                                         const REAL *radius, const REAL *drawn, REAL *found) {
    for (int64_t c = 0; c < count; c++, columns += size, drawn += size, found += size) {
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < size; i++) found[i] = columns[i] * slope[i] + radius[i] * drawn[i];
    }
}

static void NAME(columns)(int threads, int64_t examples, int64_t count, int64_t size, const REAL *columns,
                          const REAL *slope, const REAL *radius, const REAL *drawn, REAL *found) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        const int64_t all = e * count * size, own = e * size;
        NAME(columns_example)(count, size, columns + all, slope + own, radius + own, drawn, found + all);
    }
}

/* The gradients in columns, slope and radius; that in the columns may take the memory of `outer`. */
CLONED static void NAME(columns_back_example)(int64_t count, int64_t size, const REAL *columns, const REAL *slope,
                                              const REAL *drawn, const REAL *outer, REAL *of_columns, REAL *of_slope,
                                              REAL *of_radius) {
    for (int64_t from = 0; from < size; from += BLOCK) {
        const int64_t n = least(BLOCK, size - from);
        REAL sums[2][BLOCK];
        memset(sums, 0, sizeof sums);
        for (int64_t c = 0; c < count; c++) {
            const int64_t at = c * size + from;
            REAL *RESTRICT s = sums[0], *RESTRICT t = sums[1];
            DO_PRAGMA(omp simd)
            for (int64_t i = 0; i < n; i++) {
                const REAL g = outer[at + i];
                s[i] += g * columns[at + i];
                t[i] += g * drawn[at + i];
                of_columns[at + i] = g * slope[from + i];
            }
        }
        memcpy(of_slope + from, sums[0], n * sizeof(REAL));
        memcpy(of_radius + from, sums[1], n * sizeof(REAL));
    }
}

static void NAME(columns_back)(int threads, int64_t examples, int64_t count, int64_t size, const REAL *columns,
                               const REAL *slope, const REAL *drawn, const REAL *outer, REAL *of_columns,
                               REAL *of_slope, REAL *of_radius) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        const int64_t all = e * count * size, own = e * size;
        NAME(columns_back_example)(count, size, columns + all, slope + own, drawn, outer + all, of_columns + all,
                                   of_slope + own, of_radius + own);
    }
}

/* The gradient of `(low + high) / 2` in columns among whose magnitudes these two are. */
CLONED static void NAME(middle_example)(int64_t count, int64_t size, const REAL *columns, const REAL *low,
                                        const REAL *high, const REAL *outer, REAL *found) {
    for (int64_t c = 0; c < count; c++, columns += size, found += size) {
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < size; i++) {
            const REAL v = columns[i], size_of = v < 0 ? -v : v, half = outer[i] * (REAL)0.5;
            const REAL share = (size_of == low[i] ? half : 0) + (size_of == high[i] ? half : 0);
            found[i] = v > 0 ? share : v < 0 ? -share : 0;
        }
    }
}

static void NAME(middle_back)(int threads, int64_t examples, int64_t count, int64_t size, const REAL *columns,
                              const REAL *low, const REAL *high, const REAL *outer, REAL *found) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        const int64_t all = e * count * size, own = e * size;
        NAME(middle_example)(count, size, columns + all, low + own, high + own, outer + own, found + all);
    }
}
