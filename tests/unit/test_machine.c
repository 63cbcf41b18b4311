/* Limits of control groups, read from folders that look like the kernel's: the least one on the way
 * to the root holds, of memory and of processors' time, in both versions, and what is no number is
 * no limit. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/machine.h"
#include "tests/unit/temp_folder.h"

static char root[TEMP_FOLDER_CAP];

static int make_root(void **state) {
  (void)state;
  return temp_folder_make(root) ? 0 : -1;
}

static int drop_root(void **state) {
  (void)state;
  return temp_folder_remove(root);
}

/* Writes root/path/file, and the folders on the way. */
static void put(const char *path, const char *file, const char *text) {
  char name[512];
  for (const char *at = path; (at = strchr(at + 1, '/'));) {
    snprintf(name, sizeof name, "%s%.*s", root, (int)(at - path), path);
    mkdir(name, 0700);
  }
  snprintf(name, sizeof name, "%s%s", root, path);
  mkdir(name, 0700);
  snprintf(name, sizeof name, "%s%s/%s", root, path, file);
  FILE *f = fopen(name, "we");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

static void test_no_limit(void **state) {
  (void)state;
  assert_true(machine_memory_of("", root) == UINT64_MAX);
  assert_true(machine_memory_of("0::/system.slice/kilnd.service\n", root) == UINT64_MAX);
  put("/system.slice", "memory.max", "max\n");
  assert_true(machine_memory_of("0::/system.slice/kilnd.service\n", root) == UINT64_MAX);
  assert_true(machine_memory_of("nonsense\n:\n5:memory\n", root) == UINT64_MAX);
}

static void test_the_least_on_the_way_holds(void **state) {
  (void)state;
  put("/system.slice/kilnd.service", "memory.max", "3000000000\n");
  assert_true(machine_memory_of("0::/system.slice/kilnd.service\n", root) == 3000000000u);
  put("/system.slice", "memory.max", "2000000000\n");
  assert_true(machine_memory_of("0::/system.slice/kilnd.service\n", root) == 2000000000u);
  assert_true(machine_memory_of("0::/other\n", root) == UINT64_MAX);
  put("", "memory.max", "1000000000\n"); /* of a container: what is mounted is its group */
  assert_true(machine_memory_of("0::/not/visible/here\n", root) == 1000000000u);
}

static void test_version_one(void **state) {
  (void)state;
  put("/memory/docker/abc", "memory.limit_in_bytes", "500000000\n");
  put("/memory", "memory.limit_in_bytes", "9223372036854771712\n");
  const char *groups = "12:cpu,cpuacct:/docker/abc\n7:memory:/docker/abc\n1:name=systemd:/x\n";
  assert_true(machine_memory_of(groups, root) == 500000000u);
  assert_true(machine_memory_of("7:memory:/elsewhere\n", root) == 9223372036854771712u);
}

static void test_processors(void **state) {
  (void)state;
  const char *two = "0::/kubepods/pod1/abc\n", *one = "4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n";
  assert_true(machine_processors_of(two, root) == UINT64_MAX);
  put("/kubepods/pod1/abc", "cpu.max", "250000 100000\n");
  assert_true(machine_processors_of(two, root) == 3); /* two and a half */
  put("/kubepods", "cpu.max", "max 100000\n");
  assert_true(machine_processors_of(two, root) == 3);
  put("/kubepods/pod1", "cpu.max", "50000 100000\n");
  assert_true(machine_processors_of(two, root) == 1);
  put("/kubepods/pod1", "cpu.max", "100000 0\n");
  assert_true(machine_processors_of(two, root) == 3);
  put("/cpu/docker/abc", "cpu.cfs_quota_us", "-1\n");
  put("/cpu/docker/abc", "cpu.cfs_period_us", "100000\n");
  assert_true(machine_processors_of(one, root) == UINT64_MAX);
  put("/cpu/docker/abc", "cpu.cfs_quota_us", "400000\n");
  assert_true(machine_processors_of(one, root) == 4);
}

static void test_this_machine(void **state) {
  (void)state;
  assert_true(machine_memory() > 64u << 20);
  assert_in_range(machine_processors(), 1, sysconf(_SC_NPROCESSORS_CONF));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_no_limit, make_root, drop_root),
      cmocka_unit_test_setup_teardown(test_the_least_on_the_way_holds, make_root, drop_root),
      cmocka_unit_test_setup_teardown(test_version_one, make_root, drop_root),
      cmocka_unit_test_setup_teardown(test_processors, make_root, drop_root),
      cmocka_unit_test(test_this_machine),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
