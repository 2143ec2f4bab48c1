/* Steps over rows of coefficients, one pass over memory each, for tensors of a CPU.

   Every function takes integers only: the size of an element (4 or 8), addresses and extents. What they say is checked
   by the Python files beside this one, which are the only callers. Sums of a row are taken in double precision once
   some of its elements have been added up. Products and sums are rounded one by one, as PyTorch does (no contraction),
   but for adjoints of convolutions (tiles.h) and products (products.h), and what is not a number stays none. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define CLONED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONED
#endif

#ifdef _MSC_VER
#define INLINE static __forceinline
#define RESTRICT __restrict
#else
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT restrict
#endif

#if defined(__GNUC__) || defined(__clang__)
#define SOON(address) __builtin_prefetch(address) /* will be read; any address may stand here */
#else
#define SOON(address) (void)(address)
#endif

#if defined(_OPENMP) || defined(SIMD)
#define DO_PRAGMA(text) _Pragma(#text)
#else
#define DO_PRAGMA(text)
#endif
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif
#define IN_PARALLEL \
    (void)threads;  \
    DO_PRAGMA(omp parallel for num_threads(threads) if (threads > 1) schedule(static))

/* So many bytes for a while, a few of them on the stack; null where there are none. */
typedef struct { double small[4096]; } Stack;
#define BORROWED(stack, bytes) ((int64_t)(bytes) <= (int64_t)sizeof(stack) ? (void *)(stack).small : malloc(bytes))
#define ZEROED(stack, bytes) \
    ((int64_t)(bytes) <= (int64_t)sizeof(stack) ? memset((stack).small, 0, bytes) : calloc(bytes, 1))
#define GIVE_BACK(stack, memory) ((void *)(memory) == (void *)(stack).small ? (void)0 : free(memory))

/* Raised whenever what a function takes changes; beside it VERSION in native.py. */
#define VERSION 32

enum { RISE = 1, BASE = 2, TOP = 4 };
enum { BLOCK = 1024, MANY = 16 * BLOCK };
enum { SIDE_BY_SIDE = 16 }; /* channels of a convolution, or elements of a box */
enum { ABREAST = 4 };       /* rows that meet a weight of a convolution together */
enum { LARGEST, SMALLEST, TOTAL };

/* Where the coefficients of rows lie in a value of planes `[owner, outer, plane[0], plane[1], unit]`: at windows
   `[outer, extent[0], extent[1], unit]` that begin at `scale * place + shift`. */
typedef struct {
    int64_t rows, each;               /* rows of an example where `owner` is null, 0 where all are of the first */
    int64_t outer, unit;
    int64_t extent[2], plane[2];
    int64_t starts, scale[2], shift[2]; /* `starts`: the extent of the last axis that places are counted along */
    const int64_t *place, *owner;     /* null: all at the first place */
} Grid;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
/* Of planes `[channels, places]` that are turned to `[places, channels]`, so many places at a time. */
INLINE int64_t side_of_block(int64_t channels) { return most(16, BLOCK / most(1, channels)); }
INLINE int64_t size_of_row(const Grid *g) { return g->outer * g->extent[0] * g->extent[1] * g->unit; }
INLINE int64_t size_of_planes(const Grid *g) { return g->outer * g->plane[0] * g->plane[1] * g->unit; }

INLINE int64_t owner_of(const Grid *g, int64_t row) {
    return g->owner ? g->owner[row] : g->each ? row / g->each : 0;
}

/* A run of elements that stand together in a row and in the planes: how many zeros are before it in the row, how many
   elements it has, how many zeros come after it, and where in the planes it begins. */
typedef struct { int64_t before, count, after, at; } Run;

INLINE Run run_of(const Grid *g, const int64_t begin[2], int64_t outer, int64_t line) {
    const int64_t whole = g->extent[1] * g->unit, y = begin[0] + line;
    Run run = {whole, 0, 0, 0};
    if (y < 0 || y >= g->plane[0]) return run;
    const int64_t low = least(most(0, -begin[1]), g->extent[1]);
    const int64_t high = most(low, least(g->extent[1], g->plane[1] - begin[1]));
    run.before = low * g->unit;
    run.count = (high - low) * g->unit;
    run.after = whole - high * g->unit;
    run.at = ((outer * g->plane[0] + y) * g->plane[1] + begin[1] + low) * g->unit;
    return run;
}

