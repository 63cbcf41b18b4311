/* kiln devices: what the server can run on. */
#include "client/cli/cli.h"

static void print_text(const KilnDevice *d) {
  char size[CLI_NUMBER];
  printf("%-8s %-11s %s\n", d->name, d->available ? "available" : "unavailable", d->description);
  if (!d->available) printf("         %s\n", d->reason);
  if (d->restarts) printf("         restarted %u times, last: %s\n", d->restarts, d->last_failure);
  if (d->buffers)
    printf("         %llu buffers, %s\n", (unsigned long long)d->buffers,
           cli_bytes(d->buffer_bytes, size));
}

static cJSON *json_device(const KilnDevice *d) {
  cJSON *j = cJSON_CreateObject();
  cJSON_AddStringToObject(j, "name", d->name);
  cJSON_AddStringToObject(j, "kind", d->kind);
  cJSON_AddStringToObject(j, "description", d->description);
  cJSON_AddBoolToObject(j, "available", d->available);
  cJSON_AddStringToObject(j, "reason", d->reason);
  cJSON_AddNumberToObject(j, "restarts", d->restarts);
  cJSON_AddStringToObject(j, "last_failure", d->last_failure);
  cJSON_AddNumberToObject(j, "buffers", (double)d->buffers);
  cJSON_AddNumberToObject(j, "buffer_bytes", (double)d->buffer_bytes);
  cJSON_AddStringToObject(j, "fingerprint", d->fingerprint);
  return j;
}

static int list(Cli *cli) {
  KilnDevices *devices;
  if (kiln_list_devices(cli->client, &devices, &cli->err)) return cli_fail(cli, &cli->err);
  cJSON *j = cJSON_CreateObject(), *array = cJSON_AddArrayToObject(j, "devices");
  for (size_t i = 0; i < devices->count; i++) {
    if (cli->json)
      cJSON_AddItemToArray(array, json_device(&devices->devices[i]));
    else
      print_text(&devices->devices[i]);
  }
  if (cli->json)
    cli_print_json(j);
  else
    cJSON_Delete(j);
  kiln_free(devices);
  return EX_OK;
}

int cmd_devices(Cli *cli, int argc, char **argv) {
  const ArgSpec spec = {.usage = "devices",
                        .about = "Lists the server's devices and their health."};
  TextList pos = {0};
  int rc;
  if (cli_args(&spec, argc, argv, &pos, &rc) && !(rc = cli_connect(cli))) rc = list(cli);
  return rc;
}
