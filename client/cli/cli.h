/* What the commands share: the connection, errors and exit codes, output. */
#pragma once

#include <cjson/cJSON.h>
#include <stdio.h>
#include <sysexits.h>

#include "base/status.h"
#include "client/c/kiln.h"
#include "client/cli/args.h"

typedef struct Cli {
  const char *server; /* --server; NULL: $KILN_SERVER or the user's own */
  bool json, no_spawn;
  uint64_t timeout_s;
  const char *token_file, *tls_ca, *tls_cert, *tls_key, *tls_server_name;
  char token[264];    /* of the file; "" = none */
  KilnClient *client; /* after cli_connect */
  KilnError err;      /* what the last call failed with */
} Cli;

/* Each command is a function of its own arguments that returns the exit code. */
typedef int (*CommandRun)(Cli *cli, int argc, char **argv);
int cmd_bench(Cli *cli, int argc, char **argv);
int cmd_cache(Cli *cli, int argc, char **argv);
int cmd_compile(Cli *cli, int argc, char **argv);
int cmd_devices(Cli *cli, int argc, char **argv);
int cmd_doctor(Cli *cli, int argc, char **argv);
int cmd_explain(Cli *cli, int argc, char **argv);
int cmd_graph(Cli *cli, int argc, char **argv);
int cmd_health(Cli *cli, int argc, char **argv);
int cmd_top(Cli *cli, int argc, char **argv);
int cmd_trace(Cli *cli, int argc, char **argv);
int cmd_tune(Cli *cli, int argc, char **argv);
int cmd_run(Cli *cli, int argc, char **argv);
int cmd_token(Cli *cli, int argc, char **argv);
int cmd_node_key(Cli *cli, int argc, char **argv);
int cmd_version(Cli *cli, int argc, char **argv);

/* The whole program. */
int cli_main(int argc, char **argv);

/* Parses a command's arguments; true when the command should go on, else *exit_code is set. */
bool cli_args(const ArgSpec *spec, int argc, char **argv, TextList *positionals, int *exit_code);
/* Reads --token-file, when it was given. EX_OK, or the exit code after the error was printed. */
int cli_token(Cli *cli);
/* Fills in who the caller is and whom it trusts. EX_OK, or the exit code after the error was
 * printed. */
int cli_who(Cli *cli, KilnConnectOptions *o);
/* Connects as the options say. EX_OK, or the exit code after the error was printed. */
int cli_connect(Cli *cli);
/* Prints an error (as JSON too, with --json) and returns the exit code for it. */
int cli_fail(const Cli *cli, const KilnError *err);
/* The same for a Status. Takes st. */
int cli_fail_status(const Cli *cli, Status st);
/* Prints "kiln: text" and returns code. */
int cli_error(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with EX_USAGE. */
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A number of an answer in JSON, whose 64-bit numbers are strings; 0 when it is not there. */
int64_t cli_json_number(const cJSON *object, const char *name);
/* A text of it; "" when it is not there. */
const char *cli_json_text(const cJSON *object, const char *name);
/* Prints and frees. */
void cli_print_json(cJSON *j);
/* A line on the terminal that says what is going on, until the next cli_progress; NULL removes it.
 * Nothing where stderr is not a terminal. */
bool cli_shows_progress(const Cli *cli);
void cli_progress(const Cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_progress_end(const Cli *cli);

/* "12.3 ms"; "45.6 MiB". Into buf, which is returned. */
enum { CLI_NUMBER = 32 };
const char *cli_ns(int64_t ns, char buf[CLI_NUMBER]);
const char *cli_bytes(uint64_t n, char buf[CLI_NUMBER]);
/* "2x3x224"; "scalar". Cut to cap. */
const char *cli_dims(const uint64_t *dims, size_t rank, char *buf, size_t cap);
/* "1xn[1..512]x768" */
const char *cli_shape(const KilnTensorSpec *spec, char *buf, size_t cap);
cJSON *cli_json_shape(const KilnTensorSpec *spec);
/* Ascending; times, of which the middle one and the like are then picked. */
void cli_sort(int64_t *at, size_t n);
cJSON *cli_json_dims(const uint64_t *dims, size_t rank);
