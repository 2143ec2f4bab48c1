/* Rows up through the lines around ReLUs, and down with some of their slopes turned over, for elements of type REAL. */

/* One row: `values` become what the lines are there, `slope v` where a coefficient is at least 0 and else
   `(slope + rise) v + top`; `gains`, where there is a choice, what the slope 1 - slope gains to first order where it is
   better; they may take the place of the coefficients. Returns the greatest. */
CLONED static REAL NAME(upward_row)(int64_t n, const REAL *row, const REAL *RESTRICT slope, const REAL *RESTRICT rise,
                                    const REAL *RESTRICT top, REAL *RESTRICT values, REAL *gains) {
    REAL greatest = 0;
    DO_PRAGMA(omp simd reduction(max : greatest))
    for (int64_t i = 0; i < n; i++) {
        const REAL a = row[i], v = values[i], s = slope[i], more = rise[i];
        const REAL low = v * s, high = v * (s + more) + top[i];
        const REAL toward = (v > 0 ? 1 : 0) - s, gain = a > 0 && more != 0 ? a * (v * toward) : 0;
        values[i] = a >= 0 ? low : high;
        gains[i] = gain;
        greatest = gain > greatest ? gain : greatest;
    }
    return greatest;
}

/* Rows `[rows, size]`, each of the example that `owner` says, or all of the first; `greatest` `[rows]` grows. */
static void NAME(upward)(int threads, int64_t rows, int64_t size, const int64_t *owner, const REAL *given,
                         const REAL *slope, const REAL *rise, const REAL *top, REAL *values, REAL *gains,
                         REAL *greatest) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * size, own = owner ? owner[r] * size : 0;
        const REAL found =
            NAME(upward_row)(size, given + at, slope + own, rise + own, top + own, values + at, gains + at);
        if (found > greatest[r]) greatest[r] = found;
    }
}

/* What is `passed` may take the place of the row. */
INLINE REAL NAME(turned_run)(int64_t n, REAL least, const REAL *row, const REAL *RESTRICT gains,
                             const REAL *RESTRICT slope, const REAL *RESTRICT rise, const REAL *RESTRICT top,
                             REAL *passed) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t i = 0; i < n; i++) {
        const REAL v = row[i], s = slope[i], negative = v > 0 ? 0 : v;
        const REAL below = gains[i] > least ? 1 - s : s;
        passed[i] = v > 0 ? v * below : v * s + negative * rise[i];
        sum += negative * top[i];
    }
    return sum;
}

CLONED static double NAME(turned_row)(int64_t size, REAL least_, const REAL *row, const REAL *gains, const REAL *slope,
                                      const REAL *rise, const REAL *top, REAL *passed) {
    double sum = 0;
    for (int64_t i = 0; i < size; i += BLOCK)
        sum += NAME(turned_run)(least(BLOCK, size - i), least_, row + i, gains + i, slope + i, rise + i, top + i,
                                passed + i);
    return sum;
}

/* `bend`, with the slopes below turned over whose gain is more than what `least` `[rows]` says. */
static void NAME(turned)(int threads, int64_t rows, int64_t size, const int64_t *owner, const REAL *given,
                         const REAL *gains, const REAL *least, const REAL *slope, const REAL *rise, const REAL *top,
                         REAL *passed, REAL *constants) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * size, own = owner ? owner[r] * size : 0;
        constants[r] = (REAL)NAME(turned_row)(size, least[r], given + at, gains + at, slope + own, rise + own,
                                              top + own, passed + at);
    }
}
