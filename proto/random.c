/* Threefry 2x32-20 (Salmon, Moraes, Dror and Shaw, 2011) on the host: compiler/frontend/random.c is
 * the same as a graph, and tests hold the two equal. */
#include "proto/random.h"

static uint32_t rotate(uint32_t x, unsigned by) { return x << by | x >> (32 - by); }

void random_block(const uint32_t key[2], const uint32_t counter[2], uint32_t out[2]) {
  static const uint8_t rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  const uint32_t k[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  uint32_t x = counter[0] + k[0], y = counter[1] + k[1];
  for (unsigned round = 0; round < 20; round++) {
    x += y;
    y = rotate(y, rotations[round % 8]) ^ x;
    if (round % 4 != 3) continue;
    unsigned s = round / 4 + 1;
    x += k[s % 3];
    y += k[(s + 1) % 3] + s;
  }
  out[0] = x;
  out[1] = y;
}

void random_run_key(uint64_t seed, uint64_t run, uint32_t key[2]) {
  const uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  const uint32_t counter[2] = {(uint32_t)run, (uint32_t)(run >> 32)};
  random_block(k, counter, key);
}
