/* kiln cache: what the server keeps, and its upkeep. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "client/cli/cli.h"

static int stats(Cli *cli) {
  KilnCacheStats *s;
  char a[CLI_NUMBER], b[CLI_NUMBER];
  if (kiln_cache_stats(cli->client, &s, &cli->err)) return cli_fail(cli, &cli->err);
  const struct {
    const char *name;
    uint64_t value;
  } counts[] = {{"plans", s->plans},         {"kernels", s->kernels},
                {"bytes", s->bytes},         {"max_bytes", s->max_bytes},
                {"hits", s->hits},           {"misses", s->misses},
                {"merged", s->merged},       {"evictions", s->evictions},
                {"corrupt", s->corrupt},     {"schema", s->schema},
                {"schedules", s->schedules}, {"schedule_bytes", s->schedule_bytes}};
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "path", s->path);
    cJSON_AddStringToObject(j, "error", s->error);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
      cJSON_AddNumberToObject(j, counts[i].name, (double)counts[i].value);
    cli_print_json(j);
  } else {
    if (*s->error) printf("no cache: %s\n", s->error);
    printf("%s: %llu plans, %llu kernels, %llu schedule records, %s of at most %s\n",
           *s->path ? s->path : "(no file)", (unsigned long long)s->plans,
           (unsigned long long)s->kernels, (unsigned long long)s->schedules, cli_bytes(s->bytes, a),
           cli_bytes(s->max_bytes, b));
    printf("since the server started: %llu hits, %llu misses, %llu merged, %llu evicted, "
           "%llu corrupt\n",
           (unsigned long long)s->hits, (unsigned long long)s->misses,
           (unsigned long long)s->merged, (unsigned long long)s->evictions,
           (unsigned long long)s->corrupt);
  }
  kiln_free(s);
  return EX_OK;
}

static const char *date(int64_t unix_ns, char buf[CLI_NUMBER]) {
  time_t t = (time_t)(unix_ns / 1000000000);
  struct tm tm;
  if (!localtime_r(&t, &tm) || !strftime(buf, CLI_NUMBER, "%Y-%m-%d %H:%M:%S", &tm)) buf[0] = 0;
  return buf;
}

static cJSON *json_entry(const KilnCacheEntry *e) {
  cJSON *j = cJSON_CreateObject();
  cJSON_AddStringToObject(j, "kind", e->kind);
  cJSON_AddStringToObject(j, "hash", e->hash);
  cJSON_AddNumberToObject(j, "bytes", (double)e->bytes);
  cJSON_AddNumberToObject(j, "uses", (double)e->uses);
  cJSON_AddNumberToObject(j, "created_unix_ns", (double)e->created_unix_ns);
  cJSON_AddNumberToObject(j, "used_unix_ns", (double)e->used_unix_ns);
  cJSON_AddStringToObject(j, "target", e->target);
  cJSON_AddStringToObject(j, "note", e->note);
  cJSON_AddNumberToObject(j, "schedules", (double)e->schedules);
  return j;
}

static int ls(Cli *cli, uint64_t limit) {
  KilnCacheEntries *list;
  char size[CLI_NUMBER], used[CLI_NUMBER];
  if (kiln_cache_list(cli->client, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit, &list,
                      &cli->err))
    return cli_fail(cli, &cli->err);
  cJSON *array = cli->json ? cJSON_CreateArray() : NULL;
  for (size_t i = 0; i < list->count; i++) {
    const KilnCacheEntry *e = &list->entries[i];
    if (cli->json)
      cJSON_AddItemToArray(array, json_entry(e));
    else
      printf("%-6s %.16s %10s  used %s, %llu times, %llu schedules  %s\n", e->kind, e->hash,
             cli_bytes(e->bytes, size), date(e->used_unix_ns, used), (unsigned long long)e->uses,
             (unsigned long long)e->schedules, e->note);
  }
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddItemToObject(j, "entries", array);
    cli_print_json(j);
  }
  kiln_free(list);
  return EX_OK;
}

static int why(Cli *cli, const char *hash) {
  KilnText *text;
  if (kiln_cache_why(cli->client, hash, &text, &cli->err)) return cli_fail(cli, &cli->err);
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "text", text->text);
    cli_print_json(j);
  } else {
    puts(text->text);
  }
  kiln_free(text);
  return EX_OK;
}

/* -- files of schedule records ------------------------------------------------------------------
 */

static int write_file(const char *path, const KilnCacheFile *file) {
  FILE *f = fopen(path, "wbe");
  bool ok = f && fwrite(file->data, 1, file->bytes, f) == file->bytes;
  int e = errno;
  if (f && fclose(f)) ok = false, e = errno;
  if (ok) return EX_OK;
  if (f) remove(path); /* half a file is none */
  return cli_error(EX_CANTCREAT, "%s: %s", path, strerror(e));
}

