/* Products of a few rows with a matrix, added up in registers; the instructions that multiply and add at once are asked
   for by name (see tiles.h). Rows are copied to where each begins PITCH elements behind the one before, a part of them at
   a time; the matrix stays where it is, since it is read one line after the other and a line in one go. */

enum { DEEP = 256, PITCH = DEEP + 16, HIGH_ROWS = 12, TOGETHER = 48 };

/* A dense layer backwards, with the lines around its results: `weight` `[from, to]`, `bias` `[from]`, and `slope`, `rise`,
   `base` and `top` `[examples, from]`. No lines where the slope is null; what else of them is null is zero. */
typedef struct { int64_t from, to; const void *slope, *rise, *base, *top, *bias, *weight; } Layer;

/* Rows of some pairs, with `twice` and then their negatives: those at `index`, or all; of the example `owner`, or all of
   the first; through `count` layers. */
typedef struct {
    int64_t pairs, twice;
    const void *rows;
    const int64_t *index, *owner;
    int64_t count;
    const Layer *layer;
} Layers;

/* Writes `[HIGH_ROWS, columns]` at `to`, whose rows begin `pitch` elements apart, from `depth` coefficients of each row
   and as many lines of the matrix, which begin `across` apart; with `more` they are added to what stands there. */
typedef void Product(int64_t depth, const void *rows, const void *matrix, int64_t across, void *to, int64_t pitch,
                     int more);

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define OF_LAYERS(name, chip, TYPE, VECTOR, HIGH, WIDE, LOAD, STORE, ALL, FUSED)                                       \
    __attribute__((target(chip))) static void name(int64_t depth, const void *rows, const void *matrix,                \
                                                   int64_t across, void *to, int64_t pitch, int more) {                \
        enum { LANES = sizeof(VECTOR) / sizeof(TYPE) };                                                                \
        for (int part = 0; part < HIGH_ROWS; part += HIGH) {                                                           \
            const TYPE *RESTRICT own = (const TYPE *)rows + part * PITCH, *RESTRICT line = matrix;                     \
            TYPE *RESTRICT found = (TYPE *)to + part * pitch;                                                          \
            VECTOR sums[HIGH][WIDE];                                                                                   \
            DO_PRAGMA(GCC unroll 12)                                                                                   \
            for (int i = 0; i < HIGH; i++)                                                                             \
                DO_PRAGMA(GCC unroll 2)                                                                                \
                for (int j = 0; j < WIDE; j++) sums[i][j] = more ? LOAD(found + i * pitch + j * LANES) : ALL(0);       \
            for (int64_t k = 0; k < depth; k++, line += across) {                                                      \
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
#else
static Product *const products_single[2][3], *const products_double[2][3];
#endif
