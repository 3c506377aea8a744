// A convolution of any size, and its kernel gradient.
//
// As in convolve.h a vector holds one pixel of kLanes images; fewer images are for rows.h. Every
// output adds the same terms in the same order, so that equal windows give equal sums, however many
// threads share the work.

#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "threads.h"
#include "vectors.h"

namespace {

// x is (channels, height, width, batch), the kernel (rows, columns, channels, filters).
struct Windows {
  long channels, height, width, batch;
  long rows, columns, filters;
  long row_stride, column_stride;
  long top, left;  // of the padding; a negative one crops
  long out_height, out_width;

  long taps() const { return rows * columns * channels; }
  long pixels() const { return out_height * out_width; }
  long plane() const { return height * width * batch; }

  bool has(long y, long x) const { return 0 <= y && y < height && 0 <= x && x < width; }
  bool contains(long y, long x) const {  // the whole window that begins there
    return has(y, x) && has(y + rows - 1, x + columns - 1);
  }
  long at(long channel, long y, long x) const {
    return channel * plane() + (y * width + x) * batch;
  }
};

// A pixel of a window that is not padding, and its weight, as offsets in x and in the kernel.
struct Tap {
  long pixel, weight;
};

// The taps of the window that begins at a row and a column.
void find_taps(const Windows& layer, long y, long x, std::vector<Tap>& taps) {
  const long first_row = std::max(-y, 0L), last_row = std::min(layer.rows, layer.height - y);
  const long first = std::max(-x, 0L), last = std::min(layer.columns, layer.width - x);
  taps.resize(std::max(last_row - first_row, 0L) * std::max(last - first, 0L) * layer.channels);
  Tap* tap = taps.data();
  for (long row = first_row; row < last_row; ++row) {
    for (long column = first; column < last; ++column) {
      const long pixel = layer.at(0, y + row, x + column);
      const long weights = (row * layer.columns + column) * layer.channels;
      for (long channel = 0; channel < layer.channels; ++channel) {
        *tap++ = {pixel + channel * layer.plane(), (weights + channel) * layer.filters};
      }
    }
  }
}

// Taps, in the order in which they are added.
struct Taps {
  const Tap *first, *last;

  Taps(const Tap* first, const Tap* last) : first(first), last(last) {}
  explicit Taps(const std::vector<Tap>& taps) : Taps(taps.data(), taps.data() + taps.size()) {}
  const Tap* begin() const { return first; }
  const Tap* end() const { return last; }
};

// Computes kRows filters of kVectors vectors of images, `step` floats apart. Of each vector `lanes`
// are written. The maps of the output are `map` floats apart.
template <class Vector, int kRows, int kVectors>
__attribute__((noinline)) void forward_tile(Taps taps, const float* x, const float* kernel,
                                            float* out, long map, long step, long lanes) {
  constexpr long kWidth = sizeof(Vector) / sizeof(float);
  Vector sums[kRows][kVectors] = {};
  for (const Tap& tap : taps) {
    Vector values[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const float* from = x + tap.pixel + v * step;
      if constexpr (kWidth == kLanes) {
        values[v] = load(from);
      } else {
        values[v] = load_half(from);
      }
    }
    const float* weights = kernel + tap.weight;
#pragma GCC unroll 12
    for (long row = 0; row < kRows; ++row) {
      for (int v = 0; v < kVectors; ++v) sums[row][v] += values[v] * weights[row];
    }
  }
#pragma GCC unroll 12
  for (long row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      float* to = out + row * map + v * step;
      if (lanes < kWidth) {
        const Vector part = sums[row][v];
        std::memcpy(to, &part, lanes * sizeof(float));
      } else if constexpr (kWidth == kLanes) {
        store(to, sums[row][v]);
      } else {
        store_half(to, sums[row][v]);
      }
    }
  }
}

// The batch is a multiple of kHalf.
void forward(const Windows& layer, Threads& threads, const float* x, const float* kernel,
             float* out) {
  std::vector<Tap> first;  // of the window at the corner; others without padding are like it
  find_taps(layer, 0, 0, first);
  const long map = layer.pixels() * layer.batch;
  threads.share(layer.pixels(), [&](long pixel) {
    const long top = pixel / layer.out_width * layer.row_stride - layer.top;
    const long left = pixel % layer.out_width * layer.column_stride - layer.left;
    const bool inside = layer.contains(top, left);
    thread_local std::vector<Tap> cut;
    if (!inside) find_taps(layer, top, left, cut);
    const Taps taps(inside ? first : cut);
    const float* const origin = inside ? x + layer.at(0, top, left) : x;
    for (long image = 0; image < layer.batch;) {
      float* to = out + pixel * layer.batch + image;
      const long rest = layer.batch - image;
      for_tiles<kLinearRows>(layer.filters, [&](auto rows, long row) {
        float* maps = to + row * map;
        const float* from = origin + image;
        const float* weights = kernel + row;
        if (rest >= 2 * kLanes) {
          forward_tile<Floats, rows(), 2>(taps, from, weights, maps, map, kLanes, kLanes);
        } else if (rest >= kLanes) {
          forward_tile<Floats, rows(), 1>(taps, from, weights, maps, map, kLanes, kLanes);
        } else {
          forward_tile<Halves, rows(), 1>(taps, from, weights, maps, map, kHalf, kHalf);
        }
      });
      image += rest >= 2 * kLanes ? 2 * kLanes : std::min<long>(rest, kLanes);
    }
  });
}

