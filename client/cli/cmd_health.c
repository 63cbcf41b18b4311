/* kiln health: the gRPC health service's answer as an exit code. */
#include "client/cli/cli.h"

int cmd_health(Cli *cli, int argc, char **argv) {
  static const char *const names[] = {"UNKNOWN", "SERVING", "NOT_SERVING"};
  const ArgSpec spec = {
      .usage = "health [SERVICE]",
      .about = "Asks whether the server, or one of its services, is serving. Exit code 0: it is;\n"
               "69: it is not, or there is no server.",
      .max = 1};
  TextList pos = {0};
  KilnServing serving;
  int rc;
  if (cli_args(&spec, argc, argv, &pos, &rc) && !(rc = cli_connect(cli))) {
    if (kiln_health(cli->client, pos.len ? pos.at[0] : NULL, &serving, &cli->err)) {
      rc = cli_fail(cli, &cli->err);
    } else {
      const char *name = (unsigned)serving < 3 ? names[serving] : names[0];
      rc = serving == KILN_SERVING ? EX_OK : EX_UNAVAILABLE;
      if (cli->json) {
        cJSON *j = cJSON_CreateObject();
        cJSON_AddStringToObject(j, "status", name);
        cli_print_json(j);
      } else {
        puts(name);
      }
    }
  }
  vec_deinit(&pos);
  return rc;
}
