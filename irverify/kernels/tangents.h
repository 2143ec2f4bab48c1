/* Rows around a function between tangents, one below and one above: which of them a coefficient meets is plain from its
   sign, so that the function is asked for at one point of the two only; for elements of type REAL. What an example has is
   `[6, size]`, three for below and then three for above: 1 where a tangent is free, else 0; slope and constant of the line
   where there is none, else 0. Choices of a row begin `pitch` elements behind those of the one before: all below, then all
   above. */

CLONED static void NAME(touch_row)(int64_t size, const REAL *RESTRICT row, const REAL *RESTRICT choices,
                                   REAL *RESTRICT point) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < size; i++) {
        const REAL below = choices[i], above = choices[size + i];
        point[i] = row[i] < 0 ? above : below;
    }
}

static void NAME(touch)(int threads, int64_t rows, int64_t size, int64_t pitch, const REAL *given, const REAL *choices,
                        REAL *point) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) NAME(touch_row)(size, given + r * size, choices + r * pitch, point + r * size);
}

/* The lines taken, `slope` and `constant`, and the row along them; its constants. */
CLONED static REAL NAME(tangents_row)(int64_t size, const REAL *RESTRICT row, const REAL *RESTRICT lines,
                                   const REAL *RESTRICT point, const REAL *RESTRICT value, const REAL *RESTRICT steep,
                                   REAL *RESTRICT slope, REAL *RESTRICT constant, REAL *RESTRICT passed) {
    const REAL *RESTRICT over = lines + 3 * size;
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t i = 0; i < size; i++) {
        const REAL v = row[i], free_below = lines[i], free_above = over[i];
        const REAL slope_below = lines[size + i], slope_above = over[size + i];
        const REAL constant_below = lines[2 * size + i], constant_above = over[2 * size + i];
        const REAL free = v < 0 ? free_above : free_below;
        const REAL s = (v < 0 ? slope_above : slope_below) + free * steep[i];
        const REAL c = (v < 0 ? constant_above : constant_below) + free * (value[i] - steep[i] * point[i]);
        slope[i] = s;
        constant[i] = c;
        passed[i] = v * s;
        sum += v * c;
    }
    return sum;
}

static void NAME(tangents)(int threads, int64_t rows, int64_t size, const int64_t *owner, const REAL *given,
                        const REAL *lines, const REAL *point, const REAL *value, const REAL *steep, REAL *slope,
                        REAL *constant, REAL *passed, REAL *constants) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * size, own = (owner ? owner[r] : 0) * 6 * size;
        constants[r] = NAME(tangents_row)(size, given + at, lines + own, point + at, value + at, steep + at, slope + at,
                                       constant + at, passed + at);
    }
}

/* The gradient in the choices, of a function that curves by `bend` at the points, and the value of the lines, where it is
   not null, at the operand `x`. */
CLONED static void NAME(tangents_back_row)(int64_t size, const REAL *RESTRICT row, const REAL *RESTRICT lines,
                                        const REAL *RESTRICT point, const REAL *RESTRICT bend,
                                        const REAL *RESTRICT slope, const REAL *RESTRICT constant,
                                        const REAL *RESTRICT x, REAL *RESTRICT gradient, REAL *RESTRICT value) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < size; i++) {
        const REAL v = row[i], free_below = lines[i], free_above = lines[3 * size + i];
        const REAL free = v < 0 ? free_above : free_below, by = v * (free * bend[i] * (x[i] - point[i]));
        gradient[i] = v < 0 ? 0 : by;
        gradient[size + i] = v < 0 ? by : 0;
    }
    if (!value) return;
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < size; i++) value[i] = constant[i] + x[i] * slope[i];
}

static void NAME(tangents_back)(int threads, int64_t rows, int64_t size, const int64_t *owner, const REAL *given,
                             const REAL *lines, const REAL *point, const REAL *bend, const REAL *slope,
                             const REAL *constant, const REAL *x, REAL *gradient, REAL *value) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * size, own = (owner ? owner[r] : 0) * 6 * size;
        NAME(tangents_back_row)(size, given + at, lines + own, point + at, bend + at, slope + at, constant + at, x + at,
                             gradient + 2 * at, value ? value + at : NULL);
    }
}
