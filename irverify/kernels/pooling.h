/* Pooling over two axes, with windows that lie side by side from the first element on, for elements of type REAL. */

/* Of two numbers the larger, and the smaller: one instruction, where a comparison beside anything else is a branch that
   no processor predicts. */
INLINE REAL NAME(upper_of)(REAL one, REAL other) { return other > one ? other : one; }
INLINE REAL NAME(lower_of)(REAL one, REAL other) { return other < one ? other : one; }

CLONED static int NAME(all_numbers)(int64_t n, const REAL *v) {
    int64_t none = 0;
    DO_PRAGMA(omp simd reduction(+ : none))
    for (int64_t i = 0; i < n; i++) none += v[i] != v[i];
    return none == 0;
}

/* A line of `count` times `wide` elements, each `wide` of them reduced to one. */
INLINE void NAME(reduce)(int how, int64_t count, int64_t wide, const REAL *RESTRICT line, REAL *RESTRICT found) {
    for (int64_t x = 0; x < count; x++) {
        REAL total = line[x * wide];
        for (int64_t k = 1; k < wide; k++) {
            const REAL v = line[x * wide + k];
            total = how == LARGEST ? NAME(upper_of)(total, v)
                    : how == SMALLEST ? NAME(lower_of)(total, v) : total + v;
        }
        found[x] = total;
    }
}

INLINE void NAME(pool_plane)(int how, const Pools *p, const REAL *RESTRICT plane, REAL *RESTRICT found) {
    const int64_t used = p->windows[1] * p->kernel[1];
    const REAL count = (REAL)(p->kernel[0] * p->kernel[1]);
    REAL line[BLOCK]; /* what is above one another in a line of windows, reduced; the caller sees that it fits */
    for (int64_t y = 0; y < p->windows[0]; y++, found += p->windows[1]) {
        const REAL *RESTRICT from = plane + y * p->kernel[0] * p->plane[1];
        memcpy(line, from, used * sizeof(REAL));
        for (int64_t k = 1; k < p->kernel[0]; k++) {
            from += p->plane[1];
            DO_PRAGMA(omp simd)
            for (int64_t x = 0; x < used; x++)
                line[x] = how == LARGEST ? NAME(upper_of)(line[x], from[x]) : line[x] + from[x];
        }
        NAME(reduce)(how, p->windows[1], p->kernel[1], line, found);
        if (how == TOTAL)
            for (int64_t x = 0; x < p->windows[1]; x++) found[x] /= count;
    }
}

CLONED static void NAME(largest_plane)(const Pools *p, const REAL *plane, REAL *found) {
    NAME(pool_plane)(LARGEST, p, plane, found);
}

CLONED static void NAME(mean_plane)(const Pools *p, const REAL *plane, REAL *found) {
    NAME(pool_plane)(TOTAL, p, plane, found);
}

/* The largest element of each window; whether all are numbers, else it says nothing. */
static int NAME(largest)(int threads, const Pools *p, const REAL *planes, REAL *found) {
    const int64_t size = p->plane[0] * p->plane[1], windows = p->windows[0] * p->windows[1];
    int numbers = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : numbers))
    for (int64_t i = 0; i < p->planes; i++) {
        numbers = NAME(all_numbers)(size, planes + i * size) && numbers;
        NAME(largest_plane)(p, planes + i * size, found + i * windows);
    }
    return numbers;
}

/* The mean of each window. */
static void NAME(means)(int threads, const Pools *p, const REAL *planes, REAL *found) {
    const int64_t size = p->plane[0] * p->plane[1], windows = p->windows[0] * p->windows[1];
    IN_PARALLEL
    for (int64_t i = 0; i < p->planes; i++) NAME(mean_plane)(p, planes + i * size, found + i * windows);
}

