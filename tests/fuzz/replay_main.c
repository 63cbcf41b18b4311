/* Without libFuzzer: runs a fuzz target over the files named on the command line, and over every
 * file of the folders named there. A corpus that is missing or empty is a failure, so that a target
 * cannot pass by running nothing. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return perror(path), 0;
  fseek(f, 0, SEEK_END);
  long size = ftell(f);
  rewind(f);
  uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
  int ok = data && size >= 0 && fread(data, 1, (size_t)size, f) == (size_t)size;
  fclose(f);
  if (ok)
    LLVMFuzzerTestOneInput(data, (size_t)size);
  else
    fprintf(stderr, "%s: cannot be read\n", path);
  free(data);
  return ok;
}

static int run_path(const char *path) {
  struct stat st;
  if (stat(path, &st)) return perror(path), 0;
  if (!S_ISDIR(st.st_mode)) return run_file(path);
  int n = 0;
  DIR *dir = opendir(path);
  if (!dir) return perror(path), 0;
  for (struct dirent *e; (e = readdir(dir));) {
    char child[4096];
    if (e->d_name[0] == '.') continue;
    snprintf(child, sizeof child, "%s/%s", path, e->d_name);
    n += run_path(child);
  }
  closedir(dir);
  return n;
}

int main(int argc, char **argv) {
  int n = 0;
  for (int i = 1; i < argc; i++) n += run_path(argv[i]);
  printf("%d inputs\n", n);
  return n ? 0 : 1;
}
