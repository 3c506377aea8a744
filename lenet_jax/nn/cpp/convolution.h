// The sizes of a convolution that 2×2 max-pooling and ReLU follow.

#pragma once

#include <cstdint>
#include <vector>

namespace {

constexpr int kSize = 5;       // height and width of the kernel
constexpr int kPhases = 4;     // pixels of a pooling block, in row-major order
constexpr int kCut = kPhases;  // instead of the winner's phase: ReLU cut the block

struct Convolution {
  long channels, height, width, batch, filters;

  long pooled_height() const { return (height - kSize + 1) / 2; }
  long pooled_width() const { return (width - kSize + 1) / 2; }
  long row() const { return width * batch; }
  long plane() const { return height * row(); }
  long pooled_row() const { return pooled_width() * batch; }
  long pooled_plane() const { return pooled_height() * pooled_row(); }

  long pixels() const { return height * width; }
  long pooled_pixels() const { return pooled_height() * pooled_width(); }

  // Offset of each pooling block's window in an image of layout (height, width, channels).
  std::vector<int32_t> corners() const {
    std::vector<int32_t> offsets;
    for (long y = 0; y < pooled_height(); ++y) {
      for (long x = 0; x < pooled_width(); ++x) offsets.push_back(2 * (y * width + x) * channels);
    }
    return offsets;
  }

  // Index of a weight in the kernel of layout (row, column, channel, filter).
  long weight(long dy, long dx, long channel, long filter) const {
    return ((dy * kSize + dx) * channels + channel) * filters + filter;
  }
};

// The sizes of a layer, from the shapes of its input and of its output.
Convolution convolution_of(const int64_t* x, const int64_t* maps) {
  return {x[0], x[1], x[2], x[3], maps[0]};
}

}  // namespace
