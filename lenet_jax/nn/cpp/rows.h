// A convolution of few images, and its kernel gradient.
//
// A vector holds neighbours in a row of (pixel, image), or filters, so that no batch is padded. An
// output adds the same terms in the same order as in windows.h.

#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "threads.h"
#include "vectors.h"
#include "windows.h"

namespace {

constexpr long kFewImages = 16;  // so many, and a multiple of the lanes, are for windows.h

// A copy of the images with their padding. Columns a stride apart lie beside each other, so that a
// tap sees consecutive floats from a row of outputs; kLanes more after these may be read.
struct Padded {
  long stride, batch;
  long phase, row, plane;  // floats of the columns a stride apart, of a row, of a channel
  float* data;             // until the next copy on this thread

  Padded(const Windows& layer, const float* x) : stride(layer.column_stride), batch(layer.batch) {
    const long height = (layer.out_height - 1) * layer.row_stride + layer.rows;
    const long width = (layer.out_width - 1) * stride + layer.columns;
    phase = (width + stride - 1) / stride * batch;
    row = stride * phase;
    plane = height * row;
    const long size = layer.channels * plane + kLanes;
    thread_local std::vector<float> buffer;
    data = reserve(buffer, size);
    std::fill_n(data, size, 0.0f);
    const long top = std::max(layer.top, 0L), bottom = std::min(layer.top + layer.height, height);
    const long first = std::max(layer.left, 0L), last = std::min(layer.left + layer.width, width);
    const long columns = stride == 1 ? last - first : 1;  // copied at once
    for (long channel = 0; channel < layer.channels; ++channel) {
      for (long y = top; y < bottom; ++y) {
        for (long column = first; column < last; column += columns) {
          const float* from = x + layer.at(channel, y - layer.top, column - layer.left);
          std::copy_n(from, columns * batch, data + at(channel, y, column));
        }
      }
    }
  }

  long at(long channel, long y, long column) const {
    return channel * plane + y * row + column % stride * phase + column / stride * batch;
  }

