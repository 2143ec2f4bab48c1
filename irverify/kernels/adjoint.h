/* The adjoint of a convolution on rows that are zero in many places, as they are behind ReLUs that no point of the region
   activates, for elements of type REAL: some rows at a time are looked through for what is not zero in any of them, and
   only that is multiplied. What is not a number is not zero. */

/* Weights `[out, unit, taps 2]` as tiles take them. Whether all are finite: only then is zero times a weight zero. */
CLONED static int NAME(pack)(const Adjoint *p, const REAL *RESTRICT weight, REAL *RESTRICT packed) {
    int finite = 1;
    const int64_t taps = p->taps.taps[0] * p->taps.taps[1], unit = p->taps.unit;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < p->out; c++, packed += p->across) {
            for (int64_t k = 0; k < unit; k++) packed[k] = weight[(c * unit + k) * taps + tap];
            for (int64_t k = 0; k < unit; k++) finite &= packed[k] - packed[k] == 0;
            for (int64_t k = unit; k < p->across; k++) packed[k] = 0;
        }
    return finite;
}

/* How many windows are looked at together: as many as stay in a near cache, and where the results of a row will be. */
INLINE int64_t NAME(step_of)(const Adjoint *p) {
    const int64_t into = p->taps.plane[0] * p->taps.plane[1] * p->taps.unit;
    return least(most(1, least(NEAR, into) / p->out), p->taps.windows[0] * p->taps.windows[1]);
}

/* A row over `n` elements, times `sign`, through the lines around these, which begin `at` an element of all examples, to
   where they are `passed`; what that adds to its constant, the offset of the convolution times what is passed on among it. */
INLINE REAL NAME(bent_run)(const Bent *b, REAL sign, int64_t n, int64_t at, const REAL *row, REAL *passed) {
    const REAL *slope = (const REAL *)b->slope + at, *rise = b->rise ? (const REAL *)b->rise + at : slope;
    const REAL *base = b->base ? (const REAL *)b->base + at : slope, *top = b->top ? (const REAL *)b->top + at : slope;
    switch ((b->rise ? RISE : 0) | (b->base ? BASE : 0) | (b->top ? TOP : 0)) {
    case 0: return NAME(bend_run)(0, sign, n, row, slope, rise, base, top, passed);
    case RISE | TOP: return NAME(bend_run)(RISE | TOP, sign, n, row, slope, rise, base, top, passed);
    case RISE: return NAME(bend_run)(RISE, sign, n, row, slope, rise, base, top, passed);
    case TOP: return NAME(bend_run)(TOP, sign, n, row, slope, rise, base, top, passed);
    case BASE: return NAME(bend_run)(BASE, sign, n, row, slope, rise, base, top, passed);
    case BASE | RISE: return NAME(bend_run)(BASE | RISE, sign, n, row, slope, rise, base, top, passed);
    case BASE | TOP: return NAME(bend_run)(BASE | TOP, sign, n, row, slope, rise, base, top, passed);
    default: return NAME(bend_run)(RISE | BASE | TOP, sign, n, row, slope, rise, base, top, passed);
    }
}

/* The same with some slopes turned over, for rows of `each` elements. */
INLINE REAL NAME(turned_part)(const Bent *b, int64_t each, int64_t n, int64_t at, const REAL *row, REAL *passed) {
    const int64_t place = row - (const REAL *)b->rows;
    const REAL *slope = (const REAL *)b->slope + at, *rise = (const REAL *)b->rise + at;
    const REAL least = ((const REAL *)b->least)[place / each];
    return NAME(turned_run)(n, least, row, (const REAL *)b->gains + place, slope, rise, (const REAL *)b->top + at, passed);
}

/* `open` has room for as many elements as are looked at together, and `through` for those of each row, where there is a
   `bent`; then `constants` get what this adds to them. Rows from `negative` on are the negatives of what is there. */
