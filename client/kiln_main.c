/* The `kiln` command; everything is in client/cli. */
#include "client/cli/cli.h"

int main(int argc, char **argv) { return cli_main(argc, argv); }
