/* A step of gradient ascent, for elements of type REAL. */

INLINE REAL NAME(root)(REAL x) { return sizeof(REAL) == 4 ? (REAL)sqrtf((float)x) : (REAL)sqrt((double)x); }

/* The choices of one row: moments take the gradient in, and then `choices += step * range * first / sqrt(second +
   tiny)`, kept in `[least, most]`. `told`: how much of the gradient, and of its square, goes into the moments, `step`
   and `tiny`. */
CLONED static void NAME(climb_row)(int64_t size, const double *told, const REAL *RESTRICT gradient,
                                   const REAL *RESTRICT least, const REAL *RESTRICT most, const REAL *RESTRICT range,
                                   REAL *RESTRICT first, REAL *RESTRICT second, REAL *RESTRICT choices) {
    const REAL part = (REAL)told[0], square = (REAL)told[1], step = (REAL)told[2], tiny = (REAL)told[3];
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < size; i++) {
        const REAL g = gradient[i], mean = first[i] + part * (g - first[i]);
        const REAL spread = (1 - square) * second[i] + square * (g * g);
        const REAL moved = choices[i] + step * (mean / NAME(root)(spread + tiny) * range[i]);
        const REAL above = moved < least[i] ? least[i] : moved;
        first[i] = mean;
        second[i] = spread;
        choices[i] = above > most[i] ? most[i] : above;
    }
}

/* That of all `rows`, whose limits and ranges are their own, or with `alike` the same for all. */
static void NAME(climb)(int threads, int64_t rows, int64_t size, int64_t alike, const double *told,
                        const REAL *gradient, const REAL *least, const REAL *most, const REAL *range, REAL *first,
                        REAL *second, REAL *choices) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * size, own = alike ? 0 : at;
        NAME(climb_row)(size, told, gradient + at, least + own, most + own, range + own, first + at, second + at,
                        choices + at);
    }
}
