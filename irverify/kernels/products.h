/* Products of a few rows with a matrix, added up in registers; the instructions that multiply and add at once are asked
   for by name (see tiles.h). Rows are copied to where each begins PITCH elements behind the one before, a part of them at
   a time; the matrix stays where it is, since it is read one line after the other and a line in one go. */

enum { DEEP = 256, PITCH = DEEP + 16, HIGH_ROWS = 12, TOGETHER = 48, STRIPE = 128, COPIED = 32 };
enum { ONE_BY_ONE = 6 }; /* up to so many examples each element of a weight meets one at a time */
enum { THROUGH = 1, CONSTANT = 2 }; /* what lines let through */
enum { BOXED_LINES = 4, BOXED_WIDE = 3 }; /* lines of a weight, and vectors, that a tile of `Boxed` has at most */
enum { NEAREST = 1 << 15 };               /* bytes of boxes that stay in the nearest cache with all else */

/* A dense layer backwards, with the lines around its results: `weight` `[from, to]`, `bias` `[from]`, and `slope`, `rise`,
   `base` and `top` `[examples, from]`. No lines where the slope is null; what else of them is null is zero. */
typedef struct { int64_t from, to; const void *slope, *rise, *base, *top, *bias, *weight; } Layer;

/* Rows of some pairs, with `twice` and then their negatives: those at `index`, or all; of the example `owner`, or all of
   the first; through `count` layers. Each has `width` coefficients: for all elements that the first layer makes, or for
   those of `columns`, where all rows are of one example. */
typedef struct {
    int64_t pairs, twice, examples, width;
    const void *rows;
    const int64_t *index, *owner, *columns;
    int64_t count;
    const Layer *layer;
} Layers;

/* Writes `[HIGH_ROWS, columns]` at `to`, whose rows begin `pitch` elements apart, from `depth` coefficients of each row
   and those of the lines of the matrix, which begin `across` apart, that are at `places`; with `more` they are added to
   what stands there. */
typedef void Product(int64_t depth, const int64_t *places, const void *rows, const void *matrix, int64_t across, void *to,
                     int64_t pitch, int more);

/* The interval of what BOXED_LINES lines of a weight, `depth` long, make of boxes, with a centre and a radius each: a line
   meets element k of the boxes side by side from `center + places[k]` on, and from as far behind `radius`. `below` and
   `above` get as many elements as there are in the vectors of a tile, those of the next line `pitch` behind. */
