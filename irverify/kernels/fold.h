/* The adjoint of a convolution from products with all its taps, for elements of type REAL. */

INLINE void NAME(add)(int64_t n, const REAL *RESTRICT from, REAL *RESTRICT to) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* Products of one row with the taps of a kernel, `[windows 2, taps 2, unit]`, added up where the taps lie in a plane. */
CLONED static void NAME(fold_row)(const Taps *t, const REAL *RESTRICT columns, REAL *RESTRICT plane) {
    const int64_t whole = t->taps[1] * t->unit, line = t->plane[1] * t->unit;
    memset(plane, 0, t->plane[0] * line * sizeof(REAL));
    for (int64_t y = 0; y < t->windows[0]; y++) {
        for (int64_t x = 0; x < t->windows[1]; x++) {
            const int64_t begin = x * t->stride[1] - t->first[1];
            const int64_t low = least(most(0, -begin), t->taps[1]);
            const int64_t high = most(low, least(t->taps[1], t->plane[1] - begin));
            for (int64_t tap = 0; tap < t->taps[0]; tap++, columns += whole) {
                const int64_t at = y * t->stride[0] - t->first[0] + tap;
                if (at < 0 || at >= t->plane[0]) continue;
                const REAL *RESTRICT from = columns + low * t->unit;
                REAL *RESTRICT to = plane + at * line + (begin + low) * t->unit;
                const int64_t n = (high - low) * t->unit;
                switch (n) { /* short runs of few channels: a loop of unknown length takes several times as long */
                case 2: NAME(add)(2, from, to); break;
                case 3: NAME(add)(3, from, to); break;
                case 4: NAME(add)(4, from, to); break;
                case 5: NAME(add)(5, from, to); break;
                case 6: NAME(add)(6, from, to); break;
                case 8: NAME(add)(8, from, to); break;
                case 9: NAME(add)(9, from, to); break;
                case 12: NAME(add)(12, from, to); break;
                default: NAME(add)(n, from, to);
                }
            }
        }
    }
}

static void NAME(fold)(int threads, int64_t rows, const Taps *t, const REAL *columns, REAL *planes) {
    const int64_t size = t->windows[0] * t->windows[1] * t->taps[0] * t->taps[1] * t->unit;
    const int64_t whole = t->plane[0] * t->plane[1] * t->unit;
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) NAME(fold_row)(t, columns + r * size, planes + r * whole);
}
