// LeNet's convolution with products of bfloat16, for processors that have them (AVX-512 BF16).
//
// Each pixel and weight is rounded to nearest. Two channels are a pair, whose products are added to
// a sum of float32; of an odd number, the last is paired with zeros.

#include <immintrin.h>

#include <vector>

#include "call.h"
#include "convolve.h"

namespace {

// A float holds a pair.
struct Pairs {
  typedef __m512bh Vector;

  static Vector read(const float* from) {
    return reinterpret_cast<Vector>(_mm512_loadu_si512(from));
  }

  static void add(Floats& sum, Vector values, float weight) {
    const Vector weights = reinterpret_cast<Vector>(_mm512_set1_ps(weight));
    sum = reinterpret_cast<Floats>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), values, weights));
  }
};

// At most kLanes pairs of numbers, of those that a mask selects.
void pair(const float* first, const float* second, __mmask16 mask, float* to) {
  short places[2 * kLanes];  // a number of each half in turn
  for (int place = 0; place < 2 * kLanes; ++place) places[place] = place / 2 + place % 2 * kLanes;
  const __m512 low = _mm512_maskz_loadu_ps(mask, first);
  const __m512 high = second ? _mm512_maskz_loadu_ps(mask, second) : _mm512_setzero_ps();
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  const __m512i pairs = _mm512_permutexvar_epi16(_mm512_loadu_si512(places), halves);
  _mm512_mask_storeu_epi32(to, mask, pairs);
}

// Pairs each even row of an array with the next.
void pair_rows(const float* array, long rows, long width, float* to) {
  for (long row = 0; row < rows; row += 2, array += 2 * width, to += width) {
    const float* const next = row + 1 < rows ? array + width : nullptr;
    long column = 0;
    for (; column + kLanes <= width; column += kLanes) {
      pair(array + column, next ? next + column : nullptr, -1, to + column);
    }
    if (const long left = width - column) {
      pair(array + column, next ? next + column : nullptr, (1 << left) - 1, to + column);
    }
  }
}

}  // namespace

DEFINE_CALL(conv_pool_forward_bfloat16, "ffffb", [](const Call& call) {
  thread_local std::vector<float> buffers[2];
  Convolution layer = convolution_of(call.shape(0), call.shape(3));
  const long channels = layer.channels, pairs = (channels + 1) / 2;
  float* const x = reserve(buffers[0], pairs * layer.plane());
  pair_rows(call.floats(0), channels, layer.plane(), x);
  float* const kernel = reserve(buffers[1], kSize * kSize * pairs * layer.filters);
  for (long tap = 0; tap < kSize * kSize; ++tap) {
    pair_rows(call.floats(1) + tap * channels * layer.filters, channels, layer.filters,
              kernel + tap * pairs * layer.filters);
  }
  layer.channels = pairs;
  convolve<Pairs>(layer, x, kernel, call.floats(2), call.floats(3), call.bytes(4));
})