typedef struct {
    int64_t depth, pitch;
    const int64_t *places;
    const void *line[BOXED_LINES], *center, *radius;
    void *below, *above;
    double bias[BOXED_LINES];
} Box;
typedef void Boxed(const Box *b);

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define OF_BOXED(name, chip, TYPE, VECTOR, HIGH, WIDE, LOAD, STORE, ALL, FUSED, MINUS, PLUS, SIZE)                     \
    __attribute__((target(chip))) static void name(const Box *b) {                                                     \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE) };                                                                \
        const TYPE *const center = b->center, *const radius = b->radius;                                               \
        const VECTOR zero = ALL(0);                                                                                    \
        for (int part = 0; part < BOXED_LINES; part += HIGH) {                                                         \
            const TYPE *line[HIGH];                                                                                    \
            VECTOR middle[HIGH][WIDE], reach[HIGH][WIDE];                                                              \
            DO_PRAGMA(GCC unroll 4)                                                                                    \
            for (int i = 0; i < HIGH; i++) {                                                                           \
                line[i] = b->line[part + i];                                                                           \
                DO_PRAGMA(GCC unroll 3)                                                                                \
                for (int j = 0; j < WIDE; j++) middle[i][j] = reach[i][j] = zero;                                      \
            }                                                                                                          \
            for (int64_t k = 0; k < b->depth; k++) {                                                                   \
                const int64_t at = b->places[k];                                                                       \
                VECTOR c[WIDE], r[WIDE];                                                                               \
                DO_PRAGMA(GCC unroll 3)                                                                                \
                for (int j = 0; j < WIDE; j++) {                                                                       \
                    c[j] = LOAD(center + at + j * LANES);                                                              \
                    r[j] = LOAD(radius + at + j * LANES);                                                              \
                }                                                                                                      \
                DO_PRAGMA(GCC unroll 4)                                                                                \
                for (int i = 0; i < HIGH; i++) {                                                                       \
                    const VECTOR all = ALL(line[i][k]), size_of = SIZE(all);                                           \
                    DO_PRAGMA(GCC unroll 3)                                                                            \
                    for (int j = 0; j < WIDE; j++) {                                                                   \
                        middle[i][j] = FUSED(all, c[j], middle[i][j]);                                                 \
                        reach[i][j] = FUSED(size_of, r[j], reach[i][j]);                                               \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
            DO_PRAGMA(GCC unroll 4)                                                                                    \
            for (int i = 0; i < HIGH; i++) {                                                                           \
                TYPE *const below = (TYPE *)b->below + (part + i) * b->pitch;                                          \
                TYPE *const above = (TYPE *)b->above + (part + i) * b->pitch;                                          \
                DO_PRAGMA(GCC unroll 3)                                                                                \
                for (int j = 0; j < WIDE; j++) {                                                                       \
                    const VECTOR all = PLUS(middle[i][j], ALL((TYPE)b->bias[part + i]));                               \
                    STORE(below + j * LANES, MINUS(all, reach[i][j]));                                                 \
                    STORE(above + j * LANES, PLUS(all, reach[i][j]));                                                  \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }
#define BOXED(...) OF_BOXED(__VA_ARGS__)
#define SIZE_32_ps(v) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v)
#define SIZE_32_pd(v) _mm256_andnot_pd(_mm256_set1_pd(-0.0), v)
#define MORE_BOXED_64(type) _mm512_sub_##type, _mm512_add_##type, _mm512_abs_##type
#define MORE_BOXED_32(type) _mm256_sub_##type, _mm256_add_##type, SIZE_32_##type
BOXED(long_single_boxed_1, LONG, float, __m512, 4, 1, OF_64(ps), MORE_BOXED_64(ps))
BOXED(long_single_boxed_2, LONG, float, __m512, 4, 2, OF_64(ps), MORE_BOXED_64(ps))
BOXED(long_single_boxed_3, LONG, float, __m512, 4, 3, OF_64(ps), MORE_BOXED_64(ps))
BOXED(long_double_boxed_1, LONG, double, __m512d, 4, 1, OF_64(pd), MORE_BOXED_64(pd))
BOXED(long_double_boxed_2, LONG, double, __m512d, 4, 2, OF_64(pd), MORE_BOXED_64(pd))
BOXED(long_double_boxed_3, LONG, double, __m512d, 4, 3, OF_64(pd), MORE_BOXED_64(pd))
BOXED(short_single_boxed_1, SHORT, float, __m256, 4, 1, OF_32(ps), MORE_BOXED_32(ps))
BOXED(short_single_boxed_2, SHORT, float, __m256, 2, 2, OF_32(ps), MORE_BOXED_32(ps))
BOXED(short_double_boxed_1, SHORT, double, __m256d, 4, 1, OF_32(pd), MORE_BOXED_32(pd))
BOXED(short_double_boxed_2, SHORT, double, __m256d, 2, 2, OF_32(pd), MORE_BOXED_32(pd))

/* By how long the vectors are, 32 or 64 bytes, and by how many of them a tile has, from one on. */
static Boxed *const boxed_single[2][BOXED_WIDE] = {
    {short_single_boxed_1, short_single_boxed_2, NULL},
    {long_single_boxed_1, long_single_boxed_2, long_single_boxed_3},
};
static Boxed *const boxed_double[2][BOXED_WIDE] = {
    {short_double_boxed_1, short_double_boxed_2, NULL},
    {long_double_boxed_1, long_double_boxed_2, long_double_boxed_3},
};

#define OF_LAYERS(name, chip, TYPE, VECTOR, HIGH, WIDE, LOAD, STORE, ALL, FUSED)                                       \
    __attribute__((target(chip))) static void name(int64_t depth, const int64_t *places, const void *rows,             \
                                                   const void *matrix, int64_t across, void *to, int64_t pitch,        \
                                                   int more) {                                                         \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE) };                                                                \
        for (int part = 0; part < HIGH_ROWS; part += HIGH) {                                                           \
            const TYPE *RESTRICT own = (const TYPE *)rows + part * PITCH;                                              \
            TYPE *RESTRICT found = (TYPE *)to + part * pitch;                                                          \
            VECTOR sums[HIGH][WIDE];                                                                                   \
            DO_PRAGMA(GCC unroll 12)                                                                                   \
            for (int i = 0; i < HIGH; i++)                                                                             \
                DO_PRAGMA(GCC unroll 2)                                                                                \
                for (int j = 0; j < WIDE; j++) sums[i][j] = more ? LOAD(found + i * pitch + j * LANES) : ALL(0);       \
            for (int64_t k = 0; k < depth; k++) {                                                                      \
                const TYPE *RESTRICT line = (const TYPE *)matrix + places[k] * across;                                 \
                VECTOR column[WIDE];                                                                                   \
                DO_PRAGMA(GCC unroll 2)                                                                                \
                for (int j = 0; j < WIDE; j++) column[j] = LOAD(line + j * LANES);                                     \
                DO_PRAGMA(GCC unroll 12)                                                                               \
                for (int i = 0; i < HIGH; i++) {                                                                       \
                    const VECTOR all = ALL(own[i * PITCH + k]);                                                        \
                    DO_PRAGMA(GCC unroll 2)                                                                            \
                    for (int j = 0; j < WIDE; j++) sums[i][j] = FUSED(all, column[j], sums[i][j]);                     \
                }                                                                                                      \
            }                                                                                                          \
            DO_PRAGMA(GCC unroll 12)                                                                                   \
            for (int i = 0; i < HIGH; i++)                                                                             \
                DO_PRAGMA(GCC unroll 2)                                                                                \
                for (int j = 0; j < WIDE; j++) STORE(found + i * pitch + j * LANES, sums[i][j]);                       \
        }                                                                                                              \
    }
#define LAYERS(...) OF_LAYERS(__VA_ARGS__)

/* `lined`: a row along lines, slope, rise, base and top, which begin `pitch` elements behind each other, and the constants
   that it meets. `reached`: what a row is at the `center` of a box, and how far it gets from there within the `radius`.
   Of whole vectors; there are two of each sum, since a sum has to wait for the one before it. What is not a number
   stays none: MIN and MAX give it where it is their second operand. */
#define OF_ROWS_MET(lined, reached, TYPE, VECTOR, LOAD, STORE, ALL, FUSED, TIMES, PLUS, MINUS, MIN, MAX)               \
    __attribute__((target(SHORT))) static TYPE lined##_sum(VECTOR sums) {                                              \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE) };                                                                \
        TYPE parts[LANES];                                                                                             \
        STORE(parts, sums);                                                                                            \
        for (int half = LANES / 2; half; half /= 2)                                                                    \
            for (int i = 0; i < half; i++) parts[i] += parts[half + i];                                                \
        return parts[0];                                                                                               \
    }                                                                                                                  \
    __attribute__((target(SHORT))) static TYPE lined(int64_t size, int64_t pitch, const TYPE *RESTRICT row,            \
                                                    const TYPE *RESTRICT lines, TYPE *RESTRICT passed) {               \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE) };                                                                \
        const VECTOR zero = ALL(0);                                                                                    \
        VECTOR sums[4] = {zero, zero, zero, zero};                                                                     \
        for (int64_t i = 0; i < size; i += 2 * LANES)                                                                  \
            DO_PRAGMA(GCC unroll 2)                                                                                    \
            for (int k = 0; k < 2; k++) {                                                                              \
                const int64_t at = i + k * LANES;                                                                      \
                if (k && at >= size) break;                                                                            \
                const VECTOR v = LOAD(row + at), negative = MIN(zero, v);                                              \
                STORE(passed + at, FUSED(v, LOAD(lines + at), TIMES(negative, LOAD(lines + pitch + at))));             \
                sums[k] = FUSED(MINUS(v, negative), LOAD(lines + 2 * pitch + at), sums[k]);                            \
                sums[2 + k] = FUSED(negative, LOAD(lines + 3 * pitch + at), sums[2 + k]);                              \
            }                                                                                                          \
        return lined##_sum(PLUS(PLUS(sums[0], sums[1]), PLUS(sums[2], sums[3])));                                      \
    }                                                                                                                  \
    __attribute__((target(SHORT))) static TYPE reached(int64_t size, const TYPE *RESTRICT row,                         \
                                                       const TYPE *RESTRICT center, const TYPE *RESTRICT radius,       \
                                                       TYPE *reach) {                                                  \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE) };                                                                \
        const VECTOR zero = ALL(0);                                                                                    \
        VECTOR sums[4] = {zero, zero, zero, zero};                                                                     \
        for (int64_t i = 0; i < size; i += 2 * LANES)                                                                  \
            DO_PRAGMA(GCC unroll 2)                                                                                    \
            for (int k = 0; k < 2; k++) {                                                                              \
                const int64_t at = i + k * LANES;                                                                      \
                if (k && at >= size) break;                                                                            \
                const VECTOR v = LOAD(row + at);                                                                       \
                sums[k] = FUSED(v, LOAD(center + at), sums[k]);                                                        \
                sums[2 + k] = FUSED(MAX(MINUS(zero, v), v), LOAD(radius + at), sums[2 + k]);                           \
            }                                                                                                          \
        *reach = lined##_sum(PLUS(sums[2], sums[3]));                                                                  \
        return lined##_sum(PLUS(sums[0], sums[1]));                                                                    \
    }
