// Depthwise 3x3 and 5x5 convolutions of NHWC maps, with the activations before and after them, for CPUs.
//
//     y = clamp(conv(clamp(x, lo_in, hi_in), w) + bias, lo_out, hi_out),   zero padding behind the first clamp
//
// float32 or bfloat16 maps, float32 weights [taps][C] and sums. One task is a block of up to 32 channels of one image:
// its map is copied, clamped, into padded planes of one vector of channels each, which stay in the L2 cache, and the
// loops over taps run there without a test for borders. A vector is as wide as the machine's registers: a wider one is
// split into several, and a loop's sums no longer fit in them.
// Plain C interface, no library but OpenMP: compiled and loaded by native.py.
//
// Bytes: forward reads x and writes y once; backward reads the gradient, x and y and writes x's gradient once. In
// separate operations the two clamps add a read and a write of each map forward, and two reads and a write backward.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int L = 16;    // channels of one vector
constexpr int SUMS = 25; // vectors of sums that a loop keeps in registers, beside its operands
#else
constexpr int L = 8;
constexpr int SUMS = 10;
#endif
constexpr int PARTS = 32 / L;              // vectors of one block at most: 128 contiguous bytes of each pixel
constexpr size_t PLANES_BYTES = 320 << 10; // of one block: what an L2 cache of 512 KiB keeps beside the maps' lines
constexpr int AHEAD = 16;                  // pixels: the caches do not see far strides coming by themselves

typedef float V __attribute__((vector_size(4 * L)));
typedef int32_t VI __attribute__((vector_size(4 * L)));
typedef uint32_t VW __attribute__((vector_size(4 * L)));
typedef uint16_t VH __attribute__((vector_size(2 * L)));

struct Shape {
    int64_t n, h, w, c, oh, ow;
    int top, left;
    float lo_in, hi_in, lo_out, hi_out;
    int clamp_in, clamp_out, threads;
};

V splat(float value) { return value - V{}; }

V clamp(V x, float lo, float hi) { // NaN stays NaN
    x = x < splat(lo) ? splat(lo) : x;
    return x > splat(hi) ? splat(hi) : x;
}

V pass(V grad, V x, float lo, float hi) { // the gradient of clamp, as PyTorch's hardtanh has it
    VI stopped = (x <= splat(lo)) | (x >= splat(hi));
    return stopped ? V{} : grad;
}

// The last channels, where they do not fill a vector, apart: a copy of variable length goes through memory.
#define RARELY __attribute__((noinline, cold))

template <class T, class Vector> RARELY void copy_some(T *to, const Vector &from, int lanes) {
    std::memcpy(to, &from, lanes * sizeof(T));
}

template <class Vector, class T> RARELY Vector load_some(const T *p, int lanes) {
    Vector x{};
    std::memcpy(&x, p, lanes * sizeof(T));
    return x;
}

template <class Vector, class T> Vector load_raw(const T *p, int lanes) {
    if (__builtin_expect(lanes != L, 0))
        return load_some<Vector>(p, lanes);
    Vector x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

template <class Vector, class T> void store_raw(T *p, Vector x, int lanes) {
    if (__builtin_expect(lanes != L, 0))
        copy_some(p, x, lanes);
    else
        std::memcpy(p, &x, sizeof x);
}

V load(const float *p, int lanes) { return load_raw<V>(p, lanes); }

void store(float *p, V x, int lanes) { store_raw(p, x, lanes); }

V load(const uint16_t *p, int lanes) { // bfloat16 is the upper half of a float32
    VW wide = __builtin_convertvector(load_raw<VH>(p, lanes), VW) << 16;
    V x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
}

void store(uint16_t *p, V x, int lanes) { // rounds to the nearest, ties to even
    VW bits;
    std::memcpy(&bits, &x, sizeof bits);
    VW rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    VI number = x == x;
    VW chosen = number ? rounded : (VW{} + 0x7fc0);
    store_raw(p, __builtin_convertvector(chosen, VH), lanes);
}

struct Scratch { // one thread's, kept between calls
    V *data = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(data); }
    V *need(size_t vectors) {
        if (vectors > size) {
            std::free(data);
            data = static_cast<V *>(std::aligned_alloc(64, (vectors * sizeof(V) + 63) / 64 * 64));
            size = data ? vectors : 0;
        }
        if (!data)
            std::abort();
        return data;
    }
};
thread_local Scratch scratch_memory;

int lanes_of(int64_t channels, int64_t c) {
    int64_t left = channels - c;
    return left >= L ? L : left > 0 ? static_cast<int>(left) : 0;
}

int parts_left(int64_t channels, int64_t c, int parts) {
    int64_t left = (channels - c + L - 1) / L;
    return left < parts ? static_cast<int>(left) : parts;
}

