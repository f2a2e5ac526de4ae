// Threads that work on one small task after the other, for as long as a loop lasts.
//
// Waking a thread takes longer than a step of a loop over characters; so the helpers are woken once
// and then look again and again whether there is something to do.

#pragma once

#include <thread>

#include "parallel.h"
#include "sizes.h"

namespace jaxrnn {

// One leader, and as many helpers as the pool has to spare: perhaps none, or late ones.
//
// A task has parts, and whoever is free takes the next one. The leader takes them too and waits
// only for parts that somebody is at work on.
class Team {
 public:
  Team(xla::ffi::ThreadPool& pool, long helpers) {
    if (helpers > 0) shared_ = std::make_shared<Shared>();
    for (long i = 0; i < helpers; ++i) {
      pool.Schedule([shared = shared_] { shared->help(); });
    }
  }
  Team(const Team&) = delete;
  ~Team() {
    if (shared_) shared_->over.store(true);
  }

  // Calls work(0) ... work(parts - 1) and waits for them.
  template <typename Work>
  void run(long parts, const Work& work) {
    if (!shared_) {
      for (long i = 0; i < parts; ++i) work(i);
      return;
    }
    Shared& s = *shared_;
    const std::function<void(long)> task = std::cref(work);
    const long first = s.end.load();
    s.task = &task;
    s.first = first;
    s.end.store(first + parts, std::memory_order_release);
    while (s.take_one()) {
    }
    for (int idle = 0; s.done.load(std::memory_order_acquire) < first + parts;) rest(idle);
  }

 private:
  // Waits a little; after many times without a result, lets another thread have the core.
  static void rest(int& idle) {
    constexpr int kPatience = 1 << 12;  // some tens of microseconds
    if (idle == kPatience) {
      std::this_thread::yield();
      return;
    }
    ++idle;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  struct Shared {
    const std::function<void(long)>* task;
    long first;  // the first part's number; numbers go on from task to task
    std::atomic<long> end{0}, next{0}, done{0};
    std::atomic<bool> over{false};

    // `task` and `first` change only between tasks, when no part is left to be taken.
    bool take_one() {
      long number = next.load();
      do {
        if (number >= end.load(std::memory_order_acquire)) return false;
      } while (!next.compare_exchange_weak(number, number + 1));
      (*task)(number - first);
      done.fetch_add(1, std::memory_order_release);
      return true;
    }

    void help() {
      for (int idle = 0; !over.load();) {
        if (take_one()) {
          idle = 0;
        } else {
          rest(idle);
        }
      }
    }
  };

  std::shared_ptr<Shared> shared_;
};

// How many threads can help each of `leaders` that read a weight of so many bytes at every step:
// none where a step takes hardly longer than telling them.
inline long helpers_for(xla::ffi::ThreadPool& pool, long leaders, long bytes, double operations) {
  constexpr long kLarge = 1 << 17;
  if (bytes < kLarge || operations < kWorthSharing) return 0;
  return std::max<long>(pool.num_threads() / leaders, 1) - 1;
}

}  // namespace jaxrnn