  // The taps of the first window, in the order of the kernel.
  std::vector<Tap> taps(const Windows& layer) const {
    std::vector<Tap> taps;
    taps.reserve(layer.taps());
    for (long y = 0; y < layer.rows; ++y) {
      for (long column = 0; column < layer.columns; ++column) {
        for (long channel = 0; channel < layer.channels; ++channel) {
          const long weights = static_cast<long>(taps.size()) * layer.filters;
          taps.push_back({at(channel, y, column), weights});
        }
      }
    }
    return taps;
  }
};

// Calls run(vectors, start, step, lanes) for one or two vectors at once, `step` floats apart. They
// cover `count` floats, and overlap so as not to end beyond these. If one vector is more than all,
// `lanes` of it count.
template <class Run>
void for_vectors(long count, Run run) {
  constexpr std::integral_constant<int, 1> kOne;
  constexpr std::integral_constant<int, 2> kTwo;
  if (count < kLanes) return run(kOne, 0L, 0L, count);
  for (long start = 0; start < count; start += 2 * kLanes) {
    const long rest = std::min<long>(count - start, 2 * kLanes);
    if (rest > kLanes) {
      run(kTwo, start, rest - kLanes, long{kLanes});
    } else {
      run(kOne, count - kLanes, 0L, long{kLanes});
    }
  }
}

// A lone sum is taken twice: for some processors GCC rounds the products of one, and of no others.
template <int kRows, int kVectors>
void small_tile(Taps taps, const float* x, const float* kernel, float* out, long map, long step,
                long lanes) {
  constexpr int kSums = kRows * kVectors == 1 ? 2 : kVectors;
  forward_tile<Floats, kRows, kSums>(taps, x, kernel, out, map, step, lanes);
}

void forward_along_rows(const Windows& layer, Threads& threads, const float* x, const float* kernel,
                        float* out) {
  const Padded padded(layer, x);
  const std::vector<Tap> all = padded.taps(layer);
  const long row = layer.out_width * layer.batch, map = layer.out_height * row;
  threads.share(layer.out_height, [&](long y) {
    const long top = y * layer.row_stride - layer.top, taps = layer.columns * layer.channels;
    const long first = std::clamp(-top, 0L, layer.rows);  // row of the window that is no padding
    const long last = std::clamp(layer.height - top, first, layer.rows);
    const Taps seen(all.data() + first * taps, all.data() + last * taps);
    const float* const from = padded.data + y * layer.row_stride * padded.row;
    for_vectors(row, [&](auto vectors, long start, long step, long lanes) {
      for_tiles<kLinearRows>(layer.filters, [&](auto filters, long filter) {
        small_tile<filters(), vectors()>(seen, from + start, kernel + filter,
                                         out + filter * map + y * row + start, map, step, lanes);
      });
    });
  });
}

// Of kLanes filters or more.
void forward_along_filters(const Windows& layer, Threads& threads, const float* x,
                           const float* kernel, float* out) {
  const long row = layer.out_width * layer.batch, map = layer.out_height * row;
  thread_local std::vector<float> buffer;
  float* const turned = reserve(buffer, map * layer.filters);  // (pixel, image, filter)
  // The kernel takes the place of the images here.
  const auto find = [&](long top, long left, std::vector<Tap>& taps) {
    find_taps(layer, top, left, taps);
    for (Tap& tap : taps) std::swap(tap.pixel, tap.weight);
  };
  std::vector<Tap> first;
  find(0, 0, first);
  const Inner inner(layer);
  threads.share(layer.out_height, [&](long y) {
    const long top = y * layer.row_stride - layer.top;
    inner.for_row(layer, [&](long pixel, long pixels) {
      const long beside = layer.column_stride == 1 ? pixels : 1;  // in x
      for (const long end = pixel + pixels; pixel < end; pixel += beside) {
        const long left = pixel * layer.column_stride - layer.left;
        const bool inside = layer.contains(top, left);
        thread_local std::vector<Tap> cut;
        if (!inside) find(top, left, cut);
        const float* const from = inside ? x + layer.at(0, top, left) : x;
        float* const to = turned + (y * row + pixel * layer.batch) * layer.filters;
        for_tiles<kLinearRows>(beside * layer.batch, [&](auto numbers, long start) {
          for_vectors(layer.filters, [&](auto vectors, long filter, long step, long lanes) {
            small_tile<numbers(), vectors()>(Taps(inside ? first : cut), kernel + filter,
                                             from + start, to + start * layer.filters + filter,
                                             layer.filters, step, lanes);
          });
        });
      }
    });
  });
  for (long filter = 0; filter < layer.filters; ++filter) {
    for (long i = 0; i < map; ++i) *out++ = turned[i * layer.filters + filter];
  }
}

void forward_of_few_images(const Windows& layer, Threads& threads, const float* x,
                           const float* kernel, float* out) {
  const long row = layer.out_width * layer.batch;
  const long along_rows = (row + kLanes - 1) / kLanes * layer.filters;  // vectors
  const long along_filters = (layer.filters + kLanes - 1) / kLanes * row;
  if (layer.filters >= kLanes && along_filters < along_rows) {
    forward_along_filters(layer, threads, x, kernel, out);
  } else {
    forward_along_rows(layer, threads, x, kernel, out);
  }
}

void kernel_gradient_along_rows(const Windows& layer, Threads& threads, const float* x,
                                const float* cotangent, float* kernel) {
  const Padded padded(layer, x);
  const std::vector<Tap> taps = padded.taps(layer);
  const long row = layer.out_width * layer.batch, rows = layer.filters * layer.out_height;
  const long whole = (row + kLanes - 1) / kLanes * kLanes;
  thread_local std::vector<float> whole_buffer, sums_buffer;
  float* const whole_rows = reserve(whole_buffer, rows * whole);
  for (long y = 0; y < rows; ++y) {
    std::copy_n(cotangent + y * row, row, whole_rows + y * whole);
    std::fill_n(whole_rows + y * whole + row, whole - row, 0.0f);
  }
  const Runs runs = {layer.out_height, whole, layer.row_stride * padded.row,
                     layer.out_height * whole};
  const long weights = layer.taps() * layer.filters;
  float* const sums = reserve(sums_buffer, weights * kLanes);
  std::fill_n(sums, weights * kLanes, 0.0f);
  threads.share((layer.taps() + kLinearRows - 1) / kLinearRows, [&](long block) {
    const long start = block * kLinearRows;
    for_tiles<kLinearRows>(std::min(layer.taps() - start, long{kLinearRows}), [&](auto size, long) {
      const float* windows[size()];
      for (long i = 0; i < size(); ++i) windows[i] = padded.data + taps[start + i].pixel;
      few_filters_rows<size()>(runs, windows, whole_rows, layer.filters,
                               sums + start * layer.filters * kLanes);
    });
  });
  for (long weight = 0; weight < weights; ++weight) {
    kernel[weight] = sum_lanes(sums + weight * kLanes);
  }
}

void kernel_gradient_along_filters(const Windows& layer, Threads& threads, const float* x,
                                   const float* cotangent, float* kernel) {
  const Padded padded(layer, x);
  const std::vector<Tap> taps = padded.taps(layer);
  const long row = layer.out_width * layer.batch, map = layer.out_height * row;
  const long stride = (layer.filters + kLanes - 1) / kLanes * kLanes;  // whole vectors
  thread_local std::vector<float> turned_buffer, sums_buffer;
  float* const sums = reserve(sums_buffer, layer.taps() * stride);
  std::fill_n(sums, layer.taps() * stride, 0.0f);
  const long band = std::clamp(kTurned / (row * stride), 1L, layer.out_height);
  float* const turned = reserve(turned_buffer, band * row * stride);
  for (long y = 0; y < layer.out_height; y += band) {
    const long height = std::min(layer.out_height - y, band), step = layer.row_stride * padded.row;
    turn(threads, cotangent + y * row, map, layer.filters, height * row, stride, turned);
    threads.share((layer.taps() + kBlock - 1) / kBlock, [&](long block) {
      const long start = block * kBlock, count = std::min(layer.taps() - start, kBlock);
      for_tiles<kLinearRows>(count, [&](auto size, long tap) {
        const float* windows[size()];
        for (long i = 0; i < size(); ++i) {
          windows[i] = padded.data + y * step + taps[start + tap + i].pixel;
        }
        kernel_gradient_rows<size()>({height, row, step, map}, windows, turned, stride,
                                     sums + (start + tap) * stride);
      });
    });
  }
  for (long tap = 0; tap < layer.taps(); ++tap) {
    std::memcpy(kernel + tap * layer.filters, sums + tap * stride, layer.filters * sizeof(float));
  }
}

void kernel_gradient_of_few_images(const Windows& layer, Threads& threads, const float* x,
                                   const float* cotangent, float* kernel) {
  if (2 * layer.filters <= kLanes) {
    kernel_gradient_along_rows(layer, threads, x, cotangent, kernel);
  } else {
    kernel_gradient_along_filters(layer, threads, x, cotangent, kernel);
  }
}

}  // namespace
