// Convolution, 2×2 max-pooling, bias and ReLU in one pass.
//
// Arrays have the batch as their last axis: x (c, h, w, b), kernel (5, 5, c, k), output
// (k, h2, w2, b). It is a multiple of kLanes: a vector holds one pixel of kLanes images, and nothing
// is shuffled. Or it is a half or a quarter of kLanes, and a vector holds neighbours in a row, of
// which there must be as many. The four pixels of a pooling block add the same terms in the same
// order with the same instructions: equal windows give equal sums, and ties stay ties.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "convolution.h"
#include "vectors.h"

namespace {

// Products of float32.
struct Single {
  typedef Floats Vector;

  static Vector read(const float* from) { return load(from); }
  static void add(Floats& sum, Vector values, float weight) { sum += values * weight; }
};

// Of two vectors with kPixels neighbouring pixels each, makes one of every other pixel, and one of
// the pixels between them.
template <int kPixels, int... kLane>
void separate(Floats& first, Floats& second, std::integer_sequence<int, kLane...>) {
  constexpr int kImages = kLanes / kPixels;
#if defined(__clang__)
  const Floats even =
      __builtin_shufflevector(first, second, (kLane + kLane / kImages * kImages)...);
  second =
      __builtin_shufflevector(first, second, (kLane + (kLane / kImages + 1) * kImages)...);
#else
  const Floats even =
      __builtin_shuffle(first, second, Ints{(kLane + kLane / kImages * kImages)...});
  second = __builtin_shuffle(first, second, Ints{(kLane + (kLane / kImages + 1) * kImages)...});
#endif
  first = even;
}

// Neighbouring pooled pixels of kFilters filters: one, for kLanes images, or several, for as many
// fewer.
template <class Product, int kFilters>
void forward_pixels(const Convolution& layer, long pixels, const float* x, const float* kernel,
                    const float* bias, float* out, int8_t* winners) {
  const long next = pixels == 1 ? layer.batch : kLanes;
  Floats sums[kPhases][kFilters] = {};
  for (long channel = 0; channel < layer.channels; ++channel) {
    for (long dy = 0; dy < kSize; ++dy) {
#pragma GCC unroll 5
      for (long dx = 0; dx < kSize; ++dx) {
        const float* pixel = x + channel * layer.plane() + dy * layer.row() + dx * layer.batch;
        const typename Product::Vector phases[kPhases] = {
            Product::read(pixel), Product::read(pixel + next), Product::read(pixel + layer.row()),
            Product::read(pixel + layer.row() + next)};
        const float* weights = kernel + layer.weight(dy, dx, channel, 0);
        for (long filter = 0; filter < kFilters; ++filter) {
          for (int phase = 0; phase < kPhases; ++phase) {
            Product::add(sums[phase][filter], phases[phase], weights[filter]);
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (long filter = 0; filter < kFilters; ++filter) {
    for (int row = 0; row < kPhases; row += 2) {
      Floats &even = sums[row][filter], &odd = sums[row + 1][filter];
      constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
      if (pixels == 2) separate<2>(even, odd, kAll);
      if (pixels == 4) separate<4>(even, odd, kAll);
    }
    Floats best = sums[0][filter];
    Ints winner = {};
    for (int phase = 1; phase < kPhases; ++phase) {
      const Floats other = best != best ? best : sums[phase][filter];  // NaN propagates
      winner = other <= best ? winner : Ints{} + phase;
      best = other <= best ? best : other;
    }
    best += bias[filter];
    winner = best > 0.0f ? winner : Ints{} + kCut;
    store(out + filter * layer.pooled_plane(), best <= 0.0f ? Floats{} : best);
    store_bytes(winners + filter * layer.pooled_plane(), winner);
  }
}

template <class Product>
void convolve(const Convolution& layer, const float* x, const float* kernel, const float* bias,
              float* out, int8_t* winners) {
  const long pixels = layer.batch < kLanes ? kLanes / layer.batch : 1;  // of a vector
  for_tiles<kForwardFilters>(layer.filters, [&](auto filters, long filter) {
    for (long i = 0; i < layer.pooled_height(); ++i) {
      for (long j = 0; j < layer.pooled_width(); j += pixels) {
        const long column = std::min(j, layer.pooled_width() - pixels);  // the last ones twice
        for (long image = 0; image < layer.batch; image += kLanes) {
          const long from = 2 * (i * layer.row() + column * layer.batch) + image;
          const long to = filter * layer.pooled_plane() + i * layer.pooled_row() +
                          column * layer.batch + image;
          forward_pixels<Product, filters()>(layer, pixels, x + from, kernel + filter,
                                             bias + filter, out + to, winners + to);
        }
      }
    }
  });
}

}  // namespace
