/* The functions of kernels.c for elements of type REAL. */

/* Lines over runs of a row: `passed = v slope + min(v, 0) rise`, and `max(v, 0) . base + min(v, 0) . top`. */
INLINE REAL NAME(bend_run)(int has, int64_t n, const REAL *RESTRICT row, const REAL *RESTRICT slope,
                           const REAL *RESTRICT rise, const REAL *RESTRICT base, const REAL *RESTRICT top,
                           REAL *RESTRICT passed) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t i = 0; i < n; i++) {
        const REAL v = row[i], negative = v > 0 ? 0 : v;
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
                sum += NAME(bend_run)(has, n, row + from, slope + at, rise + at, base + at, top + at, passed + from);
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t r = 0; r < count; r++) found[r] = (REAL)NAME(dot_row)(size, period, rows + r * size, numbers);
}

/* Windows as planes, zero where no window reaches. */
static void NAME(spread)(int threads, const Grid *g, const REAL *rows, REAL *planes) {
    const int64_t size = size_of_row(g), whole = size_of_planes(g);
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t r = 0; r < g->rows; r++) {
        const REAL *row = rows + r * size;
        REAL *plane = planes + r * whole;
        int64_t begin[2];
        begin_of(g, r, begin);
        memset(plane, 0, whole * sizeof(REAL));
        for (int64_t outer = 0; outer < g->outer; outer++) {
            for (int64_t line = 0; line < g->extent[0]; line++) {
                const Run run = run_of(g, begin, outer, line);
                if (run.count) memcpy(plane + run.at, row + run.before, run.count * sizeof(REAL));
                row += run.before + run.count + run.after;
            }
        }
    }
}

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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t r = 0; r < rows; r++) NAME(fold_row)(t, columns + r * size, planes + r * whole);
}

/* Lines around ReLUs whose operands lie between `lower` and `upper`, without an `offset` that is the same in every
   example or null: the slope below, how much steeper the line above is, and the constants of both. */
CLONED static void NAME(lines_example)(int64_t n, const REAL *lower, const REAL *upper, const REAL *offset, REAL *slope,
                                       REAL *rise, REAL *base, REAL *top) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL above = upper[i] < 0 ? 0 : upper[i], below = lower[i] > 0 ? 0 : -lower[i], width = above + below;
        const REAL high = above / (width == 0 ? 1 : width), low = above > below ? 1 : 0;
        slope[i] = low;
        rise[i] = high - low;
        top[i] = high * below;
    }
    if (!offset) return;
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        base[i] = slope[i] * offset[i];
        top[i] += (slope[i] + rise[i]) * offset[i];
    }
}

static void NAME(lines)(int threads, int64_t examples, int64_t size, const REAL *lower, const REAL *upper,
                        const REAL *offset, REAL *slope, REAL *rise, REAL *base, REAL *top) {
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t e = 0; e < examples; e++) {
        const int64_t at = e * size;
        NAME(lines_example)(size, lower + at, upper + at, offset, slope + at, rise + at, base ? base + at : NULL,
                            top + at);
    }
}

/* Lines around ReLUs: `free` below (0: adaptive, 1: slope 0, 2: parallel to the one above), the chord above, and its
   constant. Whether all numbers are finite. */
CLONED static int NAME(relu_block)(int choice, int64_t n, const REAL *lower, const REAL *upper, REAL *free, REAL *chord,
                                   REAL *top) {
    REAL total = 0; /* 0 times each number: not a number if one of them is infinite or none */
    DO_PRAGMA(omp simd reduction(+ : total))
    for (int64_t i = 0; i < n; i++) {
        const REAL l = lower[i], u = upper[i], width = u - l;
        const int open = l < 0 && u > 0;
        const REAL sided = l >= 0 ? 1 : 0, span = open ? width : 1;
        const REAL slope = open ? u / span : sided, constant = open ? u * (-l / span) : 0;
        const REAL low = choice == 2 ? slope : !open ? sided : choice == 1 ? 0 : u > -l ? 1 : 0;
        free[i] = low;
        chord[i] = slope;
        top[i] = constant;
        total += (width + constant) * 0;
    }
    return total == 0;
}

