/* Products of some rows with the taps of a convolution, added up in registers, at each place of the operand. The
   instructions that multiply and add at once are asked for by name, since all else here rounds products one by one; where
   a processor has none, PyTorch's products are the better choice. */

enum { TALL = 16, LOW = 12, FEW = 4, BY_ROWS = 3, NEAR = 512, AHEAD = 24 };
#define ROUND(bytes) (((int64_t)(bytes) + 63) / 64 * 64)

/* Which windows reach each place of a plane along an axis: from `low` to before `end`. */
typedef struct { int32_t *low, *end; } Reach;

/* The adjoint of a convolution from rows `[rows, windows 2, out]` to `[rows, plane 2, unit]`. Weights `[taps 2, out,
   across]` have zeros behind `unit`. `tall` rows are looked at together: neighbours in `order`, if that is not null. Where
   `place` is not null, rows have `each` coefficients only, for the elements `place` `[examples, each]` of flat channels
   `[out, windows 2]` of the example `owner` `[rows]`, or all of the first. */
typedef struct {
    Taps taps;
    int64_t rows, out, across, tall, each;
    const int64_t *order, *place, *owner;
    Reach reach[2];
} Adjoint;

/* What `tall` rows have at each window: `values` `[begin[windows], tall]` of the channels at which one of them is not
   zero, and for each of these how far its weights are from those of the tap by which the first window of its line reaches
   a place. `line`: results of one line of the plane, `[line, tall]`. */
typedef struct { int64_t *begin; int32_t *offset; void *values, *line; } Live;

/* A pooling whose windows lie side by side in the planes `[out, windows 2]` of a convolution, or in lines around these:
   `low`, `high` (slopes), `base`, `top`, `[examples, out, windows 2]`, of which base and top may be null, zero, and both
   slopes too: the planes themselves. A maximum has `chosen` an element of each window, `certain` or below a `ceiling`,
   `[examples, out, windows of the pooling]`; where `chosen` is null, it is the mean. `step`: how far the coefficients of
   neighbouring channels and windows are apart in a row. `offset`: what the convolution adds to each channel, or null.
   `window`: that of each place of a plane, or -1. */
typedef struct {
    int64_t windows[2], kernel[2], step[2];
    const int64_t *chosen;
    const void *certain, *ceiling, *low, *high, *base, *top, *offset;
    const int32_t *window;
} Pooled;

/* Lines around the values that a convolution makes, `[examples, windows 2, out]`, which rows over these meet first: `slope`
   and what the one above has more, `rise`, `base` and `top`; all but slope may be null, zero, and slope too: there are
   none. `offset` `[out]`: what the convolution adds to all, or null. Where `gains` are not null, rise and top are not
   either, and the slope below is the other one for what gains of `rows` are more than the `least` of a row. Rows from
   `given` on are the negatives of the first ones, which are there: these have a slope, and no gains. */
typedef struct { const void *slope, *rise, *base, *top, *offset, *rows, *gains, *least; int64_t given; } Bent;

/* An element that rows reach: its place in the plane, its channel, and the coefficient of its window in a row. */
typedef struct { int32_t place, channel, source; } Meeting;

/* Writes channels `from` to `from + count` of the results, those of rows that are null excepted. */
typedef void Tile(const Adjoint *p, const Live *live, const void *weight, int64_t from, int64_t count, void *const *to);

/* Fills in what reaches the places along an axis, at `memory`, and returns where the memory behind begins. */
static int32_t *reached(const Taps *t, int axis, Reach *r, int32_t *memory) {
    const int64_t places = t->plane[axis], stride = t->stride[axis];
    r->low = memory, r->end = memory + places;
    for (int64_t place = 0; place < places; place++) {
        const int64_t last = place + t->first[axis], first = last - t->taps[axis] + 1; /* of what windows begin there */
        r->low[place] = first > 0 ? (int32_t)least((first + stride - 1) / stride, t->windows[axis]) : 0;
        r->end[place] = last < 0 ? 0 : (int32_t)least(last / stride + 1, t->windows[axis]);
    }
    return r->end + places;
}

