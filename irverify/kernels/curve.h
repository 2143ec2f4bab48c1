/* Sigmoid (curve 0) and tanh (curve 1): odd up to a constant, convex below 0 and concave above; in double precision. */

enum { STEPS = 12, NUDGES = 40 };

/* A value, and the slope there. */
typedef struct { double value, slope; } Jet;

/* f and f' at x; of the mirror image -f(-x) where `sign` is -1. */
INLINE Jet jet_of(int curve, int sign, double x) {
    const double away = fabs(x), e = exp(curve ? -2 * away : -away), part = 1 / (1 + e), slope = e * part * part;
    Jet found;
    if (curve)
        found.value = tanh(x), found.slope = 4 * slope;
    else if (sign > 0)
        found.value = x < 0 ? e * part : part, found.slope = slope;
    else
        found.value = x > 0 ? -e * part : -part, found.slope = slope;
    return found;
}

/* The point above 0 that has a slope, up to rounding. With e = exp(-x) (for tanh exp(-2 x)) the slope is e / (1 + e)^2
   (four times that). */
INLINE double steep_at(int curve, double slope) {
    const double share = curve ? slope / 4 : slope, root = sqrt(share < 0.25 ? 1 - 4 * share : 0);
    const double x = -log(2 * share / (1 - 2 * share + root));
    return curve ? x / 2 : x;
}

/* Whether the tangent at x is above f at l, where that is `low`. */
INLINE int touches(double x, Jet there, double l, double low) { return there.slope * (l - x) + there.value >= low; }

/* For l < 0 < u, where the tangent at u is above f at l: the smallest point of [0, u] whose tangent is, from above. */
static double touching_point(int curve, int sign, double l, double u, double low) {
    /* Around 0 f is a cubic up to a constant, whose tangent from l touches at -l / 2; f's does a little before that, by
       -l / 2 times l^2 / 40 for sigmoid, l^2 / 10 for tanh. */
    const double half = -l / 2, bend = curve ? 1.5 : 3.0;
    if (half < 0x1p-11) return half < u ? half : u;
    double x = half < bend ? half : bend;
    if (!(x < u)) x = u;
    /* That tangent is the steepest chord from (l, f(l)): the slope of a chord to any other point is less, and met
       beyond the tangent point, nearer to it by the square. */
    for (int step = 0; step < STEPS; step++) {
        const double next = steep_at(curve, (jet_of(curve, sign, x).value - low) / (x - l)), before = x;
        x = next < u ? next : u; /* u too where there is no number */
        if (fabs(x - before) <= 1e-7 * x) break;
    }
    double further = (x - l) * 0x1p-52;
    for (int nudge = 0; nudge < NUDGES && x < u; nudge++) { /* what rounding has left */
        if (touches(x, jet_of(curve, sign, x), l, low)) return x;
        x += further;
        further *= 4;
    }
    return u;
}