CLONED static void NAME(look)(const Adjoint *p, const Bent *b, int64_t example, int64_t negative, const REAL *const *rows,
                              const Live *live, int32_t *open, void *const *through, double *constants) {
    const int64_t windows = p->taps.windows[0] * p->taps.windows[1], out = p->out, tall = p->tall;
    const int64_t step = NAME(step_of)(p);
    int64_t found = 0;
    for (int64_t first = 0; first < windows; first += step) {
        const int64_t last = least(first + step, windows), size = (last - first) * out, begin = found;
        const REAL *from[TALL];
        memset(open, 0, size * sizeof(int32_t));
        for (int64_t i = 0; i < tall; i++) {
            from[i] = rows[i] ? rows[i] + first * out : NULL;
            if (!rows[i]) continue;
            if (b && b->slope) {
                REAL *const passed = (REAL *)through[i];
                const int64_t at = (example * windows + first) * out;
                constants[i] += b->gains ? NAME(turned_part)(b, windows * out, size, at, from[i], passed)
                                         : NAME(bent_run)(b, i < negative ? 1 : -1, size, at, from[i], passed);
                from[i] = passed;
            }
            if (b && b->offset) constants[i] += NAME(dot_run)(size, from[i], b->offset);
            const REAL *RESTRICT row = from[i];
            int32_t *RESTRICT any = open;
            DO_PRAGMA(omp simd)
            for (int64_t c = 0; c < size; c++) any[c] |= row[c] != 0;
        }
        for (int64_t w = first, at = 0; w < last; w++) {
            const int64_t before = w % p->taps.windows[1] * p->taps.stride[1] * out;
            live->begin[w] = found;
            for (int64_t c = 0; c < out; c++, at++) {
                const int32_t any = open[at]; /* read before what is found takes its place */
                live->offset[found] = (int32_t)((c - before) * p->across);
                open[found - begin] = (int32_t)at;
                found += any;
            }
        }
        REAL *RESTRICT values = (REAL *)live->values + begin * tall;
        for (int64_t i = 0; i < tall; i++) {
            const REAL *RESTRICT row = from[i];
            for (int64_t k = 0; k < found - begin; k++) values[k * tall + i] = row ? row[open[k]] : 0;
        }
    }
    live->begin[windows] = found;
}

/* The same for coefficients at elements `place`, in any order; `slot` has room for as many numbers. */
CLONED static void NAME(sort)(const Adjoint *p, const REAL *const *rows, const int64_t *place, const Live *live,
                              int32_t *slot) {
    const int64_t windows = p->taps.windows[0] * p->taps.windows[1], across = p->taps.windows[1], tall = p->tall;
    const uint32_t size = (uint32_t)windows;
    memset(live->begin, 0, (windows + 1) * sizeof(int64_t));
    for (int64_t k = 0; k < p->each; k++) live->begin[slot[k] = (int32_t)((uint32_t)place[k] % size)]++;
    for (int64_t w = 0, found = 0; w <= windows; w++) {
        const int64_t own = live->begin[w];
        live->begin[w] = found;
        found += own;
    }
    for (int64_t k = 0; k < p->each; k++) {
        const int64_t w = slot[k], before = w % across * p->taps.stride[1];
        slot[k] = (int32_t)live->begin[w]++;
        live->offset[slot[k]] = (int32_t)(((uint32_t)place[k] / size - before * p->out) * p->across);
    }
    for (int64_t w = windows; w > 0; w--) live->begin[w] = live->begin[w - 1]; /* each stands where the next begins */
    live->begin[0] = 0;
    int64_t count = 0;
    while (count < tall && rows[count]) count++;
    for (int64_t k = 0; k < p->each; k++) {
        REAL *RESTRICT values = (REAL *)live->values + slot[k] * tall;
        for (int64_t i = 0; i < count; i++) values[i] = rows[i][k];
        for (int64_t i = count; i < tall; i++) values[i] = 0;
    }
}

/* Where the rows begin that are looked at together, and how many groups of rows there are. */
static int64_t NAME(grouped)(const Adjoint *p, int64_t *begin) {
    int64_t found = 0;
    for (int64_t row = 0, first = 0; row < p->rows; row++) {
        const int same = row > 0 && row - first < p->tall && (!p->owner || p->owner[row] == p->owner[first]);
        if (!same) begin[found++] = first = row;
    }
    begin[found] = p->rows;
    return found;
}

/* Whether it could be done: there was memory enough, no weight is infinite or not a number, and what a pooling chooses is
   there. Where `q` is not null, rows `[rows, each]` are over the windows of a pooling; where `b` is not, they meet lines
   first. With either they get `constants`. */
