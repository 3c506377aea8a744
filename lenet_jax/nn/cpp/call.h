// What XLA passes to a call. This is XLA's C interface, since its C++ one takes longer to compile
// than all the layers.

#pragma once

#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "xla/ffi/api/c_api.h"

namespace {

// A call's context: the type has another name in each version of the interface, as that of
// extensions has.
using Context = decltype(XLA_FFI_CallFrame::ctx);

// A call's arrays, the arguments first and then the results, and its attributes.
class Call {
 public:
  explicit Call(const XLA_FFI_CallFrame* frame) : frame_(frame) {}

  // Whether the arrays have these types, a letter each: `f` is float, `b` is int8_t.
  bool has(const char* types) const {
    const long count = frame_->args.size + frame_->rets.size;
    if (count != static_cast<long>(std::strlen(types))) return false;
    for (long place = 0; place < count; ++place) {
      const auto type = types[place] == 'f' ? XLA_FFI_DataType_F32 : XLA_FFI_DataType_S8;
      if (array(place).dtype != type) return false;
    }
    return true;
  }

  const int64_t* shape(long place) const { return array(place).dims; }
  float* floats(long place) const { return static_cast<float*>(array(place).data); }
  int8_t* bytes(long place) const { return static_cast<int8_t*>(array(place).data); }

  int32_t number(const char* name) const {
    const XLA_FFI_Attrs& attributes = frame_->attrs;
    for (long place = 0; place < attributes.size; ++place) {
      const XLA_FFI_ByteSpan& found = *attributes.names[place];
      if (found.len != std::strlen(name) || std::memcmp(found.ptr, name, found.len)) continue;
      const auto* scalar = static_cast<const XLA_FFI_Scalar*>(attributes.attrs[place]);
      if (attributes.types[place] != XLA_FFI_AttrType_SCALAR) break;
      if (scalar->dtype != XLA_FFI_DataType_S32) break;
      return *static_cast<const int32_t*>(scalar->value);
    }
    throw std::invalid_argument(name);
  }

  const XLA_FFI_Api* api() const { return frame_->api; }
  Context context() const { return frame_->ctx; }

 private:
  const XLA_FFI_Buffer& array(long place) const {
    const long arguments = frame_->args.size;
    return *static_cast<const XLA_FFI_Buffer*>(
        place < arguments ? frame_->args.args[place] : frame_->rets.rets[place - arguments]);
  }

  const XLA_FFI_CallFrame* frame_;
};

// Runs a call whose arrays have these types, or says which version of the interface it is for.
XLA_FFI_Error* answer(XLA_FFI_CallFrame* frame, const char* types, void (*run)(const Call&)) {
  const auto* extension = frame->extension_start;
  if (extension != nullptr && extension->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata* metadata =
        reinterpret_cast<const XLA_FFI_Metadata_Extension*>(extension)->metadata;
    metadata->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                             XLA_FFI_API_MINOR};
    metadata->traits = 0;
    return nullptr;
  }
  try {
    const Call call(frame);
    if (!call.has(types)) throw std::invalid_argument("the arrays have other types");
    run(call);
    return nullptr;
  } catch (const std::exception& error) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, error.what(),
                                      XLA_FFI_Error_Code_INTERNAL};
    return frame->api->XLA_FFI_Error_Create(&args);
  }
}

}  // namespace

// A function that XLA calls: its name, the types of its arrays, and a lambda that takes the Call.
#define DEFINE_CALL(name, types, ...)                        \
  extern "C" XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) { \
    return answer(frame, types, __VA_ARGS__);                \
  }