/* Fills in which window of a pooling has each place of a plane of these windows of a convolution. */
static void windowed(const Taps *t, const Pooled *q, int32_t *window) {
    for (int64_t y = 0; y < t->windows[0]; y++)
        for (int64_t x = 0; x < t->windows[1]; x++) {
            const int64_t v = y / q->kernel[0], u = x / q->kernel[1];
            *window++ = v < q->windows[0] && u < q->windows[1] ? (int32_t)(v * q->windows[1] + u) : -1;
        }
}

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#include <immintrin.h>

/* For each place of the plane, and for each line of windows that reach it: all that these have, and with `base` where
   the weights are that it meets. */
#define FOR_EACH_PLACE                                                                                                 \
    for (int64_t y = 0, place = 0; y < t->plane[0]; y++)                                                               \
        for (int64_t x = 0; x < t->plane[1]; x++, place++)
#define FOR_EACH_LINE                                                                                                  \
    if (p->reach[1].low[x] < p->reach[1].end[x])                                                                       \
        for (int64_t v = p->reach[0].low[y]; v < p->reach[0].end[y]; v++)
#define STARTS (live->begin[v * t->windows[1] + p->reach[1].low[x]])
#define ENDS (live->begin[v * t->windows[1] + p->reach[1].end[x]])
#define BEHIND                                                                                                         \
    (from + ((y + t->first[0] - v * t->stride[0]) * t->taps[1] + x + t->first[1]) * p->out * p->across)

