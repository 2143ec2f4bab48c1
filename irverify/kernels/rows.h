/* Rows of coefficients through lines, to their minimum over a box, and over planes, for elements of type REAL. */

/* Lines over runs of a row v, times `sign`: `passed = v slope + min(v, 0) rise`, which may take its place, and
   `max(v, 0) . base + min(v, 0) . top`. */
INLINE REAL NAME(bend_run)(int has, REAL sign, int64_t n, const REAL *row, const REAL *RESTRICT slope,
                           const REAL *RESTRICT rise, const REAL *RESTRICT base, const REAL *RESTRICT top,
                           REAL *passed) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t i = 0; i < n; i++) {
        const REAL v = sign * row[i], negative = v > 0 ? 0 : v;
        REAL through = v * slope[i];
        if (has & RISE) through += negative * rise[i];
        if (has & BASE) sum += (v - negative) * base[i];
        if (has & TOP) sum += negative * top[i];
        passed[i] = through;
    }
    return sum;
}

INLINE double NAME(bend_whole)(int has, const Grid *g, int64_t number, const REAL *row, const REAL *slope,
                               const REAL *rise, const REAL *base, const REAL *top, REAL *passed) {
    double sum = 0;
    int64_t begin[2];
    begin_of(g, number, begin);
    for (int64_t outer = 0; outer < g->outer; outer++) {
        for (int64_t line = 0; line < g->extent[0]; line++) {
            const Run run = run_of(g, begin, outer, line);
            if (run.before) memset(passed, 0, run.before * sizeof(REAL));
            row += run.before, passed += run.before;
            for (int64_t from = 0; from < run.count; from += BLOCK) {
                const int64_t at = run.at + from, n = least(BLOCK, run.count - from);
                sum += NAME(bend_run)(has, 1, n, row + from, slope + at, rise + at, base + at, top + at, passed + from);
            }
            row += run.count, passed += run.count;
            if (run.after) memset(passed, 0, run.after * sizeof(REAL));
            row += run.after, passed += run.after;
        }
    }
    return sum;
}

CLONED static double NAME(bend_row)(int has, const Grid *g, int64_t number, const REAL *row, const REAL *slope,
                                    const REAL *rise, const REAL *base, const REAL *top, REAL *passed) {
    switch (has) {
    case 0: return NAME(bend_whole)(0, g, number, row, slope, rise, base, top, passed);
    case RISE: return NAME(bend_whole)(RISE, g, number, row, slope, rise, base, top, passed);
    case TOP: return NAME(bend_whole)(TOP, g, number, row, slope, rise, base, top, passed);
    case RISE | TOP: return NAME(bend_whole)(RISE | TOP, g, number, row, slope, rise, base, top, passed);
    case BASE: return NAME(bend_whole)(BASE, g, number, row, slope, rise, base, top, passed);
    case BASE | RISE: return NAME(bend_whole)(BASE | RISE, g, number, row, slope, rise, base, top, passed);
    case BASE | TOP: return NAME(bend_whole)(BASE | TOP, g, number, row, slope, rise, base, top, passed);
    default: return NAME(bend_whole)(RISE | BASE | TOP, g, number, row, slope, rise, base, top, passed);
    }
}

/* rise, base and top may be null: zero. What a null pointer stands for is not read, so it may be any address. */
static void NAME(bend)(int threads, const Grid *g, const REAL *rows, const REAL *slope, const REAL *rise,
                       const REAL *base, const REAL *top, REAL *passed, REAL *constants) {
    const int has = (rise ? RISE : 0) | (base ? BASE : 0) | (top ? TOP : 0);
    const int64_t size = size_of_row(g), planes = size_of_planes(g);
    const REAL *given[3] = {rise ? rise : slope, base ? base : slope, top ? top : slope};
    IN_PARALLEL
    for (int64_t r = 0; r < g->rows; r++) {
        const int64_t at = owner_of(g, r) * planes;
        const double sum = NAME(bend_row)(has, g, r, rows + r * size, slope + at, given[0] + at, given[1] + at,
                                          given[2] + at, passed + r * size);
        if (constants) constants[r] = (REAL)sum;
    }
}

/* The gradients of `bend` for `count` rows of each example, over one block of their elements: from those in the rows
   that are passed on, `inner`, and in the constants, those in the rows and in rise, base and top (its own, where base
   is that of positive coefficients). `through` is what is passed on, or null. */
