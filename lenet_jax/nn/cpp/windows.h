// A convolution of any size, and its kernel gradient.
//
// As in convolution.h a vector holds one pixel of kLanes images. Every output adds the same terms in
// the same order, so that equal windows give equal sums, however many threads share the work.

#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "threads.h"
#include "vectors.h"

namespace {

// x has its padding already: planes of (height, width, batch), one for each channel.
struct Windows {
  long channels, plane, width, batch;  // of x; `plane` floats from one channel to the next
  long rows, columns, filters;         // of the kernel (rows, columns, channels, filters)
  long row_stride, column_stride;
  long out_height, out_width;

  long taps() const { return rows * columns * channels; }
  long pixels() const { return out_height * out_width; }

  // Offset in x of each weight's pixel, for the first output pixel, in the order of the kernel.
  std::vector<long> offsets() const {
    std::vector<long> all;
    for (long row = 0; row < rows; ++row) {
      for (long column = 0; column < columns; ++column) {
        for (long channel = 0; channel < channels; ++channel) {
          all.push_back(channel * plane + (row * width + column) * batch);
        }
      }
    }
    return all;
  }

  // Offset in x of an output pixel's window.
  long corner(long pixel) const {
    const long y = pixel / out_width, x = pixel % out_width;
    return (y * row_stride * width + x * column_stride) * batch;
  }
};

template <int kRows, int kVectors>
void forward_tile(const Windows& layer, const long* offsets, const float* x, const float* kernel,
                  float* out) {
  Floats sums[kRows][kVectors] = {};
  for (long tap = 0; tap < layer.taps(); ++tap) {
    Floats values[kVectors];
    for (int v = 0; v < kVectors; ++v) values[v] = load(x + offsets[tap] + v * kLanes);
    const float* weights = kernel + tap * layer.filters;
#pragma GCC unroll 12
    for (long row = 0; row < kRows; ++row) {
      for (int v = 0; v < kVectors; ++v) sums[row][v] += values[v] * weights[row];
    }
  }
  const long map = layer.pixels() * layer.batch;
#pragma GCC unroll 12
  for (long row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) store(out + row * map + v * kLanes, sums[row][v]);
  }
}

void forward(const Windows& layer, Threads& threads, const float* x, const float* kernel,
             float* out) {
  const std::vector<long> offsets = layer.offsets();
  threads.share(layer.pixels(), [&](long pixel) {
    for (long image = 0; image < layer.batch;) {
      const float* window = x + layer.corner(pixel) + image;
      float* to = out + pixel * layer.batch + image;
      const bool pair = image + 2 * kLanes <= layer.batch;
      for_tiles<kLinearRows>(layer.filters, [&](auto rows, long row) {
        float* maps = to + row * layer.pixels() * layer.batch;
        if (pair) {
          forward_tile<rows(), 2>(layer, offsets.data(), window, kernel + row, maps);
        } else {
          forward_tile<rows(), 1>(layer, offsets.data(), window, kernel + row, maps);
        }
      });
      image += pair ? 2 * kLanes : kLanes;
    }
  });
}

// Adds to kRows rows of the kernel's gradient, of kVectors vectors of filters, the terms of one row
// of output pixels. The cotangent is (pixels, batch, filters), `stride` floats from image to image.
template <int kRows, int kVectors>
void kernel_gradient_tile(const Windows& layer, const float* const (&x)[kRows],
                          const float* cotangent, long stride, float* out) {
  Floats sums[kRows][kVectors] = {};
  for (long pixel = 0; pixel < layer.out_width; ++pixel) {
    const long first = pixel * layer.column_stride * layer.batch;
    for (long image = 0; image < layer.batch; ++image) {
      Floats values[kVectors];
      for (int v = 0; v < kVectors; ++v) values[v] = load(cotangent + v * kLanes);
      cotangent += stride;
#pragma GCC unroll 12
      for (long row = 0; row < kRows; ++row) {
        const float value = x[row][first + image];
        for (int v = 0; v < kVectors; ++v) sums[row][v] += values[v] * value;
      }
    }
  }
#pragma GCC unroll 12
  for (long row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      float* to = out + row * stride + v * kLanes;
      store(to, load(to) + sums[row][v]);
    }
  }
}

// Turns the cotangent of a pixel, (filters, pixels, batch), into (batch, filters).
void transpose_pixel(const Windows& layer, const float* cotangent, long stride, float* out) {
  const long map = layer.pixels() * layer.batch;
  for (long filter = 0; filter < stride; filter += kLanes) {
    for (long image = 0; image < layer.batch; image += kLanes) {
      Floats lanes[kLanes] = {};
      const long count = std::min<long>(layer.filters - filter, kLanes);
      for (long i = 0; i < count; ++i) lanes[i] = load(cotangent + (filter + i) * map + image);
      transpose(lanes);
      for (long i = 0; i < kLanes; ++i) store(out + (image + i) * stride + filter, lanes[i]);
    }
  }
}

void kernel_gradient(const Windows& layer, Threads& threads, const float* x,
                     const float* cotangent, float* kernel) {
  const std::vector<long> offsets = layer.offsets();
  const long stride = (layer.filters + kLanes - 1) / kLanes * kLanes;  // whole vectors
  thread_local std::vector<float> turned_buffer, sums_buffer;
  float* const turned = reserve(turned_buffer, layer.pixels() * layer.batch * stride);
  float* const sums = reserve(sums_buffer, layer.taps() * stride);
  threads.share(layer.pixels(), [&](long pixel) {
    transpose_pixel(layer, cotangent + pixel * layer.batch, stride,
                    turned + pixel * layer.batch * stride);
  });
  constexpr long kBlock = 4 * kLinearRows;  // which read a row of the cotangent together
  threads.share((layer.taps() + kBlock - 1) / kBlock, [&](long block) {
    const long start = block * kBlock, count = std::min(layer.taps() - start, kBlock);
    std::fill_n(sums + start * stride, count * stride, 0.0f);
    for (long y = 0; y < layer.out_height; ++y) {
      const float* from = turned + y * layer.out_width * layer.batch * stride;
      for_tiles<kLinearRows>(count, [&](auto rows, long row) {
        const float* windows[rows()];
        for (long i = 0; i < rows(); ++i) {
          windows[i] = x + offsets[start + row + i] + layer.corner(y * layer.out_width);
        }
        for (long filter = 0; filter < stride;) {
          float* to = sums + (start + row) * stride + filter;
          const bool pair = filter + 2 * kLanes <= stride;
          if (pair) {
            kernel_gradient_tile<rows(), 2>(layer, windows, from + filter, stride, to);
          } else {
            kernel_gradient_tile<rows(), 1>(layer, windows, from + filter, stride, to);
          }
          filter += pair ? 2 * kLanes : kLanes;
        }
      });
    }
    for (long row = start; row < start + count; ++row) {
      std::memcpy(kernel + row * layer.filters, sums + row * stride,
                  layer.filters * sizeof(float));
    }
  });
}

}  // namespace
