/* Rows through dense layers, one after the other, and to their minimum over a box, for elements of type REAL. Some rows
   at a time go all the way, so that what they are in between stays in a cache. */

/* A part of a row along lines, as `bend_run`, and what it meets: lines, and the bias of the layer in front of them. A sum
   has to wait for the one before it, so that there are several. */
INLINE REAL NAME(part_run)(int has, int64_t n, const REAL *RESTRICT row, const REAL *RESTRICT slope,
                           const REAL *RESTRICT rise, const REAL *RESTRICT base, const REAL *RESTRICT top,
                           const REAL *RESTRICT bias, REAL *RESTRICT passed) {
    REAL below = 0, above = 0, offset = 0;
    DO_PRAGMA(omp simd reduction(+ : below, above, offset))
    for (int64_t i = 0; i < n; i++) {
        const REAL v = row[i], negative = v > 0 ? 0 : v;
        REAL through = v * slope[i];
        if (has & RISE) through += negative * rise[i];
        if (has & BASE) below += (v - negative) * base[i];
        if (has & TOP) above += negative * top[i];
        offset += through * bias[i];
        passed[i] = through;
    }
    return below + above + offset;
}

/* Part `from` to `from + n` of a row of the example `at`, and the constants that it meets. */
CLONED static REAL NAME(part_of)(const Layer *layer, int64_t at, int64_t from, int64_t n, const REAL *RESTRICT row,
                                 REAL *RESTRICT passed) {
    const REAL *const bias = (const REAL *)layer->bias + from;
    if (!layer->slope) {
        memcpy(passed, row, n * sizeof(REAL));
        return NAME(dot_run)(n, row, bias);
    }
    const int64_t own = at * layer->from + from;
    const REAL *const slope = (const REAL *)layer->slope + own;
    const REAL *const rise = layer->rise ? (const REAL *)layer->rise + own : slope;
    const REAL *const base = layer->base ? (const REAL *)layer->base + own : slope;
    const REAL *const top = layer->top ? (const REAL *)layer->top + own : slope;
    switch ((layer->rise ? RISE : 0) | (layer->base ? BASE : 0) | (layer->top ? TOP : 0)) {
    case 0: return NAME(part_run)(0, n, row, slope, rise, base, top, bias, passed);
    case RISE: return NAME(part_run)(RISE, n, row, slope, rise, base, top, bias, passed);
    case TOP: return NAME(part_run)(TOP, n, row, slope, rise, base, top, bias, passed);
    case RISE | TOP: return NAME(part_run)(RISE | TOP, n, row, slope, rise, base, top, bias, passed);
    case BASE: return NAME(part_run)(BASE, n, row, slope, rise, base, top, bias, passed);
    case BASE | RISE: return NAME(part_run)(BASE | RISE, n, row, slope, rise, base, top, bias, passed);
    case BASE | TOP: return NAME(part_run)(BASE | TOP, n, row, slope, rise, base, top, bias, passed);
    default: return NAME(part_run)(RISE | BASE | TOP, n, row, slope, rise, base, top, bias, passed);
    }
}

/* The least that a row is in a box. */
CLONED static double NAME(least_of)(int64_t size, const REAL *row, const REAL *center, const REAL *radius) {
    double sum = 0;
    for (int64_t at = 0; at < size; at += 2 * BLOCK) {
        const int64_t n = least(2 * BLOCK, size - at), half = n / 2;
        const REAL *RESTRICT v = row + at, *RESTRICT c = center + at, *RESTRICT r = radius + at;
        REAL middle = 0, next = 0, reach = 0, further = 0;
        DO_PRAGMA(omp simd reduction(+ : middle, next, reach, further))
        for (int64_t i = 0; i < half; i++) {
            const REAL one = v[i], two = v[half + i];
            middle += one * c[i], next += two * c[half + i];
            reach += (one < 0 ? -one : one) * r[i], further += (two < 0 ? -two : two) * r[half + i];
        }
        if (n % 2) sum += NAME(minimum_run)(1, v + n - 1, c + n - 1, r + n - 1);
        sum += ((double)middle + next) - ((double)reach + further);
    }
    return sum;
}

/* The first coefficients of rows `first` to `first + count`, `[count, pitch]`. */
static void NAME(begun)(const Layers *p, int64_t first, int64_t count, int64_t pitch, REAL *to) {
    const int64_t size = p->layer[0].from;
    for (int64_t i = 0; i < count; i++) {
        const int64_t pair = (first + i) % p->pairs;
        const REAL *RESTRICT row = (const REAL *)p->rows + (p->index ? p->index[pair] : pair) * size;
        REAL *RESTRICT own = to + i * pitch;
        const REAL sign = first + i < p->pairs ? 1 : -1;
        DO_PRAGMA(omp simd)
        for (int64_t k = 0; k < size; k++) own[k] = sign * row[k];
    }
}