INLINE void NAME(back_block)(int based, int64_t count, int64_t size, int64_t n, const REAL *row, const REAL *slope,
                             const REAL *rise, const REAL *base, const REAL *top, const REAL *inner, const REAL *outer,
                             REAL *through, REAL *of_row, REAL *of_rise, REAL *of_base, REAL *of_top) {
    REAL sums[3][BLOCK];
    memset(sums, 0, sizeof sums);
    for (int64_t c = 0; c < count; c++, row += size, inner += size, of_row += size) {
        const REAL k = outer[c];
        REAL *RESTRICT s = sums[0], *RESTRICT t = sums[1], *RESTRICT u = sums[2];
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < n; i++) {
            const REAL v = row[i], g = inner[i], negative = v > 0 ? 0 : v;
            const REAL bent = v < 0 ? slope[i] + rise[i] : slope[i];
            REAL by = g * bent;
            by += based ? k * (v < 0 ? top[i] : base[i]) : v < 0 ? k * top[i] : 0;
            s[i] += negative * g;
            t[i] += negative * k;
            if (based) u[i] += (v - negative) * k;
            of_row[i] = by;
        }
        if (through) {
            DO_PRAGMA(omp simd)
            for (int64_t i = 0; i < n; i++) {
                const REAL v = row[i];
                through[i] = v * (v < 0 ? slope[i] + rise[i] : slope[i]);
            }
            through += size;
        }
    }
    memcpy(of_rise, sums[0], n * sizeof(REAL));
    memcpy(of_top, sums[1], n * sizeof(REAL));
    if (based) memcpy(of_base, sums[2], n * sizeof(REAL));
}

CLONED static void NAME(back_example)(int64_t count, int64_t size, const REAL *row, const REAL *slope, const REAL *rise,
                                      const REAL *base, const REAL *top, const REAL *inner, const REAL *outer,
                                      REAL *through, REAL *of_row, REAL *of_rise, REAL *of_base, REAL *of_top) {
    for (int64_t i = 0; i < size; i += BLOCK) {
        const int64_t n = least(BLOCK, size - i);
        REAL *const passed = through ? through + i : NULL;
        if (base)
            NAME(back_block)(1, count, size, n, row + i, slope + i, rise + i, base + i, top + i, inner + i, outer,
                             passed, of_row + i, of_rise + i, of_base + i, of_top + i);
        else
            NAME(back_block)(0, count, size, n, row + i, slope + i, rise + i, NULL, top + i, inner + i, outer, passed,
                             of_row + i, of_rise + i, NULL, of_top + i);
    }
}

/* `of_rows` may be the memory of `inner`. */
static void NAME(bend_back)(int threads, int64_t examples, int64_t count, int64_t size, const REAL *rows,
                            const REAL *slope, const REAL *rise, const REAL *base, const REAL *top, const REAL *inner,
                            const REAL *outer, REAL *through, REAL *of_rows, REAL *of_rise, REAL *of_base,
                            REAL *of_top) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        const int64_t all = e * count * size, own = e * size;
        NAME(back_example)(count, size, rows + all, slope + own, rise + own, base ? base + own : NULL, top + own,
                           inner + all, outer + e * count, through ? through + all : NULL, of_rows + all, of_rise + own,
                           of_base ? of_base + own : NULL, of_top + own);
    }
}

/* `v . center - |v| . radius` of a row. */
INLINE REAL NAME(minimum_run)(int64_t n, const REAL *RESTRICT row, const REAL *RESTRICT center,
                              const REAL *RESTRICT radius) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t i = 0; i < n; i++) {
        const REAL v = row[i];
        sum += v * center[i] - (v < 0 ? -v : v) * radius[i];
    }
    return sum;
}

CLONED static double NAME(minimum_row)(const Grid *g, int64_t number, const REAL *row, const REAL *center,
                                       const REAL *radius) {
    double sum = 0;
    int64_t begin[2];
    begin_of(g, number, begin);
    for (int64_t outer = 0; outer < g->outer; outer++) {
        for (int64_t line = 0; line < g->extent[0]; line++) {
            const Run run = run_of(g, begin, outer, line);
            row += run.before;
            for (int64_t from = 0; from < run.count; from += BLOCK) {
                const int64_t n = least(BLOCK, run.count - from), at = run.at + from;
                sum += NAME(minimum_run)(n, row + from, center + at, radius + at);
            }
            row += run.count + run.after;
        }
    }
    return sum;
}

static void NAME(minimum)(int threads, const Grid *g, const REAL *rows, const REAL *center, const REAL *radius,
                          REAL *found) {
    const int64_t size = size_of_row(g), planes = size_of_planes(g);
    IN_PARALLEL
    for (int64_t r = 0; r < g->rows; r++) {
        const int64_t at = owner_of(g, r) * planes;
        found[r] = (REAL)NAME(minimum_row)(g, r, rows + r * size, center + at, radius + at);
    }
}

