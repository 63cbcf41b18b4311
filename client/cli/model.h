/* Commands about one model: their options, the model and its inputs. */
#pragma once

#include "client/cli/cli.h"

typedef struct ModelArgs {
  const char *path, *device, *random; /* random: the seed's text */
  TextList inputs, dims;
  bool no_cache, fast_math;
} ModelArgs;

/* Rows of an option table. */
#define TARGET_OPTS(m)                                                                             \
  {"--dim", "NAME=N|MIN..MAX", OPT_LIST, &(m).dims,                                                \
   "fixes a named dimension, or bounds it (\"x.0=1\": of an axis; 8..512/8: a multiple of 8)"},    \
      {"--device", "NAME", OPT_TEXT, &(m).device, "the device to compile for, e.g. cpu:0"}, {      \
    "--fast-math", NULL, OPT_FLAG, &(m).fast_math,                                                 \
        "also algorithms that round otherwise than the graph: Winograd"                            \
  }
#define MODEL_OPTS(m)                                                                              \
  TARGET_OPTS(m), {                                                                                \
    "--no-cache", NULL, OPT_FLAG, &(m).no_cache, "neither read nor write the server's cache"       \
  }
#define INPUT_OPTS(m)                                                                              \
  {"--input", "NAME=FILE.npy", OPT_LIST, &(m).inputs,                                              \
   "an input; just FILE.npy for a model with one"},                                                \
  {                                                                                                \
    "--random", "SEED", OPT_TEXT, &(m).random,                                                     \
        "make up the other inputs: floats in [-1, 1), integers 0..9; and what random ops draw"     \
  }

/* A model ready to be sent: a text graph is already encoded. */
typedef struct Model {
  KilnModel model;
  StrBuf bytes;
  KilnDim *dims;
  char **dim_names;
  KilnCompileOptions options;
} Model;

/* EX_OK, or the exit code after the error was printed. */
int model_open(const Cli *cli, const ModelArgs *args, Model *out);
void model_close(Model *m);

/* The command line of a command whose one positional is a model: parses it, goes on with run, which
 * finds the rest of its own struct around args, and frees args. Returns the exit code. */
typedef int (*ModelRun)(Cli *cli, ModelArgs *args);
int model_command(Cli *cli, const ArgSpec *spec, int argc, char **argv, ModelArgs *args,
                  ModelRun run);
/* Connects, compiles, has `use` go on, and releases the executable. Returns the exit code. */
typedef int (*ModelUse)(Cli *cli, ModelArgs *args, KilnProgram *p, int64_t compile_ns);
int model_compiled(Cli *cli, ModelArgs *args, ModelUse use);

typedef struct Inputs {
  KilnTensor *tensors;
  size_t count;
  void **owned;         /* data, parallel to tensors */
  uint64_t (*dims)[32]; /* parallel to tensors */
  bool seeded;          /* --random: random ops draw the numbers of `seed`, run after run */
  uint64_t seed;
  KilnClient *client;   /* that the buffers below are with */
  KilnBuffer **buffers; /* parallel to tensors: of states, NULL for others */
} Inputs;

/* One tensor per input of the executable, from files and random numbers; those of states are in
 * buffers of the server, until inputs_close. */
int inputs_open(Cli *cli, const ModelArgs *args, const KilnExecutable *exe, Inputs *out);
void inputs_close(Inputs *in);

/* How an executable came to be: a line of text, or an object. */
void model_print_report(const char *path, const KilnExecutable *exe, int64_t wall_ns);
cJSON *model_json_report(const char *path, const KilnExecutable *exe, int64_t wall_ns);