INLINE void begin_of(const Grid *g, int64_t row, int64_t begin[2]) {
    const int64_t place = g->place ? g->place[row] : 0;
    begin[0] = g->scale[0] * (place / g->starts) + g->shift[0];
    begin[1] = g->scale[1] * (place % g->starts) + g->shift[1];
}

/* Windows of a convolution that begin `first` elements before a plane, the channels last in both. */
typedef struct { int64_t windows[2], taps[2], unit, stride[2], first[2], plane[2]; } Taps;

/* How lines of channels stand that are combed: elements that neighbouring windows meet at one tap stand side by side,
   those of one line of windows `across` behind those of the line before. `size`: of a channel. */
typedef struct { int64_t high, across, teeth[2], size; } Comb;

/* Windows side by side in planes `[planes, plane 2, unit]`. */
typedef struct { int64_t planes, plane[2], unit, windows[2], kernel[2]; } Pools;

/* Rows of coefficients of windows, each of which has one element chosen out of a plane of `size`, for each example and
   channel; `last`: the channels stand last in rows and planes; `alike`: so do they, or not, in what an example has. */
typedef struct { int64_t rows, examples, channels, windows, size, last, alike, owners; const int64_t *owner; } Choices;

#include "curve.h"
#include "tiles.h"
#include "products.h"

#define REAL float
#define NAME(name) name##_single
#include "every.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_double
#include "every.h"
#undef REAL
#undef NAME

/* The face to Python */

enum { MOST = 48, GRID = 15 };

static int taken(PyObject *const *given, Py_ssize_t count, Py_ssize_t wanted, int64_t *found) {
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd numbers wanted, %zd given", wanted, count);
        return 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        found[i] = PyLong_AsLongLong(given[i]);
        if (found[i] == -1 && PyErr_Occurred()) return 0;
    }
    return 1;
}

#define AT(value) ((void *)(intptr_t)(value))

/* rows, each, outer, unit, extent 2, plane 2, starts, scale 2, shift 2, place, owner */
static Grid grid_of(const int64_t *v) {
    Grid g = {v[0], v[1], v[2], v[3], {v[4], v[5]}, {v[6], v[7]}, v[8], {v[9], v[10]}, {v[11], v[12]},
              AT(v[13]), AT(v[14])};
    return g;
}

#define BEGIN(wanted)                                                 \
    int64_t v[MOST];                                                  \
    if (!taken(given, count, wanted, v)) return NULL;                 \
    const int threads = (int)v[1];                                    \
    Py_BEGIN_ALLOW_THREADS
#define CALL(name, ...) v[0] == 4 ? name##_single(threads, __VA_ARGS__) : name##_double(threads, __VA_ARGS__)
#define END                                                           \
    Py_END_ALLOW_THREADS                                              \
    Py_RETURN_NONE;
#define METHOD(name) static PyObject *name(PyObject *self, PyObject *const *given, Py_ssize_t count)

METHOD(bend) {
    BEGIN(2 + GRID + 7)
    const Grid g = grid_of(v + 2);
    const int64_t *w = v + 2 + GRID;
    CALL(bend, &g, AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]));
    END
}

METHOD(bend_back) {
    BEGIN(2 + 3 + 12)
    const int64_t *w = v + 5;
    CALL(bend_back, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]), AT(w[7]),
         AT(w[8]), AT(w[9]), AT(w[10]), AT(w[11]));
    END
}

METHOD(minimum) {
    BEGIN(2 + GRID + 4)
    const Grid g = grid_of(v + 2);
    const int64_t *w = v + 2 + GRID;
    CALL(minimum, &g, AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]));
    END
}

METHOD(minimum_back) {
    BEGIN(2 + 3 + 7)
    const int64_t *w = v + 5;
    CALL(minimum_back, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]));
    END
}

METHOD(dot) {
    BEGIN(2 + 3 + 3)
    CALL(dot, v[2], v[3], v[4], AT(v[5]), AT(v[6]), AT(v[7]));
    END
}

METHOD(spread) {
    BEGIN(2 + GRID + 3)
    const Grid g = grid_of(v + 2);
    CALL(spread, &g, v[2 + GRID], AT(v[3 + GRID]), AT(v[4 + GRID]));
    END
}

METHOD(fold) {
    BEGIN(2 + 1 + 11 + 2)
    const int64_t *w = v + 3;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    CALL(fold, v[2], &t, AT(w[11]), AT(w[12]));
    END
}