template <class T> void prefetch(const T *p) { // of one block's pixel
    for (size_t byte = 0; byte < PARTS * L * sizeof(T); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char *>(p) + byte);
}

// Vectors of channels that one task takes, where each needs planes of `cells` vectors.
int parts_of(int64_t cells) {
    int parts = PARTS;
    while (parts > 1 && parts * cells * sizeof(V) > PLANES_BYTES)
        parts /= 2;
    return parts;
}

// A padded plane of `rows` x `columns` vectors for each of `parts` vectors of channels, `stride` vectors apart, filled
// from the map by `value(offset, part)`; `ahead(offset)` is called for pixels that come soon.
template <class Ahead, class Value>
void fill(V *planes, int64_t stride, int parts, int64_t rows, int64_t columns, int64_t top, int64_t left, int64_t h,
          int64_t w, int64_t c, Ahead ahead, Value value) {
    const int64_t first = left < columns ? left : columns, last = left + w < columns ? left + w : columns;
    for (int64_t r = 0; r < rows; r++) {
        V *row = planes + r * columns;
        const int64_t y = r - top;
        if (y < 0 || y >= h) {
            for (int part = 0; part < parts; part++)
                std::memset(static_cast<void *>(row + part * stride), 0, columns * sizeof(V));
            continue;
        }
        for (int part = 0; part < parts; part++) {
            for (int64_t q = 0; q < first; q++)
                row[part * stride + q] = V{};
            for (int64_t q = last; q < columns; q++)
                row[part * stride + q] = V{};
        }
        int64_t offset = y * w * c;
        for (int64_t q = first; q < last; q++, offset += c) {
            ahead(offset + AHEAD * c);
            for (int part = 0; part < parts; part++)
                row[part * stride + q] = value(offset, part);
        }
    }
}

template <int K, int S, int P>
inline __attribute__((always_inline)) void cells(const V *s, int64_t columns, const V *weight, V start, V *out) {
    V sum[P];
    for (int p = 0; p < P; p++)
        sum[p] = start;
#pragma GCC unroll 5
    for (int ky = 0; ky < K; ky++)
#pragma GCC unroll 5
        for (int kx = 0; kx < K; kx++) {
            V tap = weight[ky * K + kx];
#pragma GCC unroll 8
            for (int p = 0; p < P; p++)
                sum[p] += tap * s[ky * columns + p * S + kx];
        }
    for (int p = 0; p < P; p++)
        out[p] = sum[p];
}

// Calls put(y, x, value) for each cell of the correlation of a padded plane with the weights.
template <int K, int S, class Put>
void correlate(const V *plane, int64_t columns, const V *weight, V start, int64_t oh, int64_t ow, Put put) {
    V out[8];
    for (int64_t y = 0; y < oh; y++) {
        const V *row = plane + y * S * columns;
        int64_t x = 0;
        for (; x + 8 <= ow; x += 8) {
            cells<K, S, 8>(row + x * S, columns, weight, start, out);
            for (int p = 0; p < 8; p++)
                put(y, x + p, out[p]);
        }
        for (; x + 4 <= ow; x += 4) {
            cells<K, S, 4>(row + x * S, columns, weight, start, out);
            for (int p = 0; p < 4; p++)
                put(y, x + p, out[p]);
        }
        for (; x < ow; x++) {
            cells<K, S, 1>(row + x * S, columns, weight, start, out);
            put(y, x, out[0]);
        }
    }
}

template <int K, int S> int64_t padded(int64_t outputs) { return (outputs - 1) * S + K; }

template <int K, int S, class T>
void forward(const T *x, const float *w, const float *bias, T *y, const Shape &shape) {
    const int64_t rows = padded<K, S>(shape.oh), columns = padded<K, S>(shape.ow), cells = rows * columns;
    const int parts = parts_of(cells);
    const int64_t blocks = (shape.c + parts * L - 1) / (parts * L), tasks = shape.n * blocks;
#pragma omp parallel for num_threads(shape.threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; task++) {
        const Shape d = shape; // a copy, which no store can change: the compiler keeps it in registers
        const int64_t image = task / blocks, first = task % blocks * parts * L;
        const T *source = x + image * d.h * d.w * d.c + first;
        V *planes = scratch_memory.need(parts * cells);
        fill(planes, cells, parts_left(d.c, first, parts), rows, columns, d.top, d.left, d.h, d.w, d.c,
             [&](int64_t offset) { prefetch(source + offset); },
             [&](int64_t offset, int part) {
                 V value = load(source + offset + part * L, lanes_of(d.c, first + part * L));
                 return d.clamp_in ? clamp(value, d.lo_in, d.hi_in) : value;
             });
        for (int part = 0; part < parts_left(d.c, first, parts); part++) {
            const int64_t c = first + part * L;
            const int lanes = lanes_of(d.c, c);
            V weight[K * K];
            for (int t = 0; t < K * K; t++)
                weight[t] = load(w + t * d.c + c, lanes);
            T *target = y + image * d.oh * d.ow * d.c + c;
            correlate<K, S>(planes + part * cells, columns, weight, bias ? load(bias + c, lanes) : V{}, d.oh, d.ow,
                            [&](int64_t oy, int64_t ox, V value) {
                                if (d.clamp_out)
                                    value = clamp(value, d.lo_out, d.hi_out);
                                store(target + (oy * d.ow + ox) * d.c, value, lanes);
                            });
        }
    }
}

