/* Lines around sigmoid and tanh, for elements of type REAL. */

/* Not less than x. */
INLINE REAL NAME(from_above)(double x) {
    const REAL near = (REAL)x;
    return (double)near < x ? (REAL)nextafterf((float)near, INFINITY) : near; /* equal in double precision */
}

/* The line above f on [l, u], whose values there are `low` and `high`: the tangent at the middle; or at the first point
   beyond whose tangent stays above f at l; or the chord where there is none; or a constant, if it is asked for.

   Whatever the point x, no other of [l, u] lies further above a line of this slope than x or an end: f is convex below
   0, and above 0 it is concave with this slope at x. */
static void NAME(line_above)(int curve, int sign, double l, double u, double low, double high, int flat, REAL *slope,
                             REAL *constant) {
    const double middle = (l + u) / 2;
    double x = u, steep;
    Jet there = {high, 0};
    int tangent = 0;
    if (u > 0 && !flat) {
        if (middle > 0) {
            there = jet_of(curve, sign, x = middle);
            tangent = l >= 0 || touches(x, there, l, low);
        }
        if (!tangent && l < 0) {
            tangent = touches(u, jet_of(curve, sign, u), l, low);
            if (tangent) there = jet_of(curve, sign, x = touching_point(curve, sign, l, u, low));
        }
    }
    if (tangent)
        steep = there.slope;
    else
        x = u, there.value = high, steep = u > l && !flat ? (high - low) / (u - l) : 0;
    const REAL taken = fabs(steep) < (sizeof(REAL) == 4 ? FLT_MIN : DBL_MIN) ? 0 : (REAL)steep;
    const double left = low - taken * l, right = high - taken * u, inside = there.value - taken * x;
    const double ends = left > right ? left : right;
    *slope = taken;
    *constant = NAME(from_above)(ends > inside ? ends : inside);
}

/* Lines below and above; whether all numbers are finite, as are the widths. */
static int NAME(curve_lines)(int threads, int64_t curve, int64_t n, const REAL *lower, const REAL *upper, REAL *slope,
                             REAL *base, REAL *steep, REAL *top) {
    const double little = (sizeof(REAL) == 4 ? FLT_EPSILON : DBL_EPSILON) / 2; /* what numbers near 1 differ by */
    int finite = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : finite))
    for (int64_t i = 0; i < n; i++) {
        const int kind = (int)curve;
        const double l = lower[i], u = upper[i];
        const Jet left = jet_of(kind, 1, l), right = jet_of(kind, 1, u);
        /* No other line is better than a constant, and only there rows end. */
        const int flat = right.value - left.value <= little && left.slope <= little && right.slope <= little;
        REAL under;
        NAME(line_above)(kind, 1, l, u, left.value, right.value, flat, steep + i, top + i);
        NAME(line_above)(kind, -1, -u, -l, jet_of(kind, -1, -u).value, jet_of(kind, -1, -l).value, flat, slope + i,
                         &under);
        base[i] = -under;
        const REAL width = upper[i] - lower[i];
        finite = isfinite(width) && isfinite(slope[i]) && isfinite(under) && isfinite(steep[i]) && isfinite(top[i])
                 && finite;
    }
    return finite;
}

/* The first point whose tangent is above f on the whole of [l, u], and whether there is one. */
INLINE int NAME(first_above)(int curve, int sign, REAL l, REAL u, REAL *first) {
    if (!(u > 0)) return 0;
    *first = l < u ? l : u;
    if (l >= 0) return 1;
    const double low = jet_of(curve, sign, l).value;
    if (!touches(u, jet_of(curve, sign, u), l, low)) return 0;
    *first = NAME(from_above)(touching_point(curve, sign, l, u, low));
    return 1;
}

/* What can be chosen on [lower, upper], where the lines are `given`: slope and constant below, the same above. Into
   `found` `[12, n]`, six for below and then six for above: the least and the greatest point whose tangent is valid, and
   the one that a line would touch at, 0 where there is none; 1 where there is one, else 0; slope and constant where
   there is none, else 0. Whether all widths are finite. */
static int NAME(curve_tangents)(int threads, int64_t curve, int64_t n, const REAL *lower, const REAL *upper,
                                const REAL *const *given, REAL *found) {
    int finite = 1;
    (void)threads;
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(&& : finite))
    for (int64_t i = 0; i < n; i++) {
        const REAL l = lower[i], u = upper[i], width = u - l, middle = (l + u) / 2;
        REAL first = 0, last = 0;
        const int above = NAME(first_above)((int)curve, 1, l, u, &first);
        const int below = NAME(first_above)((int)curve, -1, -u, -l, &last);
        last = -last;
        const REAL under[6] = {l, last, last < middle ? last : middle, 1, given[0][i], given[1][i]};
        const REAL over[6] = {first, u, first > middle ? first : middle, 1, given[2][i], given[3][i]};
        for (int k = 0; k < 6; k++) {
            found[k * n + i] = below == (k < 4) ? under[k] : 0;
            found[(6 + k) * n + i] = above == (k < 4) ? over[k] : 0;
        }
        finite = isfinite(width) && finite;
    }
    return finite;
}
