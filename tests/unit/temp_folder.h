/* A folder of a test's own, and everything in it removed afterwards. */
#pragma once

#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEMP_FOLDER_CAP = 64 };

static inline bool temp_folder_make(char dir[TEMP_FOLDER_CAP]) {
  snprintf(dir, TEMP_FOLDER_CAP, "/tmp/kiln-test-XXXXXX");
  return mkdtemp(dir) != NULL;
}

static inline int temp_remove_one(const char *path, const struct stat *st, int type,
                                  struct FTW *at) {
  (void)st, (void)type, (void)at;
  return remove(path);
}

/* 0 when it is gone, as teardown functions say it. */
static inline int temp_folder_remove(const char *dir) {
  return nftw(dir, temp_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
