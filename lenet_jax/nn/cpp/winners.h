// The gradients of a convolution after which a pool and ReLU come.
//
// They are sparse: the pool sends back one cotangent of four, and ReLU cuts many of those. What is
// left are the winners. They differ from image to image, so that vectors go along the rows of one
// image here, over columns and channels.
//
// What is cut adds nothing, even beside a NaN, where a dense product would add NaN. A cotangent
// that is not finite may spoil the gradient of a few pixels around the window, of its image alone.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "convolution.h"
#include "vectors.h"

namespace {

// kLanes images one after the other, each (height, width, channels), with room behind it. A thread
// has room for one such object at a time.
class Images {
 public:
  explicit Images(const Convolution& layer)
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
void kernel_gradient(const Convolution& layer, const float* x, const float* cotangent,
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
void input_gradient(const Convolution& layer, const float* kernel, const float* cotangent,
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

}  // namespace
