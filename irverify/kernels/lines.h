/* Lines around ReLUs from bounds of their operands, and lines as rows meet them, for elements of type REAL. */

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
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        const int64_t at = e * size;
        NAME(lines_example)(size, lower + at, upper + at, offset, slope + at, rise + at, base ? base + at : NULL,
                            top + at);
    }
}

/* A ReLU whose operand lies between l and u: the slope below, `low` (0: adaptive, 1 where `lean` is above 0; 1: slope 0;
   2: parallel to the line above), that of the chord above, `high`, and the constant of that. */
#define RELU_AT(choice, lean)                                                                                          \
    const REAL width = u - l;                                                                                          \
    const int open = l < 0 && u > 0;                                                                                   \
    const REAL sided = l >= 0 ? 1 : 0, span = open ? width : 1;                                                        \
    const REAL high = open ? u / span : sided, constant = open ? u * (-l / span) : 0;                                  \
    const REAL low = (choice) == 2 ? high : !open ? sided : (choice) == 1 ? 0 : (lean) > 0 ? 1 : 0

/* Lines around ReLUs: the slopes below and above, and the constant above. Adaptive is by `lean`, or the sum of the bounds
   where it is null. Whether all numbers are finite. */
INLINE int NAME(relu_run)(int choice, int64_t n, const REAL *lower, const REAL *upper, const REAL *lean, REAL *free,
                          REAL *chord, REAL *top) {
    REAL total = 0; /* 0 times each number: not a number if one of them is infinite or none */
    DO_PRAGMA(omp simd reduction(+ : total))
    for (int64_t i = 0; i < n; i++) {
        const REAL l = lower[i], u = upper[i];
        RELU_AT(choice, lean ? lean[i] : u + l);
        free[i] = low;
        chord[i] = high;
        top[i] = constant;
        total += (width + constant) * 0;
    }
    return total == 0;
}

/* The same: compilers make vectors of each choice by itself. */
CLONED static int NAME(relu_block)(int choice, int64_t n, const REAL *lower, const REAL *upper, const REAL *lean,
                                   REAL *free, REAL *chord, REAL *top) {
    if (lean) return NAME(relu_run)(0, n, lower, upper, lean, free, chord, top);
    if (choice == 0) return NAME(relu_run)(0, n, lower, upper, NULL, free, chord, top);
    if (choice == 1) return NAME(relu_run)(1, n, lower, upper, NULL, free, chord, top);
    return NAME(relu_run)(2, n, lower, upper, NULL, free, chord, top);
}

static int NAME(relu_lines)(int threads, int64_t choice, int64_t n, const REAL *lower, const REAL *upper,
                            const REAL *lean, REAL *free, REAL *chord, REAL *top) {
    int finite = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : finite))
    for (int64_t i = 0; i < n; i += MANY)
        finite = NAME(relu_block)((int)choice, least(MANY, n - i), lower + i, upper + i, lean ? lean + i : NULL,
                                  free + i, chord + i, top + i)
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
    IN_PARALLEL
    for (int64_t i = 0; i < size; i += BLOCK)
        NAME(lines_back_block)(examples, size, least(BLOCK, size - i), lower + i, upper + i, offset ? offset + i : NULL,
                               of_rise + i, of_base ? of_base + i : NULL, of_top + i, of_lower + i, of_upper + i,
                               of_offset ? of_offset + i : NULL);
}

/* Lines given by the slopes below and above and both constants (null: zero), as rows meet them: the slope below, how much
   steeper the line above is, and the constants that are given. Which of these last three are not zero everywhere. */
INLINE int NAME(met_run)(int64_t channels, int64_t places, int64_t n, const REAL *const given[4], REAL *const found[4]) {
    int steep = 0, based = 0, topped = 0;
    for (int64_t c = 0; c < channels; c++) {
        const REAL *slope = given[0] + c * places, *high = given[1] + c * places;
        DO_PRAGMA(omp simd reduction(| : steep))
        for (int64_t i = 0; i < n; i++) {
            const REAL rise = high[i] - slope[i];
            found[0][i * channels + c] = slope[i];
            found[1][i * channels + c] = rise;
            steep |= rise != 0;
        }
        if (given[2]) {
            const REAL *base = given[2] + c * places;
            DO_PRAGMA(omp simd reduction(| : based))
            for (int64_t i = 0; i < n; i++) {
                found[2][i * channels + c] = base[i];
                based |= base[i] != 0;
            }
        }
        if (given[3]) {
            const REAL *top = given[3] + c * places;
            DO_PRAGMA(omp simd reduction(| : topped))
            for (int64_t i = 0; i < n; i++) {
                found[3][i * channels + c] = top[i];
                topped |= top[i] != 0;
            }
        }
    }
    return (steep ? RISE : 0) | (based ? BASE : 0) | (topped ? TOP : 0);
}

