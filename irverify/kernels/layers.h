/* Rows through dense layers, one after the other, and to their minimum over a box, for elements of type REAL. Some rows
   at a time go all the way, so that what they are in between stays in a cache. Elements that no line lets through are
   left out: lines of a weight that no row of some meets are not read, and where many rows are of one example, these
   elements are not in the rows either, and the weight before them is copied without them. */

enum { NAME(NARROW) = 32 / sizeof(REAL) }; /* elements of a vector */

/* So many elements as whole vectors. */
INLINE int64_t NAME(whole)(int64_t size) { return (size + NAME(NARROW) - 1) / NAME(NARROW) * NAME(NARROW); }

/* A layer on the way of rows that have `size` elements in front of it, those at `index` or all, and meet `lines` there
   `[examples, 4, whole(size)]`, which let through what `met` `[examples, size]` says, or all may; and `to` elements behind
   it. `weight` has `across` elements in a line, and where it is a copy only lines and columns of such elements; `tail`
   has its last columns as a whole vector. */
typedef struct {
    int64_t size, to, across, copy;
    const int64_t *index;
    const char *met;
    const REAL *weight, *tail, *lines;
} NAME(Stage);

/* What lines of an example let through in front of a layer, `[from]`: THROUGH, what is CONSTANT, or both, or nothing; how
   many elements there are with any of it. */
CLONED static int64_t NAME(let_through)(const Layer *layer, int64_t example, char *RESTRICT to) {
    const REAL *const given[4] = {layer->slope, layer->rise, layer->base, layer->top};
    int64_t count = 0;
    memset(to, 0, layer->from);
    for (int k = 0; k < 4; k++) {
        const REAL *RESTRICT line = given[k] ? given[k] + example * layer->from : NULL;
        const char what = k < 2 ? THROUGH : CONSTANT;
        for (int64_t i = 0; line && i < layer->from; i++) to[i] |= line[i] != 0 ? what : 0;
    }
    for (int64_t i = 0; i < layer->from; i++) count += to[i] != 0;
    return count;
}

/* The lines in front of a layer, of an example, for `size` elements, those at `index` or all, with zeros behind them:
   `[4, whole(size)]`. The product of a row with the bias goes into its constants: it is
   `(v slope + min(v, 0) rise) . bias`. */
CLONED static void NAME(lines_met)(const Layer *layer, int64_t example, int64_t size, const int64_t *index,
                                   REAL *RESTRICT to) {
    const int64_t pitch = NAME(whole)(size), own = example * layer->from;
    const REAL *const bias = layer->bias, *const given[4] = {layer->slope, layer->rise, layer->base, layer->top};
    for (int k = 0; k < 4; k++)
        for (int64_t i = 0; i < size; i++)
            to[k * pitch + i] = given[k] ? given[k][own + (index ? index[i] : i)] : k == 0 && !layer->slope;
    for (int64_t i = 0; i < size; i++) {
        const REAL met = bias[index ? index[i] : i];
        to[2 * pitch + i] += to[i] * met;
        to[3 * pitch + i] += (to[i] + to[pitch + i]) * met;
    }
}

/* The first coefficients of rows `first` to `first + count`, `[count, pitch]`: `size`, those at `index` or all. */
static void NAME(begun)(const Layers *p, int64_t first, int64_t count, int64_t size, const int64_t *index,
                        int64_t pitch, REAL *to) {
    for (int64_t i = 0; i < count; i++) {
        const int64_t pair = (first + i) % p->pairs;
        const REAL *RESTRICT row = (const REAL *)p->rows + (p->index ? p->index[pair] : pair) * p->width;
        REAL *RESTRICT own = to + i * pitch;
        const REAL sign = first + i < p->pairs ? 1 : -1;
        if (index) {
            for (int64_t k = 0; k < size; k++) own[k] = sign * row[index[k]];
        } else {
            DO_PRAGMA(omp simd)
            for (int64_t k = 0; k < size; k++) own[k] = sign * row[k];
        }
        for (int64_t k = size; k < NAME(whole)(size); k++) own[k] = 0;
    }
}

