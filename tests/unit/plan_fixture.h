/* A graph and the job that holds it, new for each test of T(). */
#pragma once

#include "tests/unit/plan_check.h"

static Job job;
static Graph graph;

static int setup(void **state) {
  (void)state;
  job_init(&job, 0);
  graph_init(&graph, &job);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  job_deinit(&job);
  return 0;
}

#define T(name_) cmocka_unit_test_setup_teardown(name_, setup, teardown)
