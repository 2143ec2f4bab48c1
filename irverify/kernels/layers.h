/* Rows through dense layers, one after the other, and to their minimum over a box, for elements of type REAL. Some rows
   at a time go all the way, so that what they are in between stays in a cache. */

enum { NAME(NARROW) = 32 / sizeof(REAL) }; /* elements of a vector */

/* So many elements as whole vectors. */
INLINE int64_t NAME(whole)(int64_t size) { return (size + NAME(NARROW) - 1) / NAME(NARROW) * NAME(NARROW); }

/* The lines in front of a layer, of an example, with zeros behind them: `[4, whole(from)]`. The product of a row with the
   bias goes into its constants: it is `(v slope + min(v, 0) rise) . bias`. */
CLONED static void NAME(lines_met)(const Layer *layer, int64_t example, REAL *RESTRICT to) {
    const int64_t size = layer->from, pitch = NAME(whole)(size), own = example * size;
    const REAL *const bias = layer->bias, *const given[4] = {layer->slope, layer->rise, layer->base, layer->top};
    for (int k = 0; k < 4; k++)
        for (int64_t i = 0; i < size; i++) to[k * pitch + i] = given[k] ? given[k][own + i] : k == 0 && !layer->slope;
    for (int64_t i = 0; i < size; i++) {
        to[2 * pitch + i] += to[i] * bias[i];
        to[3 * pitch + i] += (to[i] + to[pitch + i]) * bias[i];
    }
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
        for (int64_t k = size; k < NAME(whole)(size); k++) own[k] = 0;
    }
}

/* Into `places` go those of `depth` elements whose lines let something through for an example that rows have; how many
   they are. */
static int64_t NAME(open)(int64_t depth, int64_t across, const REAL *lines, int64_t count, const int64_t *owner,
                          int64_t *places) {
    int64_t found = 0;
    char lets[DEEP] = {0};
    for (int64_t i = 0; i < count; i++) {
        const REAL *const slope = lines + owner[i] * 4 * across, *const rise = slope + across;
        if (i && owner[i] == owner[i - 1]) continue;
        for (int64_t k = 0; k < depth; k++) lets[k] |= slope[k] != 0 || rise[k] != 0;
    }
    for (int64_t k = 0; k < depth; k++) places[found] = k, found += lets[k];
    return found;
}

/* Leaves the coefficients at `places` alone, `found` of `depth`. The others are zeros, or no numbers: 0, or no number. */
CLONED static REAL NAME(closed)(int64_t depth, int64_t found, const int64_t *RESTRICT places, REAL *row) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t k = 0; k < depth; k++) sum += 0 * row[k];
    for (int64_t k = 0; k < found; k++) row[k] = row[places[k]];
    return sum;
}

/* Rows `[count, pitch]` through a layer with these `lines` for each example. `parts` has room for as many rows, PITCH
   apart, and `tail` has the last columns of the weight. */
static void NAME(passed)(const Layer *layer, Product *const *product, int64_t count, int64_t pitch, const int64_t *owner,
                         const REAL *rows, const REAL *lines, const REAL *tail, REAL *parts, REAL *to,
                         double *constants) {
    const int64_t narrow = NAME(NARROW), whole = layer->to / narrow * narrow, across = NAME(whole)(layer->from);
    for (int64_t from = 0; from < layer->from; from += DEEP) {
        const int64_t depth = least(DEEP, layer->from - from);
        for (int64_t i = 0; i < count; i++)
            constants[i] += NAME(lined)(NAME(whole)(depth), across, rows + i * pitch + from,
                                       lines + owner[i] * 4 * across + from, parts + i * PITCH);
        int64_t places[DEEP];
        const int64_t found = NAME(open)(depth, across, lines + from, count, owner, places);
        for (int64_t i = 0; i < count && found < depth; i++)
            constants[i] += NAME(closed)(depth, found, places, parts + i * PITCH);
        const REAL *const weight = (const REAL *)layer->weight + from * layer->to;
        for (int64_t at = 0, width; at < layer->to; at += width) {
            int k = at == whole ? 2 : 0; /* the widest that fits */
            width = 128 / sizeof(REAL) >> k;
            while (!product[k] || (at < whole && at + width > whole)) k++, width /= 2;
            for (int64_t i = 0; i < count; i += HIGH_ROWS)
                product[k](found, places, parts + i * PITCH, at < whole ? weight + at : tail + from * narrow,
                           at < whole ? layer->to : narrow, to + i * pitch + at, pitch, from > 0);
        }
    }
    if (!layer->from) memset(to, 0, count * pitch * sizeof(REAL));
}

