/* Estimates of how far ReLUs move, for elements of type REAL. */

/* How far ReLUs move (paper 3), and the gradients: `irverify.passes.half_relu` says what is computed. Results may take
   the memory of what is read. */

#define LERP(a, b) ((b) - ((b) - (a)) * (REAL)0.5)

CLONED static void NAME(half_zero_block)(int64_t n, const REAL *center, const REAL *gap, REAL *result,
                                   REAL *found, REAL *half) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL c = center[i], v = gap[i], h = LERP(c, v), t = h < 0 ? 0 : h;
        half[i] = h;
        found[i] = t > v ? v : t;
        result[i] = c < 0 ? 0 : c;
    }
}

CLONED static void NAME(half_zero_back_block)(int64_t n, const REAL *result, const REAL *found,
                                        const REAL *half, const REAL *outer, const REAL *inner, REAL *of_center,
                                        REAL *of_gap) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL h = half[i], above = h - found[i], o = outer[i], g = inner[i];
        const REAL active = above <= 0 ? 0 : g, moving = h <= 0 ? 0 : g, by = LERP(moving, active);
        of_center[i] = (result[i] <= 0 ? 0 : o) + moving - by;
        of_gap[i] = by;
    }
}

CLONED static void NAME(half_parallel_block)(int64_t n, const REAL *center, const REAL *gap, REAL *result,
                                       REAL *found, REAL *slope) {
    const REAL tiny = (REAL)1e-15;
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL c = center[i], v = gap[i], width = v < tiny ? tiny : v, h = LERP(c, width);
        const REAL t = h < 0 ? 0 : h, s = (t > width ? width : t) / width;
        slope[i] = s;
        found[i] = (2 - s) * s * v;
        result[i] = c < 0 ? 0 : c;
    }
}

CLONED static void NAME(half_parallel_back_block)(int64_t n, const REAL *result, const REAL *slope,
                                            const REAL *outer, const REAL *inner, REAL *of_center, REAL *of_gap) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL s = slope[i], o = outer[i], g = s <= 0 ? 0 : inner[i], by = g - g * s;
        of_center[i] = (result[i] <= 0 ? 0 : o) + by;
        of_gap[i] = g - by * s;
    }
}

#undef LERP

static void NAME(half_zero)(int threads, int64_t n, const REAL *center, const REAL *gap, REAL *result, REAL *found,
        REAL *half) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_zero_block)(least(MANY, n - i), center + i, gap + i, result + i, found + i, half + i);
}

static void NAME(half_zero_back)(int threads, int64_t n, const REAL *result, const REAL *found, const REAL *half,
        const REAL *outer, const REAL *inner, REAL *of_center, REAL *of_gap) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_zero_back_block)(least(MANY, n - i), result + i, found + i, half + i, outer + i, inner + i,
            of_center + i, of_gap + i);
}

static void NAME(half_parallel)(int threads, int64_t n, const REAL *center, const REAL *gap, REAL *result, REAL
        *found, REAL *slope) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_parallel_block)(least(MANY, n - i), center + i, gap + i, result + i, found + i, slope + i);
}

static void NAME(half_parallel_back)(int threads, int64_t n, const REAL *result, const REAL *slope, const REAL *outer,
        const REAL *inner, REAL *of_center, REAL *of_gap) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_parallel_back_block)(least(MANY, n - i), result + i, slope + i, outer + i, inner + i, of_center + i,
            of_gap + i);
}
