/* A group's limit holds for all below it, so every group on the way to the root is asked. Version 2
 * has one hierarchy, "0::PATH", and memory.max; version 1 a hierarchy per controller,
 * "N:memory:PATH", and memory.limit_in_bytes, which is a number beyond all memory when nothing was
 * set. In a container the path often is what the host calls it and does not exist: the mounted root
 * is the group then. */
#include "base/memory_limit.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

enum { PATH_MAX_BYTES = 4096 };

/* The number in a file; UINT64_MAX when there is none ("max"). */
static uint64_t number_in(const char *path) {
  char text[64];
  FILE *f = fopen(path, "re");
  bool read = f && fgets(text, sizeof text, f);
  if (f) fclose(f);
  if (!read || text[0] < '0' || text[0] > '9') return UINT64_MAX;
  return strtoull(text, NULL, 10);
}

/* The least limit from the group at `path` up to the root of its hierarchy. */
static uint64_t least(const char *mount, const char *path, size_t len, const char *file) {
  char name[PATH_MAX_BYTES];
  uint64_t least = UINT64_MAX;
  for (;;) {
    while (len && path[len - 1] == '/') len--;
    if ((size_t)snprintf(name, sizeof name, "%s%.*s/%s", mount, (int)len, path, file) <
        sizeof name) {
      uint64_t n = number_in(name);
      if (n < least) least = n;
    }
    if (!len) return least;
    while (len && path[len - 1] != '/') len--;
  }
}

/* One line, "N:CONTROLLERS:PATH". */
static uint64_t limit_of_line(const char *line, size_t len, const char *root) {
  char mount[PATH_MAX_BYTES];
  const char *end = line + len, *names = memchr(line, ':', len);
  const char *path = names ? memchr(names + 1, ':', (size_t)(end - names - 1)) : NULL;
  if (!path) return UINT64_MAX;
  size_t n = (size_t)(path++ - ++names);
  bool one = n == 6 && !memcmp(names, "memory", n);
  if (n && !one) return UINT64_MAX;
  snprintf(mount, sizeof mount, "%s%s", root, one ? "/memory" : "");
  return least(mount, path, (size_t)(end - path), one ? "memory.limit_in_bytes" : "memory.max");
}

uint64_t memory_limit_of(const char *groups, const char *root) {
  uint64_t limit = UINT64_MAX;
  for (const char *line = groups; *line;) {
    size_t len = strcspn(line, "\n");
    uint64_t n = limit_of_line(line, len, root);
    if (n < limit) limit = n;
    line += len + (line[len] == '\n');
  }
  return limit;
}

uint64_t memory_limit(void) {
  struct sysinfo info;
  char groups[8192];
  size_t n = 0;
  uint64_t total = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 0;
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (f) n = fread(groups, 1, sizeof groups - 1, f);
  if (f) fclose(f);
  groups[n] = 0;
  uint64_t limit = memory_limit_of(groups, "/sys/fs/cgroup");
  return total && limit < total ? limit : total;
}
