// The layers of LeNet and their gradients, for XLA on a CPU: convolution, 2×2 max-pool, bias and
// ReLU in one pass, and the linear layer.
//
// Arrays have the batch last, a multiple of kLanes: x (c, h, w, b), kernel (5, 5, c, k), output
// (k, h2, w2, b). A vector holds one pixel of kLanes images, so that nothing is ever shuffled, and
// every loop is a tile of sums that stay in registers. All that is written in between is the pooled
// cotangent at the pixels that won: a band of rows at a time, or all rows of kLanes images.
//
// The four pixels that a block of the pool compares meet the same terms in the same order, in the
// same instructions: equal windows give equal sums, and ties stay ties.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Floats32 = ffi::Buffer<ffi::F32>;
using Bytes8 = ffi::Buffer<ffi::S8>;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Sizes of the tiles, by how many registers there are to hold their sums.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kForwardFilters = 6, kKernelFilters = 4, kInputChannels = 3, kInputPixels = 5;
constexpr int kLinearRows = 12;
#else
constexpr int kForwardFilters = 3, kKernelFilters = 2, kInputChannels = 1, kInputPixels = 5;
constexpr int kLinearRows = 6;
#endif

constexpr int kSize = 5;            // of the kernel
constexpr int kPhases = 4;          // of a block of the pool: pixels, in reading order
constexpr int kCut = kPhases;       // in place of the winner's phase, where ReLU cuts
constexpr long kBandBytes = 24000;  // of a band of gradients, which is to stay in the first cache

typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
void store(float* to, Floats values) { *reinterpret_cast<Floats*>(to) = values; }

// Room for `size` numbers that begins with a cache line, so that no vector lies across two.
float* reserve(std::vector<float>& room, long size) {
  constexpr std::uintptr_t kLine = 64;
  room.resize(size + kLine / sizeof(float));
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(room.data()) + kLine - 1) /
                                  kLine * kLine);
}

