/* kiln node-key: the public half of a node's key, which is what the other nodes' configurations
 * name; the file is made when there is none. Nothing is sent. */
#include "proto/node_key.h"

#include <unistd.h>

#include "client/cli/cli.h"

int cmd_node_key(Cli *cli, int argc, char **argv) {
  const ArgSpec spec = {
      .usage = "node-key FILE",
      .about = "Prints the public half of the key in FILE and a name, as `trust` in [shared] of\n"
               "the other nodes' configurations takes them. Makes FILE when there is none.",
      .min = 1,
      .max = 1,
  };
  TextList pos = {0};
  char text[NODE_KEY_TEXT], host[65] = "";
  NodeKey *key;
  int rc;
  if (!cli_args(&spec, argc, argv, &pos, &rc)) return rc;
  Status st = node_key_load(pos.at[0], &key);
  vec_deinit(&pos);
  if (st) return cli_fail_status(cli, st);
  node_key_text(node_key_public(key), text);
  node_key_release(key);
  if (gethostname(host, sizeof host - 1)) host[0] = 0;
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "key", text);
    cJSON_AddStringToObject(j, "host", host);
    cli_print_json(j);
  } else {
    printf("%s %s\n", text, host);
  }
  return EX_OK;
}
