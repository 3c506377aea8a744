// Convolution, 2×2 max-pooling, bias and ReLU in one pass.
//
// Arrays have the batch as their last axis, a multiple of kLanes: x (c, h, w, b), kernel
// (5, 5, c, k), output (k, h2, w2, b). A vector holds one pixel of kLanes images, so nothing is
// shuffled. The four pixels of a pooling block add the same terms in the same order with the same
// instructions: equal windows give equal sums, and ties stay ties.

#pragma once

#include <cstdint>

#include "convolution.h"
#include "vectors.h"

namespace {

// Products of float32.
struct Single {
  typedef Floats Vector;

  static Vector read(const float* from) { return load(from); }
  static void add(Floats& sum, Vector values, float weight) { sum += values * weight; }
};

// One pooled pixel of kFilters filters, for kLanes images.
template <class Product, int kFilters>
void forward_pixel(const Convolution& layer, const float* x, const float* kernel, const float* bias,
                   float* out, int8_t* winners) {
  Floats sums[kPhases][kFilters] = {};
  for (long channel = 0; channel < layer.channels; ++channel) {
    for (long dy = 0; dy < kSize; ++dy) {
#pragma GCC unroll 5
      for (long dx = 0; dx < kSize; ++dx) {
        const float* pixel = x + channel * layer.plane() + dy * layer.row() + dx * layer.batch;
        const typename Product::Vector phases[kPhases] = {
            Product::read(pixel), Product::read(pixel + layer.batch),
            Product::read(pixel + layer.row()), Product::read(pixel + layer.row() + layer.batch)};
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
  for_tiles<kForwardFilters>(layer.filters, [&](auto filters, long filter) {
    for (long i = 0; i < layer.pooled_height(); ++i) {
      for (long j = 0; j < layer.pooled_width(); ++j) {
        for (long image = 0; image < layer.batch; image += kLanes) {
          const long to = filter * layer.pooled_plane() + i * layer.pooled_row() +
                          j * layer.batch + image;
          forward_pixel<Product, filters()>(layer, x + 2 * i * layer.row() + 2 * j * layer.batch + image,
                                   kernel + filter, bias + filter, out + to, winners + to);
        }
      }
    }
  });
}

}  // namespace