float sum_lanes(const float* lanes) {
  float sums[kLanes / 2];
  for (int lane = 0; lane < kLanes / 2; ++lane) sums[lane] = lanes[lane] + lanes[lane + kLanes / 2];
  for (long half = kLanes / 4; half > 0; half /= 2) {
    for (long lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

struct Layer {
  long channels, height, width, batch, filters;

  long pooled_height() const { return (height - kSize + 1) / 2; }
  long pooled_width() const { return (width - kSize + 1) / 2; }
  long row() const { return width * batch; }
  long plane() const { return height * row(); }
  long pooled_row() const { return pooled_width() * batch; }
  long pooled_plane() const { return pooled_height() * pooled_row(); }

  // Of the weight for a filter: (row, column, channel, filter) in the kernel.
  long weight(long dy, long dx, long channel, long filter) const {
    return ((dy * kSize + dx) * channels + channel) * filters + filter;
  }
};

template <int kMost, class Run>
void with_constant(long number, Run run) {
  if constexpr (kMost > 1) {
    if (number < kMost) return with_constant<kMost - 1>(number, run);
  }
  run(std::integral_constant<int, kMost>());
}

// Calls run(size, start) for tiles of at most kMost that divide `count` evenly among them.
template <int kMost, class Run>
void for_tiles(long count, Run run) {
  for (long start = 0, tiles = (count + kMost - 1) / kMost; tiles > 0; --tiles) {
    const long size = (count - start + tiles - 1) / tiles;
    with_constant<kMost>(size, [&](auto constant) { run(constant, start); });
    start += size;
  }
}

// One pooled pixel of kFilters filters.
template <int kFilters>
void forward_pixel(const Layer& layer, const float* x, const float* kernel, const float* bias,
                   float* out, int8_t* winners) {
  Floats sums[kPhases][kFilters] = {};
  for (long channel = 0; channel < layer.channels; ++channel) {
    for (long dy = 0; dy < kSize; ++dy) {
#pragma GCC unroll 5
      for (long dx = 0; dx < kSize; ++dx) {
        const float* pixel = x + channel * layer.plane() + dy * layer.row() + dx * layer.batch;
        const Floats phases[kPhases] = {load(pixel), load(pixel + layer.batch),
                                        load(pixel + layer.row()),
                                        load(pixel + layer.row() + layer.batch)};
        const float* weights = kernel + layer.weight(dy, dx, channel, 0);
        for (long filter = 0; filter < kFilters; ++filter) {
          for (int phase = 0; phase < kPhases; ++phase) {
            sums[phase][filter] += phases[phase] * weights[filter];
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (long filter = 0; filter < kFilters; ++filter) {
    Floats best = sums[0][filter];
    Ints winner = {};
    for (int phase = 1; phase < kPhases; ++phase) {
      const Floats other = best != best ? best : sums[phase][filter];  // NaN stays
      winner = other <= best ? winner : Ints{} + phase;
      best = other <= best ? best : other;
    }
    best += bias[filter];
    winner = best > 0.0f ? winner : Ints{} + kCut;
    store(out + filter * layer.pooled_plane(), best <= 0.0f ? Floats{} : best);
    *reinterpret_cast<Bytes*>(winners + filter * layer.pooled_plane()) =
        __builtin_convertvector(winner, Bytes);
  }
}

void forward(const Layer& layer, const float* x, const float* kernel, const float* bias,
             float* out, int8_t* winners) {
  for_tiles<kForwardFilters>(layer.filters, [&](auto filters, long filter) {
    for (long i = 0; i < layer.pooled_height(); ++i) {
      for (long j = 0; j < layer.pooled_width(); ++j) {
        for (long image = 0; image < layer.batch; image += kLanes) {
          const long to = filter * layer.pooled_plane() + i * layer.pooled_row() +
                          j * layer.batch + image;
          forward_pixel<filters()>(layer, x + 2 * i * layer.row() + 2 * j * layer.batch + image,
                                   kernel + filter, bias + filter, out + to, winners + to);
        }
      }
    }
  });
}

// Gives a row of pooled cotangents to the pixels that won: two rows of kLanes images, with zeros.
void spread_row(const Layer& layer, const float* cotangent, const int8_t* winners, float* spread,
                Floats& total) {
  for (long j = 0; j < layer.pooled_width(); ++j) {
    const Floats values = load(cotangent + j * layer.batch);
    const Bytes bytes = *reinterpret_cast<const Bytes*>(winners + j * layer.batch);
    const Ints winner = __builtin_convertvector(bytes, Ints);
    total += winner == kCut ? Floats{} : values;
    for (int phase = 0; phase < kPhases; ++phase) {
      float* to = spread + ((phase / 2 * layer.pooled_width() + j) * 2 + phase % 2) * kLanes;
      store(to, winner == phase ? values : Floats{});
    }
  }
}

// Adds to the gradients of one kernel row of kFilters filters, for one channel, what the pixels of
// a band give. Two pixels share the six inputs that they see.
template <int kFilters>
void add_kernel_gradients(const Layer& layer, const float* x, const float* spread, long rows,
                          float* sums) {
  const long width = 2 * layer.pooled_width();
  const long plane = rows * width * kLanes;
  Floats kept[kFilters][kSize];
  for (long filter = 0; filter < kFilters; ++filter) {
    for (long dx = 0; dx < kSize; ++dx) {
      kept[filter][dx] = load(sums + (filter * kSize + dx) * kLanes);
    }
  }
  for (long row = 0; row < rows; ++row) {
    for (long column = 0; column < width; column += 2) {
      Floats seen[kSize + 1];
#pragma GCC unroll 6
      for (long dx = 0; dx <= kSize; ++dx) {
        seen[dx] = load(x + row * layer.row() + (column + dx) * layer.batch);
      }
      for (long filter = 0; filter < kFilters; ++filter) {
        const float* from = spread + filter * plane + (row * width + column) * kLanes;
#pragma GCC unroll 2
        for (long pixel = 0; pixel < 2; ++pixel) {
          const Floats cotangent = load(from + pixel * kLanes);
#pragma GCC unroll 5
          for (long dx = 0; dx < kSize; ++dx) kept[filter][dx] += cotangent * seen[dx + pixel];
        }
      }
    }
  }
  for (long filter = 0; filter < kFilters; ++filter) {
    for (long dx = 0; dx < kSize; ++dx) {
      store(sums + (filter * kSize + dx) * kLanes, kept[filter][dx]);
    }
  }
}

void kernel_gradient(const Layer& layer, const float* x, const float* cotangent,
                     const int8_t* winners, float* kernel_out, float* bias_out) {
  thread_local std::vector<float> spread_room, sums_room;
  for_tiles<kKernelFilters>(layer.filters, [&](auto filters, long first) {
    constexpr int kFilters = filters();
    const long pair = 4 * layer.pooled_width() * kLanes;  // two rows of a filter's band
    const long fitting = kBandBytes / (pair * kFilters * long(sizeof(float)));
    const long band = std::clamp<long>(fitting, 1, layer.pooled_height());
    const long row_sums = kFilters * kSize * kLanes;
    float* const spread = reserve(spread_room, band * pair * kFilters);
    float* const sums = reserve(sums_room, layer.channels * kSize * row_sums);
    std::fill_n(sums, layer.channels * kSize * row_sums, 0.0f);
    Floats totals[kFilters] = {};
    for (long image = 0; image < layer.batch; image += kLanes) {
      for (long top = 0; top < layer.pooled_height(); top += band) {
        const long pairs = std::min(band, layer.pooled_height() - top);
        for (long filter = 0; filter < kFilters; ++filter) {
          for (long i = 0; i < pairs; ++i) {
            const long from = (first + filter) * layer.pooled_plane() +
                              (top + i) * layer.pooled_row() + image;
            spread_row(layer, cotangent + from, winners + from,
                       spread + (filter * pairs + i) * pair, totals[filter]);
          }
        }
        for (long n = 0; n < layer.channels * kSize; ++n) {
          const float* seen =
              x + n / kSize * layer.plane() + (2 * top + n % kSize) * layer.row() + image;
          add_kernel_gradients<kFilters>(layer, seen, spread, 2 * pairs, sums + n * row_sums);
        }
      }
    }
    for (long n = 0; n < layer.channels * kSize; ++n) {
      for (long m = 0; m < kFilters * kSize; ++m) {
        kernel_out[layer.weight(n % kSize, m % kSize, n / kSize, first + m / kSize)] =
            sum_lanes(sums + n * row_sums + m * kLanes);
      }
    }
    for (long filter = 0; filter < kFilters; ++filter) {
      bias_out[first + filter] = sum_lanes(reinterpret_cast<const float*>(&totals[filter]));
    }
  });
}

// Adds to one row of kChannels inputs what kPixels pixels of each of the rows that saw it give.
template <int kChannels, int kPixels>
void add_input_gradients(const Layer& layer, const float* kernel, const float* spread,
                         long first_dy, long last_dy, float* out) {
  constexpr int kSeen = kPixels + kSize - 1;
  const long row = 2 * layer.pooled_width() * kLanes, plane = 2 * layer.pooled_height() * row;
  Floats kept[kChannels][kSeen];
  for (long channel = 0; channel < kChannels; ++channel) {
    for (long n = 0; n < kSeen; ++n) {
      kept[channel][n] = load(out + channel * layer.plane() + n * layer.batch);
    }
  }
  for (long dy = first_dy; dy <= last_dy; ++dy) {
    for (long filter = 0; filter < layer.filters; ++filter) {
      Floats cotangents[kPixels];
      for (long pixel = 0; pixel < kPixels; ++pixel) {
        cotangents[pixel] = load(spread + filter * plane - dy * row + pixel * kLanes);
      }
#pragma GCC unroll 5
      for (long dx = 0; dx < kSize; ++dx) {
        for (long channel = 0; channel < kChannels; ++channel) {
          const float weight = kernel[layer.weight(dy, dx, channel, filter)];
          for (long pixel = 0; pixel < kPixels; ++pixel) {
            kept[channel][pixel + dx] += cotangents[pixel] * weight;
          }
        }
      }
    }
  }
  for (long channel = 0; channel < kChannels; ++channel) {
    for (long n = 0; n < kSeen; ++n) {
      store(out + channel * layer.plane() + n * layer.batch, kept[channel][n]);
    }
  }
}

void input_gradient(const Layer& layer, const float* kernel, const float* cotangent,
                    const int8_t* winners, float* out) {
  thread_local std::vector<float> room;
  const long width = 2 * layer.pooled_width(), height = 2 * layer.pooled_height();
  float* const spread = reserve(room, layer.filters * height * width * kLanes);
  std::fill_n(out, layer.channels * layer.plane(), 0.0f);
  for (long image = 0; image < layer.batch; image += kLanes) {
    Floats total = {};
    for (long n = 0; n < layer.filters * layer.pooled_height(); ++n) {
      const long from = n * layer.pooled_row() + image;
      spread_row(layer, cotangent + from, winners + from, spread + 2 * n * width * kLanes, total);
    }
    for (long y = 0; y < layer.height; ++y) {
      const long first_dy = std::max(0L, y - height + 1), last_dy = std::min(kSize - 1L, y);
      for_tiles<kInputPixels>(width, [&](auto pixels, long column) {
        for_tiles<kInputChannels>(layer.channels, [&](auto channels, long channel) {
          add_input_gradients<channels(), pixels()>(
              layer, kernel + layer.weight(0, 0, channel, 0),
              spread + (y * width + column) * kLanes, first_dy, last_dy,
              out + channel * layer.plane() + y * layer.row() + column * layer.batch + image);
        });
      });
    }
  }
}

// A matrix, whichever way its rows lie.
struct Matrix {
  const float* numbers;
  long rows, columns, row_stride, column_stride;
};

// kRows rows of the product of a matrix with x (columns, width), plus the bias, if there is one;
// kVectors vectors of the width, of the last of which `last` lanes are written.
template <int kRows, int kVectors>
void multiply_tile(const Matrix& matrix, const float* x, long x_stride, const float* bias,
                   float* out, long out_stride, long last) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 12
  for (long row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) sums[row][v] = Floats{} + (bias ? bias[row] : 0.0f);
  }
  for (long column = 0; column < matrix.columns; ++column) {
    Floats values[kVectors];
    for (int v = 0; v < kVectors; ++v) values[v] = load(x + column * x_stride + v * kLanes);
    const float* weights = matrix.numbers + column * matrix.column_stride;
#pragma GCC unroll 12
    for (long row = 0; row < kRows; ++row) {
      const float weight = weights[row * matrix.row_stride];
      for (int v = 0; v < kVectors; ++v) sums[row][v] += values[v] * weight;
    }
  }
#pragma GCC unroll 12
  for (long row = 0; row < kRows; ++row) {
    float* to = out + row * out_stride;
    for (int v = 0; v + 1 < kVectors; ++v) store(to + v * kLanes, sums[row][v]);
    std::memcpy(to + (kVectors - 1) * kLanes, &sums[row][kVectors - 1], last * sizeof(float));
  }
}

void multiply(const Matrix& matrix, const float* x, long x_stride, const float* bias, long width,
              float* out) {
  for_tiles<kLinearRows>(matrix.rows, [&](auto rows, long row) {
    Matrix part = matrix;
    part.numbers += row * matrix.row_stride;
    const float* part_bias = bias ? bias + row : nullptr;
    for (long column = 0; column < width; column += 2 * kLanes) {
      const long left = width - column;
      float* to = out + row * width + column;
      if (left > kLanes) {
        multiply_tile<rows(), 2>(part, x + column, x_stride, part_bias, to, width,
                                 std::min<long>(left - kLanes, kLanes));
      } else {
        multiply_tile<rows(), 1>(part, x + column, x_stride, part_bias, to, width, left);
      }
    }
  });
}

template <class Images, class Maps>
Layer layer_of(Images& x, Maps& maps) {
  const auto x_shape = x.dimensions(), maps_shape = maps.dimensions();
  return {x_shape[0], x_shape[1], x_shape[2], x_shape[3], maps_shape[0]};
}

ffi::Error call_forward(Floats32 x, Floats32 kernel, Floats32 bias, ffi::Result<Floats32> out,
                        ffi::Result<Bytes8> winners) {
  forward(layer_of(x, *out), x.typed_data(), kernel.typed_data(), bias.typed_data(),
          out->typed_data(), winners->typed_data());
  return ffi::Error::Success();
}

ffi::Error call_kernel_gradient(Floats32 x, Floats32 cotangent, Bytes8 winners,
                                ffi::Result<Floats32> kernel, ffi::Result<Floats32> bias) {
  kernel_gradient(layer_of(x, cotangent), x.typed_data(), cotangent.typed_data(),
                  winners.typed_data(), kernel->typed_data(), bias->typed_data());
  return ffi::Error::Success();
}

ffi::Error call_input_gradient(Floats32 kernel, Floats32 cotangent, Bytes8 winners,
                               ffi::Result<Floats32> x) {
  input_gradient(layer_of(*x, cotangent), kernel.typed_data(), cotangent.typed_data(),
                 winners.typed_data(), x->typed_data());
  return ffi::Error::Success();
}

// The kernel is (n, k): the output takes its columns, the gradient of the input its rows.
ffi::Error call_linear(Floats32 x, Floats32 kernel, Floats32 bias, ffi::Result<Floats32> out) {
  const long inputs = kernel.dimensions()[0], units = kernel.dimensions()[1];
  const long batch = x.dimensions()[1];
  multiply({kernel.typed_data(), units, inputs, 1, units}, x.typed_data(), batch,
           bias.typed_data(), batch, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error call_linear_input_gradient(Floats32 kernel, Floats32 cotangent,
                                      ffi::Result<Floats32> x) {
  const long inputs = kernel.dimensions()[0], units = kernel.dimensions()[1];
  const long batch = cotangent.dimensions()[1];
  multiply({kernel.typed_data(), inputs, units, units, 1}, cotangent.typed_data(), batch, nullptr,
           batch, x->typed_data());
  return ffi::Error::Success();
}

// Here the vectors go along the units: the cotangent is transposed, with room behind each row.
ffi::Error call_linear_kernel_gradient(Floats32 x, Floats32 cotangent,
                                       ffi::Result<Floats32> kernel, ffi::Result<Floats32> bias) {
  thread_local std::vector<float> room;
  const long inputs = x.dimensions()[0], batch = x.dimensions()[1];
  const long units = cotangent.dimensions()[0], row = (units + kLanes - 1) / kLanes * kLanes;
  float* const transposed = reserve(room, batch * row);
  std::fill_n(transposed, batch * row, 0.0f);
  std::fill_n(bias->typed_data(), units, 0.0f);
  for (long image = 0; image < batch; ++image) {
    for (long unit = 0; unit < units; ++unit) {
      const float value = cotangent.typed_data()[unit * batch + image];
      transposed[image * row + unit] = value;
      bias->typed_data()[unit] += value;
    }
  }
  multiply({x.typed_data(), inputs, batch, batch, 1}, transposed, row, nullptr, units,
           kernel->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    conv_pool_forward, call_forward,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>().Ret<Bytes8>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    conv_pool_kernel_gradient, call_kernel_gradient,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Bytes8>().Ret<Floats32>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    conv_pool_input_gradient, call_input_gradient,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Bytes8>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    linear_forward, call_linear,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    linear_kernel_gradient, call_linear_kernel_gradient,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(linear_input_gradient, call_linear_input_gradient,
                              ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>());
