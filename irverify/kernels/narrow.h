/* Rows that have coefficients for some elements of their example only, for elements of type REAL. */

INLINE void NAME(mark)(int64_t size, const REAL *RESTRICT part, unsigned char *RESTRICT any) {
    DO_PRAGMA(omp simd)
    for (int64_t k = 0; k < size; k++) any[k] |= part[k] != 0;
}

/* The elements of each example at which one of four tensors `[examples, size]`, some of them null, is not zero, and
   `source` `[size]` not negative: `index` `[examples, size]`, the first `counts` `[examples]` of them. */
CLONED static void NAME(used_of)(int64_t size, const REAL *const *parts, int64_t begin, const int64_t *RESTRICT source,
                                 int64_t *RESTRICT index, int64_t *count) {
    unsigned char any[NEAR];
    int64_t found = 0;
    for (int64_t first = 0; first < size; first += NEAR) {
        const int64_t step = least(NEAR, size - first);
        memset(any, 0, step);
        for (int part = 0; part < 4; part++)
            if (parts[part]) NAME(mark)(step, parts[part] + begin + first, any);
        for (int64_t k = 0; k < step; k++) {
            index[found] = first + k;
            found += any[k] & (source[first + k] >= 0);
        }
    }
    *count = found;
}

static void NAME(used)(int threads, int64_t examples, int64_t size, const REAL *const *parts, const int64_t *source,
                       int64_t *index, int64_t *counts) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) NAME(used_of)(size, parts, e * size, source, index + e * size, counts + e);
}

/* The first `each` elements of each example with their `source`, `[examples, each]`; the first element of all and
   `none` stand where it has fewer. */
static void NAME(filled)(int threads, int64_t examples, int64_t size, int64_t each, int64_t none, const int64_t *index,
                         const int64_t *counts, const int64_t *source, int64_t *elements, int64_t *sources) {
    IN_PARALLEL
    for (int64_t e = 0; e < examples; e++) {
        for (int64_t k = 0; k < each; k++) {
            const int64_t element = k < counts[e] ? index[e * size + k] : 0;
            elements[e * each + k] = element;
            sources[e * each + k] = k < counts[e] ? source[element] : none;
        }
    }
}

/* Of rows `[rows, width]` the elements `source` `[examples, each]` of their example, 0 for those behind the last. Rows
   are of the example `owner`, or where it is null of their own, if that is so, or the first. */
static void NAME(fetch)(int threads, int64_t rows, int64_t width, int64_t each, int64_t own, const int64_t *source,
                        const int64_t *owner, const REAL *given, REAL *found) {
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const REAL *RESTRICT row = given + r * width;
        const int64_t *RESTRICT from = source + (owner ? owner[r] : own ? r : 0) * each;
        REAL *RESTRICT to = found + r * each;
        for (int64_t k = 0; k < each; k++) to[k] = from[k] < width ? row[from[k]] : 0;
    }
}
