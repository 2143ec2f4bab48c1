/* Rows over the windows of a pooling, side by side, on their way into the adjoint of a convolution whose results, or lines
   around them, the pooling reads: only the elements that are passed on to are ever written, for elements of type REAL. */

/* Whether lines pass on each of a run of elements: any of them is not zero. */
INLINE void NAME(passing)(const Pooled *q, int64_t at, int64_t n, unsigned char *RESTRICT any) {
    const REAL *RESTRICT low = (const REAL *)q->low + at, *RESTRICT high = (const REAL *)q->high + at;
    const REAL *RESTRICT base = q->base ? (const REAL *)q->base + at : low;
    const REAL *RESTRICT top = q->top ? (const REAL *)q->top + at : low;
    DO_PRAGMA(omp simd)
    for (int64_t k = 0; k < n; k++) any[k] = (low[k] != 0) | (high[k] != 0) | (base[k] != 0) | (top[k] != 0);
}

/* The elements that rows of an example reach: how many, or -1 where one that is chosen is not in the plane. `meet` has room
   for them all. */
CLONED static int64_t NAME(met_elements)(const Adjoint *p, const Pooled *q, int64_t example, Meeting *meet) {
    const int64_t places = p->taps.windows[0] * p->taps.windows[1], count = q->windows[0] * q->windows[1];
    const int64_t planes = example * p->out * places;
    int64_t found = 0;
    if (q->chosen) {
        const int64_t *chosen = q->chosen + example * p->out * count;
        for (int64_t c = 0; c < p->out; c++) {
            for (int64_t w = 0; w < count; w++) {
                const int64_t place = *chosen++;
                if (place < 0 || place >= places) return -1;
                const Meeting one = {(int32_t)place, (int32_t)c, (int32_t)(c * q->step[0] + w * q->step[1])};
                meet[found++] = one;
            }
        }
        return found;
    }
    unsigned char any[NEAR + 8] = {0}; /* read a little further than what has been found in the end */
    for (int64_t c = 0; c < p->out; c++) {
        for (int64_t first = 0; first < places; first += NEAR) {
            const int64_t n = least(NEAR, places - first);
            NAME(passing)(q, planes + c * places + first, n, any);
            for (int64_t k = 0; k < n; k += 8) {
                uint64_t eight;
                memcpy(&eight, any + k, 8);
                if (!eight) continue;
                for (int64_t at = k; at < least(k + 8, n); at++) {
                    const int32_t window = q->window[first + at];
                    const Meeting one = {(int32_t)(first + at), (int32_t)c,
                                         (int32_t)(c * q->step[0] + window * q->step[1])};
                    if (!any[at] || window < 0) continue;
                    meet[found++] = one;
                }
            }
        }
    }
    return found;
}

/* Coefficients of some rows at a window that a maximum chooses `certain` or with a `ceiling` times what is negative. */
INLINE void NAME(choose)(int64_t tall, REAL certain, REAL ceiling, REAL *RESTRICT to, REAL *RESTRICT sums) {
    const REAL above = certain > 0 ? 0 : ceiling;
    if (above - above == 0) {
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < tall; i++) {
            const REAL v = to[i], negative = v > 0 ? 0 : v;
            sums[i] += negative * above;
            to[i] = (v - negative) + negative * certain;
        }
        return;
    }
    for (int64_t i = 0; i < tall; i++) { /* zero times what is infinite is zero here */
        const REAL v = to[i], negative = v > 0 ? 0 : v;
        if (negative < 0) sums[i] += negative * above;
        to[i] = (v - negative) + negative * certain;
    }
}

/* What `tall` rows have at the elements that they meet, through the lines around these, for `adjoint`; and their
   constants, those of the convolution among them. */