/* The adjoint of the mean; `unit` channels stand last. */
static void NAME(means_back_plane)(const Pools *p, const REAL *means, REAL *plane) {
    const int64_t unit = p->unit, line = p->plane[1] * unit, used = p->windows[1] * p->kernel[1] * unit;
    const REAL count = (REAL)(p->kernel[0] * p->kernel[1]);
    for (int64_t y = 0; y < p->windows[0]; y++) {
        REAL *const first = plane;
        for (int64_t x = 0; x < p->windows[1]; x++, means += unit) {
            REAL *const share = plane;
            for (int64_t u = 0; u < unit; u++) share[u] = means[u] / count;
            plane += unit;
            if (unit == 1)
                for (int64_t k = 1; k < p->kernel[1]; k++) *plane++ = *share;
            else
                for (int64_t k = 1; k < p->kernel[1]; k++, plane += unit) memcpy(plane, share, unit * sizeof(REAL));
        }
        memset(plane, 0, (line - used) * sizeof(REAL));
        plane = first + line;
        for (int64_t k = 1; k < p->kernel[0]; k++, plane += line) memcpy(plane, first, line * sizeof(REAL));
    }
    memset(plane, 0, (p->plane[0] - p->windows[0] * p->kernel[0]) * line * sizeof(REAL));
}

static void NAME(means_back)(int threads, const Pools *p, const REAL *means, REAL *planes) {
    const int64_t size = p->plane[0] * p->plane[1] * p->unit, windows = p->windows[0] * p->windows[1] * p->unit;
    IN_PARALLEL
    for (int64_t i = 0; i < p->planes; i++) NAME(means_back_plane)(p, means + i * windows, planes + i * size);
}

/* Of each window: the place of the element with the largest lower bound (the first of several), whether that is at
   least every other upper bound, and the largest upper bound. Lower bounds count as no less than the least finite
   number. */
INLINE void NAME(candidates_line)(const Pools *p, int64_t wide, int64_t begin, const REAL *RESTRICT lower,
                                  const REAL *RESTRICT upper, int64_t *RESTRICT index, REAL *RESTRICT certain,
                                  REAL *RESTRICT ceiling) {
    const REAL least_of_all = sizeof(REAL) == sizeof(float) ? (REAL)-FLT_MAX : (REAL)-DBL_MAX;
    const int64_t windows = p->windows[1], used = windows * wide, high = p->kernel[0], line = p->plane[1];
    const REAL *RESTRICT below = lower + begin, *RESTRICT above = upper + begin, far = (REAL)(high * wide);
    REAL low[BLOCK], top[BLOCK]; /* of each column of windows */
    REAL first[BLOCK], rivals[BLOCK]; /* which element of its window is as large, how many upper bounds are larger */
    REAL largest[BLOCK], chosen[BLOCK], larger[BLOCK]; /* the same of each window */
    for (int64_t x = 0; x < used; x++) low[x] = least_of_all, top[x] = above[x], first[x] = far, rivals[x] = 0;
    for (int64_t y = 0; y < high; y++) {
        DO_PRAGMA(omp simd)
        for (int64_t x = 0; x < used; x++) {
            low[x] = NAME(upper_of)(low[x], below[y * line + x]);
            top[x] = NAME(upper_of)(top[x], above[y * line + x]);
        }
    }
    NAME(reduce)(LARGEST, windows, wide, low, largest);
    NAME(reduce)(LARGEST, windows, wide, top, ceiling);
    for (int64_t x = 0; x < windows; x++)
        for (int64_t k = 0; k < wide; k++) low[x * wide + k] = largest[x], top[x * wide + k] = (REAL)k;
    for (int64_t y = 0; y < high; y++) {
        const REAL before = (REAL)(y * wide);
        DO_PRAGMA(omp simd)
        for (int64_t x = 0; x < used; x++) {
            const REAL v = NAME(upper_of)(below[y * line + x], least_of_all);
            first[x] = NAME(lower_of)(first[x], before + top[x] + far * (REAL)(v != low[x]));
            rivals[x] += (REAL)(above[y * line + x] > low[x]);
        }
    }
    NAME(reduce)(SMALLEST, windows, wide, first, chosen);
    NAME(reduce)(TOTAL, windows, wide, rivals, larger);
    for (int64_t x = 0; x < windows; x++) {
        const int64_t order = (int64_t)chosen[x], place = begin + order / wide * line + x * wide + order % wide;
        index[x] = place;
        certain[x] = (REAL)(larger[x] == (REAL)(upper[place] > largest[x]));
    }
}

