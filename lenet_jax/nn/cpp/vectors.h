// The processor's vectors as types of the compiler: their length, how many fit in registers, and
// the operations on them.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Tile sizes, chosen so that the sums fit in the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kForwardFilters = 6, kGradientVectors = 5, kLinearRows = 12;
#else
constexpr int kForwardFilters = 3, kGradientVectors = 2, kLinearRows = 6;
#endif

constexpr int kHalf = kLanes == 4 ? 4 : 8;  // lanes of the vectors for short rows

typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef float Halves __attribute__((vector_size(4 * kHalf), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
void store(float* to, Floats values) { *reinterpret_cast<Floats*>(to) = values; }
Halves load_half(const float* from) { return *reinterpret_cast<const Halves*>(from); }
void store_half(float* to, Halves values) { *reinterpret_cast<Halves*>(to) = values; }

// Converted through 16 bits: g++ 12 would convert directly one lane at a time.
Ints load_bytes(const int8_t* from) {
  const Bytes bytes = *reinterpret_cast<const Bytes*>(from);
  return __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Ints);
}
void store_bytes(int8_t* to, Ints values) {
  *reinterpret_cast<Bytes*>(to) =
      __builtin_convertvector(__builtin_convertvector(values, Shorts), Bytes);
}

// Returns space for `size` floats, aligned to a cache line so that no vector spans two lines.
float* reserve(std::vector<float>& buffer, long size) {
  constexpr std::uintptr_t kLine = 64;
  buffer.resize(size + kLine / sizeof(float));
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(buffer.data()) + kLine - 1) /
                                  kLine * kLine);
}

float sum_lanes(const float* lanes) {
  float sums[kLanes / 2];
  for (int lane = 0; lane < kLanes / 2; ++lane) sums[lane] = lanes[lane] + lanes[lane + kLanes / 2];
  for (long half = kLanes / 4; half > 0; half /= 2) {
    for (long lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

// Swaps the lanes of `a` that have bit kBit set with the lanes of `b` that have it clear.
template <int kBit, int... kLane>
__attribute__((always_inline)) inline void exchange(Floats& a, Floats& b,
                                                    std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  const Floats low =
      __builtin_shufflevector(a, b, (kLane & kBit ? kLanes + kLane - kBit : kLane)...);
  b = __builtin_shufflevector(a, b, (kLane & kBit ? kLanes + kLane : kLane + kBit)...);
#else
  const Floats low =
      __builtin_shuffle(a, b, Ints{(kLane & kBit ? kLanes + kLane - kBit : kLane)...});
  b = __builtin_shuffle(a, b, Ints{(kLane & kBit ? kLanes + kLane : kLane + kBit)...});
#endif
  a = low;
}

template <int kBit>
__attribute__((always_inline)) inline void exchange(Floats& a, Floats& b) {
  exchange<kBit>(a, b, std::make_integer_sequence<int, kLanes>());
}

template <int kBit = kLanes / 2>
__attribute__((always_inline)) inline void transpose(Floats (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int row = 0; row < kLanes; ++row) {
    if ((row & kBit) == 0) exchange<kBit>(rows[row], rows[row + kBit]);
  }
  if constexpr (kBit > 1) transpose<kBit / 2>(rows);
}

template <int kMost, class Run>
void with_constant(long number, Run run) {
  if constexpr (kMost > 1) {
    if (number < kMost) return with_constant<kMost - 1>(number, run);
  }
  run(std::integral_constant<int, kMost>());
}

// Calls run(size, start) for tiles of at most kMost that divide `count` as evenly as possible.
template <int kMost, class Run>
void for_tiles(long count, Run run) {
  for (long start = 0, tiles = (count + kMost - 1) / kMost; tiles > 0; --tiles) {
    const long size = (count - start + tiles - 1) / tiles;
    with_constant<kMost>(size, [&](auto constant) { run(constant, start); });
    start += size;
  }
}

}  // namespace
