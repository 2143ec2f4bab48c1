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

/* As many windows at a time as stay in a near cache; `open` has room for them. */
CLONED static void NAME(look)(const Adjoint *p, const REAL *const *rows, const Live *live, int32_t *open) {
    const int64_t windows = p->taps.windows[0] * p->taps.windows[1], out = p->out, tall = p->tall;
    const int64_t step = most(1, NEAR / out);
    int64_t found = 0;
    for (int64_t first = 0; first < windows; first += step) {
        const int64_t last = least(first + step, windows), size = (last - first) * out, begin = found;
        memset(open, 0, size * sizeof(int32_t));
        for (int64_t i = 0; i < tall && rows[i]; i++) {
            const REAL *RESTRICT row = rows[i] + first * out;
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
            const REAL *RESTRICT row = rows[i];
            for (int64_t k = 0; k < found - begin; k++) values[k * tall + i] = row ? row[first * out + open[k]] : 0;
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
   there. Where `q` is not null, rows `[rows, each]` are over the windows of a pooling, and get `constants` too. */
static int NAME(adjoint)(int threads, Adjoint *p, Pooled *q, int chip, const REAL *given, const REAL *weight,
                         REAL *found, REAL *constants) {
    const int64_t windows = p->taps.windows[0] * p->taps.windows[1], unit = p->taps.unit, tall = p->tall;
    const int64_t into = p->taps.plane[0] * p->taps.plane[1] * unit, taps = p->taps.taps[0] * p->taps.taps[1];
    const int64_t line = tall == TALL ? p->taps.plane[1] * unit * TALL : 0;
    const int64_t each = p->place || q ? p->each : windows * p->out;
    const int64_t held = q && !q->chosen ? each * q->kernel[0] * q->kernel[1] : each; /* so many are passed on at most */
    const int64_t packed = ROUND(taps * p->out * p->across * sizeof(REAL));
    const int64_t tables = ROUND(2 * (p->taps.plane[0] + p->taps.plane[1]) * sizeof(int32_t));
    const int64_t starts = ROUND((p->rows + 1) * sizeof(int64_t)), sums = q ? TALL * sizeof(double) : 0;
    const int64_t map = q ? ROUND(windows * sizeof(int32_t)) : 0;
    const int64_t room = q ? ROUND(held * sizeof(Meeting)) + each * tall * sizeof(REAL)
                           : most(most(NEAR, p->out), p->place ? each : 0) * sizeof(int32_t);
    const int64_t values = (held * tall + line) * sizeof(REAL) + (windows + 1) * sizeof(int64_t);
    const int64_t own = ROUND(sums + values) + ROUND((held + 1) * sizeof(int32_t)) + ROUND(room);
    char *memory = malloc(packed + tables + starts + map + threads * own);
    int done = memory && NAME(pack)(p, weight, (REAL *)memory);
    if (!done) {
        free(memory);
        return 0;
    }
    int64_t *const begin = (int64_t *)(memory + packed + tables);
    const int64_t groups = NAME(grouped)(p, begin);
    reached(&p->taps, 1, &p->reach[1], reached(&p->taps, 0, &p->reach[0], (int32_t *)(memory + packed)));
    if (q) windowed(&p->taps, q, (int32_t *)(q->window = (int32_t *)(memory + packed + tables + starts)));
    IN_PARALLEL
    for (int64_t group = 0; group < groups; group++) {
        const REAL *rows[TALL] = {NULL};
        void *to[TALL] = {NULL};
        const int64_t count = begin[group + 1] - begin[group];
        for (int64_t i = 0; i < count; i++) {
            const int64_t row = p->order ? p->order[begin[group] + i] : begin[group] + i;
            rows[i] = given + row * each;
            to[i] = found + row * into;
        }
        char *const mine = memory + packed + tables + starts + map + THREAD * own; /* what is aligned most comes first */
        Live live;
        live.values = mine + sums;
        live.begin = (int64_t *)((REAL *)live.values + held * tall);
        live.line = live.begin + windows + 1;
        live.offset = (int32_t *)(mine + ROUND(sums + values));
        void *const space = (char *)live.offset + ROUND((held + 1) * sizeof(int32_t));
        const int64_t example = p->owner ? p->owner[begin[group]] : 0;
        if (q) {
            double *const constant = memset(mine, 0, sums);
            if (!NAME(draw)(p, q, example, rows, &live, space, (REAL *)((char *)space + ROUND(held * sizeof(Meeting))),
                            constant)) {
                DO_PRAGMA(omp atomic write)
                done = 0;
                continue;
            }
            for (int64_t i = 0; i < count; i++) constants[begin[group] + i] = (REAL)constant[i];
        } else if (p->place)
            NAME(sort)(p, rows, p->place + example * each, &live, space);
        else
            NAME(look)(p, rows, &live, space);
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
    free(memory);
    return done;
}
