/* The process that workers are forked from. */
#pragma once

/* Serves kilnd on the socket until it closes; returns the exit code. Loads LLVM first. */
int zygote_main(int socket);