// Floats of a tap that lie beside each other: `count` times `length` of them, `step` apart in x and
// one after the other in the cotangent, whose maps are `map` apart.
struct Runs {
  long count, length, step, map;
};

// Adds to kRows rows of the kernel's gradient, of kVectors vectors of filters, the terms of some
// runs. The cotangent has the filters last, `stride` floats from one number to the next.
template <int kRows, int kVectors>
void kernel_gradient_tile(const Runs& runs, const float* const (&x)[kRows], const float* cotangent,
                          long stride, float* out) {
  Floats sums[kRows][kVectors] = {};
  for (long run = 0; run < runs.count; ++run) {
    const long first = run * runs.step;
    for (long i = 0; i < runs.length; ++i) {
      Floats values[kVectors];
      for (int v = 0; v < kVectors; ++v) values[v] = load(cotangent + v * kLanes);
      cotangent += stride;
#pragma GCC unroll 12
      for (long row = 0; row < kRows; ++row) {
        const float value = x[row][first + i];
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

// The same for all filters.
template <int kRows>
__attribute__((noinline)) void kernel_gradient_rows(const Runs& runs,
                                                    const float* const (&x)[kRows],
                                                    const float* cotangent, long stride,
                                                    float* out) {
  for (long filter = 0; filter < stride;) {
    const bool pair = filter + 2 * kLanes <= stride;
    if (pair) {
      kernel_gradient_tile<kRows, 2>(runs, x, cotangent + filter, stride, out + filter);
    } else {
      kernel_gradient_tile<kRows, 1>(runs, x, cotangent + filter, stride, out + filter);
    }
    filter += pair ? 2 * kLanes : kLanes;
  }
}

// The same with the vectors along the runs, which are whole vectors: adds to one vector for each
// weight.
template <int kRows, int kFilters>
void few_filters_tile(const Runs& runs, const float* const (&x)[kRows], const float* cotangent,
                      long filters, float* out) {
  Floats sums[kRows][kFilters] = {};
  for (long run = 0; run < runs.count; ++run) {
    const long first = run * runs.step;
    for (long i = 0; i < runs.length; i += kLanes) {
      Floats values[kFilters];
      for (int f = 0; f < kFilters; ++f) values[f] = load(cotangent + f * runs.map);
      cotangent += kLanes;
#pragma GCC unroll 12
      for (long row = 0; row < kRows; ++row) {
        const Floats window = load(x[row] + first + i);
        for (int f = 0; f < kFilters; ++f) sums[row][f] += window * values[f];
      }
    }
  }
#pragma GCC unroll 12
  for (long row = 0; row < kRows; ++row) {
    for (int f = 0; f < kFilters; ++f) {
      float* to = out + (row * filters + f) * kLanes;
      store(to, load(to) + sums[row][f]);
    }
  }
}

// The same for all filters.
template <int kRows>
__attribute__((noinline)) void few_filters_rows(const Runs& runs, const float* const (&x)[kRows],
                                                const float* cotangent, long filters, float* out) {
  for (long filter = 0; filter < filters; filter += 2) {
    const float* from = cotangent + filter * runs.map;
    if (filter + 2 <= filters) {
      few_filters_tile<kRows, 2>(runs, x, from, filters, out + filter * kLanes);
    } else {
      few_filters_tile<kRows, 1>(runs, x, from, filters, out + filter * kLanes);
    }
  }
}

// The places in x from which some taps see an output pixel. Padding is read as `zeros`.
template <int kRows>
void find_windows(const Windows& layer, long tap, long y, long x, const float* input,
                  const float* zeros, const float* (&windows)[kRows]) {
  for (long row = 0; row < kRows; ++row) {
    const long place = (tap + row) / layer.channels, channel = (tap + row) % layer.channels;
    const long from_y = y * layer.row_stride - layer.top + place / layer.columns;
    const long from_x = x * layer.column_stride - layer.left + place % layer.columns;
    windows[row] =
        layer.has(from_y, from_x) ? input + layer.at(channel, from_y, from_x) : zeros;
  }
}

// Turns the cotangent of `count` pixels and images, (filters, map), into (count, stride): rows of
// whole vectors.
void turn(Threads& threads, const float* cotangent, long map, long filters, long count, long stride,
          float* out) {
  threads.share((count + kLanes - 1) / kLanes, [&](long block) {
    const long start = block * kLanes, size = std::min<long>(count - start, kLanes);
    for (long filter = 0; filter < stride; filter += kLanes) {
      Floats lanes[kLanes] = {};
      for (long i = 0; i < std::min<long>(filters - filter, kLanes); ++i) {
        const float* from = cotangent + (filter + i) * map + start;
        if (size == kLanes) {
          lanes[i] = load(from);
        } else {
          std::memcpy(&lanes[i], from, size * sizeof(float));
        }
      }
      transpose(lanes);
      for (long i = 0; i < size; ++i) store(out + (start + i) * stride + filter, lanes[i]);
    }
  });
}

// The output pixels of a row whose windows have no padding at their sides: `count` from `first` on.
struct Inner {
  long first, count = 0;

  explicit Inner(const Windows& layer) {
    first = std::clamp((layer.left + layer.column_stride - 1) / layer.column_stride, 0L,
                       layer.out_width);
    while (first + count < layer.out_width &&
           (first + count) * layer.column_stride - layer.left + layer.columns <= layer.width) {
      ++count;
    }
  }

  // Calls run(pixel, pixels) for the pixels of a row, the inner ones together.
  template <class Run>
  void for_row(const Windows& layer, Run run) const {
    for (long pixel = 0; pixel < layer.out_width;) {
      const long pixels = pixel == first ? std::max(count, 1L) : 1;
      run(pixel, pixels);
      pixel += pixels;
    }
  }
};

constexpr long kBlock = 4 * kLinearRows;  // taps, which read a row of the cotangent together
constexpr long kTurned = 1L << 20;  // floats of the cotangent that are turned at once

void kernel_gradient_of_few(const Windows& layer, Threads& threads, const float* x,
                            const float* cotangent, float* kernel) {
  const long weights = layer.taps() * layer.filters;
  thread_local std::vector<float> buffer;
  float* const sums = reserve(buffer, weights * kLanes);
  std::fill_n(sums, weights * kLanes, 0.0f);
  const Inner inner(layer);
  const long map = layer.pixels() * layer.batch, step = layer.column_stride * layer.batch;
  const std::vector<float> zeros(std::max(inner.count, 1L) * step);
  threads.share((layer.taps() + kLinearRows - 1) / kLinearRows, [&](long block) {
    const long start = block * kLinearRows;
    for_tiles<kLinearRows>(std::min(layer.taps() - start, long{kLinearRows}), [&](auto rows, long) {
      for (long y = 0; y < layer.out_height; ++y) {
        inner.for_row(layer, [&](long pixel, long pixels) {
          const float* windows[rows()];
          find_windows<rows()>(layer, start, y, pixel, x, zeros.data(), windows);
          few_filters_rows<rows()>({pixels, layer.batch, step, map}, windows,
                                   cotangent + (y * layer.out_width + pixel) * layer.batch,
                                   layer.filters, sums + start * layer.filters * kLanes);
        });
      }
    });
  });
  for (long weight = 0; weight < weights; ++weight) {
    kernel[weight] = sum_lanes(sums + weight * kLanes);
  }
}

void kernel_gradient(const Windows& layer, Threads& threads, const float* x,
                     const float* cotangent, float* kernel) {
  if (2 * layer.filters <= kLanes) {
    return kernel_gradient_of_few(layer, threads, x, cotangent, kernel);
  }
  const long stride = (layer.filters + kLanes - 1) / kLanes * kLanes;  // whole vectors
  thread_local std::vector<float> turned_buffer, sums_buffer;
  float* const sums = reserve(sums_buffer, layer.taps() * stride);
  std::fill_n(sums, layer.taps() * stride, 0.0f);
  const Inner inner(layer);
  const long map = layer.pixels() * layer.batch, step = layer.column_stride * layer.batch;
  const std::vector<float> zeros(std::max(inner.count, 1L) * step);
  const long row = layer.out_width * layer.batch;
  const long band = std::clamp(kTurned / (row * stride), 1L, layer.out_height);
  float* const turned = reserve(turned_buffer, band * row * stride);
  for (long top = 0; top < layer.out_height; top += band) {
    const long bottom = std::min(top + band, layer.out_height);
    turn(threads, cotangent + top * row, map, layer.filters, (bottom - top) * row, stride, turned);
    threads.share((layer.taps() + kBlock - 1) / kBlock, [&](long block) {
      const long start = block * kBlock, count = std::min(layer.taps() - start, kBlock);
      for (long y = top; y < bottom; ++y) {
        for_tiles<kLinearRows>(count, [&](auto rows, long tap) {
          inner.for_row(layer, [&](long pixel, long pixels) {
            const float* windows[rows()];
            find_windows<rows()>(layer, start + tap, y, pixel, x, zeros.data(), windows);
            kernel_gradient_rows<rows()>({pixels, layer.batch, step, map}, windows,
                                         turned + ((y - top) * row + pixel * layer.batch) * stride,
                                         stride, sums + (start + tap) * stride);
          });
        });
      }
    });
  }
  for (long tap = 0; tap < layer.taps(); ++tap) {
    std::memcpy(kernel + tap * layer.filters, sums + tap * stride, layer.filters * sizeof(float));
  }
}

}  // namespace