METHOD(adjoint) {
    int done;
    BEGIN(2 + 1 + 15 + 7)
    const int64_t *w = v + 3;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    Adjoint p = {t, v[2], w[11], w[12], w[13], w[14], AT(w[15]), AT(w[16]), AT(w[17]), {{NULL}}};
    done = CALL(adjoint, &p, NULL, NULL, (int)w[18] - 1, AT(w[19]), AT(w[20]), AT(w[21]), NULL);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

/* What `adjoint` takes, and: slope, rise, base, top, offset, gains, least, constants, after how many rows their negatives
   come */
METHOD(adjoint_of_bent) {
    int done;
    BEGIN(2 + 1 + 15 + 7 + 9)
    const int64_t *w = v + 3, *u = v + 25;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    Adjoint p = {t, v[2], w[11], w[12], w[13], w[14], NULL, NULL, AT(w[17]), {{NULL}}};
    Bent b = {AT(u[0]), AT(u[1]), AT(u[2]), AT(u[3]), AT(u[4]), AT(w[19]), AT(u[5]), AT(u[6]), u[8]};
    done = CALL(adjoint, &p, NULL, &b, (int)w[18] - 1, AT(w[19]), AT(w[20]), AT(w[21]), AT(u[7]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

/* What `adjoint` takes, and: windows 2, kernel 2, step 2, chosen, certain, ceiling, low, high, base, top, offset,
   constants */
METHOD(adjoint_of_pooled) {
    int done;
    BEGIN(2 + 1 + 15 + 7 + 15)
    const int64_t *w = v + 3, *u = v + 25;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    Adjoint p = {t, v[2], w[11], w[12], w[13], w[14], NULL, NULL, AT(w[17]), {{NULL}}};
    Pooled q = {{u[0], u[1]}, {u[2], u[3]}, {u[4], u[5]}, AT(u[6]), AT(u[7]), AT(u[8]), AT(u[9]), AT(u[10]),
                      AT(u[11]), AT(u[12]), AT(u[13]), NULL};
    done = CALL(adjoint, &p, &q, NULL, (int)w[18] - 1, AT(w[19]), AT(w[20]), AT(w[21]), AT(u[14]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

METHOD(layers) {
    int done;
    BEGIN(2 + 10 + 5)
    const Layers p = {v[2], v[3], v[4], v[5], AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]), v[10], AT(v[11])};
    done = CALL(layers, &p, (int)v[12] - 1, AT(v[13]), AT(v[14]), AT(v[15]), AT(v[16]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

METHOD(touch) {
    BEGIN(2 + 3 + 3)
    CALL(touch, v[2], v[3], v[4], AT(v[5]), AT(v[6]), AT(v[7]));
    END
}

METHOD(tangents) {
    BEGIN(2 + 3 + 9)
    const int64_t *w = v + 5;
    CALL(tangents, v[2], v[3], AT(v[4]), AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]), AT(w[7]),
         AT(w[8]));
    END
}

METHOD(tangents_back) {
    BEGIN(2 + 3 + 9)
    const int64_t *w = v + 5;
    CALL(tangents_back, v[2], v[3], AT(v[4]), AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]),
         AT(w[7]), AT(w[8]));
    END
}

METHOD(used) {
    BEGIN(2 + 2 + 7)
    const void *const parts[4] = {AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7])};
    CALL(used, v[2], v[3], AT(parts), AT(v[8]), AT(v[9]), AT(v[10]));
    END
}

METHOD(filled) {
    BEGIN(2 + 4 + 5)
    CALL(filled, v[2], v[3], v[4], v[5], AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]), AT(v[10]));
    END
}

METHOD(fetch) {
    BEGIN(2 + 4 + 4)
    CALL(fetch, v[2], v[3], v[4], v[5], AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]));
    END
}

METHOD(unit_rows) {
    int within;
    BEGIN(2 + 3 + 11 + 3)
    const int64_t *w = v + 5;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    within = CALL(unit_rows, v[2], v[3], v[4], &t, AT(w[11]), AT(w[12]), AT(w[13]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(within);
}

METHOD(lines) {
    BEGIN(2 + 2 + 7)
    const int64_t *w = v + 4;
    CALL(lines, v[2], v[3], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]));
    END
}

METHOD(relu_lines) {
    int finite;
    BEGIN(2 + 2 + 6)
    const int64_t *w = v + 4;
    finite = CALL(relu_lines, v[2], v[3], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

METHOD(relu_met) {
    int has;
    BEGIN(2 + 4 + 6)
    const int64_t *w = v + 6;
    has = CALL(relu_met, v[2], v[3], v[4], v[5], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]));
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(has);
}

