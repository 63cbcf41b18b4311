/* compiler/ir/verify.c: a correct graph per stage, and one graph per rule that breaks it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/ir/text.h"
#include "compiler/ir/verify.h"

#define HEAD                                                                                       \
  "%0 = PARAM f32 [0; 8]\n"                                                                        \
  "%1 = CONST index [8]\n"                                                                         \
  "%2 = RANGE index [0; LOOP] (%1)\n"                                                              \
  "%3 = PARAM f32 [1; 8]\n"                                                                        \
  "%4 = CONST index [1]\n"
#define TAIL                                                                                       \
  "%10 = STORE void [0] (%0, %2, %9)\n"                                                            \
  "%11 = END void (%10, %2)\n"                                                                     \
  "%12 = SINK void (%11)\n"

static const struct {
  Stage stage;
  const char *text, *why; /* why NULL: correct */
} cases[] = {
    {STAGE_RANGED, HEAD "%9 = INDEX f32 (%3, %2)\n" TAIL, NULL},
    {STAGE_RANGED, HEAD "%5 = ADD index (%2, %4)\n%9 = INDEX f32 (%3, %5)\n" TAIL,
     "the index is in [1, 8], the buffer has 8 elements"},
    {STAGE_RANGED, HEAD "%5 = SUB index (%2, %4)\n%9 = INDEX f32 (%3, %5)\n" TAIL,
     "the index is in [-1, 6]"},
    {STAGE_RANGED,
     HEAD "%5 = SUB index (%2, %4)\n%6 = CMPLE bool (%4, %2)\n%9 = INDEX f32 (%3, %5, %6)\n" TAIL,
     NULL},
    {STAGE_RANGED,
     HEAD "%6 = RANGE index [1; REDUCE] (%4)\n%7 = INDEX f32 (%3, %6)\n%9 = REDUCE f32 [ADD] (%7, "
          "%6)\n" TAIL,
     NULL},
    {STAGE_RANGED,
     HEAD "%6 = RANGE index [1; UPCAST] (%4)\n%7 = INDEX f32 (%3, %6)\n%9 = REDUCE f32 [ADD] (%7, "
          "%6)\n" TAIL,
     "a later stage"},
    {STAGE_SCHEDULED,
     HEAD "%6 = RANGE index [1; UPCAST] (%4)\n%7 = INDEX f32 (%3, %6)\n%9 = REDUCE f32 [ADD] (%7, "
          "%6)\n" TAIL,
     NULL},
    {STAGE_RANGED,
     HEAD "%6 = RANGE index [0; REDUCE] (%4)\n%7 = INDEX f32 (%3, %6)\n%9 = REDUCE f32 [ADD] (%7, "
          "%6)\n" TAIL,
     "share an id"},
    {STAGE_RANGED,
     HEAD "%9 = INDEX f32 (%3, %2)\n%10 = STORE void [0] (%0, %2, %9)\n%12 = SINK void "
          "(%10)\n",
     "RANGE 0 is not closed"},
    {STAGE_RANGED,
     HEAD "%9 = INDEX f32 (%3, %2)\n%10 = STORE void [0] (%0, %2, %9)\n%11 = END void "
          "(%10, %2)\n",
     "not a SINK"},
    {STAGE_RANGED, HEAD "%9 = LOAD f32 [1] (%3, %2)\n" TAIL, "not of this stage"},
    {STAGE_RANGED, HEAD "%5 = PARAM f32 [2; 4, 2]\n%9 = INDEX f32 (%5, %2)\n" TAIL, "not flat"},
    {STAGE_RANGED,
     HEAD "%5 = CONST f32x4 [0x1p+0]\n%6 = INDEX f32 (%3, %2)\n%9 = ADD f32x4 (%5, "
          "%6)\n" TAIL,
     "vectors belong"},
    {STAGE_LOWERED, HEAD "%9 = LOAD f32 [1] (%3, %2)\n" TAIL, NULL},
    {STAGE_LOWERED, HEAD "%9 = INDEX f32 (%3, %2)\n" TAIL, "not of this stage"},
    {STAGE_LOWERED,
     "%0 = PARAM f32 [0; 8]\n%1 = CONST index [4]\n%2 = LOAD f32x4 [1] (%0, %1)\n"
     "%3 = STORE voidx4 [1] (%0, %1, %2)\n%4 = SINK void (%3)\n",
     NULL},
    {STAGE_LOWERED,
     "%0 = PARAM f32 [0; 8]\n%1 = CONST index [5]\n%2 = LOAD f32x4 [1] (%0, %1)\n"
     "%3 = STORE voidx4 [1] (%0, %1, %2)\n%4 = SINK void (%3)\n",
     "plus the lanes' reach"},
    {STAGE_LOWERED,
     "%0 = PARAM f32 [0; 8]\n%1 = CONST index [0]\n%2 = LOAD f32x4 [3] (%0, %1)\n"
     "%3 = STORE voidx4 [1] (%0, %1, %2)\n%4 = SINK void (%3)\n",
     "plus the lanes' reach"},
    {STAGE_LOWERED,
     "%0 = PARAM f32 [0; 8]\n%1 = CONST index [4]\n%2 = LOAD f32x4 [1] (%0, %1)\n"
     "%3 = CONST f32 [0x1p+0]\n%4 = ADD f32x4 (%2, %3)\n%5 = STORE voidx4 [1] (%0, %1, %4)\n"
     "%6 = SINK void (%5)\n",
     "other lanes"},
    {STAGE_LOWERED, HEAD "%5 = BUFFER f32 [0; 8, 1]\n%9 = LOAD f32 [1] (%5, %2)\n" TAIL,
     "not constant"},
    {STAGE_TENSOR,
     "%0 = PARAM f32 [0; 2]\n%1 = PARAM f32 [1; 2]\n%2 = STORE void [0] (%0, %1)\n"
     "%3 = SINK void (%2)\n",
     NULL},
    {STAGE_TENSOR, "%0 = PARAM f32 [0; 2]\n%1 = SINK void (%0)\n", "holds STOREs"},
    {STAGE_TENSOR, HEAD "%9 = INDEX f32 (%3, %2)\n" TAIL, "not of this stage"},
};

static void test_cases(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    Job job;
    UOp *u;
    char text[2048];
    job_init(&job, 0);
    assert_null(uop_parse(&job, str_from(cases[k].text), &u));
    Status st = verify_graph(&job, u, cases[k].stage, "some_pass");
    status_text(st, text, sizeof text);
    if (!cases[k].why && st) fail_msg("case %zu: %s", k, text);
    if (cases[k].why) {
      if (status_code(st) != ST_INTERNAL || !strstr(text, cases[k].why)) {
        fail_msg("case %zu: '%s', expected '%s'", k, st ? text : "success", cases[k].why);
      }
      assert_non_null(strstr(text, "after some_pass"));
    }
    status_drop(st);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
