/* Command lines: "--name value", "--name=value", flags, positionals, "--" ends the options. One
 * table per command is the parser and the help text. */
#pragma once

#include "base/vec.h"

typedef enum OptKind { OPT_FLAG, OPT_TEXT, OPT_LIST, OPT_COUNT, OPT_INT } OptKind;

typedef VEC(const char *) TextList;

typedef struct Opt {
  const char *name;  /* "--repeat" */
  const char *value; /* "N" in the help text; NULL for a flag */
  OptKind kind;
  void *to; /* bool, const char *, TextList, uint64_t (COUNT), int64_t (INT) */
  const char *help;
} Opt;

typedef struct ArgSpec {
  const char *usage; /* "run MODEL [options]" */
  const char *about; /* what it does, lines broken at 80 */
  const Opt *opts;
  size_t nopts;
  size_t min, max; /* positionals */
} ArgSpec;

typedef enum ArgResult { ARGS_OK, ARGS_HELP, ARGS_BAD } ArgResult;

/* Parses into the table's targets. ARGS_HELP: the help was printed. ARGS_BAD: the reason was. */
ArgResult args_parse(const ArgSpec *spec, int argc, char **argv, TextList *positionals);
/* The options that every command takes. args_parse accepts them anywhere. */
void args_set_common(const Opt *opts, size_t n);
/* Finds the command: the first word of argv that is no common option or its value; argc if none. */
int args_find_command(int argc, char **argv);
void args_print_options(const Opt *opts, size_t n);

/* "NAME=REST" split at the first '='; false without a name or '='. */
bool args_split(const char *text, Str *name, const char **rest);
/* A whole decimal number. */
bool args_count(const char *text, uint64_t *out);
