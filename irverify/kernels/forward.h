/* Convolutions of planes with the channels last, on one thread, for elements of type REAL. */

/* One window of up to ABREAST rows for up to SIDE_BY_SIDE channels of the result. `begin` is where the taps that are
   inside the plane begin, `count` how many there are along both axes. */
INLINE void NAME(one_window)(const Taps *t, int64_t tall, const int64_t begin[2], const int64_t end[2],
                             const REAL *const *rows, int64_t y, int64_t x, const REAL (*weight)[SIDE_BY_SIDE],
                             const REAL *bias, REAL sums[ABREAST][SIDE_BY_SIDE]) {
    for (int64_t r = 0; r < ABREAST; r++) memcpy(sums[r], bias, SIDE_BY_SIDE * sizeof(REAL));
    for (int64_t i = begin[0]; i < end[0]; i++) {
        for (int64_t j = begin[1]; j < end[1]; j++) {
            const int64_t at = ((y + i) * t->plane[1] + x + j) * t->unit;
            const REAL(*tap)[SIDE_BY_SIDE] = weight + (i * t->taps[1] + j) * t->unit;
            for (int64_t c = 0; c < t->unit; c++) {
                for (int64_t r = 0; r < tall; r++) {
                    const REAL v = rows[r][at + c];
                    DO_PRAGMA(omp simd)
                    for (int64_t o = 0; o < SIDE_BY_SIDE; o++) sums[r][o] += v * tap[c][o];
                }
            }
        }
    }
}

CLONED static void NAME(some_windows)(const Taps *t, int64_t tall, int64_t n, int64_t out, const REAL *const *rows,
                                      const REAL (*weight)[SIDE_BY_SIDE], const REAL *bias, REAL *const *found) {
    REAL sums[ABREAST][SIDE_BY_SIDE];
    for (int64_t h = 0, at = 0; h < t->windows[0]; h++) {
        const int64_t y = h * t->stride[0] - t->first[0];
        for (int64_t w = 0; w < t->windows[1]; w++, at += out) {
            const int64_t x = w * t->stride[1] - t->first[1];
            const int64_t begin[2] = {most(0, -y), most(0, -x)};
            const int64_t end[2] = {least(t->taps[0], t->plane[0] - y), least(t->taps[1], t->plane[1] - x)};
            if (tall == ABREAST)
                NAME(one_window)(t, ABREAST, begin, end, rows, y, x, weight, bias, sums);
            else
                NAME(one_window)(t, tall, begin, end, rows, y, x, weight, bias, sums);
            for (int64_t r = 0; r < tall; r++) memcpy(found[r] + at, sums[r], n * sizeof(REAL));
        }
    }
}

/* Rows `[rows, plane 2, unit]` convolved with `weight` `[out, unit, taps 2]`, to which `bias` `[out]`, or null, is
   added: `[rows, windows 2, out]`. Whether there was memory enough. */
static int NAME(forward)(int64_t count, int64_t out, const Taps *t, const REAL *rows, const REAL *weight,
                         const REAL *bias, REAL *found) {
    const int64_t taps = t->taps[0] * t->taps[1], blocks = (out + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE;
    const int64_t size = t->plane[0] * t->plane[1] * t->unit, whole = t->windows[0] * t->windows[1] * out;
    const int64_t each = taps * t->unit + 1; /* the bias comes last */
    Stack stack;
    REAL(*const packed)[SIDE_BY_SIDE] = BORROWED(stack, blocks * each * sizeof *packed);
    if (!packed) return 0;
    for (int64_t b = 0; b < blocks; b++) {
        REAL(*const own)[SIDE_BY_SIDE] = packed + b * each;
        for (int64_t v = 0; v < SIDE_BY_SIDE; v++) {
            const int64_t o = b * SIDE_BY_SIDE + v;
            for (int64_t c = 0; c < t->unit; c++)
                for (int64_t k = 0; k < taps; k++)
                    own[k * t->unit + c][v] = o < out ? weight[(o * t->unit + c) * taps + k] : 0;
            own[each - 1][v] = bias && o < out ? bias[o] : 0;
        }
        for (int64_t r = 0; r < count; r += ABREAST) {
            const int64_t tall = least(ABREAST, count - r), begin = b * SIDE_BY_SIDE;
            const REAL *given[ABREAST];
            REAL *results[ABREAST];
            for (int64_t i = 0; i < tall; i++) {
                given[i] = rows + (r + i) * size;
                results[i] = found + (r + i) * whole + begin;
            }
            NAME(some_windows)(t, tall, least(SIDE_BY_SIDE, out - begin), out, given,
                               (const REAL(*)[SIDE_BY_SIDE])own, own[each - 1], results);
        }
    }
    GIVE_BACK(stack, packed);
    return 1;
}