METHOD(curve_lines) {
    int finite;
    BEGIN(2 + 2 + 6)
    const int64_t *w = v + 4;
    finite = CALL(curve_lines, v[2], v[3], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

METHOD(curve_tangents) {
    int finite;
    BEGIN(2 + 2 + 7)
    const int64_t *w = v + 4;
    const void *const given[4] = {AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5])};
    finite = CALL(curve_tangents, v[2], v[3], AT(w[0]), AT(w[1]), AT(given), AT(w[6]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(finite);
}

METHOD(met_lines) {
    int has;
    BEGIN(2 + 3 + 8)
    const int64_t *w = v + 5;
    const void *const lines[4] = {AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3])};
    void *const found[4] = {AT(w[4]), AT(w[5]), AT(w[6]), AT(w[7])};
    has = CALL(met_lines, v[2], v[3], v[4], AT(lines), AT(found));
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(has);
}

METHOD(lines_back) {
    BEGIN(2 + 2 + 9)
    const int64_t *w = v + 4;
    CALL(lines_back, v[2], v[3], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]), AT(w[7]),
         AT(w[8]));
    END
}

METHOD(columns) {
    BEGIN(2 + 3 + 5)
    const int64_t *w = v + 5;
    CALL(columns, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]));
    END
}

METHOD(columns_back) {
    BEGIN(2 + 3 + 7)
    const int64_t *w = v + 5;
    CALL(columns_back, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]));
    END
}

METHOD(middle_back) {
    BEGIN(2 + 3 + 5)
    const int64_t *w = v + 5;
    CALL(middle_back, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]));
    END
}

METHOD(climb) {
    BEGIN(2 + 3 + 8)
    const int64_t *w = v + 5;
    CALL(climb, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]), AT(w[7]));
    END
}

METHOD(upward) {
    BEGIN(2 + 2 + 8)
    CALL(upward, v[2], v[3], AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]), AT(v[10]), AT(v[11]));
    END
}

METHOD(turned) {
    BEGIN(2 + 2 + 9)
    CALL(turned, v[2], v[3], AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]), AT(v[10]), AT(v[11]),
         AT(v[12]));
    END
}

METHOD(meet) {
    int known;
    BEGIN(2 + 3 + 9)
    const int64_t *w = v + 5;
    known = CALL(meet, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]), AT(w[6]), AT(w[7]),
                 AT(w[8]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(known);
}

