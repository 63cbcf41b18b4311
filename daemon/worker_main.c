/* kiln-worker: started by kilnd as `kiln-worker zygote` with its socket as descriptor 3. The other
 * roles (compile, device, timing) are forked from the zygote and never started by hand.
 *
 * `kiln-worker devices` prints the devices of this machine and ends: a line is a name, or "# NAME:
 * why not" for what a server that picks its devices by itself leaves out. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/log.h"
#include "daemon/worker/zygote.h"
#include "devices/discover.h"

enum { SOCKET = 3 };

static void print_device(void *ctx, const char *name, const char *why_not) {
  (void)ctx;
  if (why_not)
    printf("# %s: %s\n", name, why_not);
  else
    puts(name);
  fflush(stdout); /* a driver may hang, or take the process with it */
}

int main(int argc, char **argv) {
  LogLevel level = LOG_LEVEL_INFO;
  if (argc >= 2 && !strcmp(argv[1], "--version")) return puts("kiln-worker " KILN_VERSION) < 0;
  if (argc == 2 && !strcmp(argv[1], "devices")) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    discover_devices(print_device, NULL);
    return 0;
  }
  if (argc < 2 || strcmp(argv[1], "zygote") || (argc > 2 && !log_level_parse(argv[2], &level))) {
    fprintf(
        stderr,
        "usage: kiln-worker devices\n       kiln-worker zygote [LOG_LEVEL]   (started by kilnd)\n");
    return 64;
  }
  log_init("worker:zygote", level);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  /* what is in a worker's memory belongs to tenants: no core file has it */
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  /* a terminal's Ctrl-C is for kilnd to handle: it ends its workers in order */
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  return zygote_main(SOCKET);
}
