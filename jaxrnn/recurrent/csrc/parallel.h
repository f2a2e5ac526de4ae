// Work on several threads.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace jaxrnn {

// Calls work(0) ... work(count - 1), on XLA's threads and on the calling one, and waits for them.
//
// Whoever is free takes the next number. The caller takes them too and in the end waits only for
// numbers that somebody is at work on, so that it never waits for a thread that is not to be had.
inline void parallel_for(xla::ffi::ThreadPool& pool, long count, std::function<void(long)> work) {
  if (count <= 1 || pool.num_threads() <= 1) {
    for (long i = 0; i < count; ++i) work(i);
    return;
  }
  struct Shared {
    std::function<void(long)> work;
    long count;
    std::atomic<long> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;

    void take() {
      for (long i; (i = next.fetch_add(1)) < count;) {
        work(i);
        if (done.fetch_add(1) + 1 == count) {
          std::lock_guard<std::mutex> lock(mutex);
          all_done.notify_all();
        }
      }
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->work = std::move(work);
  shared->count = count;
  for (long i = 1; i < std::min<long>(count, pool.num_threads()); ++i) {
    pool.Schedule([shared] { shared->take(); });
  }
  shared->take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == count; });
}

}  // namespace jaxrnn