CLONED static int NAME(met_block)(int64_t channels, int64_t places, int64_t n, const REAL *const given[4],
                                  REAL *const found[4]) {
    return channels == 1 ? NAME(met_run)(1, places, n, given, found) : NAME(met_run)(channels, places, n, given, found);
}

/* Of lines `[outer, channels, places]`, stored `[outer, places, channels]`. */
static int NAME(met_lines)(int threads, int64_t outer, int64_t channels, int64_t places, const REAL *const given[4],
                           REAL *const found[4]) {
    const int64_t step = side_of_block(channels), blocks = (places + step - 1) / step;
    int has = 0;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(| : has))
    for (int64_t b = 0; b < outer * blocks; b++) {
        const int64_t at = b / blocks * channels * places, first = b % blocks * step, to = at + first * channels;
        const REAL *from[4];
        REAL *into[4];
        for (int i = 0; i < 4; i++) {
            from[i] = given[i] ? given[i] + at + first : NULL;
            into[i] = given[i] ? found[i] + to : NULL;
        }
        has |= NAME(met_block)(channels, places, least(step, places - first), from, into);
    }
    return has;
}

/* Lines around ReLUs as rows meet them: the slope below, how much steeper the line above is, and its constant, stored
   `[places, channels]`. Which of the last two are not zero everywhere. */
INLINE int NAME(relu_met_run)(int choice, int64_t channels, int64_t places, int64_t n, const REAL *lower,
                              const REAL *upper, const REAL *lean, REAL *slope, REAL *rise, REAL *top) {
    int steep = 0, topped = 0;
    for (int64_t c = 0; c < channels; c++, lower += places, upper += places, slope++, rise++, top++) {
        DO_PRAGMA(omp simd reduction(| : steep, topped))
        for (int64_t i = 0; i < n; i++) {
            const REAL l = lower[i], u = upper[i];
            RELU_AT(choice, lean ? lean[c * places + i] : u + l);
            slope[i * channels] = low;
            rise[i * channels] = high - low;
            top[i * channels] = constant;
            steep |= high - low != 0;
            topped |= constant != 0;
        }
    }
    return (steep ? RISE : 0) | (topped ? TOP : 0);
}

CLONED static int NAME(relu_met_block)(int choice, int64_t channels, int64_t places, int64_t n, const REAL *lower,
                                       const REAL *upper, const REAL *lean, REAL *slope, REAL *rise, REAL *top) {
    if (choice) return NAME(relu_met_run)(choice, channels, places, n, lower, upper, NULL, slope, rise, top);
    if (lean && channels == 1) return NAME(relu_met_run)(0, 1, places, n, lower, upper, lean, slope, rise, top);
    if (lean) return NAME(relu_met_run)(0, channels, places, n, lower, upper, lean, slope, rise, top);
    return NAME(relu_met_run)(0, channels, places, n, lower, upper, NULL, slope, rise, top);
}

/* Of bounds `[outer, channels, places]`. */
static int NAME(relu_met)(int threads, int64_t choice, int64_t outer, int64_t channels, int64_t places,
                          const REAL *lower, const REAL *upper, const REAL *lean, REAL *slope, REAL *rise, REAL *top) {
    const int64_t step = side_of_block(channels), blocks = (places + step - 1) / step;
    int has = 0;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(| : has))
    for (int64_t b = 0; b < outer * blocks; b++) {
        const int64_t at = b / blocks * channels * places, first = b % blocks * step, to = at + first * channels;
        has |= NAME(relu_met_block)((int)choice, channels, places, least(step, places - first), lower + at + first,
                                    upper + at + first, lean ? lean + at + first : NULL, slope + to, rise + to, top + to);
    }
    return has;
}
#undef RELU_AT
