/* Bounds met with others, for elements of type REAL. */

INLINE REAL NAME(larger)(REAL found, REAL known) { return found > known || known != known ? found : known; }

/* Bounds `lower` and `upper` `[size]` met, where `owner * width + element` is, with `found[p]` as a lower bound of the
   element and `-found[p + pairs]` as an upper one; with `sides`, 1 or -1 for each, with `found[p]` on that side alone.
   What is not a number says nothing. What is known of each element then goes to `low` and `high` `[pairs]`. Whether all
   elements are among those of their owners; else nothing of what comes after is met. */
static int NAME(meet)(int threads, int64_t pairs, int64_t size, int64_t width, const int64_t *elements,
                      const int64_t *owner, const REAL *sides, const REAL *found, REAL *lower, REAL *upper, REAL *low,
                      REAL *high) {
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
    }
    return 1;
}
