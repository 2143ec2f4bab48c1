/* Rows of a convolution for single elements of its result, for elements of type REAL. */

/* The kernels of `elements` of a result `[out, windows 2]`, in planes of the operand `[plane 2, unit]`, or where these do
   not stand `last` `[unit, plane 2]`; zero where they do not reach. Whether all elements are among those of the result.
   `weight` `[out, unit, taps 2]`. */
static int NAME(unit_rows)(int threads, int64_t rows, int64_t out, int64_t last, const Taps *t, const int64_t *elements,
                           const REAL *weight, REAL *planes) {
    const int64_t windows = t->windows[0] * t->windows[1], taps = t->taps[0] * t->taps[1], unit = t->unit;
    const int64_t places = t->plane[0] * t->plane[1];
    const int64_t along = last ? unit : 1, across = last ? 1 : places;
    for (int64_t r = 0; r < rows; r++)
        if (elements[r] < 0 || elements[r] >= out * windows) return 0;
    IN_PARALLEL
    for (int64_t r = 0; r < rows; r++) {
        const int64_t place = elements[r] % windows;
        const int64_t y = place / t->windows[1] * t->stride[0] - t->first[0];
        const int64_t x = place % t->windows[1] * t->stride[1] - t->first[1];
        const int64_t low = least(most(0, -x), t->taps[1]), high = least(t->taps[1], t->plane[1] - x);
        const REAL *kernel = weight + elements[r] / windows * unit * taps;
        REAL *plane = planes + r * places * unit;
        memset(plane, 0, places * unit * sizeof(REAL));
        for (int64_t i = most(0, -y); i < least(t->taps[0], t->plane[0] - y); i++) {
            for (int64_t j = low; j < high; j++) {
                const REAL *from = kernel + i * t->taps[1] + j;
                REAL *to = plane + ((y + i) * t->plane[1] + x + j) * along;
                for (int64_t c = 0; c < unit; c++) to[c * across] = from[c * taps];
            }
        }
    }
    return 1;
}
