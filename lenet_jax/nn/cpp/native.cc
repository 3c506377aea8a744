// The layers of LeNet, any convolution, and their gradients, called by XLA on a CPU.
//
// Arrays have the batch as their last axis, a multiple of kLanes (or, of a convolution of any size,
// fewer than kFewImages): x (c, h, w, b), kernel (5, 5, c, k), output (k, h2, w2, b). All loops
// work on tiles whose sums stay in registers.

#include "convolution.h"
#include "linear.h"
#include "rows.h"
#include "windows.h"
#include "winners.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Floats32 = ffi::Buffer<ffi::F32>;
using Bytes8 = ffi::Buffer<ffi::S8>;

template <class Input, class Maps>
Convolution convolution_of(Input& x, Maps& maps) {
  const auto x_shape = x.dimensions(), maps_shape = maps.dimensions();
  return {x_shape[0], x_shape[1], x_shape[2], x_shape[3], maps_shape[0]};
}

ffi::Error call_forward(Floats32 x, Floats32 kernel, Floats32 bias, ffi::Result<Floats32> out,
                        ffi::Result<Bytes8> winners) {
  forward(convolution_of(x, *out), x.typed_data(), kernel.typed_data(), bias.typed_data(),
          out->typed_data(), winners->typed_data());
  return ffi::Error::Success();
}

// The kernel's gradient has the groups in front.
ffi::Error call_kernel_gradient(Floats32 x, Floats32 cotangent, Bytes8 winners, int32_t images,
                                ffi::Result<Floats32> kernel, ffi::Result<Floats32> bias) {
  kernel_gradient(convolution_of(x, cotangent), kernel->dimensions()[0], images, x.typed_data(),
                  cotangent.typed_data(), winners.typed_data(), kernel->typed_data(),
                  bias->typed_data());
  return ffi::Error::Success();
}

ffi::Error call_input_gradient(Floats32 kernel, Floats32 cotangent, Bytes8 winners,
                               ffi::Result<Floats32> x) {
  input_gradient(convolution_of(*x, cotangent), kernel.typed_data(), cotangent.typed_data(),
                 winners.typed_data(), x->typed_data());
  return ffi::Error::Success();
}

// The sizes of a layer, from its kernel and an array with the batch last.
Linear linear_of(Floats32& kernel, Floats32& array) {
  return {kernel.dimensions()[0], kernel.dimensions()[1], array.dimensions()[1]};
}

ffi::Error call_linear(Floats32 x, Floats32 kernel, Floats32 bias, ffi::Result<Floats32> out) {
  forward(linear_of(kernel, x), x.typed_data(), kernel.typed_data(), bias.typed_data(),
          out->typed_data());
  return ffi::Error::Success();
}

ffi::Error call_linear_input_gradient(Floats32 kernel, Floats32 cotangent,
                                      ffi::Result<Floats32> x) {
  input_gradient(linear_of(kernel, cotangent), kernel.typed_data(), cotangent.typed_data(),
                 x->typed_data());
  return ffi::Error::Success();
}

ffi::Error call_linear_kernel_gradient(Floats32 x, Floats32 cotangent,
                                       ffi::Result<Floats32> kernel, ffi::Result<Floats32> bias) {
  kernel_gradient(linear_of(*kernel, x), x.typed_data(), cotangent.typed_data(),
                  kernel->typed_data(), bias->typed_data());
  return ffi::Error::Success();
}

// How a window moves: rows and columns from one to the next, and the padding before the first.
struct Steps {
  int32_t row_stride, column_stride, top, left;
};

template <class Kernel, class Out>
Windows windows_of(Floats32& x, const Steps& steps, Kernel& kernel, Out& out) {
  const auto x_shape = x.dimensions(), size = kernel.dimensions(), maps = out.dimensions();
  return {x_shape[0], x_shape[1],       x_shape[2],          x_shape[3], size[0],    size[1],
          size[3],    steps.row_stride, steps.column_stride, steps.top,  steps.left, maps[1],
          maps[2]};
}

ffi::Error call_convolution(ffi::ThreadPool pool, Floats32 x, Floats32 kernel, int32_t row_stride,
                            int32_t column_stride, int32_t top, int32_t left,
                            ffi::Result<Floats32> out) {
  Threads threads(pool);
  const Windows layer = windows_of(x, {row_stride, column_stride, top, left}, kernel, *out);
  if (layer.batch < kFewImages) {
    forward_of_few_images(layer, threads, x.typed_data(), kernel.typed_data(), out->typed_data());
  } else {
    forward(layer, threads, x.typed_data(), kernel.typed_data(), out->typed_data());
  }
  return ffi::Error::Success();
}

ffi::Error call_convolution_kernel_gradient(ffi::ThreadPool pool, Floats32 x, Floats32 cotangent,
                                            int32_t row_stride, int32_t column_stride,
                                            int32_t top, int32_t left,
                                            ffi::Result<Floats32> kernel) {
  Threads threads(pool);
  const Windows layer = windows_of(x, {row_stride, column_stride, top, left}, *kernel, cotangent);
  if (layer.batch < kFewImages) {
    kernel_gradient_of_few_images(layer, threads, x.typed_data(), cotangent.typed_data(),
                                  kernel->typed_data());
  } else {
    kernel_gradient(layer, threads, x.typed_data(), cotangent.typed_data(), kernel->typed_data());
  }
  return ffi::Error::Success();
}

auto convolution_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Floats32>()
      .Arg<Floats32>()
      .Attr<int32_t>("row_stride")
      .Attr<int32_t>("column_stride")
      .Attr<int32_t>("top")
      .Attr<int32_t>("left")
      .Ret<Floats32>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    conv_pool_forward, call_forward,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>().Ret<Bytes8>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    conv_pool_kernel_gradient, call_kernel_gradient,
    ffi::Ffi::Bind()
        .Arg<Floats32>()
        .Arg<Floats32>()
        .Arg<Bytes8>()
        .Attr<int32_t>("images")
        .Ret<Floats32>()
        .Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    conv_pool_input_gradient, call_input_gradient,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Bytes8>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    linear_forward, call_linear,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    linear_kernel_gradient, call_linear_kernel_gradient,
    ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(linear_input_gradient, call_linear_input_gradient,
                              ffi::Ffi::Bind().Arg<Floats32>().Arg<Floats32>().Ret<Floats32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_forward, call_convolution, convolution_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolution_kernel_gradient, call_convolution_kernel_gradient,
                              convolution_binding());
