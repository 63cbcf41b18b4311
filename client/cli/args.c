/* A loop over argv with one table lookup per option. Numbers are checked whole: "12x" is an error.
 */
#include "client/cli/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const Opt *common;
static size_t ncommon;

void args_set_common(const Opt *opts, size_t n) {
  common = opts;
  ncommon = n;
}

static const Opt *find_in(const Opt *opts, size_t n, const char *arg, size_t len) {
  for (size_t i = 0; i < n; i++)
    if (strlen(opts[i].name) == len && !memcmp(opts[i].name, arg, len)) return &opts[i];
  return NULL;
}

bool args_count(const char *text, uint64_t *out) {
  char *end;
  errno = 0;
  *out = strtoull(text, &end, 10);
  return *text >= '0' && *text <= '9' && !*end && !errno;
}

static bool parse_int(const char *text, int64_t *out) {
  char *end;
  errno = 0;
  *out = strtoll(text, &end, 10);
  return *text && *text != ' ' && !*end && !errno;
}

bool args_split(const char *text, Str *name, const char **rest) {
  const char *eq = strchr(text, '=');
  if (!eq || eq == text) return false;
  *name = (Str){text, (size_t)(eq - text)};
  *rest = eq + 1;
  return true;
}

static bool set(const Opt *o, const char *value) {
  switch (o->kind) {
  case OPT_FLAG: return false; /* has no value */
  case OPT_TEXT: *(const char **)o->to = value; return true;
  case OPT_LIST: return vec_push((TextList *)o->to, value);
  case OPT_COUNT: return args_count(value, o->to);
  case OPT_INT: return parse_int(value, o->to);
  }
  return false;
}

static ArgResult bad(const ArgSpec *spec, const char *what, const char *arg) {
  fprintf(stderr, "kiln: %s '%s'\nusage: kiln %s\n", what, arg, spec->usage);
  return ARGS_BAD;
}

void args_print_options(const Opt *opts, size_t n) {
  for (size_t i = 0; i < n; i++) {
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", opts[i].name, opts[i].value ? " " : "",
             opts[i].value ? opts[i].value : "");
    printf("  %-22s %s\n", left, opts[i].help);
  }
}

static ArgResult help(const ArgSpec *spec) {
  printf("usage: kiln %s\n\n%s\n", spec->usage, spec->about);
  if (spec->nopts) printf("\noptions:\n");
  args_print_options(spec->opts, spec->nopts);
  printf("\noptions of every command:\n");
  args_print_options(common, ncommon);
  return ARGS_HELP;
}

static const Opt *find(const ArgSpec *spec, const char *arg, size_t len) {
  const Opt *o = find_in(spec->opts, spec->nopts, arg, len);
  return o ? o : find_in(common, ncommon, arg, len);
}

static ArgResult parse_positional(const ArgSpec *spec, const char *arg, TextList *positionals) {
  if (positionals->len == spec->max) return bad(spec, "unexpected argument", arg);
  return vec_push(positionals, arg) ? ARGS_OK : bad(spec, "no memory for", arg);
}

/* An option at argv[*i], and its value, which may be the next argument. */
static ArgResult parse_option(const ArgSpec *spec, int argc, char **argv, int *i) {
  const char *arg = argv[*i];
  size_t len = strcspn(arg, "=");
  const Opt *o = find(spec, arg, len);
  const char *value = arg[len] ? arg + len + 1 : NULL;
  if (!o) return bad(spec, "unknown option", arg);
  if (o->kind == OPT_FLAG) {
    if (value) return bad(spec, "option takes no value:", arg);
    *(bool *)o->to = true;
    return ARGS_OK;
  }
  if (!value && *i + 1 < argc) value = argv[++*i];
  if (!value) return bad(spec, "option needs a value:", arg);
  return set(o, value) ? ARGS_OK : bad(spec, "not a number:", value);
}

ArgResult args_parse(const ArgSpec *spec, int argc, char **argv, TextList *positionals) {
  bool options = true;
  for (int i = 0; i < argc; i++) {
    const char *arg = argv[i];
    ArgResult r = ARGS_OK;
    if (!options || arg[0] != '-' || !arg[1])
      r = parse_positional(spec, arg, positionals);
    else if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
      r = help(spec);
    else if (!strcmp(arg, "--"))
      options = false;
    else
      r = parse_option(spec, argc, argv, &i);
    if (r != ARGS_OK) return r;
  }
  if (positionals->len >= spec->min) return ARGS_OK;
  fprintf(stderr, "kiln: too few arguments\nusage: kiln %s\n", spec->usage);
  return ARGS_BAD;
}

int args_find_command(int argc, char **argv) {
  int i = 0;
  for (; i < argc && argv[i][0] == '-'; i++) {
    size_t len = strcspn(argv[i], "=");
    const Opt *o = find_in(common, ncommon, argv[i], len);
    if (o && o->kind != OPT_FLAG && !argv[i][len]) i++;
  }
  return i < argc ? i : argc;
}