INLINE void NAME(bent_at)(int64_t tall, const Adjoint *p, const Pooled *q, int64_t example, const REAL *const *rows,
                          int64_t met, const Meeting *meet, const Live *live, REAL *RESTRICT turned, double *constants) {
    const int64_t places = p->taps.windows[0] * p->taps.windows[1], across = p->taps.windows[1];
    const int64_t count = q->windows[0] * q->windows[1], size = p->out * count, planes = example * p->out * places;
    const REAL *low = q->low, *high = q->high, *base = q->base, *top = q->top, *offset = q->offset;
    const REAL share = 1 / (REAL)(q->kernel[0] * q->kernel[1]);
    REAL sums[TALL] = {0};
    for (int64_t i = 0; i < tall; i++) {
        const REAL *RESTRICT row = rows[i];
        for (int64_t k = 0; k < size; k++) turned[k * tall + i] = row ? row[k] : 0;
    }
    if (q->chosen) {
        const REAL *certain = (const REAL *)q->certain + example * size, *ceiling = (const REAL *)q->ceiling + example * size;
        for (int64_t c = 0; c < p->out; c++) {
            for (int64_t w = 0; w < count; w++)
                NAME(choose)(tall, *certain++, *ceiling++, turned + (c * q->step[0] + w * q->step[1]) * tall, sums);
            for (int64_t i = 0; i < tall; i++) constants[i] += sums[i], sums[i] = 0;
        }
    } else {
        DO_PRAGMA(omp simd)
        for (int64_t k = 0; k < size * tall; k++) turned[k] *= share;
    }
    for (int64_t k = 0; k < met; k++) {
        if (low && k + AHEAD < met) {
            const int64_t later = planes + meet[k + AHEAD].channel * places + meet[k + AHEAD].place;
            SOON(low + later), SOON(high + later), SOON(top ? top + later : low + later);
        }
        const int64_t at = planes + meet[k].channel * places + meet[k].place, slot = live->begin[meet[k].place]++;
        const int64_t before = (uint32_t)meet[k].place % (uint32_t)across * p->taps.stride[1];
        const REAL slope = low ? low[at] : 1, rise = low ? high[at] - slope : 0, above = top ? top[at] : 0;
        const REAL below = base ? base[at] : 0, more = offset ? offset[meet[k].channel] : 0;
        const REAL *RESTRICT from = turned + meet[k].source * tall;
        REAL *RESTRICT to = (REAL *)live->values + slot * tall;
        live->offset[slot] = (int32_t)((meet[k].channel - before * p->out) * p->across);
        DO_PRAGMA(omp simd)
        for (int64_t i = 0; i < tall; i++) {
            const REAL v = from[i], negative = v > 0 ? 0 : v, passed = v * slope + negative * rise;
            sums[i] += negative * above + (v - negative) * below + passed * more;
            to[i] = passed;
        }
        if (k % NEAR == NEAR - 1 || k == met - 1)
            for (int64_t i = 0; i < tall; i++) constants[i] += sums[i], sums[i] = 0;
    }
}

CLONED static void NAME(bent)(const Adjoint *p, const Pooled *q, int64_t example, const REAL *const *rows, int64_t met,
                              const Meeting *meet, const Live *live, REAL *turned, double *constants) {
    if (p->tall == TALL)
        NAME(bent_at)(TALL, p, q, example, rows, met, meet, live, turned, constants);
    else
        NAME(bent_at)(LOW, p, q, example, rows, met, meet, live, turned, constants);
}

/* Whether all elements that are chosen are there; `meet` has room for all that rows may reach, `turned` for these rows. */
static int NAME(draw)(const Adjoint *p, const Pooled *q, int64_t example, const REAL *const *rows, const Live *live,
                      Meeting *meet, REAL *turned, double *constants) {
    const int64_t places = p->taps.windows[0] * p->taps.windows[1], met = NAME(met_elements)(p, q, example, meet);
    if (met < 0) return 0;
    memset(live->begin, 0, (places + 1) * sizeof(int64_t));
    for (int64_t k = 0; k < met; k++) live->begin[meet[k].place]++;
    for (int64_t w = 0, found = 0; w <= places; w++) {
        const int64_t own = live->begin[w];
        live->begin[w] = found;
        found += own;
    }
    NAME(bent)(p, q, example, rows, met, meet, live, turned, constants);
    for (int64_t w = places; w > 0; w--) live->begin[w] = live->begin[w - 1]; /* each stands where the next begins */
    live->begin[0] = 0;
    return 1;
}
