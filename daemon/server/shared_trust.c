/* A row is a public key and a name for people; a value that is no row is the path of a file with
 * one row a line, '#' before remarks, so that all nodes can share one file. Names end in reports
 * and in records, so only plain ones are taken. */
#include "daemon/server/shared_trust.h"

#include <errno.h>
#include <stdio.h>

enum { NODES_MAX = 1024, SHORT_HEX = 8 };

static Str trim(Str s) {
  while (s.len && strchr(" \t\r\n", s.ptr[0])) s.ptr++, s.len--;
  while (s.len && strchr(" \t\r\n", s.ptr[s.len - 1])) s.len--;
  return s;
}

static bool good_name(Str name) {
  for (size_t i = 0; i < name.len; i++)
    if ((unsigned char)name.ptr[i] <= ' ' || name.ptr[i] == 0x7f || name.ptr[i] == '"')
      return false;
  return true;
}

Status shared_trust_row(Str row, TrustedNode *out) {
  row = trim(row);
  size_t n = 0;
  while (n < row.len && row.ptr[n] != ' ' && row.ptr[n] != '\t') n++;
  Str name = trim((Str){row.ptr + n, row.len - n});
  *out = (TrustedNode){.name = ""};
  if (!node_key_parse((Str){row.ptr, n}, out->node))
    return FAIL(INVALID_ARGUMENT,
                "expected 'ed25519:' and 64 hexadecimal digits, then a name, got '" STR_FMT "'",
                STR_ARG(row));
  if (name.len >= sizeof out->name || !good_name(name))
    return FAIL(INVALID_ARGUMENT,
                "a node's name has at most %zu characters and no blanks, got '" STR_FMT "'",
                sizeof out->name - 1, STR_ARG(name));
  if (name.len)
    memcpy(out->name, name.ptr, name.len);
  else
    memcpy(out->name, row.ptr + sizeof "ed25519:" - 1, SHORT_HEX);
  return NULL;
}

static Status add(TrustedNodes *out, Str row) {
  TrustedNode node;
  TRY(shared_trust_row(row, &node));
  if (out->len == NODES_MAX) return FAIL(INVALID_ARGUMENT, "more than %d nodes", NODES_MAX);
  return vec_push(out, node) ? NULL : FAIL(RESOURCE_EXHAUSTED, "trusted nodes");
}

static Status add_file(TrustedNodes *out, const char *path) {
  char line[512];
  int number = 0;
  Status st = NULL;
  FILE *f = fopen(path, "re");
  if (!f) return FAIL(INVALID_ARGUMENT, "%s: %s", path, strerror(errno));
  while (!st && fgets(line, sizeof line, f)) {
    Str row = trim((Str){line, strcspn(line, "#")});
    number++;
    if (row.len) st = add(out, row);
  }
  fclose(f);
  return st ? WRAP(st, "%s:%d", path, number) : NULL;
}

Status shared_trust_load(const Config *c, TrustedNodes *out) {
  for (size_t i = 0; i < c->shared_trust.len; i++) {
    const char *value = c->shared_trust.at[i];
    Status st = strncmp(value, "ed25519:", 8) ? add_file(out, value) : add(out, str_from(value));
    if (st) return WRAP(st, "[shared] trust");
  }
  return NULL;
}