static int export(Cli *cli, const char *path, const char *kernel) {
  KilnCacheFile *file;
  char size[CLI_NUMBER];
  if (kiln_cache_export(cli->client, kernel, &file, &cli->err)) return cli_fail(cli, &cli->err);
  int rc = write_file(path, file);
  if (!rc && cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "file", path);
    cJSON_AddNumberToObject(j, "records", (double)file->records);
    cJSON_AddNumberToObject(j, "bytes", (double)file->bytes);
    cli_print_json(j);
  } else if (!rc) {
    printf("%s: %llu schedule records, %s\n", path, (unsigned long long)file->records,
           cli_bytes(file->bytes, size));
  }
  kiln_free(file);
  return rc;
}

/* The whole of a file; *data is the caller's to free. */
static int read_file(const char *path, char **data, size_t *n) {
  size_t cap = 1 << 16, got = 1;
  bool room = (*data = malloc(cap)) != NULL;
  *n = 0;
  errno = 0;
  FILE *f = fopen(path, "rbe");
  while (f && room && (got = fread(*data + *n, 1, cap - *n, f))) {
    *n += got;
    if (*n < cap) continue;
    char *more = realloc(*data, cap *= 2);
    room = more != NULL;
    if (more) *data = more;
  }
  int e = errno;
  bool ok = f && room && !ferror(f);
  if (f) fclose(f);
  if (ok) return EX_OK;
  return room ? cli_error(EX_NOINPUT, "%s: %s", path, strerror(e))
              : cli_error(EX_OSERR, "%s: no memory for it", path);
}

static int import(Cli *cli, const char *path) {
  KilnCacheImport *in;
  char *data = NULL;
  size_t n;
  int rc = read_file(path, &data, &n);
  if (!rc && kiln_cache_import(cli->client, data, n, &in, &cli->err)) {
    rc = cli_fail(cli, &cli->err);
  } else if (!rc) {
    if (cli->json) {
      cJSON *j = cJSON_CreateObject();
      cJSON_AddNumberToObject(j, "records", (double)in->records);
      cJSON_AddNumberToObject(j, "stored", (double)in->stored);
      cli_print_json(j);
    } else {
      printf("%s: %llu schedule records, %llu new; each is verified before it is used\n", path,
             (unsigned long long)in->records, (unsigned long long)in->stored);
    }
    kiln_free(in);
  }
  free(data);
  return rc;
}

/* -- upkeep -------------------------------------------------------------------------------------
 */

static int verify(Cli *cli) {
  KilnCacheCheck *c;
  if (kiln_cache_verify(cli->client, &c, &cli->err)) return cli_fail(cli, &cli->err);
  bool good = !c->corrupt && !*c->problems;
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddBoolToObject(j, "good", good);
    cJSON_AddNumberToObject(j, "entries", (double)c->entries);
    cJSON_AddNumberToObject(j, "schedules", (double)c->schedules);
    cJSON_AddNumberToObject(j, "corrupt", (double)c->corrupt);
    cJSON_AddNumberToObject(j, "newer", (double)c->newer);
    cJSON_AddStringToObject(j, "problems", c->problems);
    cli_print_json(j);
  } else {
    printf("%llu entries and %llu schedule records are whole, %llu were damaged and are removed\n",
           (unsigned long long)c->entries, (unsigned long long)c->schedules,
           (unsigned long long)c->corrupt);
    if (c->newer)
      printf("%llu schedule records are of a newer version\n", (unsigned long long)c->newer);
    if (*c->problems) printf("the file itself:\n%s", c->problems);
  }
  kiln_free(c);
  return good ? EX_OK : EX_DATAERR;
}

static int print_removed(const Cli *cli, KilnCacheRemoved *r) {
  char size[CLI_NUMBER];
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(j, "entries", (double)r->entries);
    cJSON_AddNumberToObject(j, "schedules", (double)r->schedules);
    cJSON_AddNumberToObject(j, "bytes", (double)r->bytes);
    cli_print_json(j);
  } else {
    printf("removed %llu entries and %llu schedule records, %s\n", (unsigned long long)r->entries,
           (unsigned long long)r->schedules, cli_bytes(r->bytes, size));
  }
  kiln_free(r);
  return EX_OK;
}

typedef struct CacheArgs {
  uint64_t limit;
  const char *kernel, *older, *bytes, *target;
} CacheArgs;

/* A number with one of the units, or none, which is the first. */
typedef struct Unit {
  const char *name;
  uint64_t factor;
} Unit;

static bool with_unit(const char *text, const Unit *units, size_t n, uint64_t *out) {
  char *end;
  errno = 0;
  if (*text < '0' || *text > '9') return false;
  unsigned long long v = strtoull(text, &end, 10);
  for (size_t i = 0; i < n && !errno; i++)
    if (!strcmp(end, units[i].name) || (!i && !*end))
      return !__builtin_mul_overflow((uint64_t)v, units[i].factor, out) && *out <= INT64_MAX;
  return false;
}

