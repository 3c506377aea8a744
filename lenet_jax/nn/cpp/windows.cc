// A convolution of any size, and its kernel gradient. Arrays have the batch as their last axis: a
// multiple of kLanes, or fewer than kFewImages.

#include "call.h"
#include "rows.h"
#include "threads.h"
#include "windows.h"

namespace {

Windows windows_of(const Call& call, const int64_t* x, const int64_t* kernel, const int64_t* maps) {
  const long row_stride = call.number("row_stride"), column_stride = call.number("column_stride");
  const long top = call.number("top"), left = call.number("left");
  return {x[0],       x[1],          x[2], x[3], kernel[0], kernel[1], kernel[3],
          row_stride, column_stride, top,  left, maps[1],   maps[2]};
}

}  // namespace

DEFINE_CALL(convolution_forward, "fff", [](const Call& call) {
  Threads threads(call);
  const Windows layer = windows_of(call, call.shape(0), call.shape(1), call.shape(2));
  const auto run = layer.batch < kFewImages ? forward_of_few_images : forward;
  run(layer, threads, call.floats(0), call.floats(1), call.floats(2));
})

DEFINE_CALL(convolution_kernel_gradient, "fff", [](const Call& call) {
  Threads threads(call);
  const Windows layer = windows_of(call, call.shape(0), call.shape(2), call.shape(1));
  const auto run = layer.batch < kFewImages ? kernel_gradient_of_few_images : kernel_gradient;
  run(layer, threads, call.floats(0), call.floats(1), call.floats(2));
})