/* Whether there was memory enough. */
static int NAME(layers)(int threads, const Layers *p, int chip, const REAL *constant, const REAL *center,
                        const REAL *radius, REAL *found) {
    const int64_t narrow = NAME(NARROW), rows = p->twice ? 2 * p->pairs : p->pairs, last = p->count - 1;
    const int64_t size = p->layer[last].to, box = NAME(whole)(size), examples = p->examples;
    int64_t pitch = NAME(whole)(p->layer[0].from), tails = 0, met = 2 * examples * box;
    for (int64_t l = 0; l <= last; l++) {
        pitch = most(pitch, NAME(whole)(p->layer[l].to));
        met += 4 * examples * NAME(whole)(p->layer[l].from);
        if (p->layer[l].to % narrow) tails += p->layer[l].from * narrow;
    }
    const int64_t room = least(TOGETHER, (rows + HIGH_ROWS - 1) / HIGH_ROWS * HIGH_ROWS);
    const int64_t shared = ROUND((tails + met) * sizeof(REAL)), own = ROUND((2 * pitch + PITCH) * room * sizeof(REAL));
    char *const memory = calloc(shared + threads * own, 1);
    if (!memory) return 0;
    REAL *const boxes = (REAL *)memory, *lines = boxes + 2 * examples * box, *tail = (REAL *)memory + met;
    for (int64_t example = 0; example < examples; example++) {
        memcpy(boxes + 2 * example * box, center + example * size, size * sizeof(REAL));
        memcpy(boxes + (2 * example + 1) * box, radius + example * size, size * sizeof(REAL));
    }
    for (int64_t l = 0; l <= last; l++) {
        const int64_t rest = p->layer[l].to % narrow, across = p->layer[l].to;
        const REAL *weight = (const REAL *)p->layer[l].weight + across - rest;
        for (int64_t k = 0; rest && k < p->layer[l].from; k++, tail += narrow, weight += across)
            memcpy(tail, weight, rest * sizeof(REAL));
        for (int64_t e = 0; e < examples; e++, lines += 4 * NAME(whole)(p->layer[l].from))
            NAME(lines_met)(&p->layer[l], e, lines);
    }
    IN_PARALLEL
    for (int64_t first = 0; first < rows; first += TOGETHER) {
        const int64_t count = least(TOGETHER, rows - first);
        REAL *now = (REAL *)(memory + shared + THREAD * own), *next = now + pitch * room;
        REAL *const parts = next + pitch * room;
        const REAL *met_by = boxes + 2 * examples * box, *columns = boxes + met;
        int64_t owner[TOGETHER];
        double constants[TOGETHER];
        for (int64_t i = 0; i < count; i++) {
            const int64_t pair = (first + i) % p->pairs;
            owner[i] = p->owner ? p->owner[pair] : 0;
            constants[i] = first + i < p->pairs ? constant[pair] : -constant[pair];
        }
        NAME(begun)(p, first, count, pitch, now);
        for (int64_t l = 0; l <= last; l++) {
            const Layer *const layer = &p->layer[l];
            NAME(passed)(layer, NAME(products)[chip], count, pitch, owner, now, met_by, columns, parts, next, constants);
            met_by += 4 * examples * NAME(whole)(layer->from);
            if (layer->to % narrow) columns += layer->from * narrow;
            REAL *const other = now;
            now = next, next = other;
        }
        for (int64_t i = 0; i < count; i++) {
            const REAL *const row = now + i * pitch, *const in = boxes + 2 * owner[i] * box;
            for (int64_t at = 0; at < box; at += BLOCK)
                constants[i] += NAME(least)(least(BLOCK, box - at), row + at, in + at, in + box + at);
            found[first + i] = (REAL)constants[i];
        }
    }
    free(memory);
    return 1;
}