static int prune(Cli *cli, const CacheArgs *args) {
  static const Unit times[] = {
      {"s", 1000000000}, {"m", 60000000000}, {"h", 3600000000000}, {"d", 86400000000000}};
  static const Unit sizes[] = {{"", 1}, {"K", 1u << 10}, {"M", 1u << 20}, {"G", 1u << 30}};
  KilnCachePrune what = {.target = args->target};
  KilnCacheRemoved *removed;
  uint64_t older = 0;
  if (args->older && (!with_unit(args->older, times, 4, &older) || !older))
    return cli_usage("--older '%s': expected a time such as 90s, 30m, 12h or 7d", args->older);
  if (args->bytes && (!with_unit(args->bytes, sizes, 4, &what.bytes) || !what.bytes))
    return cli_usage("--bytes '%s': expected a size such as 500000, 64M or 2G", args->bytes);
  if (!older && !what.bytes && !what.target)
    return cli_usage("cache prune needs --older, --bytes or --target");
  what.older_ns = (int64_t)older;
  int rc = cli_connect(cli);
  if (rc) return rc;
  if (kiln_cache_prune(cli->client, &what, &removed, &cli->err)) return cli_fail(cli, &cli->err);
  return print_removed(cli, removed);
}

static int rm(Cli *cli, const char *hash) {
  KilnCacheRemoved *removed;
  if (kiln_cache_remove(cli->client, hash, &removed, &cli->err)) return cli_fail(cli, &cli->err);
  return print_removed(cli, removed);
}

/* -- the command --------------------------------------------------------------------------------
 */

typedef enum Verb {
  V_STATS,
  V_LS,
  V_WHY,
  V_VERIFY,
  V_PRUNE,
  V_RM,
  V_EXPORT,
  V_IMPORT,
  V__COUNT
} Verb;
static const struct {
  const char *name, *operand; /* NULL: takes none */
} verbs[V__COUNT] = {{"stats", NULL}, {"ls", NULL},   {"why", "hash"},    {"verify", NULL},
                     {"prune", NULL}, {"rm", "hash"}, {"export", "file"}, {"import", "file"}};

static int run(Cli *cli, Verb verb, const char *operand, const CacheArgs *args) {
  if (verb == V_PRUNE) return prune(cli, args);
  int rc = cli_connect(cli);
  if (rc) return rc;
  switch (verb) {
  case V_STATS: return stats(cli);
  case V_LS: return ls(cli, args->limit);
  case V_WHY: return why(cli, operand);
  case V_VERIFY: return verify(cli);
  case V_RM: return rm(cli, operand);
  case V_EXPORT: return export(cli, operand, args->kernel);
  default: return import(cli, operand);
  }
}

static int dispatch(Cli *cli, const TextList *pos, const CacheArgs *args) {
  const char *what = pos->at[0];
  int verb = 0;
  while (verb < V__COUNT && strcmp(what, verbs[verb].name)) verb++;
  if (verb == V__COUNT)
    return cli_usage("cache '%s': expected stats, ls, why, verify, prune, rm, export or import",
                     what);
  const char *operand = verbs[verb].operand;
  if (pos->len == (operand ? 2u : 1u))
    return run(cli, (Verb)verb, operand ? pos->at[1] : NULL, args);
  return operand ? cli_usage("cache %s needs a %s", what, operand)
                 : cli_usage("cache %s takes no argument", what);
}

int cmd_cache(Cli *cli, int argc, char **argv) {
  CacheArgs args = {0};
  const Opt opts[] = {
      {"--limit", "N", OPT_COUNT, &args.limit, "ls: at most N entries"},
      {"--kernel", "HASH", OPT_TEXT, &args.kernel, "export: of this kernel only (or a prefix)"},
      {"--older", "AGE", OPT_TEXT, &args.older, "prune: what was not used or measured since (7d)"},
      {"--bytes", "SIZE", OPT_TEXT, &args.bytes, "prune: the least useful beyond this size (64M)"},
      {"--target", "HASH", OPT_TEXT, &args.target,
       "prune: all of this target fingerprint (or a prefix)"}};
  const ArgSpec spec = {
      .usage = "cache stats|ls|why|verify|prune|rm|export|import [HASH|FILE] [options]",
      .about = "stats        how full the server's cache is, and what it was good for\n"
               "ls           its entries, last used first\n"
               "why HASH     what is stored under a graph or kernel hash (or a unique prefix), "
               "which part\n"
               "             of the key differs from today's, and which schedules were tried\n"
               "verify       reads everything and removes what is damaged (then exit code 65)\n"
               "prune        removes by target, age or size\n"
               "rm HASH      removes what is stored under one hash\n"
               "export FILE  writes the schedule records to a file, for another machine\n"
               "import FILE  takes such a file; each record is verified before it is used",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts,
      .min = 1,
      .max = 2};
  TextList pos = {0};
  int rc;
  if (cli_args(&spec, argc, argv, &pos, &rc)) rc = dispatch(cli, &pos, &args);
  vec_deinit(&pos);
  return rc;
}
