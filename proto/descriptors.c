/* The assembler reads the file: no generated C of the same bytes, and nothing to open at run time.
 * KILN_DESCRIPTORS is its path, given by CMake. */
#include "proto/descriptors.h"

__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        ".local kiln_descriptors_begin, kiln_descriptors_end\n"
        "kiln_descriptors_begin: .incbin \"" KILN_DESCRIPTORS "\"\n"
        "kiln_descriptors_end: .byte 0\n"
        ".popsection\n");

extern const uint8_t kiln_descriptors_begin[], kiln_descriptors_end[];

Bytes descriptors_set(void) {
  return (Bytes){kiln_descriptors_begin, (size_t)(kiln_descriptors_end - kiln_descriptors_begin)};
}