/* Leaves the coefficients at `places` alone, `found` of `depth`. The others are zeros, or no numbers: 0, or no number. */
CLONED static REAL NAME(closed)(int64_t depth, int64_t found, const int64_t *RESTRICT places, REAL *row) {
    REAL sum = 0;
    DO_PRAGMA(omp simd reduction(+ : sum))
    for (int64_t k = 0; k < depth; k++) sum += 0 * row[k];
    for (int64_t k = 0; k < found; k++) row[k] = row[places[k]];
    return sum;
}

/* Rows `[count, pitch]` along the lines in front of a layer, in parts of DEEP elements each, `[room, PITCH]`, of which
   only those are left that lines of some row let through: so many, `depths`, which meet the lines of the weight at
   `places`, `[DEEP]` of each part. */
static void NAME(along)(const NAME(Stage) *stage, int64_t count, int64_t pitch, int64_t room, const int64_t *owner,
                        const REAL *rows, REAL *parts, int64_t *depths, int64_t *places, double *constants) {
    const int64_t size = stage->size, across = NAME(whole)(size);
    const int64_t *const index = stage->copy ? NULL : stage->index;
    for (int64_t from = 0; from == 0 || from < size; from += DEEP, parts += room * PITCH, places += DEEP) {
        const int64_t depth = least(DEEP, size - from);
        for (int64_t i = 0; i < count; i++)
            constants[i] += NAME(lined)(NAME(whole)(depth), across, rows + i * pitch + from,
                                       stage->lines + owner[i] * 4 * across + from, parts + i * PITCH);
        char met[DEEP];
        memset(met, stage->met ? 0 : THROUGH, DEEP);
        for (int64_t i = 0; stage->met && i < count; i++) {
            const char *RESTRICT own = stage->met + owner[i] * size + from;
            for (int64_t k = 0; k < depth && (i == 0 || owner[i] != owner[i - 1]); k++) met[k] |= own[k];
        }
        int64_t found = 0;
        for (int64_t k = 0; k < depth; k++) places[found] = k, found += (met[k] & THROUGH) != 0;
        for (int64_t i = 0; i < count && found < depth; i++)
            constants[i] += NAME(closed)(depth, found, places, parts + i * PITCH);
        for (int64_t k = 0; k < found; k++) places[k] = index ? index[from + places[k]] : from + places[k];
        *depths++ = found;
    }
}

/* The columns `begin` to `end` of what is behind a layer, for the rows of these parts, at `to`, where rows begin
   `pitch` elements apart. */
static void NAME(passed)(const NAME(Stage) *stage, Product *const *product, int64_t count, int64_t room, int64_t begin,
                         int64_t end, const REAL *parts, const int64_t *depths, const int64_t *places, int64_t pitch,
                         REAL *to) {
    const int64_t narrow = NAME(NARROW), whole = stage->to / narrow * narrow;
    for (int64_t at = begin, width; at < end; at += width, to += width) {
        int k = at == whole ? 2 : 0; /* the widest that fits */
        width = 128 / sizeof(REAL) >> k;
        while (!product[k] || (at < whole && at + width > whole)) k++, width /= 2;
        for (int64_t part = 0; part == 0 || part * DEEP < stage->size; part++)
            for (int64_t i = 0; i < count; i += HIGH_ROWS)
                product[k](depths[part], places + part * DEEP, parts + (part * room + i) * PITCH,
                           at < whole ? stage->weight + at : stage->tail, at < whole ? stage->across : narrow,
                           to + i * pitch, pitch, part > 0);
    }
}

/* What layers are to so many rows, but for what is made of numbers, of which so many are returned. There is room for
   all elements in front of them in `indices`, and in `flags` for those of all examples. */
