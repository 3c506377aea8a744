// The gradients of a convolution followed by max-pooling and ReLU, with arrays as in convolve.h.
//
// They are sparse: max-pooling sends back one cotangent of four, and ReLU cuts many of those. The
// remaining pixels are the winners. They differ between images, so vectors run along the rows of a
// single image here, over columns and channels.
//
// A cut pixel contributes nothing, even where a dense product would contribute NaN. A non-finite
// cotangent may affect the gradient of a few pixels around its window, but only in its own image.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "call.h"
#include "convolution.h"
#include "vectors.h"

namespace {

// kLanes consecutive images of layout (height, width, channels), each with padding after it. The
// buffer is thread-local: a thread may have only one such object at a time.
class Images {
 public:
  explicit Images(const Convolution& layer)
      : size_(layer.pixels() * layer.channels),
        stride_((size_ / kLanes + 2) * kLanes),
        places_(size_) {
    thread_local std::vector<float> buffer;
    data_ = reserve(buffer, kLanes * stride_);
    for (long n = 0, pixel = 0; n < size_; ++pixel) {
      for (long channel = 0; channel < layer.channels; ++channel, ++n) {
        places_[n] = channel * layer.plane() + pixel * layer.batch;
      }
    }
  }

  float* operator[](long image) const { return data_ + image * stride_; }

  void clear() { std::fill_n(data_, kLanes * stride_, 0.0f); }

  // Reads from an array with the batch last.
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
  std::vector<long> places_;  // of each element of an image in the array
  float* data_;
};

// The cotangent of a winning pixel, and the offset of the values that it multiplies.
struct Winner {
  float cotangent;
  int32_t place;  // kNowhere: cut by ReLU
};
constexpr int kNowhere = -1;
typedef int64_t Bits __attribute__((may_alias));  // a Winner; its sign is that of `place`

// The winners of kLanes images: for each image, `groups` lists of at most `items` winners.
// The buffer is thread-local: a thread may have only one such object at a time.
class Winners {
 public:
  Winners(long groups, long items) : groups_(groups), items_(items), counts_(kLanes * groups) {
    thread_local std::vector<Winner> buffer;
    buffer.resize(std::max<size_t>(buffer.size(), (counts_.size() + kLanes) * items + 1));
    spread_ = buffer.data();
    lists_ = spread_ + kLanes * items;
  }

