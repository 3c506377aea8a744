// The threads of XLA's pool that share the work of one call.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace {

class Threads {
 public:
  explicit Threads(xla::ffi::ThreadPool pool) : pool_(pool) {}

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
    const long threads = std::max<long>(pool_.num_threads(), 1);
    auto work = std::make_shared<Work>(std::min(count, kTasksPerThread * threads));
    auto take = [work, count, &run] {
      for (long task; (task = work->next++) < work->count;) {
        for (long i = task * count / work->count; i < (task + 1) * count / work->count; ++i) run(i);
        const std::lock_guard<std::mutex> lock(work->mutex);
        if (++work->finished == work->count) work->all_finished.notify_one();
      }
    };
    for (long i = 1; i < std::min(threads, work->count); ++i) pool_.Schedule(std::function(take));
    take();
    std::unique_lock<std::mutex> lock(work->mutex);
    work->all_finished.wait(lock, [&] { return work->finished == work->count; });
  }

 private:
  static constexpr long kTasksPerThread = 8;
  xla::ffi::ThreadPool pool_;
};

}  // namespace
