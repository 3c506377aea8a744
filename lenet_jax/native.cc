// The layers of LeNet and their gradients, for XLA on a CPU: convolution, 2×2 max-pool, bias and
// ReLU in one pass, and the linear layer.
//
// Arrays have the batch last, a multiple of kLanes: x (c, h, w, b), kernel (5, 5, c, k), output
// (k, h2, w2, b). In the forward pass a vector holds one pixel of kLanes images, so that nothing is
// shuffled. The four pixels that a block of the pool compares meet the same terms in the same
// order, in the same instructions: equal windows give equal sums, and ties stay ties.
//
// A convolution's gradients are sparse: the pool sends back one cotangent of four, and ReLU cuts
// many of those. What is left are the winners. They differ from image to image, so that vectors go
// along the rows of one image here, over columns and channels.
//
// Every loop is a tile of sums that stay in registers.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
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
constexpr int kForwardFilters = 6, kGradientVectors = 5;
constexpr int kLinearRows = 12;
#else
constexpr int kForwardFilters = 3, kGradientVectors = 2;
constexpr int kLinearRows = 6;
#endif

constexpr int kHalf = kLanes == 4 ? 4 : 8;  // lanes of a vector for rows of few numbers
constexpr int kSize = 5;                    // of the kernel
constexpr int kPhases = 4;                  // of a block of the pool: pixels, in reading order
constexpr int kCut = kPhases;               // in place of the winner's phase, where ReLU cuts

typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef float Halves __attribute__((vector_size(4 * kHalf), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
void store(float* to, Floats values) { *reinterpret_cast<Floats*>(to) = values; }
Halves load_half(const float* from) { return *reinterpret_cast<const Halves*>(from); }
void store_half(float* to, Halves values) { *reinterpret_cast<Halves*>(to) = values; }

// By way of 16 bits: at once, g++ 12 would convert one lane after the other.
Ints load_bytes(const int8_t* from) {
  const Bytes bytes = *reinterpret_cast<const Bytes*>(from);
  return __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Ints);
}
void store_bytes(int8_t* to, Ints values) {
  *reinterpret_cast<Bytes*>(to) =
      __builtin_convertvector(__builtin_convertvector(values, Shorts), Bytes);
}

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

  long pixels() const { return height * width; }
  long pooled_pixels() const { return pooled_height() * pooled_width(); }

  // Where the windows of the blocks begin, in an image that lies (height, width, channels).
  std::vector<int32_t> corners() const {
    std::vector<int32_t> found;
    for (long y = 0; y < pooled_height(); ++y) {
      for (long x = 0; x < pooled_width(); ++x) found.push_back(2 * (y * width + x) * channels);
    }
    return found;
  }

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
    store_bytes(winners + filter * layer.pooled_plane(), winner);
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

// Exchanges bit kBit of the lane with the one that tells a from b.
template <int kBit, int... kLane>
__attribute__((always_inline)) inline void exchange(Floats& a, Floats& b,
                                                    std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  const Floats low =
      __builtin_shufflevector(a, b, (kLane & kBit ? kLanes + kLane - kBit : kLane)...);
  b = __builtin_shufflevector(a, b, (kLane & kBit ? kLanes + kLane : kLane + kBit)...);
#else
  const Floats low =
      __builtin_shuffle(a, b, Ints{(kLane & kBit ? kLanes + kLane - kBit : kLane)...});
  b = __builtin_shuffle(a, b, Ints{(kLane & kBit ? kLanes + kLane : kLane + kBit)...});
#endif
  a = low;
}

template <int kBit>
__attribute__((always_inline)) inline void exchange(Floats& a, Floats& b) {
  exchange<kBit>(a, b, std::make_integer_sequence<int, kLanes>());
}

template <int kBit = kLanes / 2>
__attribute__((always_inline)) inline void transpose(Floats (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int row = 0; row < kLanes; ++row) {
    if ((row & kBit) == 0) exchange<kBit>(rows[row], rows[row + kBit]);
  }
  if constexpr (kBit > 1) transpose<kBit / 2>(rows);
}

// kLanes images one after the other, each (height, width, channels), with room behind it. A thread
// has room for one such object at a time.
class Images {
 public:
  explicit Images(const Layer& layer)
      : size_(layer.pixels() * layer.channels),
        stride_((size_ / kLanes + 2) * kLanes),
        places_(size_) {
    thread_local std::vector<float> room;
    numbers_ = reserve(room, kLanes * stride_);
    for (long n = 0, pixel = 0; n < size_; ++pixel) {
      for (long channel = 0; channel < layer.channels; ++channel, ++n) {
        places_[n] = channel * layer.plane() + pixel * layer.batch;
      }
    }
  }

  float* operator[](long image) const { return numbers_ + image * stride_; }

  void clear() { std::fill_n(numbers_, kLanes * stride_, 0.0f); }

  // From an array that has the batch last.
  void read(const float* x) {
    for (long n = 0; n < size_; n += kLanes) {
      Floats rows[kLanes];
#pragma GCC unroll 16
      for (long row = 0; row < kLanes; ++row) {
        rows[row] = load(x + places_[std::min(n + row, size_ - 1)]);
      }
      transpose(rows);
#pragma GCC unroll 16
      for (long image = 0; image < kLanes; ++image) store((*this)[image] + n, rows[image]);
    }
  }

  void write(float* x) const {
    for (long n = 0; n < size_; n += kLanes) {
      Floats rows[kLanes];
#pragma GCC unroll 16
      for (long image = 0; image < kLanes; ++image) rows[image] = load((*this)[image] + n);
      transpose(rows);
#pragma GCC unroll 16
      for (long row = 0; row < kLanes; ++row) {
        if (n + row < size_) store(x + places_[n + row], rows[row]);
      }
    }
  }

 private:
  long size_, stride_;
  std::vector<long> places_;  // of an image's numbers in the array
  float* numbers_;
};

// The cotangent of a pixel that won, and the place of the numbers that it multiplies.
struct Winner {
  float cotangent;
  int32_t place;  // kNowhere: it is cut
};
constexpr int kNowhere = -1;
typedef int64_t Bits __attribute__((may_alias));  // of a winner, of which the place has the sign

// The winners of kLanes images, each image's in groups of so many items at most. A thread has room
// for one such object at a time.
class Winners {
 public:
  Winners(long groups, long items) : groups_(groups), items_(items), counts_(kLanes * groups) {
    thread_local std::vector<Winner> room;
    room.resize(std::max<size_t>(room.size(), (counts_.size() + kLanes) * items + 1));
    spread_ = room.data();
    lists_ = spread_ + kLanes * items;
  }

  // Lists the winners of the first kLanes images. The strides are those of the cotangent. `places`
  // are those of the items if the first pixel of a block won; for the second column, or row, it is
  // so far to the `right`, or `down`.
  void list(const float* cotangent, const int8_t* winners, long group_stride, long item_stride,
            const std::vector<int32_t>& places, int32_t right, int32_t down) {
    for (long group = 0; group < groups_; ++group) {
      for (long item = 0; item < items_; ++item) {
        const long from = group * group_stride + item * item_stride;
        const Ints winner = load_bytes(winners + from);
        const Ints place = places[item] + (winner & 1) * right + (winner >> 1) * down;
        // Two vectors become the pairs of the even images, and those of the odd ones.
        Floats even = load(cotangent + from);
        Floats odd = reinterpret_cast<Floats>(winner == kCut ? Ints{} + kNowhere : place);
        exchange<1>(even, odd);
        float* to = reinterpret_cast<float*>(spread_ + item * kLanes);
        store(to, even);
        store(to + kLanes, odd);
      }
      for (long image = 0; image < kLanes; ++image) {
        const Winner* from = spread_ + image % 2 * (kLanes / 2) + image / 2;
        Winner* const first = lists_ + (image * groups_ + group) * items_;
        Winner* to = first;
        for (long item = 0; item < items_; ++item, from += kLanes) {
          const Bits winner = *reinterpret_cast<const Bits*>(from);
          *reinterpret_cast<Bits*>(to) = winner;
          to += winner >= 0;
        }
        counts_[image * groups_ + group] = to - first;
      }
    }
  }

  template <class Run>
  void for_each(long image, long group, Run run) const {
    const Winner* const first = lists_ + (image * groups_ + group) * items_;
    const Winner* const last = first + counts_[image * groups_ + group];
    for (const Winner* winner = first; winner != last; ++winner) run(*winner);
  }

 private:
  long groups_, items_;
  std::vector<long> counts_;
  Winner *spread_, *lists_;
};

// Adds to kRows rows of sums what the winners give: as many rows of numbers as begin at their
// places, times their cotangents. The rows are kVectors halves long.
template <int kRows, int kVectors>
void add_winners(const Winners& winners, long image, long group, const float* numbers, long row,
                 float* sums, long sums_row) {
  Halves kept[kRows][kVectors] = {};
  winners.for_each(image, group, [&](const Winner& winner) {
    const float* from = numbers + winner.place;
#pragma GCC unroll 6
    for (long y = 0; y < kRows; ++y) {
#pragma GCC unroll 5
      for (long v = 0; v < kVectors; ++v) {
        kept[y][v] += load_half(from + v * kHalf) * winner.cotangent;
      }
      from += row;
      asm("" : "+r"(from));  // or else every address gets a register of its own
    }
  });
  for (long y = 0; y < kRows; ++y) {
    for (long v = 0; v < kVectors; ++v) {
      float* to = sums + y * sums_row + v * kHalf;
      store_half(to, load_half(to) + kept[y][v]);
    }
  }
}

// Every winner adds the window that it saw to the gradient of its filter.
void kernel_gradient(const Layer& layer, const float* x, const float* cotangent,
                     const int8_t* winners, float* kernel_out, float* bias_out) {
  thread_local std::vector<float> room;
  const long row = layer.width * layer.channels, used = kSize * layer.channels;
  const long vectors = (used + kHalf - 1) / kHalf, sums_row = vectors * kHalf;
  const long sums_size = kSize * sums_row;
  float* const sums = reserve(room, layer.filters * sums_size);
  std::fill_n(sums, layer.filters * sums_size, 0.0f);
  const std::vector<int32_t> corners = layer.corners();
  Images images(layer);
  Winners lists(layer.filters, layer.pooled_pixels());
  for (long first = 0; first < layer.batch; first += kLanes) {
    images.read(x + first);
    lists.list(cotangent + first, winners + first, layer.pooled_plane(), layer.batch, corners,
               layer.channels, row);
    for (long image = 0; image < kLanes; ++image) {
      for (long filter = 0; filter < layer.filters; ++filter) {
        for_tiles<kGradientVectors>(vectors, [&](auto tile, long v) {
          add_winners<kSize, tile()>(lists, image, filter, images[image] + v * kHalf, row,
                                     sums + filter * sums_size + v * kHalf, sums_row);
        });
      }
    }
  }
  for (long filter = 0; filter < layer.filters; ++filter) {
    for (long dy = 0; dy < kSize; ++dy) {
      for (long n = 0; n < used; ++n) {
        kernel_out[(dy * used + n) * layer.filters + filter] =
            sums[filter * sums_size + dy * sums_row + n];
      }
    }
    Floats total = {};
    const long begin = filter * layer.pooled_plane(), end = begin + layer.pooled_plane();
    for (long n = begin; n < end; n += kLanes) {
      total += load_bytes(winners + n) == kCut ? Floats{} : load(cotangent + n);
    }
    bias_out[filter] = sum_lanes(reinterpret_cast<const float*>(&total));
  }
}

// Every winner adds its filter's kernel to the gradient of what its block saw: six rows of as many
// columns, of which the first or the last of both meet zeros that lie around the kernel.
void input_gradient(const Layer& layer, const float* kernel, const float* cotangent,
                    const int8_t* winners, float* out) {
  thread_local std::vector<float> room;
  const long row = layer.width * layer.channels, used = kSize * layer.channels;
  const long vectors = (used + layer.channels + kHalf - 1) / kHalf, kernel_row = vectors * kHalf;
  const long kernel_size = (kSize + 1) * kernel_row;
  const long size = layer.filters * kernel_size + kernel_row + layer.channels;
  float* const kernels = reserve(room, size);
  std::fill_n(kernels, size, 0.0f);
  std::vector<int32_t> places(layer.filters);
  for (long filter = 0; filter < layer.filters; ++filter) {
    places[filter] = filter * kernel_size + kernel_row + layer.channels;
    for (long dy = 0; dy < kSize; ++dy) {
      for (long n = 0; n < used; ++n) {
        kernels[places[filter] + dy * kernel_row + n] =
            kernel[(dy * used + n) * layer.filters + filter];
      }
    }
  }
  const std::vector<int32_t> corners = layer.corners();
  Images images(layer);
  Winners lists(layer.pooled_pixels(), layer.filters);
  for (long first = 0; first < layer.batch; first += kLanes) {
    images.clear();
    lists.list(cotangent + first, winners + first, layer.batch, layer.pooled_plane(), places,
               -layer.channels, -kernel_row);
    for (long image = 0; image < kLanes; ++image) {
      for (long pixel = 0; pixel < layer.pooled_pixels(); ++pixel) {
        for_tiles<kGradientVectors>(vectors, [&](auto tile, long v) {
          add_winners<kSize + 1, tile()>(lists, image, pixel, kernels + v * kHalf, kernel_row,
                                         images[image] + corners[pixel] + v * kHalf, row);
        });
      }
    }
    images.write(out + first);
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