static int NAME(relu_lines)(int threads, int64_t choice, int64_t n, const REAL *lower, const REAL *upper, REAL *free,
                            REAL *chord, REAL *top) {
    int finite = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : finite))
    for (int64_t i = 0; i < n; i += MANY)
        finite = NAME(relu_block)((int)choice, least(MANY, n - i), lower + i, upper + i, free + i, chord + i, top + i)
                 && finite;
    return finite;
}

/* The gradients in bounds and offset from those in rise, base and top. */
CLONED static void NAME(lines_back_block)(int64_t examples, int64_t size, int64_t n, const REAL *lower,
                                          const REAL *upper, const REAL *offset, const REAL *of_rise,
                                          const REAL *of_base, const REAL *of_top, REAL *of_lower, REAL *of_upper,
                                          REAL *of_offset) {
    REAL sums[BLOCK];
    memset(sums, 0, sizeof sums);
    for (int64_t e = 0; e < examples; e++) {
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < n; i++) {
            const REAL l = lower[i], u = upper[i], above = u < 0 ? 0 : u, below = l > 0 ? 0 : -l;
            const REAL whole = above + below, width = whole == 0 ? 1 : whole, high = above / width, rest = below / width;
            const REAL t = of_top[i], steep = (offset ? of_rise[i] + t * offset[i] : of_rise[i]) / width;
            of_lower[i] = l < 0 ? (steep - high * t) * high : 0;
            of_upper[i] = u > 0 ? (steep + rest * t) * rest : 0;
            if (offset) sums[i] += t * high + (above > below ? of_base[i] : 0);
        }
        lower += size, upper += size, of_rise += size, of_top += size, of_lower += size, of_upper += size;
        if (offset) of_base += size;
    }
    if (of_offset) memcpy(of_offset, sums, n * sizeof(REAL));
}

static void NAME(lines_back)(int threads, int64_t examples, int64_t size, const REAL *lower, const REAL *upper,
                             const REAL *offset, const REAL *of_rise, const REAL *of_base, const REAL *of_top,
                             REAL *of_lower, REAL *of_upper, REAL *of_offset) {
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t i = 0; i < size; i += BLOCK)
        NAME(lines_back_block)(examples, size, least(BLOCK, size - i), lower + i, upper + i, offset ? offset + i : NULL,
                               of_rise + i, of_base ? of_base + i : NULL, of_top + i, of_lower + i, of_upper + i,
                               of_offset ? of_offset + i : NULL);
}

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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t e = 0; e < examples; e++) {
        const int64_t all = e * count * size, own = e * size;
        NAME(middle_example)(count, size, columns + all, low + own, high + own, outer + own, found + all);
    }
}

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
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_zero_block)(least(MANY, n - i), center + i, gap + i, result + i, found + i, half + i);
}

static void NAME(half_zero_back)(int threads, int64_t n, const REAL *result, const REAL *found, const REAL *half,
        const REAL *outer, const REAL *inner, REAL *of_center, REAL *of_gap) {
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_zero_back_block)(least(MANY, n - i), result + i, found + i, half + i, outer + i, inner + i,
            of_center + i, of_gap + i);
}

static void NAME(half_parallel)(int threads, int64_t n, const REAL *center, const REAL *gap, REAL *result, REAL
        *found, REAL *slope) {
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_parallel_block)(least(MANY, n - i), center + i, gap + i, result + i, found + i, slope + i);
}

static void NAME(half_parallel_back)(int threads, int64_t n, const REAL *result, const REAL *slope, const REAL *outer,
        const REAL *inner, REAL *of_center, REAL *of_gap) {
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))
    for (int64_t i = 0; i < n; i += MANY)
        NAME(half_parallel_back_block)(least(MANY, n - i), result + i, slope + i, outer + i, inner + i, of_center + i,
            of_gap + i);
}
