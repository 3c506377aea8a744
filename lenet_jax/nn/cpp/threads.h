// The threads of XLA's pool that share the work of one call.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "call.h"

namespace {

class Threads {
 public:
  explicit Threads(const Call& call) : api_(call.api()), context_(call.context()) {}

  // Calls run(0) … run(count - 1), some on other threads, and returns when all have returned. The
  // caller waits only for those that have begun: a pool that is busy, even with callers like this
  // one, delays nothing.
  template <class Run>
  void share(long count, const Run& run) {
    struct Work {
      explicit Work(long tasks) : count(tasks) {}
      const long count;
      std::atomic<long> next{0};
      long finished = 0;
      std::mutex mutex;
      std::condition_variable all_finished;
    };
    const long threads = std::max<long>(count_threads(), 1);
    auto work = std::make_shared<Work>(std::min(count, kTasksPerThread * threads));
    auto take = [work, count, &run] {
      for (long task; (task = work->next++) < work->count;) {
        for (long i = task * count / work->count; i < (task + 1) * count / work->count; ++i) run(i);
        const std::lock_guard<std::mutex> lock(work->mutex);
        if (++work->finished == work->count) work->all_finished.notify_one();
      }
    };
    for (long i = 1; i < std::min(threads, work->count); ++i) schedule(take);
    take();
    std::unique_lock<std::mutex> lock(work->mutex);
    work->all_finished.wait(lock, [&] { return work->finished == work->count; });
  }

 private:
  static constexpr long kTasksPerThread = 8;

  int64_t count_threads() const {
    int64_t count = 0;
    XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE,
                                               nullptr, context_, &count};
    return succeeded(api_->XLA_FFI_ThreadPool_NumThreads(&args)) ? count : 0;
  }

  // Calls a copy of `run` on a thread of the pool; on this one, if there is none.
  template <class Run>
  void schedule(const Run& run) {
    auto* const copy = new Run(run);
    XLA_FFI_Task* const task = [](void* data) {
      const std::unique_ptr<Run> copy(static_cast<Run*>(data));
      (*copy)();
    };
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                             context_, task, copy};
    if (!succeeded(api_->XLA_FFI_ThreadPool_Schedule(&args))) task(copy);
  }

  bool succeeded(XLA_FFI_Error* error) const {
    if (error == nullptr) return true;
    XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    api_->XLA_FFI_Error_Destroy(&args);
    return false;
  }

  const XLA_FFI_Api* api_;
  Context context_;
};

}  // namespace
