/* One library after the other, from the driver's major version down: an older one works with every
 * newer driver, a newer one makes what the driver does not know. */
#include "devices/nvidia_library.h"

#include <dlfcn.h>
#include <stdio.h>

enum { OLDEST = 12 };

int nvidia_library_open(const char *name, int driver, NvidiaResolve *resolve) {
  for (int major = driver / 1000; major >= OLDEST; major--) {
    char file[64];
    snprintf(file, sizeof file, "lib%s.so.%d", name, major);
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) continue;
    int version = resolve(library, major);
    if (version && version <= driver) return version;
    dlclose(library);
  }
  return 0;
}
