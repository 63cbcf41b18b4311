/* Runs a fuzz target over files instead of under libFuzzer, so that every compiler replays the
 * corpora: each argument is a file or a folder. Fails when there was no file at all. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path, size_t *count) {
  struct stat st;
  FILE *f = fopen(path, "rb");
  if (!f || fstat(fileno(f), &st)) {
    perror(path);
    if (f) fclose(f);
    return 1;
  }
  size_t size = (size_t)st.st_size;
  uint8_t *data = malloc(size ? size : 1); /* exact size, so that sanitizers see overreads */
  int failed = !data || fread(data, 1, size, f) != size;
  fclose(f);
  if (failed) {
    fprintf(stderr, "%s: cannot read\n", path);
  } else {
    LLVMFuzzerTestOneInput(data, size);
    ++*count;
  }
  free(data);
  return failed;
}

static int replay(const char *path, size_t *count) {
  DIR *dir = opendir(path);
  int failed = 0;
  if (!dir) return replay_file(path, count);
  for (struct dirent *e; (e = readdir(dir));) {
    char full[4096];
    if (e->d_name[0] == '.') continue;
    if ((size_t)snprintf(full, sizeof full, "%s/%s", path, e->d_name) >= sizeof full) continue;
    failed |= replay(full, count);
  }
  closedir(dir);
  return failed;
}

int main(int argc, char **argv) {
  size_t count = 0;
  int failed = 0;
  for (int k = 1; k < argc; k++) failed |= replay(argv[k], &count);
  printf("%s: %zu inputs replayed\n", argv[0], count);
  return failed || !count;
}
