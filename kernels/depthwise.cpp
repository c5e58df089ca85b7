// Depthwise 3x3 and 5x5 convolutions of NHWC maps, with the activations before and after them, for CPUs.
//
//     y = clamp(conv(clamp(x, lo_in, hi_in), w) + bias, lo_out, hi_out),   zero padding behind the first clamp
//
// float32 or bfloat16 maps, float32 weights [taps][C] and sums. One task is a block of 2 x 16 channels of one image:
// its map is copied, clamped, into a padded scratch that stays in the L1 or L2 cache, and the loops over taps run there
// without a test for borders. Plain C interface, no library but OpenMP: compiled and loaded by native.py.
//
// Bytes: forward reads x and writes y once; backward reads the gradient, x and y and writes x's gradient once. In
// separate operations the two clamps add a read and a write of each map forward, and two reads and a write backward.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int L = 16;     // channels of one vector
constexpr int HALVES = 2; // vectors of one block: 128 contiguous bytes of each pixel

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

V load(const float *p, int lanes) {
    V x{};
    if (lanes == L)
        std::memcpy(&x, p, sizeof x);
    else
        std::memcpy(&x, p, lanes * sizeof(float));
    return x;
}

void store(float *p, V x, int lanes) {
    if (lanes == L)
        std::memcpy(p, &x, sizeof x);
    else
        std::memcpy(p, &x, lanes * sizeof(float));
}

V load(const uint16_t *p, int lanes) { // bfloat16 is the upper half of a float32
    VH half{};
    if (lanes == L)
        std::memcpy(&half, p, sizeof half);
    else
        std::memcpy(&half, p, lanes * sizeof(uint16_t));
    VW wide = __builtin_convertvector(half, VW) << 16;
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
    VH half = __builtin_convertvector(chosen, VH);
    if (lanes == L)
        std::memcpy(p, &half, sizeof half);
    else
        std::memcpy(p, &half, lanes * sizeof(uint16_t));
}