static int NAME(adjoint)(int threads, Adjoint *p, Pooled *q, Bent *b, int chip, const REAL *given, const REAL *weight,
                         REAL *found, REAL *constants) {
    const int64_t windows = p->taps.windows[0] * p->taps.windows[1], unit = p->taps.unit, tall = p->tall;
    const int64_t into = p->taps.plane[0] * p->taps.plane[1] * unit, taps = p->taps.taps[0] * p->taps.taps[1];
    const int64_t line = tall == TALL ? p->taps.plane[1] * unit * TALL : 0;
    const int64_t each = p->place || q ? p->each : windows * p->out;
    const int64_t held = q && !q->chosen ? each * q->kernel[0] * q->kernel[1] : each; /* so many are passed on at most */
    const int64_t packed = ROUND(taps * p->out * p->across * sizeof(REAL));
    const int64_t tables = ROUND(2 * (p->taps.plane[0] + p->taps.plane[1]) * sizeof(int32_t));
    const int64_t starts = ROUND((p->rows + 1) * sizeof(int64_t)), sums = constants ? TALL * sizeof(double) : 0;
    const int64_t span = NAME(step_of)(p) * p->out; /* so many elements are looked at together at most */
    const int64_t map = q ? ROUND(windows * sizeof(int32_t)) : b && b->offset ? ROUND(span * sizeof(REAL)) : 0;
    const int64_t lists = ROUND(q ? held * sizeof(Meeting) : most(span, p->place ? each : 0) * sizeof(int32_t));
    const int apart = b && b->slope && into < span; /* else there is room where the results will be */
    const int64_t room = lists + (q ? each : apart ? span : 0) * tall * sizeof(REAL);
    const int64_t values = (held * tall + line) * sizeof(REAL) + (windows + 1) * sizeof(int64_t);
    const int64_t own = ROUND(sums + values) + ROUND((held + 1) * sizeof(int32_t)) + ROUND(room);
    Stack stack;
    char *const memory = BORROWED(stack, packed + tables + starts + map + threads * own);
    int done = memory && NAME(pack)(p, weight, (REAL *)memory);
    if (!done) {
        GIVE_BACK(stack, memory);
        return 0;
    }
    int64_t *const begin = (int64_t *)(memory + packed + tables);
    const int64_t groups = NAME(grouped)(p, begin);
    reached(&p->taps, 1, &p->reach[1], reached(&p->taps, 0, &p->reach[0], (int32_t *)(memory + packed)));
    void *const shared = memory + packed + tables + starts;
    if (q) windowed(&p->taps, q, (int32_t *)(q->window = shared));
    if (b && b->offset) {
        for (int64_t k = 0; k < NAME(step_of)(p) * p->out; k++) ((REAL *)shared)[k] = ((const REAL *)b->offset)[k % p->out];
        b->offset = shared;
    }
    IN_PARALLEL
    for (int64_t group = 0; group < groups; group++) {
        const REAL *rows[TALL] = {NULL};
        void *to[TALL] = {NULL};
        const int64_t count = begin[group + 1] - begin[group];
        for (int64_t i = 0; i < count; i++) {
            const int64_t row = p->order ? p->order[begin[group] + i] : begin[group] + i;
            rows[i] = given + (b && row >= b->given ? row - b->given : row) * each;
            to[i] = found + row * into;
        }
        const int64_t negative = b ? b->given - begin[group] : TALL;
        char *const mine = memory + packed + tables + starts + map + THREAD * own; /* what is aligned most comes first */
        Live live;
        live.values = mine + sums;
        live.begin = (int64_t *)((REAL *)live.values + held * tall);
        live.line = live.begin + windows + 1;
        live.offset = (int32_t *)(mine + ROUND(sums + values));
        void *const space = (char *)live.offset + ROUND((held + 1) * sizeof(int32_t));
        const int64_t example = p->owner ? p->owner[begin[group]] : 0;
        REAL *const turned = (REAL *)((char *)space + lists);
        void *through[TALL];
        for (int64_t i = 0; i < tall; i++) through[i] = apart ? turned + i * span : to[i];
        double *const constant = memset(mine, 0, sums);
        if (p->place)
            NAME(sort)(p, rows, p->place + example * each, &live, space);
        else if (!q)
            NAME(look)(p, b, example, negative, rows, &live, space, through, constant);
        else if (!NAME(draw)(p, q, example, rows, &live, space, turned, constant)) {
            DO_PRAGMA(omp atomic write)
            done = 0;
            continue;
        }
        for (int64_t i = 0; i < count && constants; i++) constants[begin[group] + i] = (REAL)constant[i];
        if (tall == TALL) {
            NAME(tiles)[chip][BY_ROWS + unit - 1](p, &live, memory, 0, unit, to);
            continue;
        }
        for (int64_t from = 0; from < unit;) {
            int64_t wide = 128 / sizeof(REAL), k = 0;
            while (k < BY_ROWS - 1 && (!NAME(tiles)[chip][k] || wide / 2 >= unit - from)) k++, wide /= 2;
            NAME(tiles)[chip][k](p, &live, memory, from, least(wide, unit - from), to);
            from += wide;
        }
    }
    GIVE_BACK(stack, memory);
    return done;
}