CLONED static void NAME(candidates_plane)(const Pools *p, const REAL *lower, const REAL *upper, int64_t *index,
                                          REAL *certain, REAL *ceiling) {
    const int64_t step = p->kernel[0] * p->plane[1];
    for (int64_t y = 0, begin = 0; y < p->windows[0]; y++, begin += step) {
        switch (p->kernel[1]) { /* extents that the compiler knows */
        case 2: NAME(candidates_line)(p, 2, begin, lower, upper, index, certain, ceiling); break;
        case 3: NAME(candidates_line)(p, 3, begin, lower, upper, index, certain, ceiling); break;
        case 4: NAME(candidates_line)(p, 4, begin, lower, upper, index, certain, ceiling); break;
        default: NAME(candidates_line)(p, p->kernel[1], begin, lower, upper, index, certain, ceiling);
        }
        index += p->windows[1], certain += p->windows[1], ceiling += p->windows[1];
    }
}

/* Whether all bounds are numbers; planes where some are not are left out. */
static int NAME(candidates)(int threads, const Pools *p, const REAL *lower, const REAL *upper, int64_t *index,
                            REAL *certain, REAL *ceiling) {
    const int64_t size = p->plane[0] * p->plane[1], windows = p->windows[0] * p->windows[1];
    int numbers = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : numbers))
    for (int64_t i = 0; i < p->planes; i++) {
        const REAL *const below = lower + i * size, *const above = upper + i * size;
        if (!NAME(all_numbers)(size, below) || !NAME(all_numbers)(size, above)) {
            numbers = 0;
            continue;
        }
        NAME(candidates_plane)(p, below, above, index + i * windows, certain + i * windows, ceiling + i * windows);
    }
    return numbers;
}

/* A row of coefficients of maxima, `[channels, windows]` or, with the channels `last`, `[windows, channels]`: a
   positive one, and any where the choice is certain, goes to the element at `index`, a negative one else to the
   constant. Whether all places are in the plane; what is not goes nowhere. */
INLINE int NAME(select_whole)(int last, const Choices *s, const REAL *row, const int64_t *index, const REAL *certain,
                              const REAL *ceiling, REAL *plane, REAL *constant) {
    const int64_t outer = last ? s->windows : s->channels, inner = last ? s->channels : s->windows;
    int within = 1;
    double sum = 0;
    memset(plane, 0, s->channels * s->size * sizeof(REAL));
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            const int64_t at = s->alike ? o * inner + i : i * outer + o, place = index[at];
            const REAL v = *row++, negative = v > 0 ? 0 : v;
            if (place < 0 || place >= s->size) {
                within = 0;
                continue;
            }
            if (!(certain[at] > 0) && negative < 0) sum += negative * ceiling[at];
            plane[last ? place * inner + i : o * s->size + place] += (v > 0 ? v : 0) + negative * certain[at];
        }
    }
    *constant = (REAL)sum;
    return within;
}

static int NAME(select_row)(const Choices *s, const REAL *row, const int64_t *index, const REAL *certain,
                            const REAL *ceiling, REAL *plane, REAL *constant) {
    return s->last ? NAME(select_whole)(1, s, row, index, certain, ceiling, plane, constant)
                   : NAME(select_whole)(0, s, row, index, certain, ceiling, plane, constant);
}

/* All rows, of the examples that `owner` says, or all of the one that it names; whether all places and owners exist. */
static int NAME(select_places)(int threads, const Choices *s, const REAL *rows, const int64_t *index,
                               const REAL *certain, const REAL *ceiling, REAL *planes, REAL *constants) {
    const int64_t count = s->channels * s->windows, whole = s->channels * s->size;
    int within = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : within))
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t owner = s->owner[s->owners == 1 ? 0 : r];
        if (owner < 0 || owner >= s->examples) {
            within = 0;
            continue;
        }
        const int64_t at = owner * count;
        within = NAME(select_row)(s, rows + r * count, index + at, certain + at, ceiling + at, planes + r * whole,
                                  constants + r)
                 && within;
    }
    return within;
}
