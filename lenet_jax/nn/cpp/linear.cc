// A linear layer and its gradients, as products of a matrix and a batch.
//
// Arrays have the batch as their last axis; but for the gradient of the kernel it is a multiple of
// kLanes.

#include <algorithm>
#include <cstring>
#include <vector>

#include "call.h"
#include "vectors.h"

namespace {

// A matrix with arbitrary strides.
struct Matrix {
  const float* data;
  long rows, columns, row_stride, column_stride;
};

// Computes kRows rows and kVectors vectors of the product of a matrix and x (columns, width), plus
// the bias, if any. Of the last vector only `last` lanes are written.
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
    const float* weights = matrix.data + column * matrix.column_stride;
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
    part.data += row * matrix.row_stride;
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

// The kernel is (inputs, units): the output uses its columns, the input gradient its rows.
struct Linear {
  long inputs, units, batch;
};

// The sizes of a layer, from its kernel and an array with the batch last.
Linear linear_of(const int64_t* kernel, const int64_t* array) {
  return {kernel[0], kernel[1], array[1]};
}

void forward(const Linear& layer, const float* x, const float* kernel, const float* bias,
             float* out) {
  multiply({kernel, layer.units, layer.inputs, 1, layer.units}, x, layer.batch, bias, layer.batch,
           out);
}

void input_gradient(const Linear& layer, const float* kernel, const float* cotangent, float* out) {
  multiply({kernel, layer.inputs, layer.units, layer.units, 1}, cotangent, layer.batch, nullptr,
           layer.batch, out);
}

// Vectors run along the units here: the cotangent is transposed, each row padded to full vectors.
void kernel_gradient(const Linear& layer, const float* x, const float* cotangent,
                     float* kernel_out, float* bias_out) {
  thread_local std::vector<float> buffer;
  const long row = (layer.units + kLanes - 1) / kLanes * kLanes;
  float* const transposed = reserve(buffer, layer.batch * row);
  std::fill_n(transposed, layer.batch * row, 0.0f);
  std::fill_n(bias_out, layer.units, 0.0f);
  for (long image = 0; image < layer.batch; ++image) {
    for (long unit = 0; unit < layer.units; ++unit) {
      const float value = cotangent[unit * layer.batch + image];
      transposed[image * row + unit] = value;
      bias_out[unit] += value;
    }
  }
  multiply({x, layer.inputs, layer.batch, layer.batch, 1}, transposed, row, nullptr, layer.units,
           kernel_out);
}

}  // namespace

DEFINE_CALL(linear_forward, "ffff", [](const Call& call) {
  forward(linear_of(call.shape(1), call.shape(0)), call.floats(0), call.floats(1), call.floats(2),
          call.floats(3));
})

DEFINE_CALL(linear_input_gradient, "fff", [](const Call& call) {
  input_gradient(linear_of(call.shape(0), call.shape(1)), call.floats(0), call.floats(1),
                 call.floats(2));
})

DEFINE_CALL(linear_kernel_gradient, "ffff", [](const Call& call) {
  kernel_gradient(linear_of(call.shape(2), call.shape(0)), call.floats(0), call.floats(1),
                  call.floats(2), call.floats(3));
})
