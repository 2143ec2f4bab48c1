/* Bounds met with others, and what rows meet of them, for elements of type REAL. */

INLINE REAL NAME(larger)(REAL found, REAL known) { return found > known || known != known ? found : known; }

/* Bounds `lower` and `upper` `[size]` met, where `owner * width + element` is, with `found[p]` as a lower bound of the
   element and `-found[p + pairs]` as an upper one; with `sides`, 1 or -1 for each, with `found[p]` on that side alone.
   What is not a number says nothing. What is known of each element then goes to `low` and `high` `[pairs]`; where `lean`
   `[size]` is not null, the sum of both bounds that were found goes there, or with `sides` the one is added there.
   Whether all elements are among those of their owners; else nothing of what comes after is met. */
static int NAME(meet)(int threads, int64_t pairs, int64_t size, int64_t width, const int64_t *elements,
                      const int64_t *owner, const REAL *sides, const REAL *found, REAL *lower, REAL *upper, REAL *lean,
                      REAL *low, REAL *high) {
    (void)threads; /* one element may occur twice */
    for (int64_t p = 0; p < pairs; p++) {
        const int64_t first = owner ? owner[p] : 0, at = first * width + elements[p];
        if (elements[p] < 0 || elements[p] >= width || first < 0 || first >= size / width) return 0;
        const REAL below = sides && sides[p] < 0 ? (REAL)-INFINITY : found[p];
        const REAL above = !sides ? found[p + pairs] : sides[p] > 0 ? (REAL)-INFINITY : found[p];
        lower[at] = NAME(larger)(below, lower[at]);
        upper[at] = -NAME(larger)(above, -upper[at]);
        low[p] = lower[at];
        high[p] = upper[at];
        if (lean) lean[at] = sides ? lean[at] + sides[p] * found[p] : found[p] - found[p + pairs];
    }
    return 1;
}

INLINE REAL NAME(smallest)(REAL a, REAL b) { return a < b || a != a ? a : b; }
INLINE REAL NAME(greatest)(REAL a, REAL b) { return a > b || a != a ? a : b; }

/* Bounds met with others, `low` and `high`, of the same elements: of these what is not a number, or is infinite on the
   wrong side, says nothing. What has crossed changes places. */
CLONED static void NAME(tighten_block)(int64_t n, const REAL *lower, const REAL *upper, const REAL *low,
                                       const REAL *high, REAL *below, REAL *above) {
    DO_PRAGMA(omp simd)
    for (int64_t i = 0; i < n; i++) {
        const REAL l = low[i] > lower[i] && low[i] < (REAL)INFINITY ? low[i] : lower[i];
        const REAL u = high[i] < upper[i] && high[i] > (REAL)-INFINITY ? high[i] : upper[i];
        below[i] = NAME(smallest)(l, u);
        above[i] = NAME(greatest)(l, u);
    }
}

static void NAME(tighten)(int threads, int64_t n, const REAL *lower, const REAL *upper, const REAL *low,
                          const REAL *high, REAL *below, REAL *above) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY)
        NAME(tighten_block)(least(MANY, n - i), lower + i, upper + i, low + i, high + i, below + i, above + i);
}

/* Whether lower <= upper everywhere, and none is infinite on the wrong side; what is not a number fails. */
CLONED static int NAME(ordered_block)(int64_t n, const REAL *lower, const REAL *upper) {
    int good = 1;
    DO_PRAGMA(omp simd reduction(& : good))
    for (int64_t i = 0; i < n; i++)
        good &= (lower[i] <= upper[i]) & (lower[i] < (REAL)INFINITY) & (upper[i] > (REAL)-INFINITY);
    return good;
}

static int NAME(ordered)(int threads, int64_t n, const REAL *lower, const REAL *upper) {
    int good = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(& : good))
    for (int64_t i = 0; i < n; i += MANY) good &= NAME(ordered_block)(least(MANY, n - i), lower + i, upper + i);
    return good;
}

/* Whether all intervals have a finite width. */
CLONED static int NAME(finite_block)(int64_t n, const REAL *lower, const REAL *upper) {
    REAL total = 0; /* 0 times each width: not a number if one of them is infinite or none */
    DO_PRAGMA(omp simd reduction(+ : total))
    for (int64_t i = 0; i < n; i++) total += (upper[i] - lower[i]) * 0;
    return total == 0;
}

static int NAME(all_finite)(int threads, int64_t n, const REAL *lower, const REAL *upper) {
    int good = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(& : good))
    for (int64_t i = 0; i < n; i += MANY) good &= NAME(finite_block)(least(MANY, n - i), lower + i, upper + i);
    return good;
}

/* Whether one of the points is strictly inside each interval. */
CLONED static void NAME(inside_block)(int64_t n, const REAL *lower, const REAL *upper, int64_t count,
                                      const double *points, unsigned char *found) {
    for (int64_t k = 0; k < count; k++) {
        const REAL point = (REAL)points[k];
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < n; i++) found[i] = (k && found[i]) | ((lower[i] < point) & (point < upper[i]));
    }
}

static void NAME(inside)(int threads, int64_t n, const REAL *lower, const REAL *upper, int64_t count,
                         const double *points, unsigned char *found) {
    IN_PARALLEL
    for (int64_t i = 0; i < n; i += MANY)
        NAME(inside_block)(least(MANY, n - i), lower + i, upper + i, count, points, found + i);
}

INLINE void NAME(middle_run)(int64_t channels, int64_t places, int64_t n, const REAL *lower, const REAL *upper,
                             REAL *center, REAL *radius) {
    for (int64_t c = 0; c < channels; c++, lower += places, upper += places, center++, radius++) {
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < n; i++) {
            center[i * channels] = (lower[i] + upper[i]) / 2;
            radius[i * channels] = (upper[i] - lower[i]) / 2;
        }
    }
}

CLONED static void NAME(middle_block)(int64_t channels, int64_t places, int64_t n, const REAL *lower,
                                      const REAL *upper, REAL *center, REAL *radius) {
    if (channels == 1) NAME(middle_run)(1, places, n, lower, upper, center, radius);
    else NAME(middle_run)(channels, places, n, lower, upper, center, radius);
}

/* Centre and radius of bounds `[outer, channels, places]`, stored `[outer, places, channels]`. */
static void NAME(middle)(int threads, int64_t outer, int64_t channels, int64_t places, const REAL *lower,
                         const REAL *upper, REAL *center, REAL *radius) {
    const int64_t step = side_of_block(channels), blocks = (places + step - 1) / step;
    IN_PARALLEL
    for (int64_t b = 0; b < outer * blocks; b++) {
        const int64_t at = b / blocks * channels * places, first = b % blocks * step, to = at + first * channels;
        NAME(middle_block)(channels, places, least(step, places - first), lower + at + first, upper + at + first,
                           center + to, radius + to);
    }
}
