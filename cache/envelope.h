/* What nodes of a cluster tell each other through a shared tier that nobody trusts: a statement,
 * signed by the node that makes it.
 *
 * A statement is about one subject on one target: the schedule records of a kernel, or that a node
 * searches a graph, or has searched it. Both are part of what is signed, so that a row cannot be
 * passed off as another's answer; so is the time, so that an old row can be told from a newer one
 * of the same node.
 *
 * Taking a statement apart goes in three steps, each of which takes any bytes: envelope_read says
 * who claims to speak about what, the caller decides whether it knows that node, envelope_signed
 * says whether it is true, and only then are records decoded. */
#pragma once

#include "cache/schedule.h"
#include "proto/node_key.h"

typedef enum EnvelopeKind {
  EK_RECORDS,   /* of a kernel: the one in use, then those that failed */
  EK_LEASE,     /* the node searches the graph at present */
  EK_DONE,      /* it searched until its budget was spent */
  EK_EXHAUSTED, /* it searched until nothing was left to try */
  EK__COUNT
} EnvelopeKind;

enum {
  ENVELOPE_MAX = 64 << 10, /* bytes of a statement */
  ENVELOPE_RECORDS = 8     /* at most */
};

typedef struct Envelope {
  EnvelopeKind kind;
  uint8_t node[NODE_KEY_BYTES];
  uint8_t subject[CACHE_HASH_BYTES], target[CACHE_HASH_BYTES];
  int64_t issued_ns; /* wall clock */
  uint64_t count;    /* of records */
  Bytes records;     /* view of the statement */
} Envelope;

/* Appends the signed statement; what e says of node, count and records is not read. Records that
 * do not fit are left out, from the end. */
Status envelope_write(const Envelope *e, const Schedule *records, size_t n, const NodeKey *key,
                      StrBuf *out);
/* DATA_LOSS: these bytes are no statement; FAILED_PRECONDITION: one of a newer version. */
Status envelope_read(Bytes bytes, Envelope *out);
/* Whether e, which was read from these bytes, was signed by its node. */
bool envelope_signed(Bytes bytes, const Envelope *e);
/* All records, of the subject and target, as candidates: imported and not verified. out has room
 * for ENVELOPE_RECORDS; views of the statement and of the arena. DATA_LOSS. */
Status envelope_records(const Envelope *e, Arena *arena, Schedule *out);
