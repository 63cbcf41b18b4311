/* kiln version: ours, and the server's when one is there. It starts none. */
#include "client/cli/cli.h"

static void print(const Cli *cli, const KilnServerInfo *info, const char *why_not) {
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "client", kiln_version());
    if (info)
      cJSON_AddStringToObject(j, "server", info->version);
    else
      cJSON_AddNullToObject(j, "server");
    cli_print_json(j);
    return;
  }
  printf("kiln %s\n", kiln_version());
  if (info)
    printf("kilnd %s (API %u to %u) at %s\n", info->version, info->api_min, info->api_max,
           kiln_client_address(cli->client));
  else
    printf("kilnd: none (%s)\n", why_not);
}

int cmd_version(Cli *cli, int argc, char **argv) {
  const ArgSpec spec = {.usage = "version",
                        .about = "Prints the version of this command, and of the server if one is\n"
                                 "running. No server is started."};
  KilnConnectOptions options = {.no_spawn = 1, .timeout_ms = 2000};
  TextList pos = {0};
  KilnServerInfo *info = NULL;
  int rc;
  if (!cli_args(&spec, argc, argv, &pos, &rc)) return rc;
  if ((rc = cli_who(cli, &options))) return rc;
  if (!kiln_connect(cli->server, &options, &cli->client, &cli->err)) {
    kiln_client_set_timeout(cli->client, options.timeout_ms);
    kiln_server_info(cli->client, &info, &cli->err);
  }
  print(cli, info, cli->err.message);
  kiln_free(info);
  return EX_OK;
}
