/* The smallest program on libkiln, in C that is C++ too. */
#include <kiln.h>
#include <stdio.h>

int main(void) {
  KilnError err;
  KilnClient *client;
  KilnCode code = kiln_connect("unix:/nowhere/kiln.sock", NULL, &client, &err);
  printf("%s %s\n", kiln_version(), kiln_code_name(code));
  kiln_close(client);
  return code == KILN_UNAVAILABLE ? 0 : 1;
}
