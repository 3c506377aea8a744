// LeNet's convolution in float32.

#include "call.h"
#include "convolve.h"

DEFINE_CALL(conv_pool_forward, "ffffb", [](const Call& call) {
  convolve<Single>(convolution_of(call.shape(0), call.shape(3)), call.floats(0), call.floats(1),
                   call.floats(2), call.floats(3), call.bytes(4));
})