/* Rows `[count, pitch]` through a layer. `parts` has room for as many rows, PITCH apart, and `tail` the last columns of the
   weight. */
static void NAME(passed)(const Layer *layer, Product *const *product, int64_t count, int64_t pitch, const int64_t *owner,
                         const REAL *rows, const REAL *tail, REAL *parts, REAL *to, double *constants) {
    const int64_t narrow = 32 / sizeof(REAL), whole = layer->to / narrow * narrow;
    for (int64_t from = 0; from < layer->from; from += DEEP) {
        const int64_t depth = least(DEEP, layer->from - from);
        for (int64_t i = 0; i < count; i++)
            constants[i] += NAME(part_of)(layer, owner[i], from, depth, rows + i * pitch + from, parts + i * PITCH);
        const REAL *const weight = (const REAL *)layer->weight + from * layer->to;
        for (int64_t at = 0, width; at < layer->to; at += width) {
            int k = at == whole ? 2 : 0; /* the widest that fits */
            width = 128 / sizeof(REAL) >> k;
            while (!product[k] || (at < whole && at + width > whole)) k++, width /= 2;
            for (int64_t i = 0; i < count; i += HIGH_ROWS)
                product[k](depth, parts + i * PITCH, at < whole ? weight + at : tail + from * narrow,
                           at < whole ? layer->to : narrow, to + i * pitch + at, pitch, from > 0);
        }
    }
    if (!layer->from) memset(to, 0, count * pitch * sizeof(REAL));
}

/* Whether there was memory enough. */
static int NAME(layers)(int threads, const Layers *p, int chip, const REAL *constant, const REAL *center,
                        const REAL *radius, REAL *found) {
    const int64_t narrow = 32 / sizeof(REAL), rows = p->twice ? 2 * p->pairs : p->pairs, last = p->count - 1;
    int64_t pitch = p->layer[0].from, tails = 0;
    for (int64_t l = 0; l <= last; l++) {
        pitch = most(pitch, p->layer[l].to);
        if (p->layer[l].to % narrow) tails += p->layer[l].from * narrow;
    }
    pitch = (pitch + narrow - 1) / narrow * narrow;
    const int64_t own = ROUND((2 * pitch + PITCH) * TOGETHER * sizeof(REAL));
    char *const memory = calloc(ROUND(tails * sizeof(REAL)) + threads * own, 1);
    if (!memory) return 0;
    REAL *tail = (REAL *)memory;
    for (int64_t l = 0; l <= last; l++) {
        const int64_t rest = p->layer[l].to % narrow, across = p->layer[l].to;
        const REAL *weight = (const REAL *)p->layer[l].weight + across - rest;
        for (int64_t k = 0; rest && k < p->layer[l].from; k++, tail += narrow, weight += across)
            memcpy(tail, weight, rest * sizeof(REAL));
    }
    IN_PARALLEL
    for (int64_t first = 0; first < rows; first += TOGETHER) {
        const int64_t count = least(TOGETHER, rows - first), size = p->layer[last].to;
        REAL *const mine = (REAL *)(memory + ROUND(tails * sizeof(REAL)) + THREAD * own), *now = mine;
        REAL *next = mine + pitch * TOGETHER, *const parts = next + pitch * TOGETHER;
        const REAL *columns = (const REAL *)memory;
        int64_t owner[TOGETHER];
        double constants[TOGETHER];
        for (int64_t i = 0; i < count; i++) {
            const int64_t pair = (first + i) % p->pairs;
            owner[i] = p->owner ? p->owner[pair] : 0;
            constants[i] = first + i < p->pairs ? constant[pair] : -constant[pair];
        }
        NAME(begun)(p, first, count, pitch, now);
        for (int64_t l = 0; l <= last; l++) {
            NAME(passed)(&p->layer[l], NAME(products)[chip], count, pitch, owner, now, columns, parts, next, constants);
            if (p->layer[l].to % narrow) columns += p->layer[l].from * narrow;
            REAL *const other = now;
            now = next, next = other;
        }
        for (int64_t i = 0; i < count; i++)
            found[first + i] = (REAL)(constants[i] + NAME(least_of)(size, now + i * pitch, center + owner[i] * size,
                                                                   radius + owner[i] * size));
    }
    free(memory);
    return 1;
}
