// Random draws of the samplers, from Philox: keyed by what is drawn for, so nothing depends on threads or on the order
// of work.
#pragma once

#include "philox.cuh"

namespace gnnaccel {

// The draws of one root: key = seed, counter = (hop and draw, root, batch, epoch). Distinct counters for distinct
// roots, hops, batches and epochs. A root is 64 bits: the low ones stand in its place, the high ones are added to the
// epoch without carry. So distinct roots have distinct counters too, within a batch.
struct Draws {
  uint32_t k0, k1, root, batch, epoch, counter;
  uint64_t spare;
  bool have_spare;
};

GNNACCEL_HD Draws make_draws(int64_t seed, int64_t epoch, int64_t batch, uint64_t root, int64_t hop) {
  Draws d;
  d.k0 = static_cast<uint32_t>(seed);
  d.k1 = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  d.root = static_cast<uint32_t>(root);
  d.batch = static_cast<uint32_t>(batch);
  d.epoch = static_cast<uint32_t>(epoch) ^ static_cast<uint32_t>(root >> 32);
  d.counter = static_cast<uint32_t>(hop) << 24;
  d.spare = 0;
  d.have_spare = false;
  return d;
}

GNNACCEL_HD uint64_t next_word(Draws& d) {
  uint64_t x = d.spare;
  if (!d.have_spare) {
    uint32_t c0 = d.counter++, c1 = d.root, c2 = d.batch, c3 = d.epoch;
    philox4x32(c0, c1, c2, c3, d.k0, d.k1);
    x = static_cast<uint64_t>(c1) << 32 | c0;
    d.spare = static_cast<uint64_t>(c3) << 32 | c2;
  }
  d.have_spare = !d.have_spare;
  return x;
}

// floor(x n / 2^64) of 64 random bits x = high 2^32 + low: uniform in [0, n), n < 2^32, but for a bias below n / 2^64.
GNNACCEL_HD uint64_t scaled(uint32_t high, uint32_t low, uint32_t n) {
  const uint64_t m = n;
  return (high * m + (low * m >> 32)) >> 32;
}

GNNACCEL_HD int64_t draw(Draws& d, int64_t n) {
  const uint64_t x = next_word(d);
  return static_cast<int64_t>(
      scaled(static_cast<uint32_t>(x >> 32), static_cast<uint32_t>(x), static_cast<uint32_t>(n)));
}

// Uniform in (0, 1), 53 bits.
GNNACCEL_HD double draw_unit(Draws& d) { return (static_cast<double>(next_word(d) >> 11) + 0.5) * 0x1p-53; }

}  // namespace gnnaccel