  // Lists the winners of the first `images` images. The strides are those of the cotangent. `places`
  // has the offset of each item if the first pixel of the block won; `right` and `down` are added
  // if the winner is in the second column or row.
  void list(long images, const float* cotangent, const int8_t* winners, long group_stride,
            long item_stride, const std::vector<int32_t>& places, int32_t right, int32_t down) {
    for (long group = 0; group < groups_; ++group) {
      for (long item = 0; item < items_; ++item) {
        const long from = group * group_stride + item * item_stride;
        const Ints winner = load_bytes(winners + from);
        const Ints place = places[item] + (winner & 1) * right + (winner >> 1) * down;
        // Interleaves the vectors to pairs: first those of the even images, then of the odd ones.
        Floats even = load(cotangent + from);
        Floats odd = reinterpret_cast<Floats>(winner == kCut ? Ints{} + kNowhere : place);
        exchange<1>(even, odd);
        float* to = reinterpret_cast<float*>(spread_ + item * kLanes);
        store(to, even);
        store(to + kLanes, odd);
      }
      for (long image = 0; image < images; ++image) {
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

// Adds the contributions of the winners to kRows rows of sums: for each winner, the kRows rows of
// values at its place, times its cotangent. A row has kVectors half vectors.
template <int kRows, int kVectors>
void add_winners(const Winners& winners, long image, long group, const float* values, long row,
                 float* sums, long sums_row) {
  Halves kept[kRows][kVectors] = {};
  winners.for_each(image, group, [&](const Winner& winner) {
    const float* from = values + winner.place;
#pragma GCC unroll 6
    for (long y = 0; y < kRows; ++y) {
#pragma GCC unroll 5
      for (long v = 0; v < kVectors; ++v) {
        kept[y][v] += load_half(from + v * kHalf) * winner.cotangent;
      }
      from += row;
      asm("" : "+r"(from));  // otherwise every address takes a register
    }
  });
  for (long y = 0; y < kRows; ++y) {
    for (long v = 0; v < kVectors; ++v) {
      float* to = sums + y * sums_row + v * kHalf;
      store_half(to, load_half(to) + kept[y][v]);
    }
  }
}

// Each winner adds its input window, times its cotangent, to the gradient of its filter: one
// gradient for each group of images; the groups follow one another in the batch.
void kernel_gradient(const Convolution& layer, long groups, long group_size, const float* x,
                     const float* cotangent, const int8_t* winners, float* kernel_out,
                     float* bias_out) {
  thread_local std::vector<float> buffer;
  const long row = layer.width * layer.channels, used = kSize * layer.channels;
  const long vectors = (used + kHalf - 1) / kHalf, sums_row = vectors * kHalf;
  const long sums_size = kSize * sums_row;
  float* const sums = reserve(buffer, layer.filters * sums_size);
  std::fill_n(sums, layer.filters * sums_size, 0.0f);
  const std::vector<int32_t> corners = layer.corners();
  Images images(layer);
  Winners lists(layer.filters, layer.pooled_pixels());
  const long real = groups * group_size;
  for (long first = 0; first < layer.batch; first += kLanes) {
    const long count = std::min<long>(kLanes, real - first);
    if (count <= 0) break;  // the rest is padding
    images.read(x + first);
    lists.list(count, cotangent + first, winners + first, layer.pooled_plane(), layer.batch, corners,
               layer.channels, row);
    for (long image = 0; image < count; ++image) {
      for (long filter = 0; filter < layer.filters; ++filter) {
        for_tiles<kGradientVectors>(vectors, [&](auto tile, long v) {
          add_winners<kSize, tile()>(lists, image, filter, images[image] + v * kHalf, row,
                                     sums + filter * sums_size + v * kHalf, sums_row);
        });
      }
      if ((first + image + 1) % group_size) continue;
      for (long dy = 0; dy < kSize; ++dy) {
        for (long n = 0; n < used; ++n, kernel_out += layer.filters) {
          for (long filter = 0; filter < layer.filters; ++filter) {
            kernel_out[filter] = sums[filter * sums_size + dy * sums_row + n];
          }
        }
      }
      if (groups > 1) std::fill_n(sums, layer.filters * sums_size, 0.0f);
    }
  }
  for (long filter = 0; filter < layer.filters; ++filter) {
    const long begin = filter * layer.pooled_plane(), end = begin + layer.pooled_plane();
    if (groups == 1) {
      Floats total = {};
      for (long n = begin; n < end; n += kLanes) {
        total += load_bytes(winners + n) == kCut ? Floats{} : load(cotangent + n);
      }
      bias_out[filter] = sum_lanes(reinterpret_cast<const float*>(&total));
      continue;
    }
    for (long group = 0; group < groups; ++group) bias_out[group * layer.filters + filter] = 0.0f;
    for (long pixel = begin; pixel < end; pixel += layer.batch) {
      for (long image = 0; image < real; ++image) {
        float& total = bias_out[image / group_size * layer.filters + filter];
        total += winners[pixel + image] == kCut ? 0.0f : cotangent[pixel + image];
      }
    }
  }
}

// Each winner adds its filter's kernel, times its cotangent, to the gradient of its block's 6×6
// window. The kernel is surrounded by zeros, which cover the window's other row and column. Images
// after the first `real` are padding, and get 0.
void input_gradient(const Convolution& layer, long real, const float* kernel,
                    const float* cotangent, const int8_t* winners, float* out) {
  thread_local std::vector<float> buffer;
  const long row = layer.width * layer.channels, used = kSize * layer.channels;
  const long vectors = (used + layer.channels + kHalf - 1) / kHalf, kernel_row = vectors * kHalf;
  const long kernel_size = (kSize + 1) * kernel_row;
  const long size = layer.filters * kernel_size + kernel_row + layer.channels;
  float* const kernels = reserve(buffer, size);
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
    const long count = std::clamp(real - first, 0L, long{kLanes});
    images.clear();
    lists.list(count, cotangent + first, winners + first, layer.batch, layer.pooled_plane(), places,
               -layer.channels, -kernel_row);
    for (long image = 0; image < count; ++image) {
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

}  // namespace

// The kernel's gradient has the groups in front.
DEFINE_CALL(conv_pool_kernel_gradient, "ffbff", [](const Call& call) {
  kernel_gradient(convolution_of(call.shape(0), call.shape(1)), call.shape(3)[0],
                  call.number("images"), call.floats(0), call.floats(1), call.bytes(2),
                  call.floats(3), call.floats(4));
})

DEFINE_CALL(conv_pool_input_gradient, "ffbf", [](const Call& call) {
  input_gradient(convolution_of(call.shape(3), call.shape(1)), call.number("images"),
                 call.floats(0), call.floats(1), call.bytes(2), call.floats(3));
})
