/* What the files of `kiln doctor` share. */
#pragma once

#include "client/cli/cli.h"

typedef enum Verdict { V_OK, V_WARN, V_FAIL } Verdict;

typedef struct Doctor {
  Cli *cli;
  cJSON *checks; /* with --json */
  int warnings, failures;
} Doctor;

/* advice: what to do; NULL when there is nothing. */
void doctor_say(Doctor *d, Verdict v, const char *check, const char *found, const char *advice);

/* doctor_local.c: this machine, whether or not a server is there. */
void doctor_programs(Doctor *d); /* kilnd and kiln-worker start, and are of one version */
void doctor_devices(Doctor *d);  /* what the drivers here show */
void doctor_limits(Doctor *d);   /* descriptors, memory, sandbox */
/* Why nobody answers at a Unix socket. */
void doctor_socket(Doctor *d, const char *path);
/* The file system of the cache. */
void doctor_disk(Doctor *d, const char *cache);
