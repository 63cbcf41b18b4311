/* What is kept is how much is missing, so that a new bucket is full whatever its burst. */
#include "daemon/server/bucket.h"

int64_t bucket_take(Bucket *b, double rate, double burst, double need, int64_t now_ns) {
  const double second = 1e9, most = 3600e9;
  if (now_ns > b->at_ns) {
    b->used -= (double)(now_ns - b->at_ns) / second * rate;
    if (b->used < 0) b->used = 0;
    b->at_ns = now_ns;
  }
  if (need > burst) need = burst;
  double over = b->used + need - burst;
  if (over < 0 || (over <= 0 && need > 0)) {
    b->used += need;
    return 0;
  }
  double ns = over / rate * second + 1;
  return (int64_t)(ns < most ? ns : most);
}