/* Its gradients, for `count` rows of each example; those in centre and radius may be null. */
CLONED static void NAME(minimum_example)(int64_t count, int64_t size, const REAL *rows, const REAL *center,
                                         const REAL *radius, const REAL *outer, REAL *of_rows, REAL *of_center,
                                         REAL *of_radius) {
    for (int64_t from = 0; from < size; from += BLOCK) {
        const int64_t n = least(BLOCK, size - from);
        REAL sums[2][BLOCK];
        memset(sums, 0, sizeof sums);
        for (int64_t c = 0; c < count; c++) {
            const REAL k = outer[c], *RESTRICT row = rows + c * size + from;
            const REAL *RESTRICT m = center + from, *RESTRICT w = radius + from;
            REAL *RESTRICT of_row = of_rows + c * size + from, *RESTRICT s = sums[0], *RESTRICT t = sums[1];
            DO_PRAGMA(omp simd)
            for (int64_t i = 0; i < n; i++) {
                const REAL v = row[i], sign = v > 0 ? 1 : v < 0 ? -1 : v;
                of_row[i] = (m[i] - sign * w[i]) * k;
                s[i] += v * k;
                t[i] -= (v < 0 ? -v : v) * k;
            }
        }
        if (of_center) memcpy(of_center + from, sums[0], n * sizeof(REAL));
        if (of_radius) memcpy(of_radius + from, sums[1], n * sizeof(REAL));
    }
}

static void NAME(minimum_back)(int threads, int64_t examples, int64_t count, int64_t size, const REAL *rows,
                               const REAL *center, const REAL *radius, const REAL *outer, REAL *of_rows,
                               REAL *of_center, REAL *of_radius) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        const int64_t all = e * count * size, own = e * size;
        NAME(minimum_example)(count, size, rows + all, center + own, radius + own, outer + e * count, of_rows + all,
                              of_center ? of_center + own : NULL, of_radius ? of_radius + own : NULL);
    }
}

/* Each row times numbers that repeat after `period` elements. */
INLINE REAL NAME(dot_run)(int64_t n, const REAL *RESTRICT row, const REAL *RESTRICT numbers) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t i = 0; i < n; i++) sum += row[i] * numbers[i];
    return sum;
}

CLONED static double NAME(dot_row)(int64_t size, int64_t period, const REAL *row, const REAL *numbers) {
    double sum = 0;
    for (int64_t at = 0; at < size; at += period)
        for (int64_t from = 0; from < period; from += BLOCK)
            sum += NAME(dot_run)(least(BLOCK, period - from), row + at + from, numbers + from);
    return sum;
}

static void NAME(dot)(int threads, int64_t count, int64_t size, int64_t period, const REAL *rows, const REAL *numbers,
                      REAL *found) {
    REAL wide[BLOCK]; /* short periods one after the other, for longer runs */
    int64_t times = least(BLOCK, size) / period;
    if (times > 1) {
        while (size / period % times) times--;
        for (int64_t i = 0; i < times * period; i++) wide[i] = numbers[i % period];
        numbers = wide;
        period *= times;
    }
    IN_PARALLEL
    for (int64_t r = 0; r < count; r++) found[r] = (REAL)NAME(dot_row)(size, period, rows + r * size, numbers);
}

/* Windows as planes, zero where no window reaches. With a `sign` they are added, times it, to what is there. */
static void NAME(spread)(int threads, const Grid *g, int64_t sign, const REAL *rows, REAL *planes) {
    const int64_t size = size_of_row(g), whole = size_of_planes(g);
    IN_PARALLEL
    for (int64_t r = 0; r < g->rows; r++) {
        const REAL *row = rows + r * size;
        REAL *plane = planes + r * whole;
        int64_t begin[2];
        begin_of(g, r, begin);
        if (!sign) memset(plane, 0, whole * sizeof(REAL));
        for (int64_t outer = 0; outer < g->outer; outer++) {
            for (int64_t line = 0; line < g->extent[0]; line++) {
                const Run run = run_of(g, begin, outer, line);
                const REAL *RESTRICT from = row + run.before;
                REAL *RESTRICT to = plane + run.at;
                if (!sign && run.count) memcpy(to, from, run.count * sizeof(REAL));
                for (int64_t i = 0; i < run.count && sign; i++) to[i] += sign * from[i];
                row += run.before + run.count + run.after;
            }
        }
    }
}