#define ROWS_MET(...) OF_ROWS_MET(__VA_ARGS__)
#define MORE_32(type)                                                                                                  \
    _mm256_mul_##type, _mm256_add_##type, _mm256_sub_##type, _mm256_min_##type, _mm256_max_##type
ROWS_MET(lined_single, reached_single, float, __m256, OF_32(ps), MORE_32(ps))
ROWS_MET(lined_double, reached_double, double, __m256d, OF_32(pd), MORE_32(pd))
LAYERS(long_single_product_32, LONG, float, __m512, 12, 2, OF_64(ps))
LAYERS(long_single_product_16, LONG, float, __m512, 12, 1, OF_64(ps))
LAYERS(long_double_product_16, LONG, double, __m512d, 12, 2, OF_64(pd))
LAYERS(long_double_product_8, LONG, double, __m512d, 12, 1, OF_64(pd))
LAYERS(short_single_product_16, SHORT, float, __m256, 6, 2, OF_32(ps))
LAYERS(short_single_product_8, SHORT, float, __m256, 12, 1, OF_32(ps))
LAYERS(short_double_product_8, SHORT, double, __m256d, 6, 2, OF_32(pd))
LAYERS(short_double_product_4, SHORT, double, __m256d, 12, 1, OF_32(pd))

/* By how long the vectors of a processor are: products with 128, 64 and 32 bytes of a line. */
static Product *const products_single[2][3] = {
    {NULL, short_single_product_16, short_single_product_8},
    {long_single_product_32, long_single_product_16, short_single_product_8},
};
static Product *const products_double[2][3] = {
    {NULL, short_double_product_8, short_double_product_4},
    {long_double_product_16, long_double_product_8, short_double_product_4},
};
#else /* nobody calls these */
#define NO_ROWS_MET(name, TYPE)                                                                                        \
    static TYPE lined_##name(int64_t size, int64_t pitch, const TYPE *row, const TYPE *lines, TYPE *passed) {          \
        return (void)pitch, (void)lines, (void)passed, size ? row[0] : 0;                                              \
    }                                                                                                                  \
    static TYPE reached_##name(int64_t size, const TYPE *row, const TYPE *center, const TYPE *radius, TYPE *reach) {   \
        return (void)center, (void)radius, *reach = 0, size ? row[0] : 0;                                              \
    }
NO_ROWS_MET(single, float)
NO_ROWS_MET(double, double)
static Product *const products_single[2][3], *const products_double[2][3];
static Boxed *const boxed_single[2][BOXED_WIDE], *const boxed_double[2][BOXED_WIDE];
#endif