struct Scratch { // one thread's, kept between calls
    V *data = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(data); }
    V *need(size_t vectors) {
        if (vectors > size) {
            std::free(data);
            data = static_cast<V *>(std::aligned_alloc(64, vectors * sizeof(V)));
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

// Rows and columns -before .. of a padded plane of `rows` x `columns` vectors, filled from the map by `value(offset)`.
template <class Value>
void fill(V *plane, int64_t rows, int64_t columns, int64_t top, int64_t left, int64_t h, int64_t w, int64_t c,
          Value value) {
    for (int64_t r = 0; r < rows; r++) {
        V *row = plane + r * columns;
        int64_t y = r - top;
        if (y < 0 || y >= h) {
            std::memset(static_cast<void *>(row), 0, columns * sizeof(V));
            continue;
        }
        int64_t q = 0;
        for (; q < left; q++)
            row[q] = V{};
        for (int64_t x = 0; x < w && q < columns; x++, q++)
            row[q] = value((y * w + x) * c);
        for (; q < columns; q++)
            row[q] = V{};
    }
}

template <int K, int S, int P> void cells(const V *s, int64_t columns, const V *weight, V start, V *out) {
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
void forward(const T *x, const float *w, const float *bias, T *y, const Shape &d) {
    const int64_t rows = padded<K, S>(d.oh), columns = padded<K, S>(d.ow);
    const int64_t blocks = (d.c + HALVES * L - 1) / (HALVES * L), tasks = d.n * blocks;
#pragma omp parallel for num_threads(d.threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t image = task / blocks, block = task % blocks;
        V *plane = scratch_memory.need(rows * columns);
        for (int half = 0; half < HALVES; half++) {
            const int64_t c = (block * HALVES + half) * L;
            const int lanes = lanes_of(d.c, c);
            if (!lanes)
                break;
            const T *source = x + image * d.h * d.w * d.c + c;
            fill(plane, rows, columns, d.top, d.left, d.h, d.w, d.c, [&](int64_t offset) {
                V value = load(source + offset, lanes);
                return d.clamp_in ? clamp(value, d.lo_in, d.hi_in) : value;
            });
            V weight[K * K];
            for (int t = 0; t < K * K; t++)
                weight[t] = load(w + t * d.c + c, lanes);
            T *target = y + image * d.oh * d.ow * d.c + c;
            correlate<K, S>(plane, columns, weight, bias ? load(bias + c, lanes) : V{}, d.oh, d.ow,
                            [&](int64_t oy, int64_t ox, V value) {
                                if (d.clamp_out)
                                    value = clamp(value, d.lo_out, d.hi_out);
                                store(target + (oy * d.ow + ox) * d.c, value, lanes);
                            });
        }
    }
}

// The weights' gradient of one block and image, added to `sums`; planes as in backward().
template <int K, int S>
void weight_gradient(const V *plane, int64_t columns, const V *grads, int64_t grad_columns, int64_t oh, int64_t ow,
                     V *sums) {
    V sum[K * K];
    for (int t = 0; t < K * K; t++)
        sum[t] = sums[t];
    for (int64_t y = 0; y < oh; y++)
        for (int64_t x = 0; x < ow; x++) {
            V grad = grads[y * grad_columns + x];
            const V *s = plane + y * S * columns + x * S;
#pragma GCC unroll 5
            for (int ky = 0; ky < K; ky++)
#pragma GCC unroll 5
                for (int kx = 0; kx < K; kx++)
                    sum[ky * K + kx] += grad * s[ky * columns + kx];
        }
    for (int t = 0; t < K * K; t++)
        sums[t] = sum[t];
}

// partial: [chunks][K * K + 1][C], the sums over each chunk of images: weights, then bias. grad_x may be null.
template <int K, int S, class T>
void backward(const T *grad, const T *x, const T *y, const float *w, T *grad_x, float *partial, int64_t chunks,
              const Shape &d) {
    constexpr int TAPS = K * K;
    const int64_t rows = padded<K, S>(d.oh), columns = padded<K, S>(d.ow);
    // The masked gradient lies in a plane with the margin that a correlation with the mirrored weights needs (stride 1).
    const int64_t above = S == 1 ? K - 1 - d.top : 0, before = S == 1 ? K - 1 - d.left : 0;
    const int64_t grad_rows = S == 1 ? d.h + K - 1 : d.oh, grad_columns = S == 1 ? d.w + K - 1 : d.ow;
    const int64_t blocks = (d.c + L - 1) / L, tasks = chunks * blocks;
#pragma omp parallel for num_threads(d.threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t chunk = task / blocks, c = task % blocks * L;
        const int lanes = lanes_of(d.c, c);
        V *plane = scratch_memory.need(2 * rows * columns + grad_rows * grad_columns);
        V *grads = plane + rows * columns, *spread = grads + grad_rows * grad_columns;
        V weight[TAPS], sums[TAPS], bias_sum{};
        for (int t = 0; t < TAPS; t++) {
            weight[S == 1 ? TAPS - 1 - t : t] = load(w + t * d.c + c, lanes);
            sums[t] = V{};
        }
        for (int64_t image = d.n * chunk / chunks; image < d.n * (chunk + 1) / chunks; image++) {
            const T *x_map = x + image * d.h * d.w * d.c + c;
            const int64_t out = image * d.oh * d.ow * d.c + c;
            fill(plane, rows, columns, d.top, d.left, d.h, d.w, d.c, [&](int64_t offset) {
                V value = load(x_map + offset, lanes);
                return d.clamp_in ? clamp(value, d.lo_in, d.hi_in) : value;
            });
            fill(grads, grad_rows, grad_columns, above, before, d.oh, d.ow, d.c, [&](int64_t offset) {
                V value = load(grad + out + offset, lanes);
                if (d.clamp_out)
                    value = pass(value, load(y + out + offset, lanes), d.lo_out, d.hi_out);
                bias_sum += value;
                return value;
            });
            weight_gradient<K, S>(plane, columns, grads + above * grad_columns + before, grad_columns, d.oh, d.ow,
                                  sums);
            if (!grad_x)
                continue;
            T *target = grad_x + image * d.h * d.w * d.c + c;
            auto put = [&](int64_t iy, int64_t ix, V value) {
                if (d.clamp_in)
                    value = pass(value, load(x_map + (iy * d.w + ix) * d.c, lanes), d.lo_in, d.hi_in);
                store(target + (iy * d.w + ix) * d.c, value, lanes);
            };
            if constexpr (S == 1) {
                correlate<K, 1>(grads, grad_columns, weight, V{}, d.h, d.w, put);
            } else {
                std::memset(static_cast<void *>(spread), 0, rows * columns * sizeof(V));
                for (int64_t oy = 0; oy < d.oh; oy++)
                    for (int64_t ox = 0; ox < d.ow; ox++) {
                        V value = grads[oy * grad_columns + ox];
                        V *cell = spread + oy * S * columns + ox * S;
#pragma GCC unroll 5
                        for (int ky = 0; ky < K; ky++)
#pragma GCC unroll 5
                            for (int kx = 0; kx < K; kx++)
                                cell[ky * columns + kx] += weight[ky * K + kx] * value;
                    }
                for (int64_t iy = 0; iy < d.h; iy++)
                    for (int64_t ix = 0; ix < d.w; ix++) {
                        const int64_t r = iy + d.top, q = ix + d.left;
                        put(iy, ix, r < rows && q < columns ? spread[r * columns + q] : V{});
                    }
            }
        }
        for (int t = 0; t < TAPS; t++)
            store(partial + (chunk * (TAPS + 1) + t) * d.c + c, sums[t], lanes);
        store(partial + (chunk * (TAPS + 1) + TAPS) * d.c + c, bias_sum, lanes);
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
