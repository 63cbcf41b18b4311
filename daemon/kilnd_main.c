/* kilnd: reads its configuration, serves until it is told to stop. Exit codes are those of
 * sysexits.h: 64 usage, 69 the address is taken, 78 the configuration is wrong. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sysexits.h>

#include "base/log.h"
#include "daemon/server/server.h"

static const char usage[] =
    "usage: kilnd [--config FILE] [--listen ADDR]... [--cache FILE] [--no-cache]\n"
    "             [--node NAME] [--idle-exit SECONDS] [--log-level LEVEL] [--check-config]\n"
    "             [--version]\n"
    "ADDR is unix:PATH or HOST:PORT; the default is a socket of this user's own.\n";

typedef struct Options {
  Config config;
  bool check_only;
  bool listen_given;
} Options;

enum {
  OPT_CONFIG = 1,
  OPT_LISTEN,
  OPT_CACHE,
  OPT_NO_CACHE,
  OPT_NODE,
  OPT_IDLE,
  OPT_LOG,
  OPT_CHECK,
  OPT_VERSION,
  OPT_HELP
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, OPT_CONFIG},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"cache", required_argument, NULL, OPT_CACHE},
    {"no-cache", no_argument, NULL, OPT_NO_CACHE},
    {"node", required_argument, NULL, OPT_NODE},
    {"idle-exit", required_argument, NULL, OPT_IDLE},
    {"log-level", required_argument, NULL, OPT_LOG},
    {"check-config", no_argument, NULL, OPT_CHECK},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static Status apply(Options *o, int option, const char *value) {
  Config *c = &o->config;
  switch (option) {
  case OPT_LISTEN:
    /* addresses given here replace those of the file */
    if (!o->listen_given) c->listen.from_default = true;
    o->listen_given = true;
    return config_set(c, "server", "listen", value);
  case OPT_CACHE: return config_set(c, "cache", "path", value);
  case OPT_NO_CACHE: return config_set(c, "cache", "enabled", "false");
  case OPT_NODE: return config_set(c, "server", "node", value);
  case OPT_IDLE: return config_set(c, "server", "idle_exit", value);
  case OPT_LOG: return config_set(c, "server", "log_level", value);
  case OPT_CHECK: return o->check_only = true, NULL;
  default: return NULL;
  }
}

/* The file first, whatever the order on the command line. -1: go on; else the exit code. */
static int read_options(int argc, char **argv, Options *o, Status *st) {
  for (int pass = 0; pass < 2; pass++) {
    optind = 1;
    for (int opt; (opt = getopt_long(argc, argv, "", long_options, NULL)) != -1 && !*st;) {
      if (opt == '?') {
        fputs(usage, stderr);
        return EX_USAGE;
      }
      if (opt == OPT_VERSION) return puts("kilnd " KILN_VERSION) < 0;
      if (opt == OPT_HELP) return fputs(usage, stdout) < 0;
      if (pass == 0 && opt == OPT_CONFIG) *st = config_read_file(&o->config, optarg);
      if (pass == 1 && opt != OPT_CONFIG) *st = apply(o, opt, optarg);
    }
  }
  if (optind < argc) {
    fprintf(stderr, "kilnd: unexpected argument '%s'\n%s", argv[optind], usage);
    return EX_USAGE;
  }
  return -1;
}

typedef struct Arguments {
  int argc;
  char **argv;
} Arguments;

/* The file and the command line once more. */
static Status read_again(void *ctx, Config *out) {
  const Arguments *a = ctx;
  Options o = {.config = *out};
  Status st = NULL;
  int code = read_options(a->argc, a->argv, &o, &st);
  *out = o.config;
  return st || code < 0 ? st : FAIL(INTERNAL, "the command line");
}

static int complain(Status st, int code) {
  char text[1024];
  status_text(st, text, sizeof text);
  fprintf(stderr, "kilnd: %s\n", text);
  status_drop(st);
  return code;
}

/* Connections, executables and buffers take a descriptor each; the usual soft limit is 1024. */
static void raise_descriptors(void) {
  struct rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r)) return;
  r.rlim_cur = r.rlim_max;
  setrlimit(RLIMIT_NOFILE, &r); /* with the old limit it serves fewer */
}

/* What is in its memory belongs to tenants. Whoever looks for a fault raises the soft limit of the
 * running process; workers give up the hard one too. */
static void leave_no_core(void) {
  struct rlimit r;
  if (getrlimit(RLIMIT_CORE, &r)) return;
  r.rlim_cur = 0;
  setrlimit(RLIMIT_CORE, &r);
}

int main(int argc, char **argv) {
  Options o = {.check_only = false};
  LogLevel level = LOG_LEVEL_INFO;
  Server *server;
  Arguments arguments = {argc, argv};
  Status st = config_init(&o.config);
  int code = st ? -1 : read_options(argc, argv, &o, &st);
  if (!st && code < 0) st = config_check(&o.config);
  if (st || code >= 0 || o.check_only) {
    config_deinit(&o.config);
    if (st) return complain(st, EX_CONFIG);
    if (code < 0) puts("the configuration is valid");
    return code < 0 ? 0 : code;
  }
  log_level_parse(o.config.log_level, &level);
  log_init("kilnd", level);
  signal(SIGPIPE, SIG_IGN);
  raise_descriptors();
  leave_no_core();
  st = server_create(&o.config, &server);
  if (st) return complain(st, EX_UNAVAILABLE);
  server_on_reload(server, read_again, &arguments);
  return server_run(server);
}
