/* kiln token: a new bearer token, and the line with which a server knows it. Nothing is sent and
 * nothing is kept: the server's configuration has a salted hash only. */
#include <stdio.h>
#include <sys/random.h>

#include "client/cli/cli.h"
#include "proto/digest.h"

enum { SECRET_BYTES = 32, SALT_BYTES = 16, TOKEN_MAX = 256 };

static bool random_bytes(uint8_t *out, size_t n) { return getrandom(out, n, 0) == (ssize_t)n; }

/* The row of a token: "sha256:SALT:HASH". */
static bool make_row(Bytes token, char *out, size_t cap) {
  uint8_t salted[SALT_BYTES + TOKEN_MAX], hash[DIGEST_BYTES];
  char salt_hex[2 * SALT_BYTES + 1], hash_hex[DIGEST_HEX + 1];
  if (token.len > TOKEN_MAX || !random_bytes(salted, SALT_BYTES)) return false;
  memcpy(salted + SALT_BYTES, token.ptr, token.len);
  digest_sha256(salted, SALT_BYTES + token.len, hash);
  snprintf(out, cap, "sha256:%s:%s", digest_to_hex(salted, SALT_BYTES, salt_hex),
           digest_to_hex(hash, DIGEST_BYTES, hash_hex));
  return true;
}

int cmd_token(Cli *cli, int argc, char **argv) {
  const ArgSpec spec = {
      .usage = "token [--token-file FILE]",
      .about = "Makes a bearer token and the line for a [tenant NAME] section of kilnd's\n"
               "configuration that knows it. With --token-file it makes the line of that token.",
  };
  TextList none = {0};
  uint8_t secret[SECRET_BYTES];
  char made[2 * SECRET_BYTES + 8], hex[2 * SECRET_BYTES + 1], row[256];
  int rc;
  if (!cli_args(&spec, argc, argv, &none, &rc)) return rc;
  if ((rc = cli_token(cli))) return rc;
  if (!random_bytes(secret, sizeof secret)) return cli_error(EX_OSERR, "no random numbers");
  snprintf(made, sizeof made, "kiln_%s", digest_to_hex(secret, sizeof secret, hex));
  const char *token = *cli->token ? cli->token : made;
  if (!make_row((Bytes){(const uint8_t *)token, strlen(token)}, row, sizeof row))
    return cli_error(EX_DATAERR, "a token has at most %d bytes", (int)TOKEN_MAX);
  if (cli->json) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "token", token);
    cJSON_AddStringToObject(j, "row", row);
    cli_print_json(j);
    return EX_OK;
  }
  if (!*cli->token) printf("%s\n", token);
  printf("token = %s\n", row);
  return EX_OK;
}