static int64_t NAME(planned)(const Layers *p, int64_t rows, int64_t examples, NAME(Stage) *stage, int64_t *indices,
                             char *flags) {
    int64_t numbers = 0;
    for (int64_t l = 0; l < p->count; l++) {
        const Layer *const layer = &p->layer[l];
        const int64_t from = layer->from, given = l == 0 && p->columns;
        stage[l].size = given ? p->width : from;
        stage[l].index = given ? p->columns : NULL;
        if (layer->slope && !given) {
            int64_t used = 0;
            for (int64_t e = 0; e < examples; e++) used = NAME(let_through)(layer, e, flags + e * from);
            stage[l].met = flags;
            if (!p->owner && (l ? rows >= COPIED && 4 * used <= 3 * from : used < from)) {
                stage[l].size = used;
                stage[l].index = indices;
                for (int64_t k = 0, at = 0; k < from; k++)
                    if (flags[k]) flags[at++] = flags[k], *indices++ = k;
            }
            flags += examples * from;
        }
        numbers += 4 * examples * NAME(whole)(stage[l].size);
    }
    for (int64_t l = 0; l < p->count; l++) {
        stage[l].copy = l + 1 < p->count && stage[l + 1].index;
        stage[l].to = stage[l].across = stage[l].copy ? NAME(whole)(stage[l + 1].size) : p->layer[l].to;
        const int64_t tail = stage[l].to % NAME(NARROW) ? p->layer[l].from * NAME(NARROW) : 0;
        numbers += stage[l].copy ? stage[l].size * stage[l].to : tail;
    }
    return numbers;
}

/* Makes lines, copies and tails, in room that is all zero. */
static void NAME(prepared)(const Layers *p, int64_t examples, NAME(Stage) *stage, REAL *room) {
    for (int64_t l = 0; l < p->count; l++) {
        const Layer *const layer = &p->layer[l];
        const REAL *const weight = layer->weight;
        const int64_t size = stage[l].size, *const index = stage[l].index;
        stage[l].weight = weight;
        stage[l].lines = room;
        for (int64_t e = 0; e < examples; e++, room += 4 * NAME(whole)(size))
            NAME(lines_met)(layer, e, size, index, room);
        if (stage[l].copy) {
            stage[l].weight = room;
            for (int64_t k = 0; k < size; k++, room += stage[l].to) {
                const REAL *RESTRICT line = weight + (index ? index[k] : k) * layer->to;
                for (int64_t i = 0; i < stage[l + 1].size; i++) room[i] = line[stage[l + 1].index[i]];
            }
        } else if (layer->to % NAME(NARROW)) {
            const int64_t rest = layer->to % NAME(NARROW);
            stage[l].tail = room;
            for (int64_t k = 0; k < layer->from; k++, room += NAME(NARROW))
                memcpy(room, weight + (k + 1) * layer->to - rest, rest * sizeof(REAL));
        }
    }
}

/* Whether there was memory enough. */
static int NAME(layers)(int threads, const Layers *p, int chip, const REAL *constant, const REAL *center,
                        const REAL *radius, REAL *found) {
    const int64_t rows = p->twice ? 2 * p->pairs : p->pairs, examples = p->owner ? p->examples : 1, last = p->count - 1;
    const int64_t size = p->layer[last].to, box = NAME(whole)(size);
    int64_t all = 0, pitch = STRIPE, parts = 1;
    for (int64_t l = 0; l <= last; l++) all += p->layer[l].from;
    const int64_t stages = ROUND(p->count * sizeof(NAME(Stage))), indices = all * sizeof(int64_t);
    char *const plan = calloc(stages + indices + examples * all, 1);
    if (!plan) return 0;
    NAME(Stage) *const stage = (NAME(Stage) *)plan;
    const int64_t numbers =
        NAME(planned)(p, rows, examples, stage, (int64_t *)(plan + stages), plan + stages + indices);
    for (int64_t l = 0; l <= last; l++) {
        pitch = most(pitch, most(NAME(whole)(stage[l].size), l < last ? NAME(whole)(stage[l].to) : 0));
        parts = most(parts, (stage[l].size + DEEP - 1) / DEEP);
    }
    const int64_t room = least(TOGETHER, (rows + HIGH_ROWS - 1) / HIGH_ROWS * HIGH_ROWS), many = room * PITCH;
    const int64_t shared = ROUND((2 * examples * box + numbers) * sizeof(REAL)), kept = ROUND(parts * (DEEP + 1) * 8);
    const int64_t own = kept + ROUND((pitch * room + parts * many) * sizeof(REAL));
    char *const memory = calloc(shared + threads * own, 1);
    if (!memory) {
        free(plan);
        return 0;
    }
    REAL *const boxes = (REAL *)memory;
    for (int64_t example = 0; example < examples; example++) {
        memcpy(boxes + 2 * example * box, center + example * size, size * sizeof(REAL));
        memcpy(boxes + (2 * example + 1) * box, radius + example * size, size * sizeof(REAL));
    }
    NAME(prepared)(p, examples, stage, boxes + 2 * examples * box);
    Product *const *const product = NAME(products)[chip];
    IN_PARALLEL
    for (int64_t first = 0; first < rows; first += TOGETHER) {
        const int64_t count = least(TOGETHER, rows - first);
        int64_t *const depths = (int64_t *)(memory + shared + THREAD * own), *const places = depths + parts;
        REAL *const now = (REAL *)((char *)depths + kept), *const bent = now + pitch * room;
        int64_t owner[TOGETHER];
        double constants[TOGETHER];
        for (int64_t i = 0; i < count; i++) {
            const int64_t pair = (first + i) % p->pairs;
            owner[i] = p->owner ? p->owner[pair] : 0;
            constants[i] = first + i < p->pairs ? constant[pair] : -constant[pair];
        }
        NAME(begun)(p, first, count, stage->size, p->columns ? NULL : stage->index, pitch, now);
        for (int64_t l = 0; l <= last; l++) {
            NAME(along)(&stage[l], count, pitch, room, owner, now, bent, depths, places, constants);
            if (l < last)
                NAME(passed)(&stage[l], product, count, room, 0, stage[l].to, bent, depths, places, pitch, now);
        }
        for (int64_t at = 0; at < size; at += STRIPE) {
            const int64_t end = least(size, at + STRIPE);
            NAME(passed)(&stage[last], product, count, room, at, end, bent, depths, places, pitch, now);
            for (int64_t i = 0; i < count; i++) {
                const REAL *const in = boxes + 2 * owner[i] * box + at;
                REAL reach;
                constants[i] += NAME(reached)(NAME(whole)(end - at), now + i * pitch, in, in + box, &reach);
                constants[i] -= reach;
            }
        }
        for (int64_t i = 0; i < count; i++) found[first + i] = (REAL)constants[i];
    }
    free(memory);
    free(plan);
    return 1;
}

