/* A token bucket: holds up to a burst, fills at a rate, and may be overdrawn by what is known only
 * afterwards (the seconds that a compile took). Time is given by the caller. */
#pragma once

#include <stdint.h>

/* Embedded; zeroed is full. */
typedef struct Bucket {
  double used;   /* of the burst */
  int64_t at_ns; /* when that was */
} Bucket;

/* Refills the bucket for now. When `need` is there takes it and returns 0; else takes nothing and
 * returns in how many nanoseconds it will be. rate is per second and more than 0; need is at most
 * burst, or counts as that. A need of 0 asks whether anything is there. */
int64_t bucket_take(Bucket *b, double rate, double burst, double need, int64_t now_ns);
/* Takes what was used, whether it is there or not. */
static inline void bucket_charge(Bucket *b, double amount) { b->used += amount; }