// The weights' gradient of one vector and image, added to `sums`; planes as in backward(). Rows FROM .. of the kernel,
// as many at once as there are registers for.
template <int K, int S, int FROM = 0>
void weight_gradient(const V *plane, int64_t columns, const V *grads, int64_t grad_columns, int64_t oh, int64_t ow,
                     V *sums) {
    constexpr int ROWS = K - FROM < SUMS / K ? K - FROM : SUMS / K;
    V sum[ROWS * K];
    for (int t = 0; t < ROWS * K; t++)
        sum[t] = sums[FROM * K + t];
    for (int64_t y = 0; y < oh; y++)
        for (int64_t x = 0; x < ow; x++) {
            V grad = grads[y * grad_columns + x];
            const V *s = plane + (y * S + FROM) * columns + x * S;
#pragma GCC unroll 5
            for (int ky = 0; ky < ROWS; ky++)
#pragma GCC unroll 5
                for (int kx = 0; kx < K; kx++)
                    sum[ky * K + kx] += grad * s[ky * columns + kx];
        }
    for (int t = 0; t < ROWS * K; t++)
        sums[FROM * K + t] = sum[t];
    if constexpr (FROM + ROWS < K)
        weight_gradient<K, S, FROM + ROWS>(plane, columns, grads, grad_columns, oh, ow, sums);
}