/* The boxes of examples as a centre and a radius `[in, pitch]` each, zeros behind those of the last example. */
static void NAME(boxes_turned)(int64_t examples, int64_t in, int64_t pitch, const REAL *lower, const REAL *upper,
                         REAL *RESTRICT center, REAL *RESTRICT radius) {
    for (int64_t from = 0; from < in; from += SIDE_BY_SIDE)
        for (int64_t e = 0; e < examples; e++)
            for (int64_t k = from; k < least(in, from + SIDE_BY_SIDE); k++) {
                const REAL high = upper[e * in + k], middle = high - (high - lower[e * in + k]) * (REAL)0.5;
                center[k * pitch + e] = middle;
                radius[k * pitch + e] = high - middle;
            }
}

/* What `dense` finds, for so many examples that each element of the weight meets whole vectors of them. */
static int NAME(dense_of_many)(int threads, int chip, int64_t examples, int64_t out, int64_t in, const REAL *lower,
                               const REAL *upper, const REAL *weight, const REAL *bias, REAL *below, REAL *above) {
    const int64_t lanes = (chip ? 64 : 32) / sizeof(REAL), pitch = (examples + lanes - 1) / lanes * lanes;
    const int64_t own = 2 * BOXED_LINES * pitch, wide = chip ? BOXED_WIDE : BOXED_WIDE - 1;
    int64_t *const places = malloc(in * sizeof(int64_t));
    REAL *const center = calloc(2 * in * pitch + threads * own, sizeof(REAL)), *const radius = center + in * pitch;
    const int done = places && center;
    if (done) {
        for (int64_t k = 0; k < in; k++) places[k] = k * pitch;
        NAME(boxes_turned)(examples, in, pitch, lower, upper, center, radius);
        IN_PARALLEL
        for (int64_t o = 0; o < out; o += BOXED_LINES) {
            REAL *const low = radius + in * pitch + THREAD * own, *const high = low + BOXED_LINES * pitch;
            Box box = {.depth = in, .pitch = pitch, .places = places};
            for (int64_t i = 0; i < BOXED_LINES; i++) {
                const int64_t v = least(o + i, out - 1); /* the last one in place of those that are missing */
                box.line[i] = weight + v * in;
                box.bias[i] = bias ? bias[v] : 0;
            }
            for (int64_t at = 0, n; at < pitch; at += n * lanes) {
                n = least(wide, (pitch - at) / lanes);
                box.center = center + at, box.radius = radius + at, box.below = low + at, box.above = high + at;
                NAME(boxed)[chip][n - 1](&box);
            }
            for (int64_t e = 0; e < examples; e++)
                for (int64_t i = 0; i < least(BOXED_LINES, out - o); i++) {
                    below[e * out + o + i] = low[i * pitch + e];
                    above[e * out + o + i] = high[i * pitch + e];
                }
        }
    }
    free(places);
    free(center);
    return done;
}

