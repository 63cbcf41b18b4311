/* A group's limit holds for all below it, so every group on the way to the root is asked. Version 2
 * has one hierarchy, "0::PATH", with memory.max and cpu.max; version 1 a hierarchy per controller,
 * "N:memory:PATH", with memory.limit_in_bytes, which is a number beyond all memory when nothing was
 * set, and "N:cpu,cpuacct:PATH" with a quota of -1 then. In a container the path often is what the
 * host calls it and does not exist: the mounted root is the group there. */
#include "base/machine.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

enum { PATH_BYTES = 4096, LINE_BYTES = 128 };

/* The limit in the folder of one group; `two` is the version. */
typedef uint64_t (*ReadLimit)(const char *folder, bool two);

/* The first line of folder/file, "" when there is none. */
static void read_line(const char *folder, const char *file, char line[LINE_BYTES]) {
  char path[PATH_BYTES];
  line[0] = 0;
  if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, file) >= sizeof path) return;
  FILE *f = fopen(path, "re");
  if (!f) return;
  if (!fgets(line, LINE_BYTES, f)) line[0] = 0;
  fclose(f);
}

/* UINT64_MAX when it does not begin with a number. */
static uint64_t number(const char *text, char **end) {
  *end = (char *)(uintptr_t)text;
  return *text >= '0' && *text <= '9' ? strtoull(text, end, 10) : UINT64_MAX;
}

static uint64_t read_memory(const char *folder, bool two) {
  char line[LINE_BYTES], *end;
  read_line(folder, two ? "memory.max" : "memory.limit_in_bytes", line);
  return number(line, &end);
}

/* "QUOTA PERIOD", or a file for each. */
static uint64_t read_processors(const char *folder, bool two) {
  char line[LINE_BYTES], other[LINE_BYTES], *end;
  read_line(folder, two ? "cpu.max" : "cpu.cfs_quota_us", line);
  uint64_t quota = number(line, &end);
  if (!two) read_line(folder, "cpu.cfs_period_us", other);
  uint64_t period = number(two ? end + (*end == ' ') : other, &end);
  if (quota == UINT64_MAX || period == UINT64_MAX || !period) return UINT64_MAX;
  return quota / period + (quota % period != 0);
}

/* The least limit from the group at `path` up to the root of its hierarchy. */
static uint64_t least_on_way(const char *mount, const char *path, size_t len, ReadLimit read,
                             bool two) {
  char folder[PATH_BYTES];
  uint64_t least = UINT64_MAX;
  for (;;) {
    while (len && path[len - 1] == '/') len--;
    if ((size_t)snprintf(folder, sizeof folder, "%s%.*s", mount, (int)len, path) < sizeof folder) {
      uint64_t n = read(folder, two);
      if (n < least) least = n;
    }
    if (!len) return least;
    while (len && path[len - 1] != '/') len--;
  }
}

/* One of those that a line of /proc/self/cgroup lists, with commas between them. */
static bool lists(const char *names, size_t n, const char *name) {
  size_t len = strlen(name);
  for (size_t at = 0; at < n;) {
    const char *comma = memchr(names + at, ',', n - at);
    size_t one = comma ? (size_t)(comma - names) - at : n - at;
    if (one == len && !memcmp(names + at, name, len)) return true;
    at += one + 1;
  }
  return false;
}

/* One line, "N:CONTROLLERS:PATH". */
static uint64_t limit_of_line(const char *line, size_t len, const char *root,
                              const char *controller, ReadLimit read) {
  char mount[PATH_BYTES];
  const char *end = line + len, *names = memchr(line, ':', len);
  const char *path = names ? memchr(names + 1, ':', (size_t)(end - names - 1)) : NULL;
  if (!path) return UINT64_MAX;
  size_t n = (size_t)(path++ - ++names);
  if (n && !lists(names, n, controller)) return UINT64_MAX;
  snprintf(mount, sizeof mount, "%s%s%s", root, n ? "/" : "", n ? controller : "");
  return least_on_way(mount, path, (size_t)(end - path), read, !n);
}

static uint64_t limit_of(const char *groups, const char *root, const char *controller,
                         ReadLimit read) {
  uint64_t limit = UINT64_MAX;
  for (const char *line = groups; *line;) {
    size_t len = strcspn(line, "\n");
    uint64_t n = limit_of_line(line, len, root, controller, read);
    if (n < limit) limit = n;
    line += len + (line[len] == '\n');
  }
  return limit;
}

uint64_t machine_memory_of(const char *groups, const char *root) {
  return limit_of(groups, root, "memory", read_memory);
}

uint64_t machine_processors_of(const char *groups, const char *root) {
  return limit_of(groups, root, "cpu", read_processors);
}

static void read_groups(char *groups, size_t cap) {
  FILE *f = fopen("/proc/self/cgroup", "re");
  size_t n = f ? fread(groups, 1, cap - 1, f) : 0;
  if (f) fclose(f);
  groups[n] = 0;
}

uint64_t machine_memory(void) {
  struct sysinfo info;
  char groups[8192];
  uint64_t total = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 0;
  read_groups(groups, sizeof groups);
  uint64_t limit = machine_memory_of(groups, "/sys/fs/cgroup");
  return total && limit < total ? limit : total;
}

uint32_t machine_processors(void) {
  cpu_set_t set;
  char groups[8192];
  int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  read_groups(groups, sizeof groups);
  uint64_t limit = machine_processors_of(groups, "/sys/fs/cgroup");
  if (n < 1 || !limit) return 1;
  return limit < (uint64_t)n ? (uint32_t)limit : (uint32_t)n;
}