METHOD(interval) {
    int done;
    BEGIN(2 + 3 + 13 + 6)
    const int64_t *w = v + 5;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    done = CALL(interval, (int)v[2] - 1, v[3], v[4], &t, w + 11, AT(w[13]), AT(w[14]), AT(w[15]), AT(w[16]), AT(w[17]),
                AT(w[18]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

METHOD(forward) {
    int done;
    BEGIN(2 + 2 + 11 + 4)
    const int64_t *w = v + 4;
    const Taps t = {{w[0], w[1]}, {w[2], w[3]}, w[4], {w[5], w[6]}, {w[7], w[8]}, {w[9], w[10]}};
    (void)threads; /* there is little to do */
    done = v[0] == 4 ? forward_single(v[2], v[3], &t, AT(w[11]), AT(w[12]), AT(w[13]), AT(w[14]))
                     : forward_double(v[2], v[3], &t, AT(w[11]), AT(w[12]), AT(w[13]), AT(w[14]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

METHOD(dense) {
    int done;
    BEGIN(2 + 4 + 6)
    done = CALL(dense, (int)v[2] - 1, v[3], v[4], v[5], AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]), AT(v[10]), AT(v[11]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

METHOD(spec) {
    int done;
    BEGIN(2 + 4 + 10)
    const int64_t *w = v + 6;
    done = CALL(spec, v[2], v[3], v[4], v[5], AT(w[0]), AT(w[1]), AT(w[2]), w[3], AT(w[4]), w[5], AT(w[6]), AT(w[7]),
                AT(w[8]), AT(w[9]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}

METHOD(around) {
    BEGIN(2 + 1 + 2)
    CALL(around, v[2], AT(v[3]), AT(v[4]));
    END
}

METHOD(ordered) {
    int good;
    BEGIN(2 + 1 + 2)
    good = CALL(ordered, v[2], AT(v[3]), AT(v[4]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(good);
}

METHOD(all_finite) {
    int good;
    BEGIN(2 + 1 + 2)
    good = CALL(all_finite, v[2], AT(v[3]), AT(v[4]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(good);
}

METHOD(inside) {
    BEGIN(2 + 1 + 2 + 2 + 1)
    const int64_t *w = v + 3;
    CALL(inside, v[2], AT(w[0]), AT(w[1]), w[2], AT(w[3]), AT(w[4]));
    END
}

METHOD(tighten) {
    BEGIN(2 + 1 + 6)
    const int64_t *w = v + 3;
    CALL(tighten, v[2], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]));
    END
}

METHOD(middle) {
    BEGIN(2 + 3 + 4)
    const int64_t *w = v + 5;
    CALL(middle, v[2], v[3], v[4], AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]));
    END
}

static Pools pools_of(const int64_t *v) {
    Pools p = {v[0], {v[1], v[2]}, v[3], {v[4], v[5]}, {v[6], v[7]}};
    return p;
}

METHOD(largest) {
    int numbers;
    BEGIN(2 + 8 + 2)
    const Pools p = pools_of(v + 2);
    numbers = CALL(largest, &p, AT(v[10]), AT(v[11]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(numbers);
}

METHOD(means) {
    BEGIN(2 + 8 + 2)
    const Pools p = pools_of(v + 2);
    CALL(means, &p, AT(v[10]), AT(v[11]));
    END
}

METHOD(means_back) {
    BEGIN(2 + 8 + 2)
    const Pools p = pools_of(v + 2);
    CALL(means_back, &p, AT(v[10]), AT(v[11]));
    END
}

METHOD(candidates) {
    int numbers;
    BEGIN(2 + 8 + 5)
    const Pools p = pools_of(v + 2);
    numbers = CALL(candidates, &p, AT(v[10]), AT(v[11]), AT(v[12]), AT(v[13]), AT(v[14]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(numbers);
}

METHOD(select_places) {
    int within;
    BEGIN(2 + 9 + 6)
    const Choices s = {v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], AT(v[10])};
    const int64_t *w = v + 11;
    within = CALL(select_places, &s, AT(w[0]), AT(w[1]), AT(w[2]), AT(w[3]), AT(w[4]), AT(w[5]));
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(within);
}

METHOD(half_zero) {
    BEGIN(2 + 1 + 5)
    CALL(half_zero, v[2], AT(v[3]), AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7]));
    END
}

METHOD(half_zero_back) {
    BEGIN(2 + 1 + 7)
    CALL(half_zero_back, v[2], AT(v[3]), AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7]), AT(v[8]), AT(v[9]));
    END
}

METHOD(half_parallel) {
    BEGIN(2 + 1 + 5)
    CALL(half_parallel, v[2], AT(v[3]), AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7]));
    END
}

METHOD(half_parallel_back) {
    BEGIN(2 + 1 + 6)
    CALL(half_parallel_back, v[2], AT(v[3]), AT(v[4]), AT(v[5]), AT(v[6]), AT(v[7]), AT(v[8]));
    END
}

#define ENTRY(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    ENTRY(bend), ENTRY(bend_back), ENTRY(minimum), ENTRY(minimum_back), ENTRY(dot), ENTRY(spread), ENTRY(fold),
    ENTRY(adjoint), ENTRY(layers), ENTRY(touch), ENTRY(tangents), ENTRY(tangents_back), ENTRY(used),
    ENTRY(filled), ENTRY(fetch), ENTRY(lines), ENTRY(relu_lines), ENTRY(curve_lines), ENTRY(curve_tangents),
    ENTRY(lines_back), ENTRY(columns), ENTRY(columns_back), ENTRY(middle_back), ENTRY(meet), ENTRY(climb),
    ENTRY(adjoint_of_pooled), ENTRY(met_lines), ENTRY(relu_met), ENTRY(tighten), ENTRY(middle), ENTRY(unit_rows),
    ENTRY(interval), ENTRY(dense), ENTRY(spec), ENTRY(around), ENTRY(ordered), ENTRY(all_finite), ENTRY(inside),
    ENTRY(largest),
    ENTRY(means), ENTRY(means_back), ENTRY(candidates), ENTRY(upward), ENTRY(turned), ENTRY(forward),
    ENTRY(select_places), ENTRY(half_zero), ENTRY(half_zero_back), ENTRY(half_parallel),
    ENTRY(half_parallel_back), ENTRY(adjoint_of_bent),
    {NULL, NULL, 0, NULL},
};

static int loaded(PyObject *module) {
    const int failed = PyModule_AddIntConstant(module, "VERSION", VERSION);
    return failed ? failed : PyModule_AddIntConstant(module, "FUSES", fuses());
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, loaded}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_kernels", .m_size = 0, .m_methods = methods, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&definition); }
