/* kiln cache stats|ls|why: what the server keeps. */
#include <time.h>

#include "client/cli/cli.h"

static int stats(Cli *cli) {
  KilnCacheStats *s;
  char a[CLI_NUMBER], b[CLI_NUMBER];
  if (kiln_cache_stats(cli->client, &s, &cli->err)) return cli_fail(cli, &cli->err);
  const struct {
    const char *name;
    uint64_t value;
  } counts[] = {{"plans", s->plans},         {"kernels", s->kernels},     {"bytes", s->bytes},
                {"max_bytes", s->max_bytes}, {"hits", s->hits},           {"misses", s->misses},
                {"merged", s->merged},       {"evictions", s->evictions}, {"corrupt", s->corrupt},
                {"schema", s->schema}};
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "path", s->path);
    cJSON_AddStringToObject(j, "error", s->error);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
      cJSON_AddNumberToObject(j, counts[i].name, (double)counts[i].value);
    cli_print_json(j);
  } else {
    if (*s->error) printf("no cache: %s\n", s->error);
    printf("%s: %llu plans, %llu kernels, %s of at most %s\n", *s->path ? s->path : "(no file)",
           (unsigned long long)s->plans, (unsigned long long)s->kernels, cli_bytes(s->bytes, a),
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
      printf("%-6s %.16s %10s  used %s, %llu times  %s\n", e->kind, e->hash,
             cli_bytes(e->bytes, size), date(e->used_unix_ns, used), (unsigned long long)e->uses,
             e->note);
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

int cmd_cache(Cli *cli, int argc, char **argv) {
  uint64_t limit = 0;
  const Opt opts[] = {{"--limit", "N", OPT_COUNT, &limit, "ls: at most N entries"}};
  const ArgSpec spec = {.usage = "cache stats|ls|why HASH [options]",
                        .about =
                            "stats     how full the server's cache is, and what it was good for\n"
                            "ls        its entries, last used first\n"
                            "why HASH  what is stored under a graph or kernel hash (or a unique "
                            "prefix), and which part\n"
                            "          of the key differs from today's",
                        .opts = opts,
                        .nopts = sizeof opts / sizeof *opts,
                        .min = 1,
                        .max = 2};
  TextList pos = {0};
  int rc;
  if (cli_args(&spec, argc, argv, &pos, &rc)) {
    const char *what = pos.at[0];
    bool is_why = !strcmp(what, "why");
    if (!is_why && strcmp(what, "stats") && strcmp(what, "ls"))
      rc = cli_usage("cache '%s': expected stats, ls or why", what);
    else if (pos.len != (is_why ? 2u : 1u))
      rc = cli_usage(is_why ? "cache why needs a hash" : "cache %s takes no argument", what);
    else if (!(rc = cli_connect(cli)))
      rc = is_why ? why(cli, pos.at[1]) : *what == 's' ? stats(cli) : ls(cli, limit);
  }
  vec_deinit(&pos);
  return rc;
}