/* Twelve rows or less, WIDE vectors of channels: a value of a row meets the weights of all channels. */
#define OF_CHANNELS(name, chip, TYPE, VECTOR, HIGH, WIDE, LOAD, STORE, ALL, FUSED)                                     \
    __attribute__((target(chip))) static void name(const Adjoint *p, const Live *live, const void *given,              \
                                                   int64_t from, int64_t count, void *const *to) {                     \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE), COLUMNS = WIDE * LANES };                                        \
        const Taps *t = &p->taps;                                                                                      \
        const TYPE *weight = given;                                                                                    \
        TYPE spare[COLUMNS];                                                                                           \
        FOR_EACH_PLACE {                                                                                               \
            for (int part = 0; part < 12; part += HIGH) {                                                              \
                VECTOR sums[HIGH][WIDE];                                                                               \
                DO_PRAGMA(GCC unroll 12)                                                                               \
                for (int i = 0; i < HIGH; i++)                                                                         \
                    DO_PRAGMA(GCC unroll 2)                                                                            \
                    for (int j = 0; j < WIDE; j++) sums[i][j] = ALL(0);                                                \
                FOR_EACH_LINE {                                                                                        \
                    const int64_t base = BEHIND, end = ENDS;                                                             \
                    for (int64_t k = STARTS;k < end; k++) {                                                            \
                        const TYPE *values = (const TYPE *)live->values + k * 12 + part;                               \
                        const TYPE *weights = weight + base + live->offset[k];                                         \
                        VECTOR column[WIDE];                                                                           \
                        DO_PRAGMA(GCC unroll 2)                                                                        \
                        for (int j = 0; j < WIDE; j++) column[j] = LOAD(weights + j * LANES);                          \
                        DO_PRAGMA(GCC unroll 12)                                                                       \
                        for (int i = 0; i < HIGH; i++) {                                                               \
                            const VECTOR all = ALL(values[i]);                                                         \
                            DO_PRAGMA(GCC unroll 2)                                                                    \
                            for (int j = 0; j < WIDE; j++) sums[i][j] = FUSED(all, column[j], sums[i][j]);             \
                        }                                                                                              \
                    }                                                                                                  \
                }                                                                                                      \
                DO_PRAGMA(GCC unroll 12)                                                                               \
                for (int i = 0; i < HIGH; i++) {                                                                       \
                    TYPE *row = (TYPE *)to[part + i];                                                                  \
                    if (!row) continue;                                                                                \
                    row += place * t->unit + from;                                                                     \
                    DO_PRAGMA(GCC unroll 2)                                                                            \
                    for (int j = 0; j < WIDE; j++) STORE((count < COLUMNS ? spare : row) + j * LANES, sums[i][j]);     \
                    if (count < COLUMNS) memcpy(row, spare, count * sizeof(TYPE));                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

/* TALL rows, THIN channels: the values of all rows meet the weight of a channel. DEEP values at once, since a sum has to
   wait for the one before. */
#define OF_ROWS(name, chip, TYPE, VECTOR, THIN, DEEP, LOAD, STORE, ALL, FUSED, PLUS)                                    \
    __attribute__((target(chip))) static void name(const Adjoint *p, const Live *live, const void *given,              \
                                                   int64_t from, int64_t count, void *const *to) {                     \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE), PARTS = TALL / LANES };                                          \
        const Taps *t = &p->taps;                                                                                      \
        const TYPE *weight = given;                                                                                    \
        const int64_t line = t->plane[1] * THIN;                                                                        \
        FOR_EACH_PLACE {                                                                                               \
            DO_PRAGMA(GCC unroll 4)                                                                                    \
            for (int part = 0; part < PARTS; part++) {                                                                 \
                VECTOR sums[DEEP][THIN];                                                                                \
                DO_PRAGMA(GCC unroll 4)                                                                                \
                for (int d = 0; d < DEEP; d++)                                                                         \
                    DO_PRAGMA(GCC unroll 4)                                                                            \
                    for (int j = 0; j < THIN; j++) sums[d][j] = ALL(0);                                                 \
                FOR_EACH_LINE {                                                                                        \
                    const int64_t base = BEHIND, end = ENDS;                                                             \
                    const TYPE *values = (const TYPE *)live->values + part * LANES;                                    \
                    int64_t k = STARTS;                                                                                \
                    for (; k + DEEP <= end;      k += DEEP) {                                                          \
                        DO_PRAGMA(GCC unroll 4)                                                                        \
                        for (int d = 0; d < DEEP; d++) {                                                               \
                            const VECTOR own = LOAD(values + (k + d) * TALL);                                          \
                            const TYPE *weights = weight + base + live->offset[k + d];                                 \
                            DO_PRAGMA(GCC unroll 4)                                                                    \
                            for (int j = 0; j < THIN; j++) sums[d][j] = FUSED(own, ALL(weights[j]), sums[d][j]);        \
                        }                                                                                              \
                    }                                                                                                  \
                    for (; k < end; k++) {                                                                             \
                        const VECTOR own = LOAD(values + k * TALL);                                                    \
                        const TYPE *weights = weight + base + live->offset[k];                                         \
                        DO_PRAGMA(GCC unroll 4)                                                                        \
                        for (int j = 0; j < THIN; j++) sums[0][j] = FUSED(own, ALL(weights[j]), sums[0][j]);            \
                    }                                                                                                  \
                }                                                                                                      \
                DO_PRAGMA(GCC unroll 4)                                                                                \
                for (int j = 0; j < THIN; j++) {                                                                        \
                    VECTOR sum = sums[0][j];                                                                           \
                    DO_PRAGMA(GCC unroll 4)                                                                            \
                    for (int d = 1; d < DEEP; d++) sum = PLUS(sum, sums[d][j]);                                        \
                    STORE((TYPE *)live->line + (x * THIN + j) * TALL + part * LANES, sum);                              \
                }                                                                                                      \
            }                                                                                                          \
            if (x == t->plane[1] - 1)                                                                                  \
                for (int i = 0; i < TALL && to[i]; i++)                                                                \
                    for (int64_t k = 0; k < line; k++)                                                                 \
                        ((TYPE *)to[i])[y * line + k] = ((const TYPE *)live->line)[k * TALL + i];                      \
        }                                                                                                              \
    }

#define LONG "avx512f"
#define SHORT "avx2,fma"
#define OF_64(type) _mm512_loadu_##type, _mm512_storeu_##type, _mm512_set1_##type, _mm512_fmadd_##type
#define OF_32(type) _mm256_loadu_##type, _mm256_storeu_##type, _mm256_set1_##type, _mm256_fmadd_##type
#define OF_16(type) _mm_loadu_##type, _mm_storeu_##type, _mm_set1_##type, _mm_fmadd_##type
#define CHANNELS(...) OF_CHANNELS(__VA_ARGS__)
#define ROWS(...) OF_ROWS(__VA_ARGS__)
CHANNELS(long_single_32, LONG, float, __m512, 12, 2, OF_64(ps))
CHANNELS(long_single_16, LONG, float, __m512, 12, 1, OF_64(ps))
CHANNELS(long_double_16, LONG, double, __m512d, 12, 2, OF_64(pd))
CHANNELS(long_double_8, LONG, double, __m512d, 12, 1, OF_64(pd))
CHANNELS(short_single_16, SHORT, float, __m256, 6, 2, OF_32(ps))
CHANNELS(short_single_8, SHORT, float, __m256, 12, 1, OF_32(ps))
CHANNELS(short_double_8, SHORT, double, __m256d, 6, 2, OF_32(pd))
CHANNELS(short_double_4, SHORT, double, __m256d, 12, 1, OF_32(pd))
ROWS(long_single_rows_1, LONG, float, __m512, 1, 4, OF_64(ps), _mm512_add_ps)
ROWS(long_single_rows_2, LONG, float, __m512, 2, 2, OF_64(ps), _mm512_add_ps)
ROWS(long_single_rows_3, LONG, float, __m512, 3, 2, OF_64(ps), _mm512_add_ps)
ROWS(long_single_rows_4, LONG, float, __m512, 4, 1, OF_64(ps), _mm512_add_ps)
ROWS(long_double_rows_1, LONG, double, __m512d, 1, 4, OF_64(pd), _mm512_add_pd)
ROWS(long_double_rows_2, LONG, double, __m512d, 2, 2, OF_64(pd), _mm512_add_pd)
ROWS(long_double_rows_3, LONG, double, __m512d, 3, 2, OF_64(pd), _mm512_add_pd)
ROWS(long_double_rows_4, LONG, double, __m512d, 4, 1, OF_64(pd), _mm512_add_pd)
ROWS(short_single_rows_1, SHORT, float, __m256, 1, 4, OF_32(ps), _mm256_add_ps)
ROWS(short_single_rows_2, SHORT, float, __m256, 2, 4, OF_32(ps), _mm256_add_ps)
ROWS(short_single_rows_3, SHORT, float, __m256, 3, 2, OF_32(ps), _mm256_add_ps)
ROWS(short_single_rows_4, SHORT, float, __m256, 4, 2, OF_32(ps), _mm256_add_ps)
ROWS(short_double_rows_1, SHORT, double, __m256d, 1, 4, OF_32(pd), _mm256_add_pd)
ROWS(short_double_rows_2, SHORT, double, __m256d, 2, 4, OF_32(pd), _mm256_add_pd)
ROWS(short_double_rows_3, SHORT, double, __m256d, 3, 2, OF_32(pd), _mm256_add_pd)
ROWS(short_double_rows_4, SHORT, double, __m256d, 4, 2, OF_32(pd), _mm256_add_pd)

/* By how long the vectors of a processor are: tiles for 32 / size * (4, 2, 1) channels, and by rows for 1 to FEW. */
static Tile *const tiles_single[2][BY_ROWS + FEW] = {
    {NULL, short_single_16, short_single_8,
     short_single_rows_1, short_single_rows_2, short_single_rows_3, short_single_rows_4},
    {long_single_32, long_single_16, short_single_8,
     long_single_rows_1, long_single_rows_2, long_single_rows_3, long_single_rows_4},
};
static Tile *const tiles_double[2][BY_ROWS + FEW] = {
    {NULL, short_double_8, short_double_4,
     short_double_rows_1, short_double_rows_2, short_double_rows_3, short_double_rows_4},
    {long_double_16, long_double_8, short_double_4,
     long_double_rows_1, long_double_rows_2, long_double_rows_3, long_double_rows_4},
};

/* How long the vectors are that this processor fuses products and sums of: 2 for 64 bytes, 1 for 32, 0 for none. */
static int fuses(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512f") ? 2 : 1;
}
#else
static Tile *const tiles_single[2][BY_ROWS + FEW], *const tiles_double[2][BY_ROWS + FEW];
static int fuses(void) { return 0; }
#endif