/* The intervals `[examples, out]` of a dense layer, from boxes `[examples, in]`, by centre and radius, one line of the
   weight after the other. `bias` may be null. Whether there was memory enough. */
static int NAME(dense)(int threads, int chip, int64_t examples, int64_t out, int64_t in, const REAL *lower,
                       const REAL *upper, const REAL *weight, const REAL *bias, REAL *below, REAL *above) {
    if (examples > ONE_BY_ONE)
        return NAME(dense_of_many)(threads, chip, examples, out, in, lower, upper, weight, bias, below, above);
    const int64_t size = NAME(whole)(in);
    Stack stack;
    REAL *const boxes = ZEROED(stack, (2 * examples + threads) * size * sizeof(REAL));
    if (!boxes) return 0;
    for (int64_t e = 0; e < examples; e++)
        for (int64_t k = 0; k < in; k++) {
            const REAL high = upper[e * in + k], center = high - (high - lower[e * in + k]) * (REAL)0.5;
            boxes[2 * e * size + k] = center;
            boxes[(2 * e + 1) * size + k] = high - center;
        }
    IN_PARALLEL
    for (int64_t o = 0; o < out; o++) {
        const REAL *line = weight + o * in;
        if (size > in) line = memcpy(boxes + (2 * examples + THREAD) * size, line, in * sizeof(REAL));
        for (int64_t e = 0; e < examples; e++) {
            REAL reach, center = NAME(reached)(size, line, boxes + 2 * e * size, boxes + (2 * e + 1) * size, &reach);
            center += bias ? bias[o] : 0;
            below[e * out + o] = center - reach;
            above[e * out + o] = center + reach;
        }
    }
    GIVE_BACK(stack, boxes);
    return 1;
}

/* Adds `factor` times one line to another. */
CLONED static void NAME(added)(int64_t n, REAL factor, const REAL *RESTRICT line, REAL *RESTRICT to) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) to[i] += factor * line[i];
}

/* The intervals `[examples, count]` of rows `[examples, count, out]` over what a dense layer makes of boxes `[examples,
   in]`, or over the boxes themselves where there is no weight and `out` is `in`; the rows and their constants `offset`
   `[examples, count]` begin so many elements after those of the example before. Whether there was memory enough. */
static int NAME(spec)(int threads, int64_t examples, int64_t count, int64_t out, int64_t in, const REAL *lower,
                      const REAL *upper, const REAL *rows, int64_t each, const REAL *offset, int64_t each_offset,
                      const REAL *weight, const REAL *bias, REAL *below, REAL *above) {
    const int64_t size = NAME(whole)(in);
    Stack stack;
    REAL *const memory = ZEROED(stack, 3 * threads * size * sizeof(REAL));
    if (!memory) return 0;
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        REAL *const center = memory + 3 * THREAD * size, *const radius = center + size, *const line = radius + size;
        NAME(boxes_turned)(1, in, 1, lower + e * in, upper + e * in, center, radius);
        for (int64_t i = 0; i < count; i++) {
            const REAL *const row = rows + e * each + i * out;
            REAL reach, constant = offset[e * each_offset + i];
            if (weight) {
                memset(line, 0, in * sizeof(REAL));
                for (int64_t k = 0; k < out; k++) {
                    if (row[k] == 0) continue;
                    if (bias) constant += row[k] * bias[k];
                    NAME(added)(in, row[k], weight + k * in, line);
                }
            } else {
                memcpy(line, row, in * sizeof(REAL));
            }
            const REAL middle = NAME(reached)(size, line, center, radius, &reach) + constant;
            below[e * count + i] = middle - reach;
            above[e * count + i] = middle + reach;
        }
    }
    GIVE_BACK(stack, memory);
    return 1;
}
