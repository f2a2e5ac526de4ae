// Threads that work on one small task after the other, for as long as a loop lasts.
//
// Waking a thread takes longer than a step of a loop over characters; so the helpers are woken once
// and then look again and again whether there is something to do.

#pragma once

#include <thread>
#include <vector>

#include "parallel.h"
#include "sizes.h"

namespace jaxrnn {

// One leader, and as many helpers as the pool has to spare: perhaps none, or late ones.
//
// A task has parts, of which each thread has a share of its own, always the same one, so that what
// it reads stays in its cache. Whoever is done takes shares that nobody has begun, as those of
// helpers that have not come; the leader waits for shares that somebody is at work on.
class Team {
 public:
  Team(xla::ffi::ThreadPool& pool, long helpers) {
    if (helpers > 0) shared_ = std::make_shared<Shared>(helpers + 1);
    for (long i = 0; i < helpers; ++i) {
      pool.Schedule([shared = shared_, i] { shared->help(i + 1); });
    }
  }
  Team(const Team&) = delete;
  ~Team() {
    if (shared_) shared_->round.store(kOver, std::memory_order_release);
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
    s.task = &task;
    s.parts = parts;
    const long round = s.round.load(std::memory_order_relaxed) + 1;
    s.round.store(round, std::memory_order_release);
    s.take(0, round);
    for (const Share& share : s.shares) {
      for (int idle = 0; share.done.load(std::memory_order_acquire) != round;) rest(idle);
    }
  }

 private:
  static constexpr long kOver = -1;  // in the place of a round
  static constexpr size_t kLine = 128;  // bytes that two threads do not write to at once

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

  // A share of the parts: the last rounds in which it was begun and done.
  struct alignas(kLine) Share {
    std::atomic<long> begun{0}, done{0};
  };

  struct Shared {
    const std::function<void(long)>* task;
    long parts;
    alignas(kLine) std::atomic<long> round{0};  // the number of tasks so far
    std::vector<Share> shares;

    explicit Shared(long threads) : shares(threads) {}

    // Takes the share of a thread in round `now`, and then those that nobody has begun.
    //
    // A thread that comes too late begins nothing: the next round starts when all shares of this
    // one are done, and then each was begun in it, so that the exchange fails.
    void take(long thread, long now) {
      const long count = shares.size();
      for (long i = 0; i < count; ++i) {
        const long k = (thread + i) % count;
        long before = now - 1;
        if (!shares[k].begun.compare_exchange_strong(before, now)) continue;
        for (long p = parts * k / count; p < parts * (k + 1) / count; ++p) (*task)(p);
        shares[k].done.store(now, std::memory_order_release);
      }
    }

    void help(long thread) {
      long seen = 0;
      for (int idle = 0;;) {
        const long now = round.load(std::memory_order_acquire);
        if (now == kOver) return;
        if (now == seen) {
          rest(idle);
          continue;
        }
        seen = now;
        take(thread, now);
        idle = 0;
      }
    }
  };

  std::shared_ptr<Shared> shared_;
};

// How the rows of a recurrence are divided: among the threads, each of which then waits for nobody,
// or, where the weight is large and the rows are few, into parts of at least a block of rows, each
// with a team: alone, every thread would read the whole weight for less than a block of its own.
struct Division {
  Chunks chunks;
  long helpers = 0;  // of each part

  // `bytes` of weights, in so many panels, are read at every step; `most_rows` go through a product
  // together.
  Division(xla::ffi::ThreadPool& pool, long rows, int most_rows, long bytes, long panels,
           double operations)
      : chunks(rows, pool.num_threads(), operations) {
    constexpr long kLarge = 1 << 17;
    // A step that takes hardly longer than telling others of it is not shared.
    if (bytes < kLarge || operations < kWorthSharing) return;
    const long parts = std::max<long>(rows / most_rows, 1);
    if (pool.num_threads() < 2 * parts) return;
    helpers = std::min<long>(pool.num_threads() / parts, panels) - 1;
    chunks = Chunks(rows, parts, operations);
  }
};

}  // namespace jaxrnn