// partial: [chunks][K * K + 1][C], the sums over each chunk of images: weights, then bias. grad_x may be null.
template <int K, int S, class T>
void backward(const T *grad, const T *x, const T *y, const float *w, T *grad_x, float *partial, int64_t chunks,
              const Shape &shape) {
    constexpr int TAPS = K * K;
    const int64_t rows = padded<K, S>(shape.oh), columns = padded<K, S>(shape.ow);
    // The masked gradient lies in a plane with the margin that a correlation with the mirrored weights needs (stride 1).
    const int64_t above = S == 1 ? K - 1 - shape.top : 0, before = S == 1 ? K - 1 - shape.left : 0;
    const int64_t grad_rows = S == 1 ? shape.h + K - 1 : shape.oh, grad_columns = S == 1 ? shape.w + K - 1 : shape.ow;
    const int64_t cells = rows * columns, grad_cells = grad_rows * grad_columns;
    const int parts = parts_of(cells + grad_cells);
    const int64_t blocks = (shape.c + parts * L - 1) / (parts * L), tasks = chunks * blocks;
#pragma omp parallel for num_threads(shape.threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; task++) {
        const Shape d = shape; // as in forward()
        const int64_t chunk = task / blocks, first = task % blocks * parts * L;
        const int used = parts_left(d.c, first, parts);
        V *planes = scratch_memory.need(parts * (cells + grad_cells) + cells);
        V *grads = planes + parts * cells, *spread = grads + parts * grad_cells;
        V weight[PARTS][TAPS], sums[PARTS][TAPS], bias_sum[PARTS];
        for (int part = 0; part < used; part++) {
            const int64_t c = first + part * L;
            for (int t = 0; t < TAPS; t++) {
                weight[part][S == 1 ? TAPS - 1 - t : t] = load(w + t * d.c + c, lanes_of(d.c, c));
                sums[part][t] = V{};
            }
            bias_sum[part] = V{};
        }
        for (int64_t image = d.n * chunk / chunks; image < d.n * (chunk + 1) / chunks; image++) {
            const T *x_map = x + image * d.h * d.w * d.c + first;
            const T *y_map = y + image * d.oh * d.ow * d.c + first, *g_map = grad + (y_map - y);
            fill(planes, cells, used, rows, columns, d.top, d.left, d.h, d.w, d.c,
                 [&](int64_t offset) { prefetch(x_map + offset); },
                 [&](int64_t offset, int part) {
                     V value = load(x_map + offset + part * L, lanes_of(d.c, first + part * L));
                     return d.clamp_in ? clamp(value, d.lo_in, d.hi_in) : value;
                 });
            fill(grads, grad_cells, used, grad_rows, grad_columns, above, before, d.oh, d.ow, d.c,
                 [&](int64_t offset) {
                     prefetch(g_map + offset);
                     prefetch(y_map + offset);
                 },
                 [&](int64_t offset, int part) {
                     const int lanes = lanes_of(d.c, first + part * L);
                     V value = load(g_map + offset + part * L, lanes);
                     if (d.clamp_out)
                         value = pass(value, load(y_map + offset + part * L, lanes), d.lo_out, d.hi_out);
                     bias_sum[part] += value;
                     return value;
                 });
            for (int part = 0; part < used; part++) {
                const V *plane = planes + part * cells, *grad_plane = grads + part * grad_cells;
                const int lanes = lanes_of(d.c, first + part * L);
                weight_gradient<K, S>(plane, columns, grad_plane + above * grad_columns + before, grad_columns, d.oh,
                                      d.ow, sums[part]);
                if (!grad_x)
                    continue;
                const T *own = x_map + part * L;
                T *target = grad_x + (own - x);
                auto put = [&](int64_t iy, int64_t ix, V value) {
                    if (d.clamp_in)
                        value = pass(value, load(own + (iy * d.w + ix) * d.c, lanes), d.lo_in, d.hi_in);
                    store(target + (iy * d.w + ix) * d.c, value, lanes);
                };
                if constexpr (S == 1) {
                    correlate<K, 1>(grad_plane, grad_columns, weight[part], V{}, d.h, d.w, put);
                } else {
                    std::memset(static_cast<void *>(spread), 0, cells * sizeof(V));
                    for (int64_t oy = 0; oy < d.oh; oy++)
                        for (int64_t ox = 0; ox < d.ow; ox++) {
                            V value = grad_plane[oy * grad_columns + ox];
                            V *cell = spread + oy * S * columns + ox * S;
#pragma GCC unroll 5
                            for (int ky = 0; ky < K; ky++)
#pragma GCC unroll 5
                                for (int kx = 0; kx < K; kx++)
                                    cell[ky * columns + kx] += weight[part][ky * K + kx] * value;
                        }
                    for (int64_t iy = 0; iy < d.h; iy++)
                        for (int64_t ix = 0; ix < d.w; ix++) {
                            const int64_t r = iy + d.top, q = ix + d.left;
                            put(iy, ix, r < rows && q < columns ? spread[r * columns + q] : V{});
                        }
                }
            }
        }
        for (int part = 0; part < used; part++) {
            const int64_t c = first + part * L;
            float *out = partial + chunk * (TAPS + 1) * d.c + c;
            for (int t = 0; t < TAPS; t++)
                store(out + t * d.c, sums[part][t], lanes_of(d.c, c));
            store(out + TAPS * d.c, bias_sum[part], lanes_of(d.c, c));
        }
    }
}

} // namespace

// kernel is 3 or 5, stride 1 or 2; bf16: whether the maps are bfloat16. Returns 0, or 1 for a kernel that is neither.
#define DISPATCH(NAME, ...)                                                                                            \
    if (kernel == 3 && stride == 1)                                                                                    \
        NAME<3, 1>(__VA_ARGS__);                                                                                       \
    else if (kernel == 3 && stride == 2)                                                                               \
        NAME<3, 2>(__VA_ARGS__);                                                                                       \
    else if (kernel == 5 && stride == 1)                                                                               \
        NAME<5, 1>(__VA_ARGS__);                                                                                       \
    else if (kernel == 5 && stride == 2)                                                                               \
        NAME<5, 2>(__VA_ARGS__);                                                                                       \
    else                                                                                                               \
        return 1;                                                                                                      \
    return 0;

extern "C" int pplfast_depthwise_forward(const void *x, const float *w, const float *bias, void *y, int kernel,
                                         int stride, int bf16, const Shape *shape) {
    if (bf16) {
        DISPATCH(forward, static_cast<const uint16_t *>(x), w, bias, static_cast<uint16_t *>(y), *shape)
    }
    DISPATCH(forward, static_cast<const float *>(x), w, bias, static_cast<float *>(y), *shape)
}

extern "C" int pplfast_depthwise_backward(const void *grad, const void *x, const void *y, const float *w, void *grad_x,
                                          float *partial, int64_t chunks, int kernel, int stride, int bf16,
                                          const Shape *shape) {
    if (bf16) {
        DISPATCH(backward, static_cast<const uint16_t *>(grad), static_cast<const uint16_t *>(x),
                 static_cast<const uint16_t *>(y), w, static_cast<uint16_t *>(grad_x), partial, chunks, *shape)
    }
    DISPATCH(backward, static_cast<const float *>(grad), static_cast<const float *>(x), static_cast<const float *>(y),
             w, static_cast<float *>(grad_x), partial, chunks, *shape)
}
